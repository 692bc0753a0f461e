"""Metrics of pixels: L1, MSE, RMSE, PSNR, SSIM and MS-SSIM of values in [0, 1].

Errors of 8 and 16 bits come from whole-number sums: the same bits in any order of pixels, and exactly 0 for equal
images. PSNR and SSIM are scikit-image's.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage import metrics, transform

from pbvs.errors import PbvsError
from pbvs.metrics.base import ImageMetric, ImagePair, register

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, table of section 4
WINDOW = 11  # pixels of the Gaussian window of Wang et al. 2004 (sigma 1.5, cut at 3.5 sigma)


def mean_error(pair: ImagePair, power: int) -> float:
    """Return the mean of |prediction - target|^power over pixels that count and channels, in units of [0, 1]."""
    exact = np.issubdtype(pair.target.dtype, np.integer)
    kind = np.int64 if pair.target.dtype == np.uint16 else np.int32
    difference = np.subtract(pair.prediction, pair.target, dtype=kind if exact else np.float64)
    if pair.mask is not None:
        difference = difference[pair.mask]
    values = np.abs(difference) if power == 1 else np.square(difference)
    total = int(values.sum(dtype=np.int64)) if exact else math.fsum(values.ravel())
    return float(total / difference.size / pair.levels**power)


@register
class L1(ImageMetric):
    """Mean absolute difference of values in [0, 1]."""

    names = ("l1",)
    bounds = (0.0, 1.0)

    def measure(self, pair: ImagePair) -> float:
        """Return the mean absolute error."""
        return mean_error(pair, 1)


@register
class Mse(ImageMetric):
    """Mean squared difference of values in [0, 1]."""

    names = ("mse",)
    bounds = (0.0, 1.0)

    def measure(self, pair: ImagePair) -> float:
        """Return the mean squared error."""
        return mean_error(pair, 2)


@register
class Rmse(ImageMetric):
    """Root of the mean squared difference of values in [0, 1]; the paper calls it L2."""

    names = ("rmse",)
    bounds = (0.0, 1.0)

    def measure(self, pair: ImagePair) -> float:
        """Return the root mean squared error."""
        return math.sqrt(mean_error(pair, 2))


@register
class Psnr(ImageMetric):
    """Peak signal-to-noise ratio in decibels, 10 log10(range^2 / MSE); equal images have 100 dB instead of infinity."""

    names = ("psnr",)
    higher_is_better = True
    bounds = (-math.inf, 100.0)

    def measure(self, pair: ImagePair) -> float:
        """Return decibels."""
        error = mean_error(pair, 2)
        return min(100.0, 10 * math.log10(pair.data_range**2 / error)) if error else 100.0


@register
class Ssim(ImageMetric):
    """Structural similarity as Wang et al. 2004 define it: a Gaussian window of sigma 1.5, K1 0.01, K2 0.03."""

    names = ("ssim",)
    higher_is_better = True
    bounds = (-1.0, 1.0)

    def measure(self, pair: ImagePair) -> float:
        """Return the mean over the pixels that count, whose window is whole where nothing is masked."""
        first, second = (image.astype(np.float32) for image in pair.units())  # half the time of 64 bits
        return ssim(first, second, pair)


@register
class MsSsim(ImageMetric):
    """SSIM at five scales (Wang et al. 2003); a side of at least 176 pixels is needed."""

    names = ("ms-ssim",)
    higher_is_better = True
    bounds = (0.0, 1.0)

    def measure(self, pair: ImagePair) -> float:
        """Return the product of contrast and structure at each scale and of luminance at the coarsest.

        Masked pixels take the target's values, as no mask survives the scales. Raises PbvsError for a small image.
        """
        first, second = pair.units()
        if pair.mask is not None:
            first = np.where(pair.mask[:, :, None], first, second)
        least = WINDOW * 2 ** (len(MS_SSIM_WEIGHTS) - 1)
        if min(first.shape[:2]) < least:
            raise PbvsError(f"MS-SSIM needs images of at least {least} pixels a side, not {first.shape[:2]}.")
        half: Any = partial(transform.downscale_local_mean, factors=(2, 2, 1))
        product = 1.0
        for scale, weight in enumerate(MS_SSIM_WEIGHTS):
            last = scale == len(MS_SSIM_WEIGHTS) - 1
            value = ssim(first, second, pair) if last else contrast_structure(first, second, pair.data_range)
            product *= max(value, 0.0) ** weight
            first, second = (half(image) for image in (first, second))
        return product


def ssim(first: NDArray[Any], second: NDArray[Any], pair: ImagePair) -> float:
    """Return the mean SSIM of (H, W, C) images in [0, 1]; raises PbvsError when they are smaller than the window."""
    if min(first.shape[:2]) < WINDOW:
        raise PbvsError(f"SSIM needs images of at least {WINDOW} pixels a side, not {first.shape[:2]}.")
    how = {"channel_axis": 2, "data_range": pair.data_range, "gaussian_weights": True, "sigma": 1.5}
    measure: Any = metrics.structural_similarity  # scikit-image has no types
    mean, full = measure(first, second, use_sample_covariance=False, full=True, **how)
    whole = pair.mask is None or pair.mask.shape != first.shape[:2]
    return float(mean if whole else full[pair.mask].mean())


def contrast_structure(first: NDArray[np.float64], second: NDArray[np.float64], data_range: float) -> float:
    """Return the mean over pixels and channels of SSIM's second factor, (2 cov + C2) / (var + var' + C2)."""
    from scipy.ndimage import gaussian_filter

    def blur(image: NDArray[np.float64]) -> NDArray[np.float64]:
        blurred: NDArray[np.float64] = gaussian_filter(image, 1.5, truncate=3.5, axes=(0, 1))
        return blurred

    c2 = (0.03 * data_range) ** 2
    mean_1, mean_2 = blur(first), blur(second)
    variances = blur(first * first) - mean_1**2 + blur(second * second) - mean_2**2
    ratio = (2 * (blur(first * second) - mean_1 * mean_2) + c2) / (variances + c2)
    edge = WINDOW // 2
    return float(ratio[edge:-edge, edge:-edge].mean())
