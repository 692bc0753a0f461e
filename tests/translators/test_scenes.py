"""One's own images: arrays, files, folders; large scenes in tiles without a seam, georeference and masks kept."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import Affine
from scipy.ndimage import gaussian_filter

import pbvs
from pbvs.challenge import load_challenge
from pbvs.cli import main
from pbvs.data.align import source_rules
from pbvs.data.images import read_image
from pbvs.data.manifest import Pair
from pbvs.errors import UsageError
from pbvs.files import write_text
from pbvs.recipe import Radiometry, dump_recipe, load_recipe
from pbvs.run import Run, mark_done
from pbvs.translators import make_translator, scenes
from pbvs.translators.grayscale.translator import Grayscale
from pbvs.translators.scenes import Model, fades, find_inputs, places, plan_targets

PLACE = Affine(10.0, 0.0, 500000.0, 0.0, -10.0, 4100000.0)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run whose grayscale model is ready."""
    made = Run("gray", tmp_path / "runs")
    recipe = load_recipe("demo")
    write_text(made.recipe_file, dump_recipe(recipe))
    make_translator(load_challenge().tasks["rgb2ir"], recipe.stages["rgb2ir"]).save(made.model("rgb2ir"))
    mark_done(made.model("rgb2ir") / "done.json", "0" * 64)
    return made


class Smooth(Grayscale):
    """A translator that looks at a pixel's surroundings, as networks do, and counts what it is given."""

    largest = 0

    @property
    def input_grid(self) -> dict[str, Any]:
        return {"least": 128.0, "most": 256.0}

    def render(self, images: Sequence[Any]) -> list[Any]:
        self.largest = max([self.largest, *(max(image.shape[:2]) for image in images)])
        return [gaussian_filter(image.mean(axis=2, keepdims=True), (3, 3, 0)).astype(np.float32) for image in images]


def model(channels: int = 3) -> Model:
    recipe = load_recipe("demo")
    task = load_challenge().tasks["rgb2ir"]
    return Model(Smooth(task, recipe.stages["rgb2ir"]), recipe)


def scene(path: Path, height: int, width: int, dtype: str = "uint8", **how: Any) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    ground = 0.5 + 0.3 * np.sin(x / 23.0) * np.cos(y / 31.0) + 0.1 * ((x // 64 + y // 64) % 2)
    most = np.iinfo(dtype).max if dtype.startswith("uint") else 1
    pixels = np.stack([ground * most * part for part in (1.0, 0.9, 0.7)]).astype(dtype)
    profile = {"driver": "GTiff", "height": height, "width": width, "count": 3, "dtype": dtype}
    with rasterio.open(path, "w", **profile, tiled=True, crs="EPSG:32633", transform=PLACE, **how) as file:
        file.write(pixels)
    return pixels


def test_a_large_scene_in_tiles_equals_the_whole(tmp_path: Path) -> None:
    pixels = scene(tmp_path / "in.tif", 700, 1100)
    translating = model()
    translating.translate_file(tmp_path / "in.tif", tmp_path / "out.tif")
    assert translating.translator.largest == 256
    with rasterio.open(tmp_path / "out.tif") as file:
        made = file.read(1)
        assert (file.crs.to_epsg(), file.transform, file.dtypes) == (32633, PLACE, ("uint8",))
    whole = gaussian_filter(pixels.mean(axis=0) / 255.0, 3) * 255
    assert (
        np.abs(made - whole).max() <= 1.5
    )  # at an image's border the filter mirrors, inside of a fade it hardly counts
    assert np.abs(made - whole).mean() < 0.3


def test_a_png_is_asked_for_and_a_mask_is_kept(tmp_path: Path) -> None:
    pixels = scene(tmp_path / "in.tif", 600, 600, nodata=0)
    with rasterio.open(tmp_path / "in.tif", "r+") as file:
        pixels[:, :50] = 0
        file.write(pixels)
    model().translate_file(tmp_path / "in.tif", tmp_path / "out.tif")
    model().translate_file(tmp_path / "in.tif", tmp_path / "out.png")
    with rasterio.open(tmp_path / "out.tif") as file:
        mask = file.read_masks(1)
        assert np.array_equal(read_image(tmp_path / "out.png")[:, :, 0], file.read(1))
    assert not mask[:50].any()
    assert mask[50:].all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_types_of_samples_come_out_alike(tmp_path: Path, dtype: str) -> None:
    scene(tmp_path / "in.tif", 100, 120, dtype)
    scene(tmp_path / "byte.tif", 100, 120)
    for name in ("in", "byte"):
        model().translate_file(tmp_path / f"{name}.tif", tmp_path / f"{name}.png")
    made, byte = (read_image(tmp_path / f"{name}.png").astype(float) for name in ("in", "byte"))
    assert np.abs(made - byte).max() <= 1


def test_files_of_one_kind_share_a_rule(tmp_path: Path) -> None:
    y, x = np.mgrid[0:64, 0:64]
    for name, factor in (("dark", 500), ("light", 3000)):
        pixels = np.stack([(0.2 + 0.8 * x / 64) * factor + y] * 3).astype("uint16")
        profile = {"driver": "GTiff", "height": 64, "width": 64, "count": 3, "dtype": "uint16"}
        with rasterio.open(tmp_path / f"{name}.tif", "w", **profile) as file:
            file.write(pixels)
    translating = model()
    translating.look_at([tmp_path / "dark.tif", tmp_path / "light.tif"])
    assert translating.rules == {"uint16": "full:4095"}
    dark, light = translating([tmp_path / "dark.tif", tmp_path / "light.tif"])
    assert dark.max() < 0.2 < 0.6 < light.max()


def deep(path: Path, dtype: str, most: float) -> np.ndarray:
    """Write an RGB TIFF whose three bands rise alike from 0 to `most`, and return a band."""
    ramp = np.linspace(0, most, 64 * 48).reshape(48, 64).astype(dtype)
    with rasterio.open(path, "w", driver="GTiff", height=48, width=64, count=3, dtype=dtype) as file:
        file.write(np.stack([ramp] * 3))
    return ramp


def test_own_images_are_read_by_the_rule_that_training_images_had(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark_done(run.model("rgb2ir") / "done.json", "0" * 64, rules={"uint16": "full:4095", "float32": "window:-25:0"})
    ramp = deep(tmp_path / "own.tif", "uint16", 1000)
    common = ["translate", "gray", "rgb2ir", tmp_path / "own.tif", "--submissions", run.submissions]

    def made(folder: str, *more: str) -> np.ndarray:
        assert call(*common, "--out", tmp_path / folder, *more) == 0
        return read_image(tmp_path / folder / "own.tif")[:, :, 0].astype(float)

    def expected(divisor: float) -> np.ndarray:
        return (ramp / divisor * 1.3).clip(0, 1) * 255

    assert np.abs(made("trained") - expected(4095)).max() <= 1
    assert "uint16 by full:4095, as in training" in capsys.readouterr().out
    assert np.abs(made("told", "--rule", "full:2000") - expected(2000)).max() <= 1
    assert "full:2000, as told" in capsys.readouterr().out
    assert np.abs(made("found", "--rule", "auto") - expected(1023)).max() <= 1
    assert "uint16 by full:1023, found from these files" in capsys.readouterr().out

    loaded = pbvs.load_model(run, "rgb2ir")
    array = np.repeat(ramp[:, :, None], 3, axis=2)
    assert np.allclose(loaded(array)[:, :, 0], (ramp / 4095 * 1.3).clip(0, 1), atol=0.003)
    decibels = array.astype("float32") / 40 - 25
    with pytest.raises(UsageError, match=r'-25 to 0; say .* load_model\(\.\.\., rule="window:-25:0"\)'):
        loaded(decibels)
    told = pbvs.load_model(run, "rgb2ir", rule="window:-25:0")(decibels)
    assert np.allclose(told[:, :, 0], ((decibels[:, :, 0] + 25) / 25 * 1.3).clip(0, 1), atol=0.003)
    assert np.allclose(loaded(array / np.float32(1000))[:, :, 0], (ramp / 1000 * 1.3).clip(0, 1), atol=0.003)


def test_a_model_keeps_the_rule_that_most_of_its_inputs_have(tmp_path: Path) -> None:
    for name, dtype in (("a", "uint16"), ("b", "uint16"), ("c", "uint16"), ("d", "float32"), ("e", "uint8")):
        deep(tmp_path / f"{name}.tif", dtype, 200)
    (tmp_path / "broken.tif").write_bytes(b"broken")
    rules = {"a": "full:4095", "b": "full:4095", "c": "full:1023", "d": "window:0:300", "e": "full", "broken": "full"}
    pairs = [Pair(name, "rgb2ir", "train", "here", f"{name}.tif", source_rule=rule) for name, rule in rules.items()]
    found = source_rules(pairs, tmp_path, Radiometry())
    assert found == {"float32": "window:0:300", "uint16": "full:4095", "uint8": "full"}
    assert source_rules([], tmp_path, Radiometry()) == {}


@pytest.mark.parametrize(("length", "tile"), [(1000, 400), (400, 400), (401, 400), (10000, 1024), (1, 8)])
def test_tiles_cover_everything_and_overlap(length: int, tile: int) -> None:
    begins = places(length, tile)
    assert begins[0] == 0
    assert begins[-1] == max(0, length - tile)
    gaps = np.diff(begins)
    assert (gaps > 0).all()
    assert (gaps <= tile - tile // scenes.OVERLAP).all()
    assert (fades(tile) > 0).all()


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


def test_a_folder_of_images_takes_one_command(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "mine", tmp_path / "out"
    (folder / "deep").mkdir(parents=True)
    scene(folder / "a.tif", 80, 90)
    Image.new("RGB", (30, 20), (10, 20, 30)).save(folder / "deep" / "b.png")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no image")
    common = ["translate", "gray", "rgb2ir", folder, "--out", out, "--submissions", run.submissions]
    assert call(*common) == 0
    assert "2 of 2 images translated" in capsys.readouterr().out
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*")) == ["a.tif", "deep/b.png"]
    assert read_image(out / "deep" / "b.png").ravel()[0] == round(20 * 1.3)
    assert call(*common) == 0
    assert "0 of 2 images translated" in capsys.readouterr().out
    (folder / "c.png").write_bytes(b"broken")
    assert call(*common) == 1
    captured = capsys.readouterr()
    assert "1 images could not be translated" in captured.err
    assert "c.png" in captured.err


def test_a_glob_and_an_array_of_files_are_found_once(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.tif"):
        (tmp_path / name).touch()
    found = find_inputs([tmp_path / "a.png", str(tmp_path / "*.png"), tmp_path])
    assert [path.name for path, _ in found] == ["a.png", "b.png", "c.tif"]
    assert [target.name for _, target in plan_targets(found, tmp_path / "out", "tiff")] == ["a.tif", "b.tif", "c.tif"]


def test_what_cannot_be_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UsageError, match="names no image"):
        find_inputs([tmp_path / "none*"])
    with pytest.raises(UsageError, match="would both become"):
        plan_targets(find_inputs([tmp_path]), tmp_path / "out", "same")
    with pytest.raises(UsageError, match="would be replaced"):
        plan_targets(find_inputs([tmp_path / "a.png"]), tmp_path, "same")


def test_memory_grows_with_the_width_alone(tmp_path: Path) -> None:
    """A scene eight times as high takes hardly more memory; run in processes of their own."""
    peaks = []
    for height in (1024, 8192):
        path = tmp_path / f"{height}.tif"
        profile = {"driver": "GTiff", "height": height, "width": 2048, "count": 3, "dtype": "uint8"}
        with rasterio.open(path, "w", **profile, tiled=True, compress="deflate") as file:
            for top in range(0, height, 1024):
                strip = np.random.default_rng(top).integers(0, 9, (3, 1024, 2048), dtype=np.uint8)
                file.write(strip, window=rasterio.windows.Window(0, top, 2048, 1024))
        script = (
            "import resource, sys; from pathlib import Path; from pbvs.challenge import load_challenge\n"
            "from pbvs.recipe import load_recipe; from pbvs.translators import make_translator\n"
            "from pbvs.translators import scenes; scenes.TILE = 256\n"
            "task, recipe = load_challenge().tasks['rgb2ir'], load_recipe('demo')\n"
            "model = scenes.Model(make_translator(task, recipe.stages['rgb2ir']), recipe)\n"
            f"model.translate_file(Path({str(path)!r}), Path({str(path.with_suffix('.out.tif'))!r}))\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) * (1 if sys.platform == "darwin" else 1024))
    assert resource.getpagesize() > 0
    assert peaks[1] - peaks[0] < 64 * 2**20  # the larger scene has 42 MiB more pixels, and 168 MiB more as floats
