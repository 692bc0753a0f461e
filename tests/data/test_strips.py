"""An image that is read and resampled a strip at a time has the bits of one that is read and resampled whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from PIL import Image

from pbvs.challenge import load_challenge
from pbvs.data import images
from pbvs.data.align import open_input, open_source, read_raster
from pbvs.data.images import equal_bands, read_image, resampled, resize, rows_of, write_parts, write_png
from pbvs.data.manifest import Pair
from pbvs.recipe import Radiometry

RNG = np.random.default_rng(6)
SIDES = (70, 90)


def whole(image: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """What Pillow makes of each band at once."""
    bands = (
        Image.fromarray(band).resize((width, height), Image.Resampling.BICUBIC) for band in np.moveaxis(image, 2, 0)
    )
    return np.stack([np.asarray(band) for band in bands], axis=2)


@pytest.mark.parametrize("pixels", [64, 1 << 18])
def test_resampling_by_strips_has_the_bits_of_the_whole(pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "PIXELS", pixels)
    for sides in RNG.integers(1, 120, (150, 4)).tolist():
        image = RNG.normal(0.5, 0.6, (sides[0], sides[1], 2)).astype(np.float32)
        expected, made = whole(image, *sides[2:]), np.full((*sides[2:], 2), np.nan, np.float32)
        for index, part in resampled(rows_of(image), image.shape, *sides[2:]):
            made[index] = part
        np.testing.assert_array_equal(made, expected, err_msg=str(sides))
        np.testing.assert_array_equal(
            resize(image, *sides[2:]), image if made.shape == image.shape else made.clip(0, 1)
        )


def test_a_large_image_that_becomes_much_lower_differs_by_a_rounding_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Newer versions of Pillow would take its columns first, and for that all of it at once."""
    monkeypatch.setattr(images, "LARGE", 100)
    image = RNG.random((400, 30, 1), np.float32)
    np.testing.assert_allclose(resize(image, 20, 28), whole(image, 20, 28).clip(0, 1), atol=3e-7)


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("same", [True, False])
def test_an_image_written_in_parts_is_the_file_of_the_whole(tmp_path: Path, bands: int, same: bool) -> None:
    pixels = RNG.integers(0, 256, (50, 40, 1 if same else bands), np.uint8)
    pixels = pixels.repeat(bands // pixels.shape[2], axis=2)
    write_png(tmp_path / "whole.png", pixels)
    parts = [((slice(0, 20), slice(None)), pixels[:20]), ((slice(20, 50), slice(None)), pixels[20:])]
    write_parts(tmp_path / "rows.png", pixels.shape, parts)
    across = [((slice(None), slice(left, left + 9)), pixels[:, left : left + 9]) for left in range(0, 40, 9)]
    write_parts(tmp_path / "columns.png", pixels.shape, across)
    assert equal_bands(pixels) == (same or bands == 1)
    np.testing.assert_array_equal(read_image(tmp_path / "whole.png"), pixels)
    for name in ("rows.png", "columns.png"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "whole.png").read_bytes()


# --- Files of every kind, read by strips of a few rows.


def png(path: Path, mode: str, **options: Any) -> None:
    pixels = RNG.integers(0, 256, (*SIDES, 3), np.uint8)
    image = Image.fromarray(pixels)
    if mode == "I;16":
        image = Image.fromarray(RNG.integers(0, 65536, SIDES, np.uint16))
    elif mode == "P":
        image = image.quantize(4)
    elif mode != "RGB":
        image = image.convert(mode)
    image.save(path, **options)


def tiff(path: Path, dtype: str, bands: int, **options: Any) -> None:
    values = RNG.normal(90, 60, (bands, *SIDES)).clip(0, 250)
    values[:, 5:9, 7:30] = 0
    if dtype.startswith("float"):
        values[0, 1, 2] = np.nan
    profile = {"height": SIDES[0], "width": SIDES[1], "count": bands, "dtype": dtype, "driver": "GTiff", **options}
    with rasterio.open(path, "w", **profile) as file:
        file.write(values.astype("complex64" if dtype == "complex_int16" else dtype))


KINDS: dict[str, Any] = {
    "rgb.png": lambda path: png(path, "RGB"),
    "rgba.png": lambda path: png(path, "RGBA"),
    "gray.png": lambda path: png(path, "L"),
    "gray-alpha.png": lambda path: png(path, "LA"),
    "one-bit.png": lambda path: png(path, "1"),
    "palette.png": lambda path: png(path, "P"),
    "palette-2-bits.png": lambda path: (
        Image.fromarray(RNG.integers(0, 256, (*SIDES, 3), np.uint8)).quantize(4).save(path, bits=2)
    ),
    "sixteen.png": lambda path: png(path, "I;16"),
    "clear.png": lambda path: png(path, "L", transparency=7),
    "photo.jpg": lambda path: png(path, "RGB", quality=90),
    "bytes.tif": lambda path: tiff(path, "uint8", 3, nodata=0, tiled=True, blockxsize=32, blockysize=32),
    "sixteen.tif": lambda path: tiff(path, "uint16", 4, nodata=0, interleave="pixel", compress="deflate"),
    "float.tif": lambda path: tiff(path, "float32", 1, nodata=0),
    "complex.tif": lambda path: tiff(path, "complex128", 1),
    "complex-integers.tif": lambda path: tiff(path, "complex_int16", 2),
}


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("rule", ["full", "window:10:200,nodata:0", "percentile:2:98", "amplitude-db:0:40"])
@pytest.mark.parametrize("name", KINDS)
def test_an_input_read_by_strips_is_the_one_read_whole(
    tmp_path: Path, name: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    KINDS[name](tmp_path / name)
    for task in ("rgb2ir", "sar2eo"):
        pair = Pair(name="0", task=task, split="test", location="", source=name, source_rule=rule)
        modality = load_challenge().modalities[load_challenge().task(task).source]
        plain = read_raster(tmp_path / name, modality, rule).pixels
        with monkeypatch.context() as few:
            few.setattr(images, "LARGE", 100)
            few.setattr(images, "STRIP", 20_000)
            few.setattr(images, "PIXELS", 700)
            np.testing.assert_array_equal(open_source(pair, tmp_path), plain)
            for size in (SIDES, (35, 45), (66, 71), (300, 200)):
                read = open_input(pair, tmp_path, Radiometry(), lambda *own, size=size: size if own == SIDES else own)
                np.testing.assert_array_equal(read.pixels, whole(plain, *size).clip(0, 1) if size != SIDES else plain)
                assert (read.height, read.width) == SIDES
