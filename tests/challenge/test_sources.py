"""Tasks of several sources: files stacked into one input, and from there to a checked zip by the commands."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import Affine

from pbvs.challenge import Challenge, dump_challenge, load_challenge
from pbvs.cli import main
from pbvs.data.align import open_pair, open_source
from pbvs.data.build import build_pairs
from pbvs.data.manifest import Further, Pair, check_content, join_further, pairs_digest, read_manifest
from pbvs.errors import PbvsError, UsageError
from pbvs.evaluation.evaluate import baseline_image
from pbvs.evaluation.reading import TaskToScore
from pbvs.preflight import check_inputs
from pbvs.recipe import Radiometry, read_recipe
from tests.challenge.test_end_to_end import colour, png, scene
from tests.manifests import write_manifest

Numbers = np.ndarray[Any, Any]

FUSED = """
name = "fused"
title = "Two sensors to heat"
protocol = "error"

[modalities.sar]
title = "SAR"

[modalities.rgb]
title = "RGB"
channels = 3
kind = "optical"

[modalities.heat]
kind = "thermal"

[tasks.fused2heat]
source = ["sar", "rgb"]
target = "heat"
size = 48

[layout.files.training]
glob = "shots/{modality}/{id}.png"

[layout.files.testing]
glob = "hidden/{task}/{modality}/{id}.png"
role = "input"
split = "test"

[hold_out]
share = 0.25

[submission]
readme = []

[protocols.error]
terms = ["rmse"]
shown = ["rmse"]
"""

STACKS = """
name = "stacks"
[modalities.vv]
title = "VV"
[modalities.vh]
title = "VH"
[modalities.eo]
[tasks.sar2eo]
source = ["vv", "vh"]
target = "eo"
size = "native"
pairing = "{pairing}"
[layout.files.all]
glob = "{{split}}/{{location}}/{{base}}_{{modality}}.tif"
"""


def fill(root: Path) -> None:
    """Eight shots and three hidden inputs; the RGB images have twice the SAR's side."""
    for number in range(8):
        png(root / f"shots/sar/{number}.png", scene(number))
        png(root / f"shots/rgb/{number}.png", colour(scene(100 + number, 96)))
        png(root / f"shots/heat/{number}.png", scene(number) * 0.4 + scene(100 + number) * 0.4)
    for number in range(3):
        png(root / f"hidden/fused2heat/sar/{number}.png", scene(50 + number))
        png(root / f"hidden/fused2heat/rgb/{number}.png", colour(scene(150 + number, 96)))


@pytest.fixture
def challenge(tmp_path: Path) -> Path:
    path = tmp_path / "fused.toml"
    path.write_text(FUSED)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    fill(tmp_path / "data")
    return tmp_path / "data"


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def reasons(manifests: Path) -> str:
    return (manifests / "unused.csv").read_text()


# --- What the file says.


def test_sources_are_a_name_or_a_list(challenge: Path, tmp_path: Path) -> None:
    found = load_challenge(challenge)
    task = found.task("fused2heat")
    assert (task.source, task.sources, task.further) == ("sar", ("sar", "rgb"), ("rgb",))
    assert (task.source_channels, task.first_channels, task.target_channels) == (4, 1, 1)
    assert found.source_title(task) == "SAR + RGB"
    again = tmp_path / "again.toml"
    again.write_text(dump_challenge(found))
    assert 'source = ["sar", "rgb"]' in " ".join(again.read_text().split()).replace("[ ", "[").replace(", ]", "]")
    assert load_challenge(again) == found
    assert load_challenge(again).data_digest() == found.data_digest()
    for one in ('source = "sar"', 'source = ["sar"]'):
        again.write_text(FUSED.replace('source = ["sar", "rgb"]', one))
        assert load_challenge(again).task("fused2heat").sources == ("sar",)
        assert load_challenge(again).data_digest() != found.data_digest()


def test_a_list_of_one_is_the_name(tmp_path: Path) -> None:
    paths = [tmp_path / "list.toml", tmp_path / "name.toml"]
    for path, one in zip(paths, ('source = ["sar"]', 'source = "sar"'), strict=True):
        path.write_text(FUSED.replace('source = ["sar", "rgb"]', one))
    assert load_challenge(paths[0]).digest() == load_challenge(paths[1]).digest()


# --- By name: from files to a checked zip.


@pytest.mark.parametrize("recipe", ["gray", "small"])
def test_from_two_sources_to_a_checked_zip(recipe: str, tmp_path: Path, challenge: Path, data: Path) -> None:
    where = ["--data", str(data)]
    manifests, runs = ["--manifests", str(tmp_path / "m")], ["--submissions", str(tmp_path / "runs")]
    name = [*where, *manifests, *runs, "--run", "r"]
    assert call("challenge", "check", str(challenge), *where) == 0
    assert call("build-pairs", *where, *manifests, "--challenge", str(challenge), "--jobs", "1") == 0
    assert call("predict", "--all", "--recipe", recipe, *name, "--jobs", "1") == 0
    assert call("score", *name, "--jobs", "1") == 0
    assert call("package", *name) == 0
    assert call("check", str(tmp_path / "runs/r.zip"), *where) == 0
    assert call("check-data", *where, *manifests, "--challenge", str(challenge), "--jobs", "1") == 0
    with zipfile.ZipFile(tmp_path / "runs/r.zip") as archive:
        assert sorted(archive.namelist()) == [f"fused2heat/{number}.png" for number in range(3)]
    summary = json.loads(next((tmp_path / "runs").glob("r/scores/val/*/summary.json")).read_text())
    assert summary["partial"] is False
    made = np.asarray(Image.open(tmp_path / "runs/r/predictions/test/fused2heat/0.png")).astype(int)
    given = np.asarray(Image.open(data / "hidden/fused2heat/sar/0.png")).astype(int)
    if recipe == "gray":
        assert np.abs(made - given).max() <= 1
    else:
        text = (tmp_path / "runs/r/recipe.toml").read_text()
        assert 'method = "unet"' in text
        assert _prediction_follows_the_second_source(tmp_path, data, made)


def _prediction_follows_the_second_source(tmp_path: Path, data: Path, before: Numbers) -> bool:
    """Predict again from another RGB image behind the same SAR image, with the model as it is."""
    png(data / "hidden/fused2heat/rgb/0.png", colour(scene(999, 96)))
    where = ["--data", str(data), "--manifests", str(tmp_path / "m")]
    assert call("predict", "--all", *where, "--submissions", str(tmp_path / "runs"), "--run", "r", "--jobs", "1") == 1
    assert call("build-pairs", *where, "--challenge", str(tmp_path / "fused.toml"), "--jobs", "1") == 0
    assert call("predict", "--all", *where, "--submissions", str(tmp_path / "runs"), "--run", "r", "--jobs", "1") == 0
    after = np.asarray(Image.open(tmp_path / "runs/r/predictions/test/fused2heat/0.png")).astype(int)
    return bool((after != before).any())


@pytest.fixture
def built(tmp_path: Path, challenge: Path, data: Path) -> tuple[Path, Challenge, Path]:
    build_pairs(data, tmp_path / "m", challenge=challenge)
    return data, load_challenge(challenge), tmp_path / "m"


def test_channels_are_those_of_the_files(built: tuple[Path, Challenge, Path]) -> None:
    data, challenge, manifests = built
    radiometry = Radiometry().of(challenge)
    for split, folder in (("train", "shots"), ("test", "hidden/fused2heat")):
        for pair in read_manifest(manifests / f"fused2heat_{split}.csv"):
            number = Path(pair.source).stem
            assert pair.paths[:2] == (f"{folder}/sar/{number}.png", f"{folder}/rgb/{number}.png")
            stacked = open_source(pair, data, radiometry)
            sar = np.asarray(Image.open(data / pair.paths[0])).astype(np.float32) / 255
            rgb = np.asarray(Image.open(data / pair.paths[1])).astype(np.float32) / 255
            assert stacked.shape == (48, 48, 4)
            assert np.allclose(stacked[:, :, 0], sar, atol=1e-6)
            halved = rgb.reshape(48, 2, 48, 2, 3).mean(axis=(1, 3))  # a plain mean; ours is smoother
            assert np.abs(stacked[:, :, 1:] - halved).mean() < 0.01
            assert [np.corrcoef(stacked[:, :, 1 + i].ravel(), halved[:, :, i].ravel())[0, 1] > 0.99 for i in range(3)]


def test_doing_nothing_is_the_first_source(built: tuple[Path, Challenge, Path]) -> None:
    data, challenge, manifests = built
    pair = read_manifest(manifests / "fused2heat_val.csv")[0]
    given = TaskToScore("fused2heat", [pair], data, data, Radiometry().of(challenge))
    sar = np.asarray(Image.open(data / pair.source)).astype(np.float32) / 255
    assert np.allclose(baseline_image(pair, given, "input")[:, :, 0], sar, atol=1e-6)


def test_a_changed_or_missing_source_is_named(built: tuple[Path, Challenge, Path]) -> None:
    data, challenge, manifests = built
    pairs = read_manifest(manifests / "fused2heat_train.csv")
    path = pairs[0].more[0].path
    check_inputs(pairs, data)
    check_content(pairs, data, manifests)
    png(data / path, colour(scene(777, 96)))
    with pytest.raises(PbvsError, match=f"{path} has changed since the manifests were made"):
        check_content(pairs, data, manifests)
    (data / path).unlink()
    with pytest.raises(PbvsError, match=rf"not in .*, the first {path} \(fused2heat train\)"):
        check_inputs(pairs, data)
    lone = replace(pairs[0], further="")
    with pytest.raises(PbvsError, match="has 1 sources, its task 2; run `pbvs build-pairs` again"):
        open_source(lone, data, Radiometry().of(challenge))


def test_an_input_without_its_second_source_is_left_out(
    tmp_path: Path, challenge: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "hidden/fused2heat/rgb/1.png").unlink()
    (data / "shots/rgb/3.png").unlink()
    (data / "shots/sar/4.png").unlink()
    assert call("challenge", "check", str(challenge), "--data", str(data)) == 0
    said = capsys.readouterr().out
    assert "Incomplete: 2 sources of fused2heat, there is no RGB image of that name" in said
    assert "Incomplete: 1 sources of fused2heat, there is no SAR image that it goes with (shots/rgb 1)" in said
    build_pairs(data, tmp_path / "m", challenge=challenge)
    told = reasons(tmp_path / "m")
    assert "hidden/fused2heat/sar/1.png,there is no RGB image of that name" in told
    assert "shots/sar/3.png,there is no RGB image of that name" in told
    assert "shots/heat/4.png,there is no SAR image of that name" in told
    assert "shots/rgb/4.png,there is no SAR image of that name" in told
    assert [pair.name for pair in read_manifest(tmp_path / "m/fused2heat_test.csv")] == ["0", "2"]
    where = ["--data", str(data), "--manifests", str(tmp_path / "m"), "--submissions", str(tmp_path / "runs")]
    assert call("predict", "--all", "--recipe", "gray", "--run", "r", *where, "--jobs", "1") == 0
    capsys.readouterr()
    assert call("package", "--run", "r", *where) == 1
    assert "hidden/fused2heat/sar/1.png" in " ".join(capsys.readouterr().err.split())


def test_a_second_source_of_another_shape_is_refused(tmp_path: Path, challenge: Path, data: Path) -> None:
    png(data / "shots/rgb/2.png", colour(scene(5, 96)[:, :48]))
    build_pairs(data, tmp_path / "m", challenge=challenge)
    said = reasons(tmp_path / "m")
    assert "shots/sar/2.png" in said
    assert "shots/rgb/2.png cannot be stacked with it" in said


# --- By base and by location, with a georeference.

Make = Callable[..., Path]


def tif(path: Path, image: Numbers, right: int = 0, down: int = 0) -> None:
    """Write an image whose corner lies so many pixels of 10 m right of and below the origin."""
    path.parent.mkdir(parents=True, exist_ok=True)
    place = Affine(10.0, 0.0, 500000.0 + 10 * right, 0.0, -10.0, 9000000.0 - 10 * down)
    height, width = image.shape
    profile = {"driver": "GTiff", "height": height, "width": width, "count": 1, "crs": "EPSG:32721"}
    with rasterio.open(path, "w", dtype="uint8", transform=place, **profile) as file:
        file.write(image[None])


def numbers(seed: int) -> Numbers:
    return np.rint(scene(seed, 64) * 250).astype(np.uint8)


def places(root: Path, count: int = 4) -> None:
    for place in range(count):
        for day in ("2020-01-01", "2020-02-01"):
            seed = 10 * place + int(day[6])
            folder = root / f"train/{place}"
            tif(folder / f"{day}_vv.tif", numbers(seed), 200 * place)
            tif(folder / f"{day}_vh.tif", numbers(seed + 500), 200 * place + 3, 5)
            tif(folder / f"{day}_eo.tif", numbers(seed + 900), 200 * place)
    tif(root / "test/9/a_vv.tif", numbers(91), 5000)
    tif(root / "test/9/a_vh.tif", numbers(92), 5000)
    tif(root / "test/9/b_vv.tif", numbers(93), 5000)


@pytest.mark.parametrize("pairing", ["base", "location"])
def test_the_second_source_has_the_base_and_lies_on_the_first_ones_grid(tmp_path: Path, pairing: str) -> None:
    places(tmp_path / "data")
    path = tmp_path / "stacks.toml"
    path.write_text(STACKS.format(pairing=pairing))
    build_pairs(tmp_path / "data", tmp_path / "m", challenge=path)
    radiometry = Radiometry().of(load_challenge(path))
    rows = read_manifest(tmp_path / "m/sar2eo_train.csv") + read_manifest(tmp_path / "m/sar2eo_val.csv")
    assert len(rows) == {"base": 8, "location": 16}[pairing]
    for pair in rows:
        assert [image.path for image in pair.more] == [pair.source.replace("vv", "vh")]
        assert pair.more[0].alignment == "georeference"
        opened = open_pair(pair, tmp_path / "data", radiometry)
        with rasterio.open(tmp_path / "data" / pair.source) as file:
            assert np.allclose(opened.source[:, :, 0][opened.valid], file.read(1)[opened.valid] / 255, atol=2e-3)
        with rasterio.open(tmp_path / "data" / pair.more[0].path) as file:
            second = file.read(1) / 255
        assert np.abs(opened.source[6:, 4:, 1] - second[1:-5, 1:-3]).max() < 2e-3  # 5 down, 3 right
        assert not opened.valid[:4].any()
        assert not opened.valid[:, :2].any()
        assert opened.valid[7:-1, 5:-1].all()
    inputs = read_manifest(tmp_path / "m/sar2eo_test.csv")
    assert [pair.paths for pair in inputs] == [("test/9/a_vv.tif", "test/9/a_vh.tif")]
    assert "test/9/b_vv.tif,there is no VH image of its base in its location" in reasons(tmp_path / "m")


def test_a_second_source_elsewhere_on_earth_is_refused(tmp_path: Path) -> None:
    places(tmp_path / "data")
    tif(tmp_path / "data/train/0/2020-01-01_vh.tif", numbers(1), 60)
    path = tmp_path / "stacks.toml"
    path.write_text(STACKS.format(pairing="base"))
    build_pairs(tmp_path / "data", tmp_path / "m", challenge=path)
    said = reasons(tmp_path / "m")
    assert "train/0/2020-01-01_vh.tif cannot be stacked with it: it covers 0.06" in said


# --- The manifest's column.


def test_the_column_is_there_only_where_it_says_something(tmp_path: Path) -> None:
    plain = Pair("a", "t", "train", "", "a.png")
    odd = 'a, "b" é;/c d.png'
    images = (Further(odd, "full", "footprint", "0" * 64), Further("x.png", "window:0:9", "georeference"))
    several = replace(plain, name="b", further=join_further(images))
    write_manifest(tmp_path / "plain.csv", [plain])
    assert "further" not in (tmp_path / "plain.csv").read_text()
    write_manifest(tmp_path / "t_train.csv", [plain, several])
    assert (tmp_path / "t_train.csv").read_bytes().isascii()
    assert read_manifest(tmp_path / "t_train.csv") == [plain, several]
    assert several.more == images
    assert several.files == (("a.png", ""), (odd, "0" * 64), ("x.png", ""))
    assert plain.paths == ("a.png",)
    assert pairs_digest([several]) != pairs_digest([replace(several, further="")])


@pytest.mark.parametrize(
    "text",
    ["x", "[]", "{}", "[1]", '["abc"]', '[["p","full"]]', '[["p","auto","footprint"]]', '[["","full","footprint"]]',
     '[["p","full","none"]]', '[["p",1,"footprint"]]'],
)  # fmt: skip
def test_a_damaged_column_is_named(text: str, tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.csv", [Pair("a", "t", "train", "", "a.png", further=text)])
    with pytest.raises(PbvsError, match="line 2: the column 'further' is no JSON list"):
        read_manifest(tmp_path / "m.csv")


# --- Methods.


def test_a_cascade_begins_with_the_sources_of_its_first_model(tmp_path: Path, challenge: Path) -> None:
    text = FUSED.replace("[layout.files.training]", '[tasks.rgb2heat]\nsource = "rgb"\ntarget = "heat"\n\n'
                         '[tasks.sar2heat]\nsource = "sar"\ntarget = "heat"\n\n[layout.files.training]')  # fmt: skip
    challenge.write_text(text)
    recipe = tmp_path / "recipe.toml"
    stages = '[stages.{0}]\nmethod = "grayscale"\n[stages.fused2heat]\nmethod = "cascade"\nfirst = "{0}"\n'
    recipe.write_text('name = "c"\nchallenge = "fused.toml"\n' + stages.format("sar2heat"))
    assert read_recipe(recipe).order() == ["sar2heat", "fused2heat"]
    recipe.write_text('name = "c"\nchallenge = "fused.toml"\n' + stages.format("rgb2heat"))
    with pytest.raises(
        PbvsError, match=r"stages\.fused2heat\.first: fused2heat does not begin with the sources of rgb2heat"
    ):
        read_recipe(recipe)


def test_one_file_alone_is_not_enough_for_a_model(tmp_path: Path, built: tuple[Path, Challenge, Path]) -> None:
    from pbvs.recipe import load_recipe
    from pbvs.translators import make_translator
    from pbvs.translators.scenes import Model

    data, challenge, _ = built
    recipe = load_recipe("gray", str(tmp_path / "fused.toml"))
    translator = make_translator(challenge.task("fused2heat"), recipe.stages["fused2heat"], None, "cpu")
    model = Model(translator, recipe)
    with pytest.raises(UsageError, match=r"fused2heat translates 2 files together \(sar, rgb\)"):
        model(data / "shots/sar/0.png")
    stacked = np.zeros((8, 8, 4), np.uint8)
    stacked[:, :, 0] = 51
    assert np.allclose(model(stacked), 0.2, atol=1e-6)
