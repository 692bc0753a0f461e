"""The quick ways from files to [0, 1] and back give the bits of the plain ones."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pbvs.challenge import load_challenge
from pbvs.data.headers import Header
from pbvs.data.images import equal_bands, known, png_options, read_image, to_uint8, write_png
from pbvs.data.intensity import bands_of, to_unit
from pbvs.translators.grayscale.translator import grayscale

RNG = np.random.default_rng(8)
ODD = np.array([np.nan, np.inf, -np.inf, -0.0, -1.0, 0.5 / 255, 1.5 / 255, 1.0, 7.0], np.float32).reshape(3, 3, 1)

MODALITIES = load_challenge("mavic-t-2026").modalities


def plain_unit(pixels: np.ndarray, modality: str, low: float, high: float) -> np.ndarray:
    values = pixels[:, :, [0, 1, 2] if modality == "rgb" else [0]].astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        unit = (values - np.float32(low)) / np.float32(high - low)
    return np.nan_to_num(unit, nan=0.0, posinf=1.0, neginf=0.0).clip(0.0, 1.0)


@pytest.mark.parametrize("modality", ["rgb", "sar"])
@pytest.mark.parametrize(
    ("pixels", "rule", "low", "high"),
    [
        (RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8), "full", 0, 255),
        (RNG.integers(0, 65536, (9, 7, 4), dtype=np.uint16), "full", 0, 65535),
        (RNG.integers(0, 65536, (9, 7, 4), dtype=np.uint16), "full:4000", 0, 4000),
        (RNG.integers(-300, 300, (9, 7, 3), dtype=np.int16), "full:200", 0, 200),
        (RNG.normal(-12, 9, (9, 7, 3)).astype(np.float32), "window:-25:0", -25, 0),
        (RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8), "window:30:200", 30, 200),
        (ODD.repeat(3, axis=2), "full", 0, 1),
    ],
)
def test_scaled_as_by_the_formula(pixels: np.ndarray, rule: str, low: float, high: float, modality: str) -> None:
    before = pixels.copy()
    bands = bands_of(Header(7, 9, pixels.shape[2], pixels.dtype.name), MODALITIES[modality])
    found = to_unit(pixels[:, :, bands], rule)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, plain_unit(pixels, modality, low, high))
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize(
    ("count", "modality", "bands"),
    [(3, "rgb", [0, 1, 2]), (12, "rgb", [3, 2, 1]), (1, "rgb", [0, 0, 0]), (4, "ir", [3]), (2, "sar", [0])],
)
def test_bands_are_those_of_the_list(count: int, modality: str, bands: list[int]) -> None:
    assert bands_of(Header(5, 4, count, "uint8"), MODALITIES[modality]) == bands


@pytest.mark.parametrize("nodata", [None, 0.0, float("nan")])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_known_pixels(kind: type, nodata: float | None) -> None:
    stored = RNG.integers(0, 2, (30, 20, 3)).astype(kind)
    if kind is np.float32:
        stored[RNG.integers(0, 2, (30, 20, 3)) == 1] = np.nan
    expected = np.isfinite(stored).all(axis=2)
    if nodata == 0.0:
        expected &= ~(stored == 0).all(axis=2)
    np.testing.assert_array_equal(known(stored, nodata), expected)


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_grayscale_is_the_mean(bands: int) -> None:
    image = RNG.random((64, 48, bands), dtype=np.float32)
    kept = image.copy()
    expected = (image.mean(axis=2, keepdims=True, dtype=np.float32) * np.float32(1.3)).clip(0, 1)
    np.testing.assert_array_equal(grayscale(image, 1.3), expected)
    np.testing.assert_array_equal(image, kept)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_quantised_by_rounding(kind: type) -> None:
    image = np.concatenate([ODD.ravel(), RNG.normal(0.5, 0.4, 5000)]).astype(kind).reshape(-1, 1, 1)
    scaled = np.nan_to_num(image, nan=0.0, posinf=1.0, neginf=0.0).clip(0.0, 1.0) * 255.0
    np.testing.assert_array_equal(to_uint8(image), np.rint(scaled).astype(np.uint8))


@pytest.mark.parametrize("shape", [(40, 30, 1), (40, 30, 3), (1, 1, 3), (3, 2, 1)])
@pytest.mark.parametrize("same", [True, False])
def test_png_holds_the_pixels_whatever_its_codec(tmp_path: Path, shape: tuple[int, int, int], same: bool) -> None:
    pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
    pixels = pixels[:, :, :1].repeat(shape[2], axis=2) if same else pixels
    write_png(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels)


def test_equal_bands_are_found_by_their_last_pixel_too() -> None:
    pixels = RNG.integers(0, 256, (50, 20, 1), dtype=np.uint8).repeat(3, axis=2)
    assert equal_bands(pixels)
    pixels[-1, -1, 2] ^= 1
    assert not equal_bands(pixels)


def test_the_codec_is_smaller_than_the_other_choice() -> None:
    rows, columns = np.mgrid[:128, :128]
    grey = (100 + 40 * np.sin(rows / 7) + 30 * np.sin(columns / 11) + RNG.normal(0, 4, (128, 128))).astype(np.uint8)
    for pixels in (grey, grey[:, :, None].repeat(3, axis=2)):
        sizes = {}
        for name, options in (("ours", png_options(pixels.ndim == 3)), ("level 1", {"compress_level": 1}),
                              ("runs", {"compress_level": 1, "compress_type": 3})):  # fmt: skip
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG", **options)
            sizes[name] = len(buffer.getvalue())
        assert sizes["ours"] == min(sizes.values())
