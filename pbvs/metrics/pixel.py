"""Pixel errors of 8-bit images, from whole-number sums: the same bits in any order, and exactly 0 for equal ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pbvs.errors import PbvsError

LEVELS = 255.0


@dataclass(frozen=True)
class PixelErrors:
    """Mean absolute, mean squared and root mean squared difference of values in [0, 1], over pixels and channels."""

    l1: float
    mse: float
    rmse: float


def pixel_errors(prediction: NDArray[np.uint8], target: NDArray[np.uint8]) -> PixelErrors:
    """Compare two (H, W, C) 8-bit images as values / 255; raises PbvsError when their shapes differ."""
    if prediction.shape != target.shape:
        raise PbvsError(f"Images of shapes {prediction.shape} and {target.shape} cannot be compared.")
    if not prediction.size:
        raise PbvsError(f"Images of shape {prediction.shape} are empty and cannot be compared.")
    difference = np.subtract(prediction, target, dtype=np.int16).astype(np.int32)
    count = difference.size
    absolute = int(np.abs(difference).sum(dtype=np.int64))
    squared = int(np.square(difference).sum(dtype=np.int64))
    mse = squared / count / LEVELS**2
    return PixelErrors(absolute / count / LEVELS, mse, mse**0.5)
