"""Images brought onto one grid: exactly where grids are equal, by the georeference where they are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from pbvs.challenge import load_challenge
from pbvs.data.align import Raster, move, open_masked_target, open_pair, open_source, read_raster, resample
from pbvs.data.build import build_pairs
from pbvs.data.geometry import Footprints, clip, overlap, overlap_window
from pbvs.data.headers import Header, read_header
from pbvs.data.images import resize, write_tiff
from pbvs.data.manifest import Pair, manifest_path, read_manifest
from pbvs.data.pairing import Rules
from tests.data.conftest import Tree

UTM = "EPSG:32612"

MODALITIES = load_challenge("mavic-t-2026").modalities


def header(left: float, top: float, pixel: float = 1.0, size: int = 100, crs: str = UTM) -> Header:
    return Header(size, size, 1, "uint8", crs, (pixel, 0.0, left, 0.0, -pixel, top))


def write_pair(tree: Tree, sar: tuple[float, ...], size: int = 40, nodata: int | None = None) -> Pair:
    tree.tiff("A/one/a_rgb.tiff", 3, (40, 40), UTM, (1.0, 0.0, 4e5, 0.0, -1.0, 4e6))
    tree.tiff("A/one/s_GEC.tiff", 1, (size, size), UTM, sar)
    return Pair("x", "sar2rgb", "train", "one", "A/one/s_GEC.tiff", "A/one/a_rgb.tiff", alignment="georeference")


def test_equal_grids_change_nothing(tree: Tree) -> None:
    pair = write_pair(tree, (1.0, 0.0, 4e5, 0.0, -1.0, 4e6))
    opened = open_pair(pair, tree.root)
    assert np.array_equal(opened.source, read_raster(tree.root / pair.source, MODALITIES["sar"], "full").pixels)
    assert opened.valid.all()


def test_whole_pixels_of_offset_are_exact_and_the_overlap_is_cut(tree: Tree) -> None:
    pair = write_pair(tree, (1.0, 0.0, 4e5 + 10, 0.0, -1.0, 4e6 - 4))
    opened = open_pair(pair, tree.root)
    sar = read_raster(tree.root / pair.source, MODALITIES["sar"], "full").pixels
    rgb = read_raster(tree.root / pair.target, MODALITIES["rgb"], "full").pixels
    assert opened.target is not None
    assert np.array_equal(opened.target, rgb[4:, 10:])
    assert np.array_equal(opened.source, sar[:36, :30])
    assert opened.valid.all()


def test_source_and_target_alone_are_those_of_the_pair(tree: Tree) -> None:
    pair = write_pair(tree, (1.5, 0.1, 4e5 - 3, 0.2, -1.5, 4e6 + 5))
    opened = open_pair(pair, tree.root)
    assert np.array_equal(opened.source, open_source(pair, tree.root))
    assert opened.target is not None
    assert np.array_equal(opened.target, open_masked_target(pair, tree.root)[0])
    assert opened.source.shape[:2] == opened.target.shape[:2] == opened.valid.shape


def test_no_data_is_not_valid_and_does_not_bleed(tree: Tree) -> None:
    import rasterio

    pair = write_pair(tree, (1.0, 0.0, 4e5 - 0.5, 0.0, -1.0, 4e6))
    pixels = np.full((40, 40, 1), 200, np.uint8)
    pixels[:, :20] = 0
    write_tiff(tree.root / pair.source, pixels, UTM, (1.0, 0.0, 4e5 - 0.5, 0.0, -1.0, 4e6))
    with rasterio.open(tree.root / pair.source, "r+") as file:
        file.nodata = 0
    opened = open_pair(pair, tree.root)
    assert not opened.valid[:, :19].any()
    assert opened.valid[:, 21:39].all()
    assert np.allclose(opened.source[opened.valid], 200 / 255)
    assert (opened.source[~opened.valid] == 0).all()


def test_shrinking_is_antialiased(tree: Tree) -> None:
    pair = write_pair(tree, (0.1, 0.0, 4e5, 0.0, -0.1, 4e6), size=400)
    opened = open_pair(pair, tree.root)
    sar = read_raster(tree.root / pair.source, MODALITIES["sar"], "full").pixels
    assert opened.source.std() < 0.25 * sar.std()
    assert opened.source.mean() == pytest.approx(sar.mean(), abs=0.005)


def test_other_systems_meet_where_they_lie(tree: Tree) -> None:
    """The same ramp on the ground, seen in UTM and in Mercator, is the same after reprojection."""
    from rasterio.crs import CRS
    from rasterio.warp import transform

    mercator = CRS.from_epsg(3395)
    x, y = transform(CRS.from_user_input(UTM), mercator, [4e5, 4e5 + 60], [4e6, 4e6 - 60])
    target = (0.5, 0.0, x[0] + 10, 0.0, -0.5, y[0] - 10)
    rows, columns = np.mgrid[0:80, 0:80]
    east, _ = transform(
        mercator, CRS.from_user_input(UTM), (target[2] + 0.5 * (columns + 0.5)).ravel(),
        (target[5] - 0.5 * (rows + 0.5)).ravel(),
    )  # fmt: skip
    expected = ((np.array(east).reshape(80, 80) - 4e5) / 80).astype(np.float32)
    ramp = ((np.arange(160) + 0.5) / 160).astype(np.float32)
    write_tiff(tree.root / "A/one/s_GEC.tiff", np.tile(ramp, (160, 1))[:, :, None], UTM, (0.5, 0, 4e5, 0, -0.5, 4e6))
    write_tiff(tree.root / "A/one/a_rgb.tiff", tree.pixels(80, 80, 3), "EPSG:3395", target)
    pair = Pair("x", "sar2rgb", "train", "one", "A/one/s_GEC.tiff", "A/one/a_rgb.tiff", alignment="georeference")
    opened = open_pair(pair, tree.root)
    window = overlap_window(read_header(tree.root / pair.source), read_header(tree.root / pair.target))
    part = expected[window.top : window.top + window.height, window.left : window.left + window.width]
    assert np.abs(opened.source[:, :, 0] - part)[opened.valid].max() < 0.002


@pytest.mark.parametrize(
    ("left", "top", "share"), [(0, 0, 1.0), (50, 0, 0.5), (50, 50, 0.25), (100, 0, 0.0), (-1e6, 0, 0.0)]
)
def test_overlap_is_the_share_of_the_target(left: float, top: float, share: float) -> None:
    target, source = header(4e5, 4e6), header(4e5 + left, 4e6 + top)
    assert overlap(source, target) == pytest.approx(share, abs=1e-9)
    assert Footprints([source, target]).overlap(source, target) == pytest.approx(share, abs=2e-3)


def test_the_fast_overlap_is_the_exact_one_for_turned_images_in_other_systems() -> None:
    target = header(4e5, 4e6, 2.0)
    for turn in (0.0, 0.3, 1.2):
        c, s = 3 * np.cos(turn), 3 * np.sin(turn)
        source = Header(60, 90, 1, "uint8", "EPSG:26912", (c, s, 4e5 + 30, s, -c, 4e6 - 20))
        assert Footprints([source, target]).overlap(source, target) == pytest.approx(overlap(source, target), abs=2e-3)


def test_images_around_the_globe_do_not_overlap_and_do_not_fail() -> None:
    world = Header(360, 180, 1, "uint8", "EPSG:4326", (1.0, 0.0, -180.0, 0.0, -1.0, 90.0))
    small = header(4e5, 4e6)
    footprints = Footprints([world, small])
    assert 0 <= footprints.overlap(world, small) <= 1
    assert 0 <= footprints.overlap(small, world) < 1e-3
    assert clip([(float("inf"), 0), (1, 1), (0, 1)], 1, 1) == []


def test_pairs_that_hardly_overlap_are_refused(tree: Tree, tmp_path: Path) -> None:
    for name, east in (("one", 4e5), ("two", 5e5)):
        grid = (1.0, 0.0, east, 0.0, -1.0, 4e6)
        tree.tiff(f"A/{name}/a_rgb.tiff", 3, (40, 40), UTM, grid)
        for offset in (0, 10, 30):
            tree.tiff(f"A/{name}/s{offset}_GEC.tiff", 1, (40, 40), UTM, (1.0, 0.0, east + offset, 0.0, -1.0, 4e6))
    build_pairs(tree.root, tmp_path / "m", rules=Rules(min_overlap=0.5))
    pairs = read_manifest(manifest_path(tmp_path / "m", "sar2rgb", "train"))
    assert [(pair.source[-12:], pair.overlap) for pair in pairs] == [
        ("/s0_GEC.tiff", "1.0000"),
        ("s10_GEC.tiff", "0.7500"),
    ]
    assert "it covers 0.25 of" in (tmp_path / "m/unused.csv").read_text()


def test_equal_footprints_are_resampled_with_antialiasing(tree: Tree) -> None:
    noisy = Raster(np.random.default_rng(0).random((80, 80, 1), np.float32), np.ones((80, 80), np.bool_), header(0, 0))
    small = resample(noisy, 20, 20)
    assert small.pixels.shape == (20, 20, 1)
    assert small.pixels.std() < 0.5 * noisy.pixels.std()


def test_a_shift_is_moved_back(tree: Tree) -> None:
    pixels = np.random.default_rng(1).random((40, 40, 1), np.float32)
    shifted = Raster(np.roll(pixels, (3, -2), (0, 1)), np.ones((40, 40), np.bool_), header(0, 0))
    back = move(shifted, 3, -2)
    assert np.allclose(back.pixels[:37, 2:], pixels[:37, 2:], atol=1e-6)
    assert not back.valid[37:].any()
    pair = write_pair(tree, (1.0, 0.0, 4e5, 0.0, -1.0, 4e6))
    plain = open_source(pair, tree.root)
    moved = open_source(replace(pair, shift="3.00 -2.00"), tree.root)
    assert np.allclose(moved[:37, 2:], plain[3:, :38], atol=1e-6)


def information(first: np.ndarray, second: np.ndarray) -> float:
    joint = np.histogram2d(first.ravel(), second.ravel(), 32)[0]
    joint /= joint.sum()
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    return float((joint[joint > 0] * np.log(joint[joint > 0] / independent[joint > 0])).sum())


def smooth_logarithm(sar: np.ndarray) -> np.ndarray:
    return gaussian_filter(np.log(sar[:, :, 0] + 1 / 255), 1.5)


def test_reprojecting_the_stand_in_is_worth_twice_the_information_of_resizing(
    standin: Path, standin_manifests: Path
) -> None:
    pairs = [
        pair
        for pair in read_manifest(manifest_path(standin_manifests, "sar2rgb", "train"))
        if "Sentinel_" in pair.source
    ]
    aligned = resized = 0.0
    for pair in pairs[:24]:
        opened = open_pair(pair, standin)
        assert opened.target is not None
        assert opened.valid.all()
        grey = opened.target.mean(axis=2)
        raw = read_raster(standin / pair.source, MODALITIES["sar"], "full").pixels
        aligned += information(smooth_logarithm(opened.source), grey)
        resized += information(smooth_logarithm(resize(raw, *grey.shape)), grey)
    assert aligned > 2 * resized


@pytest.mark.parametrize(("task", "archive"), [("sar2rgb", "TerraMind"), ("rgb2ir", "NAIP")])
def test_pairs_on_one_grid_of_the_stand_in_are_exact(
    standin: Path, standin_manifests: Path, task: str, archive: str
) -> None:
    pairs = [pair for pair in read_manifest(manifest_path(standin_manifests, task, "train")) if archive in pair.source]
    assert pairs
    for pair in pairs[:6]:
        opened = open_pair(pair, standin)
        modality = "sar" if task == "sar2rgb" else "rgb"
        assert np.array_equal(opened.source, read_raster(standin / pair.source, MODALITIES[modality], "full").pixels)
        assert opened.valid.all()
