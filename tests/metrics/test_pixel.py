"""Pixel metrics: the definitions worked out another way, in every type of number, masked and not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from pbvs.errors import PbvsError
from pbvs.metrics.base import ImagePair, create

METRICS = create(["l1", "mse", "rmse", "psnr", "ssim", "ms-ssim"])


def images(dtype: str, side: int = 48, channels: int = 3) -> tuple[NDArray, NDArray]:
    rng = np.random.default_rng(5)
    smooth = np.kron(rng.random((side // 8, side // 8, channels)), np.ones((8, 8, 1)))
    noisy = (smooth + 0.1 * rng.standard_normal(smooth.shape)).clip(0, 1)
    if dtype == "float32":
        return noisy.astype(np.float32), smooth.astype(np.float32)
    top = np.iinfo(dtype).max
    return np.rint(noisy * top).astype(dtype), np.rint(smooth * top).astype(dtype)


def units(image: NDArray) -> NDArray:
    return image / (np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1.0)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("masked", [False, True])
def test_errors_are_those_of_the_definitions(dtype: str, masked: bool) -> None:
    first, second = images(dtype)
    mask = np.zeros((48, 48), bool)
    mask[5:30, 10:] = True
    pair = ImagePair(first, second, mask if masked else None)
    difference = units(first) - units(second)
    difference = difference[mask] if masked else difference
    assert METRICS["l1"].measure(pair) == pytest.approx(np.abs(difference).mean(), rel=1e-6)
    assert METRICS["mse"].measure(pair) == pytest.approx(np.square(difference).mean(), rel=1e-6)
    assert METRICS["rmse"].measure(pair) == pytest.approx(np.sqrt(np.square(difference).mean()), rel=1e-6)
    expected = -10 * math.log10(np.square(difference).mean())
    assert METRICS["psnr"].measure(pair) == pytest.approx(expected, abs=1e-5)


def gaussian_ssim(first: NDArray, second: NDArray) -> NDArray:
    """SSIM of one channel at every whole window, written out with a window of 11 pixels (Wang et al. 2004)."""
    offsets = np.arange(11) - 5
    line = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    patches = [np.lib.stride_tricks.sliding_window_view(image, (11, 11)) for image in (first, second)]
    mean = [(patch * window).sum((2, 3)) for patch in patches]
    var = [(patch**2 * window).sum((2, 3)) - m**2 for patch, m in zip(patches, mean, strict=True)]
    cov = (patches[0] * patches[1] * window).sum((2, 3)) - mean[0] * mean[1]
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mean[0] * mean[1] + c1) * (2 * cov + c2)
    return top / ((mean[0] ** 2 + mean[1] ** 2 + c1) * (var[0] + var[1] + c2))


def test_ssim_is_that_of_wang_et_al() -> None:
    first, second = images("uint8")
    expected = np.mean([gaussian_ssim(units(first)[..., c], units(second)[..., c]).mean() for c in range(3)])
    assert METRICS["ssim"].measure(ImagePair(first, second)) == pytest.approx(expected, abs=1e-4)


def test_ssim_under_a_mask_looks_at_its_pixels_alone() -> None:
    first, second = images("uint8", channels=1)
    mask = np.zeros((48, 48), bool)
    mask[10:20, 10:20] = True
    expected = gaussian_ssim(units(first)[..., 0], units(second)[..., 0])[5:15, 5:15].mean()
    assert METRICS["ssim"].measure(ImagePair(first, second, mask)) == pytest.approx(expected, abs=1e-4)


def test_equal_images_are_best_and_ms_ssim_falls_as_images_part() -> None:
    first, second = images("uint8", side=192)
    same = ImagePair(second, second)
    values = [METRICS[name].measure(same) for name in ("l1", "rmse", "psnr", "ssim", "ms-ssim")]
    assert values == pytest.approx([0, 0, 100, 1, 1], abs=1e-6)
    half = ((first.astype(int) + second) // 2).astype(np.uint8)
    near, far = (METRICS["ms-ssim"].measure(ImagePair(image, second)) for image in (half, first))
    assert 0 < far < near < 1


@pytest.mark.parametrize(("name", "side"), [("ssim", 8), ("ms-ssim", 160)])
def test_a_small_image_is_a_sentence(name: str, side: int) -> None:
    flat = np.zeros((side, side, 1), np.uint8)
    with pytest.raises(PbvsError, match="pixels a side"):
        METRICS[name].measure(ImagePair(flat, flat))


def test_unlike_shapes_types_and_empty_masks_are_sentences() -> None:
    flat = np.zeros((16, 16, 1), np.uint8)
    for other in (flat[:8], flat.astype(np.uint16)):
        with pytest.raises(PbvsError, match="cannot be compared"):
            ImagePair(flat, other)
    with pytest.raises(PbvsError, match="No pixel"):
        ImagePair(flat, flat, np.zeros((16, 16), bool))
