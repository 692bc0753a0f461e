"""From the numbers in a file to [0, 1] in the bands a modality has: the one place that knows how.

Rules: `full` divides by the type's largest value, `full:N` by N; `window:LOW:HIGH` maps LOW..HIGH to 0..1 (SAR in dB,
reflectance in floats); `percentile:LOW:HIGH` takes LOW and HIGH from the picture itself; `power-db:LOW:HIGH` and
`amplitude-db:LOW:HIGH` take 10 or 20 times the logarithm to base 10 first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pbvs.tasks import CHANNELS

Picture = NDArray[np.float32]


def to_unit(pixels: NDArray[np.generic], modality: str, rule: str, valid: NDArray[np.bool_] | None = None) -> Picture:
    """Return (H, W, C) float32 in [0, 1] of a file's (H, W, B) pixels by `rule`; what is no number becomes 0.

    `valid` (H, W) says which pixels a percentile may look at.
    """
    bands = select_bands(pixels, modality)
    kind, *numbers = rule.split(":")
    limits = [float(number) for number in numbers]
    if kind == "full":
        low, high = 0.0, limits[0] if limits else full_scale(bands.dtype)
        values = bands.astype(np.float32)
        if not low and np.issubdtype(bands.dtype, np.unsignedinteger):
            return _shares(values, high)
    else:
        values = _logarithm(bands.astype(np.float32), kind)
        low, high = _percentiles(values, valid, *limits) if kind == "percentile" else (limits[0], limits[1])
    with np.errstate(invalid="ignore", over="ignore"):
        unit = (values - np.float32(low)) / np.float32(max(high - low, 1e-12))
    np.fmax(unit, np.float32(0), out=unit)  # of a number and NaN, fmax takes the number
    clipped: Picture = np.minimum(unit, np.float32(1), out=unit)
    return clipped


def _shares(values: Picture, high: float) -> Picture:
    """Return what the general way gives for whole numbers from 0 on, in place: nothing to subtract, no NaN."""
    values /= np.float32(max(high, 1e-12))
    shares: Picture = np.minimum(values, np.float32(1), out=values)
    return shares


def full_scale(dtype: np.dtype[np.generic]) -> float:
    """Return what `full` divides by: the largest value of an integer type, 1 for floats and booleans."""
    return float(np.iinfo(dtype.name).max) if np.issubdtype(dtype, np.integer) else 1.0


def select_bands(pixels: NDArray[np.generic], modality: str) -> NDArray[np.generic]:
    """Return the modality's bands of (H, W, B): (H, W, 3) for RGB, (H, W, 1) for SAR, EO and IR.

    Four bands are red, green, blue and near infrared, never an alpha channel. Eight and more are Sentinel-2's
    order (B1 coastal, B2 blue, B3 green, B4 red ... B8 near infrared). Several bands of SAR: the first.
    """
    count = pixels.shape[2]
    if modality == "rgb":
        chosen = [3, 2, 1] if count >= 8 else [0, 1, 2] if count >= 3 else [0, 0, 0]
    elif modality == "ir":
        chosen = [7] if count >= 8 else [3] if count >= 4 else [0]
    else:
        chosen = [0]
    assert len(chosen) == CHANNELS[modality]
    first = chosen[0]
    if chosen == list(range(first, first + len(chosen))):
        return pixels[:, :, first : first + len(chosen)]  # a view, where a list of indices would copy
    return pixels[:, :, chosen]


def _logarithm(values: Picture, kind: str) -> Picture:
    if kind not in ("power-db", "amplitude-db"):
        return values
    factor = np.float32(10.0 if kind == "power-db" else 20.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        decibels: Picture = factor * np.log10(values)
    return decibels


def _percentiles(values: Picture, valid: NDArray[np.bool_] | None, low: float, high: float) -> tuple[float, float]:
    seen = values[np.isfinite(values)] if valid is None else values[valid & np.isfinite(values).all(axis=2)]
    if seen.size == 0:
        return 0.0, 1.0
    bottom, top = np.percentile(seen, [low, high])
    return float(bottom), float(top)
