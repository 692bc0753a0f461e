"""The radiometry rule of every group of files (archive, modality, number type), found once and written down.

One rule serves a whole group, so that two versions of one place agree; a percentile of each picture would not.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pbvs.data.catalog import Catalog, Entry
from pbvs.data.images import read_centre
from pbvs.data.radiometry import select_bands
from pbvs.data.settings import Radiometry
from pbvs.errors import PbvsError

SAMPLED = 16  # files of a group that are read
DEPTHS = (1023, 4095, 16383)  # 10, 12 and 14 bits kept in a 16-bit file

Group = tuple[str, str, str]  # archive, modality, number type


@dataclass
class RuleBook:
    """The rule of every picture, by its group."""

    rules: dict[Group, str] = field(default_factory=dict)

    def rule(self, entry: Entry) -> str:
        """Return the rule of a picture."""
        return self.rules[_group(entry)]

    def as_json(self) -> dict[str, str]:
        """Return the rules by group as one flat table."""
        return {" ".join(group): rule for group, rule in sorted(self.rules.items())}


def find_rules(catalog: Catalog, radiometry: Radiometry) -> RuleBook:
    """Return the rule of every picture: the recipe's for its modality, else what its group's numbers say."""
    members: dict[Group, list[Entry]] = defaultdict(list)
    for entry in catalog.entries:
        members[_group(entry)].append(entry)
    book = RuleBook()
    for group, entries in members.items():
        own = radiometry.rule(group[1], "auto")
        book.rules[group] = own if own != "auto" else _found(catalog, group, entries)
    return book


def _group(entry: Entry) -> Group:
    return entry.place.source, entry.place.modality, entry.header.dtype


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
