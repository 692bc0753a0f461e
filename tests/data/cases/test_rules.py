"""Rules of intensity: found from a fair view of the training images, and the same for one file wherever it lies."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pbvs.cli import cli
from pbvs.data.images import to_uint8
from pbvs.data.inspection import inspect_data
from pbvs.errors import PbvsError
from pbvs.files import read_toml
from pbvs.recipe import Radiometry, dump_recipe, load_recipe, parse_recipe
from pbvs.report.pages import render_data
from tests.data.cases.world import World, grid, likeness, png, scene, tif, u8

RNG = np.random.default_rng(5)


def rgb_location(world: World, name: str, rgb: np.ndarray, archive: str = "Train_Data_X_SAR_IR_RGB") -> None:
    folder = world.location(name, archive)
    tif(folder / "A_rgb.tiff", rgb)
    tif(folder / "A_ir.tiff", u8(scene(*rgb.shape[:2], seed=99)))


def sar_location(world: World, name: str, sar: np.ndarray, **options: object) -> None:
    folder = world.location(name)
    tif(folder / "S_GEC.tiff", sar, **options)
    tif(folder / "A_rgb.tiff", u8(scene(*sar.shape[:2], seed=1, bands=3)))


@pytest.mark.parametrize("dtype", ["uint16", "int16", "uint32", "int32", "float32", "float64"])
def test_a_file_is_as_bright_among_the_test_inputs_as_in_training(world: World, dtype: str) -> None:
    for number in range(6):  # only the last location has bright ground
        top = 9000 if number == 5 else 3000
        rgb_location(world, f"loc{number}", np.rint(scene(seed=number, bands=3) * top).astype(dtype))
    for number in range(3):
        source = world.root / f"Train_Data_X_SAR_IR_RGB/loc{number}/A_rgb.tiff"
        shutil.copy(source, world.inputs() / f"{number}.tiff")
    world.build()
    for number in range(3):
        _, trained = world.open("rgb2ir", "train", number)
        _, tested = world.open("rgb2ir", "test", number)
        np.testing.assert_array_equal(trained.source, tested.source)


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "int16", "float32"])
def test_archives_of_one_sensor_have_one_rule(world: World, dtype: str) -> None:
    for name, top in (("A", 3900), ("B", 4200)):
        image = np.rint(scene(seed=1, bands=3) * top).astype(dtype)
        rgb_location(world, f"loc{name}", image, f"Train_Data_{name}_SAR_IR_RGB")
    world.build()
    first, second = (world.open("rgb2ir", number=number)[1].source.mean() for number in (0, 1))
    assert second / first == pytest.approx(4200 / 3900, rel=0.02)


def test_archives_of_unlike_sensors_have_rules_of_their_own(world: World) -> None:
    for name, top in (("A", 255), ("B", 60000)):
        rgb_location(world, f"loc{name}", np.rint(scene(seed=1, bands=3) * top).astype(np.uint16), name)
    tif(world.inputs() / "1.tiff", np.rint(scene(seed=3, bands=3) * 250).astype(np.uint16))
    world.build()
    assert [pair.source_rule for pair in world.pairs("rgb2ir")] == ["full:255", "full"]
    assert world.pairs("rgb2ir", "test")[0].source_rule == "full:255"


def test_validation_images_decide_nothing(world: World) -> None:
    for folder, top in (("train", 900), ("val", 60000)):
        for number in range(4):
            for modality in ("SAR", "EO"):
                image = np.rint(scene(32, 32, number) * top).astype(np.uint16)
                png(world.root / "design_data" / modality / folder / f"{number}.png", image, 16)
    world.build()
    rules = {pair.target_rule for split in ("train", "val") for pair in world.pairs("sar2eo", split)}
    assert rules == {"full:1023"}


@pytest.mark.parametrize(("top", "rule"), [(255, "full:255"), (1000, "full:1023"), (4000, "full:4095"),
                                           (16000, "full:16383"), (65535, "full")])  # fmt: skip
@pytest.mark.parametrize("hot", [False, True])
def test_whole_numbers_use_the_depth_that_holds_them_but_for_a_hot_pixel(
    world: World, top: int, rule: str, hot: bool
) -> None:
    image = np.rint(scene(seed=1, bands=3) * top).astype(np.uint16)
    if hot:
        image[3, 4] = 65535
    rgb_location(world, "loc", image)
    world.build()
    pair, opened = world.open("rgb2ir")
    depth = int(rule[5:] or 65535)
    assert pair.source_rule == rule
    assert opened.source.mean() == pytest.approx(np.minimum(image, depth).mean() / depth, rel=0.01)


@pytest.mark.parametrize("dtype", ["uint16", "int32", "uint32", "uint64", "int64", "float32"])
def test_one_scene_in_any_type_has_one_brightness(world: World, dtype: str) -> None:
    rgb = scene(seed=1, bands=3)
    tif(world.inputs() / "1.tiff", np.rint(rgb * 4000).astype(dtype))
    world.build()
    _, opened = world.open("rgb2ir", "test")
    assert opened.source.mean() == pytest.approx(rgb.mean(), abs=0.04)
    assert likeness(opened.source, rgb) > 0.99


def test_16_bit_grey_with_alpha_is_as_bright_as_without(world: World) -> None:
    for number in range(4):
        grey = np.rint(scene(seed=number) * 65535).astype(np.uint16)
        png(world.root / f"T_EO_SAR/SAR/train/{number}.png", grey, 16)
        png(world.root / f"T_EO_SAR/EO/train/{number}.png", np.concatenate([grey, np.full_like(grey, 65535)], 2), 16)
    world.build()
    _, opened = world.open("sar2eo")
    np.testing.assert_allclose(opened.source, opened.target, atol=1e-6)
    assert opened.valid.all()


# --- SAR.


def speckled(number: int, points: bool = True) -> np.ndarray:
    """Amplitudes as a GRD product has them: most below 300, few point targets far above."""
    amplitude = (scene(128, 128, number)[:, :, 0] * 200 + 60) * RNG.rayleigh(0.8, (128, 128))
    if points:
        amplitude[RNG.random((128, 128)) < 0.003] = 18000
    return amplitude[:, :, None]


@pytest.mark.parametrize("points", [True, False])
@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "float32"])
def test_linear_amplitudes_keep_their_grey_levels(world: World, dtype: str, points: bool) -> None:
    amplitudes = [speckled(number, points).astype(dtype) for number in range(6)]
    for number, sar in enumerate(amplitudes):
        sar_location(world, f"loc{number}", sar)
    world.build()
    pair, opened = world.open("sar2rgb")
    assert len(np.unique(to_uint8(opened.source))) > 100, pair.source_rule
    assert 0.15 < opened.source.mean() < 0.85
    assert 0.1 < opened.source.std() < 0.4
    ordinary = amplitudes[0] < 1000
    ranks = [np.argsort(np.argsort(image[ordinary])) for image in (amplitudes[0], opened.source)]
    assert likeness(*ranks) > 0.99


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda sar: sar * 900 + 50, "window"),  # amplitudes
        (lambda sar: 20 * np.log10(sar * 900 + 50), "window"),  # decibels of digital numbers
        (lambda sar: sar * 25 - 28, "window"),  # decibels of the backscatter
        (lambda sar: 10 ** ((sar * 40 - 35) / 10), "power-db"),  # linear power
        (lambda sar: 10 ** ((sar * 60 + 10) / 20), "amplitude-db"),  # linear amplitude of a wide range
        (lambda sar: sar, "full"),  # scaled already
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_float_sar_of_any_kind_keeps_its_contrast(world: World, make: object, kind: str, dtype: str) -> None:
    sar = scene(seed=3)
    sar_location(world, "loc", make(sar).astype(dtype))  # type: ignore[operator]
    world.build()
    pair, opened = world.open("sar2rgb")
    assert pair.source_rule.split(":")[0] == kind
    assert opened.source.std() == pytest.approx(sar.std(), rel=0.35)
    assert likeness(opened.source, sar) > 0.95


@pytest.mark.parametrize("dtype", ["complex64", "complex128", "complex_int16"])
def test_complex_sar_is_its_amplitude(world: World, dtype: str) -> None:
    sar = scene(seed=3)
    phase = np.exp(1j * RNG.uniform(0, 2 * np.pi, sar.shape))
    sar_location(world, "loc", ((sar * 900 + 50) * phase).astype(np.complex128), dtype=dtype)
    world.build()
    _, opened = world.open("sar2rgb")
    assert likeness(opened.source, sar) > 0.99


def test_sar_power_that_never_reaches_one_is_told_from_a_scaled_image(world: World) -> None:
    power = 0.05 * scene(96, 96, 3) * RNG.exponential(1, (96, 96, 1))
    sar_location(world, "loc", power.astype(np.float32))
    world.build()
    pair, opened = world.open("sar2rgb")
    assert pair.source_rule.startswith("power-db")
    assert 0.2 < opened.source.mean() < 0.9


# --- What no tag says.


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [("int16", -9999), ("int16", -32768), ("int32", -9999), ("float32", -9999.0), ("float32", -3.4028235e38),
     ("float32", 1e20), ("uint16", 65535), ("float64", -999.0)],
)  # fmt: skip
def test_no_data_that_no_tag_declares_is_seen(world: World, dtype: str, nodata: float) -> None:
    for number in range(3):
        image = (scene(seed=number, bands=3) * 900 + 100).astype(dtype)
        image[:5] = nodata
        rgb_location(world, f"loc{number}", image)
    world.build()
    pair, opened = world.open("rgb2ir")
    assert ",nodata:" in pair.source_rule
    assert not opened.valid[:5].any()
    assert opened.valid[5:].all()
    if dtype != "uint16":
        assert opened.source[5:].min() == pytest.approx(0, abs=0.03)
        assert opened.source[5:].max() == pytest.approx(1, abs=0.03)


def test_bright_points_are_no_missing_data(world: World) -> None:
    for number in range(3):
        sar_location(world, f"loc{number}", speckled(number).astype(np.uint16))
    world.build()
    assert "nodata" not in world.pairs("sar2rgb")[0].source_rule


def test_thermal_counts_in_a_narrow_band_get_a_window(world: World) -> None:
    folder = world.location()
    tif(folder / "A_rgb.tiff", u8(scene(seed=1, bands=3)))
    tif(folder / "A_ir.tiff", np.rint(scene(seed=2) * 1200 + 29000).astype(np.uint16))  # kelvin times a hundred
    world.build()
    pair, opened = world.open("rgb2ir")
    assert pair.target_rule.startswith("window:")
    assert opened.target.std() == pytest.approx(scene(seed=2).std(), rel=0.3)


def test_the_recipe_outranks_what_is_found_by_modality_and_archive(world: World) -> None:
    for archive in ("A", "B"):
        rgb_location(world, f"loc{archive}", np.rint(scene(seed=1, bands=3) * 3000).astype(np.uint16), archive)
    own = Radiometry(rgb="full:5000", archives={"B": {"rgb": "window:100:2000"}})
    world.build(own)
    assert [pair.source_rule for pair in world.pairs("rgb2ir")] == ["full:5000", "window:100:2000"]
    world.build()
    assert own.rule("rgb", "full:4095", "B/locB/A_rgb.tiff") == "window:100:2000"
    assert own.rule("rgb", "full:4095", "A/locA/A_rgb.tiff") == "full:5000"
    assert own.rule("ir", "full", "B/locB/A_ir.tiff") == "full"


def test_a_recipe_keeps_its_rules_by_archive(tmp_path: Path) -> None:
    (tmp_path / "demo.toml").write_text(dump_recipe(load_recipe("demo")))
    tables = read_toml(tmp_path / "demo.toml")
    tables["radiometry"] = {"sar": "window:-30:0", "archives": {"Train X": {"rgb": "full:4095,nodata:0"}}}
    recipe = parse_recipe(tables, "x.toml")
    (tmp_path / "own.toml").write_text(dump_recipe(recipe))
    again = load_recipe(tmp_path / "own.toml")
    assert again.digest() == recipe.digest() != load_recipe("demo").digest()
    assert again.radiometry.rule("rgb", "full", "Train X/loc/a.tif") == "full:4095,nodata:0"
    assert again.radiometry.rule("sar", "full", "Train Y/loc/a.tif") == "window:-30:0"
    for wrong, said in (
        ({"rgb": "gamma"}, "no rule 'gamma'; there are auto, full"),
        ({"xyz": "full"}, "no such modality"),
    ):
        tables["radiometry"]["archives"] = {"Train X": wrong}
        with pytest.raises(PbvsError, match=said):
            parse_recipe(tables, "x.toml")


def test_training_images_are_drawn_from_all_locations(world: World) -> None:
    """The bright location is the last of ninety, behind one with many images."""
    for number in range(30):
        tif(world.location("loc000") / f"{number}_rgb.tiff", np.rint(scene(16, 16, number, 3) * 900).astype(np.uint16))
    for number in range(1, 90):
        rgb_location(world, f"loc{number:03}", np.rint(scene(16, 16, number, 3) * 900).astype(np.uint16))
    for number in range(90, 120):
        rgb_location(world, f"loc{number:03}", np.rint(scene(16, 16, number, 3) * 15000).astype(np.uint16))
    world.build()
    assert {pair.source_rule for pair in world.pairs("rgb2ir")} == {"full:16383"}


# --- What is said of it.


def test_what_is_clipped_and_what_is_empty_is_counted_and_said(world: World) -> None:
    for number in range(3):
        image = np.rint(scene(seed=number, bands=3) * 3000 + 1).astype(np.uint16)
        image[:40] = 0
        rgb_location(world, f"loc{number}", image)
    summary = world.build(Radiometry(rgb="window:0:1000,nodata:0"))
    (clipped,) = [line for line in summary.warnings if "are clipped" in line]
    (empty,) = [line for line in summary.warnings if "hold no data" in line]
    assert "Train_Data_X_SAR_IR_RGB" in clipped
    assert "rgb images (uint16)" in empty
    figures = summary.details["groups"]["Train_Data_X_SAR_IR_RGB rgb uint16"]
    seen = np.stack([np.rint(scene(seed=number, bands=3) * 3000 + 1)[40:] for number in range(3)])
    assert figures["clipped"] == pytest.approx(float((seen > 1000).mean()), abs=0.01)
    assert figures["empty"] == pytest.approx(40 / 64, abs=1e-3)
    assert not [line for line in world.build().warnings if "are clipped" in line or "hold no data" in line]


def test_check_data_shows_type_range_rule_and_place_by_archive_and_modality(world: World) -> None:
    for number in range(3):
        sar_location(world, f"loc{number}", speckled(number).astype(np.uint16), crs="EPSG:32614", transform=grid())
    tif(world.location("loc4") / "S_GEC.tiff", speckled(9).astype(np.uint16), crs="EPSG:32614")
    found = inspect_data(world.root, shifts=False)
    (group,) = [group for group in found.groups if group.modality == "sar"]
    assert (group.archive, group.kind, group.images) == ("Train_Data_X_SAR_IR_RGB", "uint16", 4)
    assert group.figures.high == 18000
    assert group.rule == found.intensity[group.archive, "sar", "uint16"]
    assert group.systems == "EPSG:32614"
    assert group.placed == "tags 3, none (CRS without a transform) 1"
    assert group.figures.counts.sum() == pytest.approx(4)
    page = render_data(found)
    assert "none (CRS without a transform) 1" in page
    lines = checked(world, 200).splitlines()
    name = "Train_Data_X_SAR_IR_RGB SAR uint16"
    assert [line.split()[3:6:2] for line in lines if line.startswith(name)] == [["4", "18000"], [group.rule, "tags"]]
    assert any(line.endswith("EPSG:32614  tags 3, none (CRS without a transform) 1") for line in lines)


def checked(world: World, columns: int, encoding: str = "utf-8") -> str:
    """What check-data prints on a terminal of so many columns."""
    words = ["check-data", str(world.root), "--manifests", str(world.manifests), "--no-shift", "--jobs", "1"]
    result = CliRunner(charset=encoding, env={"COLUMNS": str(columns)}).invoke(cli, words)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_row_of_check_data_has_the_numbers_that_numpy_finds(world: World) -> None:
    images = []
    for number in range(3):
        decibels = np.random.default_rng(number).normal(-14, 3, (64, 64)).astype(np.float32)
        decibels[::16, ::16] = 60 + number  # hot pixels, beyond the window
        decibels[: 8 * (number + 1)] = np.nan
        sar_location(world, f"loc{number}", decibels)
        images.append(decibels[np.isfinite(decibels)].astype(np.float64))
    name = "Train_Data_X_SAR_IR_RGB SAR float32"
    numbers, texts = [line[len(name) :].split() for line in checked(world, 200).splitlines() if line.startswith(name)]
    low, high = map(float, texts[0].removeprefix("window:").split(":"))
    clipped = np.mean([((seen < low) | (seen > high)).mean() for seen in images])
    empty = np.mean([1 - seen.size / 4096 for seen in images])
    assert clipped > 0.002 and empty == 0.25
    # 64 steps of brightness, each image counting the same, four steps to a character, full at the largest
    steps = [np.histogram(((seen - low) / (high - low)).clip(0, 1), 64, (0, 1))[0] / seen.size for seen in images]
    shares = np.sum(steps, axis=0).reshape(16, 4).sum(axis=1)
    heights = np.ceil(7 * shares / shares.max()).astype(int)
    low, high = min(seen.min() for seen in images), max(seen.max() for seen in images)
    wanted = ["3", f"{low:g}", f"{high:g}", f"{clipped:.1%}", f"{empty:.1%}"]
    assert numbers == [*wanted, "".join("▁▂▃▄▅▆▇█"[height] for height in heights)]
    plain = checked(world, 200, "ascii").splitlines()
    assert f"{'  '.join(wanted[-2:])}" in "  ".join(next(line for line in plain if line.startswith(name)).split())
    assert any(line.endswith("".join("_.-:=+*#"[height] for height in heights)) for line in plain)
    narrow = checked(world, 60).splitlines()
    assert all(len(line) <= 60 or "/" in line for line in narrow)
    assert set(numbers) <= set(" ".join(narrow).split()) and texts[0] in " ".join(narrow).split()
