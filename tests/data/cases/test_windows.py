"""Of a large image only the part is read that its partner shows, with the values that the whole would give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp, Resampling
from rasterio.warp import reproject, transform

from pbvs.challenge import load_challenge
from pbvs.data import align
from pbvs.data.align import open_masked_target, open_pair, read_raster, warp
from pbvs.data.geometry import Window, overlap_window, source_window
from pbvs.data.headers import read_header
from pbvs.data.images import read_samples
from pbvs.data.manifest import Pair
from pbvs.errors import PbvsError
from pbvs.recipe import Radiometry
from tests.data.cases.world import UTM, World, grid, peak_and_seconds, scene, tif, u8

MODALITIES = load_challenge().modalities
LAEA = "+proj=laea +lat_0=46 +lon_0=-99 +x_0=1000 +datum=WGS84 +units=m"
SIDE = 1100


def turned(angle: float, pixel: float, x: float, y: float) -> Any:
    """Return the transform of a grid that is turned by an angle."""
    return (
        rasterio.Affine(1, 0, x, 0, 1, y) @ rasterio.Affine.rotation(angle) @ rasterio.Affine(pixel, 0, 0, 0, -pixel, 0)
    )


def write_source(path: Path, random: np.random.Generator, crs: str, where: Any, dtype: str, kind: str) -> None:
    """Write an image of noise with the kind of georeference or validity that is asked for."""
    image = (random.random((SIDE, SIDE)) * 200 + 1).astype(dtype)
    options: dict[str, Any] = {"tiled": True}
    if kind == "no-data":
        image[random.random((SIDE, SIDE)) < 0.05] = 0
        options["nodata"] = 0
    if kind == "strips":
        options = {}
    if kind == "control points":
        rows, columns = (part.ravel() for part in np.meshgrid(*[np.linspace(0, SIDE, 5)] * 2))
        bent = [
            where @ (c + 20 * np.sin(r / 900), r + 15 * np.cos(c / 700)) for r, c in zip(rows, columns, strict=True)
        ]
        options["gcps"] = [GroundControlPoint(*at) for at in zip(rows, columns, *zip(*bent, strict=True), strict=True)]
        where = None
    image = np.dstack([image, np.where(random.random(image.shape) < 0.1, 0, 255)]) if kind == "alpha" else image

    def after(file: Any) -> None:
        if kind == "mask":
            file.write_mask(random.random((SIDE, SIDE)) > 0.1)
        if kind == "alpha":
            file.colorinterp = [ColorInterp.gray, ColorInterp.alpha]

    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        tif(path, image, crs, where, dtype, after, **options)


CASES = [
    (kind, dtype, crs, other)
    for kind, dtype in (
        ("plain", "uint8"), ("strips", "uint16"), ("turned", "int16"), ("no-data", "float32"), ("mask", "uint8"),
        ("alpha", "uint8"), ("control points", "uint16"), ("turned", "complex64"), ("plain", "float64"),
    )
    for crs, other in ((UTM, UTM), ("EPSG:4326", "EPSG:3857"), (LAEA, "EPSG:32613"), ("EPSG:3857", "EPSG:4326"))
]  # fmt: skip


@pytest.mark.parametrize(("kind", "dtype", "crs", "other"), CASES)
def test_a_window_has_the_values_that_the_whole_has(
    tmp_path: Path, kind: str, dtype: str, crs: str, other: str
) -> None:
    """Byte for byte: pixels, validity, target; at any place, scale and shift."""
    random = np.random.default_rng(CASES.index((kind, dtype, crs, other)))
    x, y = transform(UTM, crs, [5e5], [5.2e6])
    pixel = random.uniform(0.3, 3) * (1e-5 if crs == "EPSG:4326" else 1)
    where = turned(random.uniform(-180, 180) if kind == "turned" else 0, pixel, x[0], y[0])
    write_source(tmp_path / "s.tif", random, crs, where, dtype, kind)
    source = read_raster(tmp_path / "s.tif", MODALITIES["sar"], "window:0:200")
    for number in range(3):
        middle = where @ tuple(random.uniform(0.05, 0.95, 2) * SIDE)
        x, y = transform(crs, other, *([value] for value in middle))
        step = random.uniform(0.3, 6) * (1e-5 if other == "EPSG:4326" else 1)
        place = rasterio.Affine(step, 0, x[0] - 40 * step, 0, -step, y[0] + 50 * step)
        tif(tmp_path / "t.tif", random.integers(0, 255, (100, 80, 3), np.uint8), other, place)
        pair = Pair("x", "sar2rgb", "train", "one", "s.tif", "t.tif", alignment="georeference")
        pair = replace(pair, source_rule="window:0:200", target_rule="full", shift="1.3 -0.7" if number % 2 else "")
        target = read_header(tmp_path / "t.tif")
        window = overlap_window(source.header, target)
        whole = warp(source, target, window, (1.3, -0.7) if number % 2 else (0.0, 0.0))
        part = source_window(source.header, target, window)
        assert part is not None
        assert part.height * part.width < SIDE**2
        opened = open_pair(pair, tmp_path)
        assert opened.target is not None
        other_half = read_raster(tmp_path / "t.tif", MODALITIES["rgb"], "full")
        np.testing.assert_array_equal(opened.source, whole.pixels)
        np.testing.assert_array_equal(opened.target, other_half.pixels[window.slices])
        np.testing.assert_array_equal(opened.valid, whole.valid & other_half.valid[window.slices])
        assert opened.valid.any()


def test_a_window_is_what_rasterio_makes_of_the_whole_file(tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((SIDE, SIDE), np.float32)
    tif(tmp_path / "s.tif", image, UTM, turned(20, 1.3, 5e5, 5.2e6))
    x, y = turned(20, 1.3, 5e5, 5.2e6) @ (500, 600)
    tif(tmp_path / "t.tif", np.ones((64, 64, 3), np.uint8), UTM, grid(x, y, 2.7))
    expected = np.zeros((64, 64), np.float32)
    with rasterio.open(tmp_path / "s.tif") as file:
        reproject(
            rasterio.band(file, 1), expected, dst_transform=grid(x, y, 2.7), dst_crs=UTM, resampling=Resampling.bilinear
        )
    pair = Pair("x", "sar2rgb", "train", "one", "s.tif", "t.tif", alignment="georeference", source_rule="full")
    np.testing.assert_allclose(open_pair(pair, tmp_path).source[:, :, 0], expected, atol=1e-6)


@pytest.mark.parametrize("start", [179.99, -180.01])
def test_a_window_across_180_degrees(tmp_path: Path, start: float) -> None:
    where = rasterio.Affine(2e-5, 0, start, 0, -2e-5, 52.0)
    tif(tmp_path / "s.tif", u8(scene(SIDE, SIDE)) + 1, "EPSG:4326", where)
    x, y = transform("EPSG:4326", "EPSG:32601", [180.0], [51.995])
    tif(tmp_path / "t.tif", np.ones((100, 100, 3), np.uint8), "EPSG:32601", grid(x[0] - 50, y[0], 1.0))
    source, target = read_raster(tmp_path / "s.tif", MODALITIES["sar"], "full"), read_header(tmp_path / "t.tif")
    window = overlap_window(source.header, target)
    part = source_window(source.header, target, window)
    assert part is not None
    assert part.width < 200
    pair = Pair("x", "sar2rgb", "train", "one", "s.tif", "t.tif", alignment="georeference", source_rule="full")
    opened = open_pair(pair, tmp_path)
    np.testing.assert_array_equal(opened.source, warp(source, target, window).pixels)
    assert opened.valid.mean() > 0.9


def test_a_rule_by_percentiles_looks_at_the_whole_image(tmp_path: Path) -> None:
    tif(tmp_path / "s.tif", (scene(SIDE, SIDE) * 60000).astype(np.uint16), UTM, grid())
    tif(tmp_path / "t.tif", np.ones((64, 64, 3), np.uint8), UTM, grid(500200, 5199800))
    pair = Pair("x", "sar2rgb", "train", "one", "s.tif", "t.tif", alignment="georeference")
    opened = open_pair(replace(pair, source_rule="percentile:2:98"), tmp_path)
    whole = read_raster(tmp_path / "s.tif", MODALITIES["sar"], "percentile:2:98")
    np.testing.assert_array_equal(opened.source, whole.pixels[200:264, 200:264])


@pytest.mark.parametrize("suffix", ["tif", "png", "jp2"])
def test_a_part_of_any_format_is_that_part_of_the_whole(tmp_path: Path, suffix: str) -> None:
    driver = {"tif": "GTiff", "png": "PNG", "jp2": "JP2OpenJPEG"}[suffix]
    options = {"QUALITY": "100", "REVERSIBLE": "YES"} if suffix == "jp2" else {}
    path = tif(tmp_path / f"a.{suffix}", u8(scene(300, 200, bands=4)), driver=driver, **options)
    whole, part = read_samples(path), read_samples(path, part=lambda _: Window(30, 50, 77, 101))
    np.testing.assert_array_equal(part.values, whole.values[30:107, 50:151])
    np.testing.assert_array_equal(part.valid, whole.valid[30:107, 50:151])
    assert part.window == Window(30, 50, 77, 101)


# --- Images beyond the limits of those that are read whole.


def large(path: Path, side: int = 20000, **options: Any) -> Path:
    """Write a large, tiled GeoTIFF of which a part is noise and all else is empty."""
    profile = {"driver": "GTiff", "height": side, "width": side, "count": 1, "dtype": "uint16", **options}
    with rasterio.open(path, "w", tiled=True, compress="deflate", SPARSE_OK=True, **profile) as file:
        noise = np.random.default_rng(0).integers(1, 4096, (1024, 1024), np.uint16)
        start = side * 9 // 20
        file.write(noise, 1, window=((start, start + 1024), (start, start + 1024)))
    return path


def test_memory_goes_by_the_window(world: World) -> None:
    """An image of 20,000 pixels a side with a partner of 256: 800 MB as stored, 1.6 GB as floats."""
    path = large(world.location() / "S_20200101_GEC.tiff", crs=UTM, transform=grid())
    assert path.stat().st_size < 4_000_000
    for name, x in (("A_20200101_rgb", 509300), ("B_20200101_rgb", 509500)):
        tif(world.location() / f"{name}.tiff", u8(scene(256, 256, bands=3)), UTM, grid(x, 5190600))
    code = f"""
from pbvs.data.align import open_pair
from pbvs.data.build import build_pairs
from pbvs.data.manifest import manifest_path, read_manifest
root, manifests = Path({str(world.root)!r}), Path({str(world.manifests)!r})
build_pairs(root, manifests, share=0)
pairs = read_manifest(manifest_path(manifests, "sar2rgb", "train"))
assert [pair.alignment for pair in pairs] == ["georeference"] * 2
for pair in pairs:
    opened = open_pair(pair, root)
    assert opened.source.shape == (256, 256, 1) and opened.valid.all() and opened.source.std() > 0.1
"""
    size, _ = peak_and_seconds(code)
    assert size < 250_000_000


def test_large_images_without_a_georeference_or_a_partner_are_refused_by_name(world: World) -> None:
    tif(world.location() / "A_20200101_rgb.tiff", u8(scene(bands=3)), UTM, grid())
    tif(world.location() / "A_20200101_ir.tiff", u8(scene()), UTM, grid())
    large(world.location() / "S_20200101_GEC.tiff", 9000)
    large(world.location("loc2") / "S_20200101_GEC.tiff", 9000, crs=UTM, transform=grid())
    tif(world.location("loc2") / "A_20200101_rgb.tiff", u8(scene(bands=3)))
    large(world.inputs("sar2rgb") / "1.tiff", 9000, crs=UTM, transform=grid())
    world.build()
    unused = world.unused()
    for name in ("loc1/S_20200101_GEC", "loc2/S_20200101_GEC", "test/sar2rgb/1"):
        lines = [line for line in unused.splitlines() if line.split(",")[0].removesuffix(".tiff").endswith(name)]
        assert lines, unused
        assert "over the limit of 8192 a side" in lines[0]


def test_a_part_that_is_too_large_itself_is_refused(world: World) -> None:
    large(world.location() / "S_20200101_GEC.tiff", 9000, crs=UTM, transform=grid(pixel=0.01))
    tif(world.location() / "A_20200101_rgb.tiff", u8(scene(90, 90, bands=3)), UTM, grid(pixel=1.0))
    tif(world.location() / "A_20200101_ir.tiff", u8(scene(90, 90)), UTM, grid(pixel=1.0))
    world.build()
    assert world.pairs("sar2rgb") == []
    assert "the part of" in world.unused()
    pair = Pair("x", "sar2rgb", "train", "one", "S_20200101_GEC.tiff", "A_20200101_rgb.tiff", alignment="georeference")
    with pytest.raises(PbvsError, match="over the limit"):
        open_pair(replace(pair, source_rule="full"), world.location())


def test_a_mask_of_a_target_is_cut_as_the_target_is(tmp_path: Path) -> None:
    challenge = load_challenge()
    masked = challenge.modalities["rgb"].model_copy(update={"mask": ("rgb", "mask")})
    challenge = challenge.model_copy(update={"modalities": {**challenge.modalities, "rgb": masked}})
    clear = np.random.default_rng(0).integers(0, 2, (80, 80), np.uint8) * 255
    tif(tmp_path / "s.tif", u8(scene(80, 80)), UTM, grid(500010, 5199990))
    tif(tmp_path / "rgb.tif", u8(scene(80, 80, bands=3)), UTM, grid())
    tif(tmp_path / "mask.tif", clear)
    pair = Pair("x", "sar2rgb", "val", "one", "s.tif", "rgb.tif", alignment="georeference", target_rule="full")
    pixels, valid = open_masked_target(pair, tmp_path, Radiometry().of(challenge))
    assert pixels.shape == (70, 70, 3)
    np.testing.assert_array_equal(valid, clear[10:, 10:] > 0)
    tif(tmp_path / "mask.tif", clear[:70])
    with pytest.raises(PbvsError, match="mask of rgb"):
        open_masked_target(pair, tmp_path, Radiometry().of(challenge))


def test_small_images_are_read_whole(tmp_path: Path) -> None:
    assert align.WHOLE < SIDE**2
    tif(tmp_path / "s.tif", u8(scene(300, 300)), UTM, grid())
    source = read_header(tmp_path / "s.tif")
    assert align._needed(source, source, Window(10, 10, 5, 5)) is None
