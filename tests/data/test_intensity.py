"""From any number type and band count to [0, 1]."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from pbvs.challenge import load_challenge
from pbvs.data.align import read_raster
from pbvs.data.build import build_pairs
from pbvs.data.headers import Header
from pbvs.data.images import read_image, to_uint8, write_tiff
from pbvs.data.intensity import bands_of, rule_for, to_unit
from pbvs.data.manifest import manifest_path, read_manifest
from pbvs.recipe import Radiometry
from tests.data.conftest import Tree

EIGHT = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)

MODALITIES = load_challenge("mavic-t-2026").modalities


@pytest.mark.parametrize(
    ("pixels", "rule"),
    [
        (EIGHT, "full"),
        (EIGHT.astype(np.uint16) * 257, "full"),
        (EIGHT.astype(np.uint16), "full:255"),
        (EIGHT.astype(np.int16) - 128, "window:-128:127"),
        (EIGHT.astype(np.float32) / 255, "full"),
        (EIGHT.astype(np.float32) / 255 * 25 - 25, "window:-25:0"),
        (10.0 ** ((EIGHT.astype(np.float64) / 255 * 25 - 25) / 10), "power-db:-25:0"),
        (10.0 ** ((EIGHT.astype(np.float64) / 255 * 25 - 25) / 20), "amplitude-db:-25:0"),
        (EIGHT, "percentile:0:100"),
    ],
)
def test_every_type_gives_the_same_brightness(pixels: np.ndarray, rule: str) -> None:
    unit = to_unit(pixels, rule)
    assert unit.dtype == np.float32
    assert np.array_equal(to_uint8(unit), EIGHT)


def test_values_outside_and_no_numbers_stay_in_range() -> None:
    pixels = np.array([[[np.nan], [np.inf]], [[-np.inf], [7.0]]], np.float32)
    assert to_unit(pixels, "full").ravel().tolist() == [0, 1, 0, 1]
    assert to_unit(np.zeros((1, 1, 1), np.float32), "power-db:-25:0").ravel().tolist() == [0]
    assert to_unit(np.full((2, 2, 1), 9, np.uint8), "percentile:2:98").max() <= 1


def test_a_percentile_looks_at_valid_pixels_only() -> None:
    pixels = np.array([[[0.0], [10.0], [20.0], [1000.0]]], np.float32)
    valid = np.array([[False, True, True, False]])
    assert to_unit(pixels, "percentile:0:100", valid).ravel().tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("bands", "modality", "chosen"),
    [
        (1, "rgb", [0, 0, 0]),
        (3, "rgb", [0, 1, 2]),
        (4, "rgb", [0, 1, 2]),
        (4, "ir", [3]),
        (12, "rgb", [3, 2, 1]),
        (12, "ir", [7]),
        (2, "sar", [0]),
        (3, "eo", [0]),
    ],
)
def test_four_bands_are_rgb_and_near_infrared(bands: int, modality: str, chosen: list[int]) -> None:
    assert bands_of(Header(1, 1, bands, "uint8"), MODALITIES[modality]) == chosen


def test_a_four_band_tiff_has_no_alpha(tmp_path: Path) -> None:
    pixels = np.full((4, 4, 4), 100, np.uint8)
    pixels[:, :, 3] = 0
    write_tiff(tmp_path / "a_rgb.tiff", pixels)
    raster = read_raster(tmp_path / "a_rgb.tiff", MODALITIES["rgb"], "full")
    assert raster.valid.all()
    assert raster.pixels.shape == (4, 4, 3)


@pytest.mark.parametrize(
    ("values", "modality", "rule"),
    [
        (np.array([0, 800], np.uint16), "rgb", "full:1023"),
        (np.array([0, 3000], np.uint16), "rgb", "full:4095"),
        (np.array([0, 60000], np.uint16), "rgb", "full"),
        (np.array([0.0, 0.9], np.float32), "sar", "full"),
        (np.linspace(-30, -5, 101, dtype=np.float32), "sar", "window:-29.250000:-5.750000"),
        (np.logspace(-3, 0.5, 351, dtype=np.float32), "sar", "power-db:-29.65:4.65"),
        (np.logspace(0, 4, 401, dtype=np.float32), "sar", "amplitude-db:19.20:79.20"),
        (np.array([-5, 5], np.int16), "ir", "window:-4.900000:4.900000"),
        (np.array([], np.float32), "ir", "full"),
    ],
)
def test_a_groups_rule_follows_from_its_numbers(values: np.ndarray, modality: str, rule: str) -> None:
    assert rule_for(values, MODALITIES[modality], values.dtype.name) == rule


@pytest.mark.parametrize("rule", ["percentile:2", "window:a:b", "gamma:2", "full:", "; rm"])
def test_a_rule_that_does_not_exist_is_refused(rule: str) -> None:
    with pytest.raises(ValidationError):
        Radiometry(sar=rule)


def test_uint16_and_uint8_of_one_place_agree_to_one_grey_level(standin: Path, tmp_path: Path) -> None:
    deep = [path for path in standin.rglob("*.tiff") if not path.name.startswith(".") and "SEN12" in str(path)]
    deep = [path for path in deep if read_image(path).dtype == np.uint16]
    assert deep
    for path in deep:
        modality = "rgb" if "rgb" in path.name else "ir"
        shallow = to_uint8(read_image(path).astype(np.float64) / 65535)
        write_tiff(tmp_path / path.name, shallow)
        versions = [read_raster(at, MODALITIES[modality], "full").pixels for at in (path, tmp_path / path.name)]
        assert np.abs(versions[0] - versions[1]).max() <= 1 / 255


def test_the_rule_is_in_the_manifest_and_the_recipe_outranks_it(tree: Tree, tmp_path: Path) -> None:
    for name in ("one", "two"):
        tree.location("A", name)
        write_tiff(tree.root / f"A/{name}/d_rgb.tiff", tree.pixels(16, 16, 3).astype(np.uint16) * 16)
        tree.tiff(f"A/{name}/d_ir.tiff")
    build_pairs(tree.root, tmp_path / "m")
    rules = {pair.source: pair.source_rule for pair in read_manifest(manifest_path(tmp_path / "m", "rgb2ir", "train"))}
    assert {rule for path, rule in rules.items() if "/d_" in path} == {"full:4095"}
    assert {rule for path, rule in rules.items() if "/a_" in path} == {"full"}
    build_pairs(tree.root, tmp_path / "m", radiometry=Radiometry(rgb="percentile:2:98"))
    pairs = read_manifest(manifest_path(tmp_path / "m", "rgb2ir", "train"))
    assert {pair.source_rule for pair in pairs} == {"percentile:2:98"}
    assert Radiometry(rgb="full").rule("rgb", "full:4095") == "full"
    assert Radiometry().rule("rgb", "full:4095") == "full:4095"


def test_a_tiffs_own_mask_is_heeded(tmp_path: Path) -> None:
    import rasterio

    write_tiff(tmp_path / "a_rgb.tiff", np.full((16, 16, 3), 100, np.uint8))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(tmp_path / "a_rgb.tiff", "r+") as file:
        mask = np.full((16, 16), 255, np.uint8)
        mask[:4] = 0
        file.write_mask(mask)
    raster = read_raster(tmp_path / "a_rgb.tiff", MODALITIES["rgb"], "full")
    assert not raster.valid[:4].any()
    assert raster.valid[4:].all()
