"""From the numbers in a file to [0, 1] in the bands a modality has: the one place that knows how.

Rules: `full` divides by the type's largest value, `full:N` by N; `window:LOW:HIGH` maps LOW..HIGH to 0..1 (SAR in dB,
reflectance in floats); `percentile:LOW:HIGH` takes LOW and HIGH from the image itself; `power-db:LOW:HIGH` and
`amplitude-db:LOW:HIGH` take 10 or 20 times the logarithm to base 10 first.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pbvs.data.catalog import Catalog, Entry
from pbvs.data.images import read_centre
from pbvs.errors import PbvsError
from pbvs.recipe import Radiometry

Image = NDArray[np.float32]


def to_unit(pixels: NDArray[np.generic], modality: str, rule: str, valid: NDArray[np.bool_] | None = None) -> Image:
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
    clipped: Image = np.minimum(unit, np.float32(1), out=unit)
    return clipped


def _shares(values: Image, high: float) -> Image:
    """Return what the general way gives for whole numbers from 0 on, in place: nothing to subtract, no NaN."""
    values /= np.float32(max(high, 1e-12))
    shares: Image = np.minimum(values, np.float32(1), out=values)
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
    first = chosen[0]
    if chosen == list(range(first, first + len(chosen))):
        return pixels[:, :, first : first + len(chosen)]  # a view, where a list of indices would copy
    return pixels[:, :, chosen]


def _logarithm(values: Image, kind: str) -> Image:
    if kind not in ("power-db", "amplitude-db"):
        return values
    factor = np.float32(10.0 if kind == "power-db" else 20.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        decibels: Image = factor * np.log10(values)
    return decibels


def _percentiles(values: Image, valid: NDArray[np.bool_] | None, low: float, high: float) -> tuple[float, float]:
    seen = values[np.isfinite(values)] if valid is None else values[valid & np.isfinite(values).all(axis=2)]
    if seen.size == 0:
        return 0.0, 1.0
    bottom, top = np.percentile(seen, [low, high])
    return float(bottom), float(top)


# --- The radiometry rule of every group of files (archive, modality, number type), found once and written down.

SAMPLED = 16  # files of a group that are read
DEPTHS = (1023, 4095, 16383)  # 10, 12 and 14 bits kept in a 16-bit file

Group = tuple[str, str, str]  # archive, modality, number type


@dataclass
class RuleBook:
    """The rule of every image, by its group."""

    rules: dict[Group, str] = field(default_factory=dict)

    def rule(self, entry: Entry) -> str:
        """Return the rule of an image."""
        return self.rules[_group(entry)]

    def as_json(self) -> dict[str, str]:
        """Return the rules by group as one flat table."""
        return {" ".join(group): rule for group, rule in sorted(self.rules.items())}


def find_rules(catalog: Catalog, radiometry: Radiometry) -> RuleBook:
    """Return the rule of every image: the recipe's for its modality, else what its group's numbers say."""
    members: dict[Group, list[Entry]] = defaultdict(list)
    for entry in catalog.entries:
        members[_group(entry)].append(entry)
    book = RuleBook()
    for group, entries in members.items():
        own = radiometry.rule(group[1], "auto")
        book.rules[group] = own if own != "auto" else _found(catalog, group, entries)
    return book


def _group(entry: Entry) -> Group:
    return entry.info.source, entry.info.modality, entry.header.dtype


def _found(catalog: Catalog, group: Group, entries: list[Entry]) -> str:
    _, modality, dtype = group
    if dtype == "uint8":
        return "full"
    step = max(1, len(entries) // SAMPLED)
    samples = []
    for entry in entries[::step][:SAMPLED]:
        try:
            pixels = select_bands(read_centre(catalog.root / entry.path)[0], modality)
        except PbvsError:
            continue
        samples.append(pixels[np.isfinite(pixels) & (pixels != _nodata(entry))].ravel()[::7])
    values = np.concatenate(samples) if samples else np.zeros(0)
    return rule_for(values, modality, dtype)


def rule_for(values: NDArray[np.generic], modality: str, dtype: str) -> str:
    """Return the rule for numbers of a type, seen in a sample of a group's files.

    Unsigned integers use the smallest of 10, 12, 14 and 16 bits that holds them. Floats within 0..1 are taken as they
    are; SAR below zero is in dB already and gets the window -25..0 dB, other SAR is power. Everything else maps its
    1st to 99th percentile.
    """
    if values.size == 0:
        return "full"
    low, high = float(values.min()), float(values.max())
    if dtype.startswith("uint"):
        return next((f"full:{depth}" for depth in DEPTHS if dtype == "uint16" and high <= depth), "full")
    if dtype.startswith("float") and low >= 0.0 and high <= 1.0:
        return "full"
    if modality == "sar" and dtype.startswith("float"):
        return "window:-25:0" if float(np.median(values.astype(np.float64))) < 0 else "power-db:-25:0"
    if low == high:
        return "full"
    first, last = (f"{number:.6f}" for number in np.percentile(values.astype(np.float64), [1, 99]))
    return f"window:{first}:{last}"


def _nodata(entry: Entry) -> float:
    return float("nan") if entry.header.nodata is None else entry.header.nodata
