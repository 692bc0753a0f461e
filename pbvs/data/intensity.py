"""From the numbers in a file to [0, 1] in the bands a modality has: the one place that knows how.

Rules: `full` divides by the type's largest value, `full:N` by N; `window:LOW:HIGH` maps LOW..HIGH to 0..1 (SAR in dB,
reflectance in floats); `percentile:LOW:HIGH` takes LOW and HIGH from the image itself; `power-db:LOW:HIGH` and
`amplitude-db:LOW:HIGH` take 10 or 20 times the logarithm to base 10 first. `,nodata:N` behind a rule says that N holds
no data, though no tag of the files says so.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pbvs.challenge import Modality
from pbvs.data.catalog import Catalog, Entry
from pbvs.data.headers import Header
from pbvs.data.images import read_samples
from pbvs.errors import damage_ignored
from pbvs.recipe import Radiometry
from pbvs.seeds import evenly_spaced

Image = NDArray[np.float32]
Values = NDArray[np.float64]


class Rule(NamedTuple):
    """A rule in its parts."""

    kind: str
    limits: tuple[float, ...]
    nodata: float | None

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Return the rule that a text such as `window:-25:0,nodata:-9999` says."""
        rule, _, nodata = text.partition(",nodata:")
        kind, *limits = rule.split(":")
        return cls(kind, tuple(map(float, limits)), float(nodata) if nodata else None)


def to_unit(values: NDArray[np.generic], rule: str, valid: NDArray[np.bool_] | None = None) -> Image:
    """Return (H, W, C) float32 in [0, 1] of a file's (H, W, C) numbers by `rule`; what is no number becomes 0.

    `valid` (H, W) says which pixels a percentile may look at.
    """
    unit = _scaled(values, rule, valid)
    np.fmax(unit, np.float32(0), out=unit)  # of a number and NaN, fmax takes the number
    clipped: Image = np.minimum(unit, np.float32(1), out=unit)
    return clipped


def clipped_share(values: NDArray[np.generic], rule: str, valid: NDArray[np.bool_]) -> float:
    """Return the share of the valid pixels' numbers that lie outside of what `rule` maps to [0, 1]."""
    unit = _scaled(values, rule, valid)[valid]
    return float(((unit < 0) | (unit > 1)).mean()) if unit.size else 0.0


def _scaled(values: NDArray[np.generic], rule: str, valid: NDArray[np.bool_] | None) -> Image:
    kind, limits, _ = Rule.parse(rule)
    unit = values.astype(np.float32)
    if kind.endswith("-db"):
        with np.errstate(divide="ignore", invalid="ignore"):
            unit = np.float32(10.0 if kind == "power-db" else 20.0) * np.log10(unit)
    if kind == "full":
        low, high = 0.0, limits[0] if limits else full_scale(values.dtype)
    else:
        low, high = _percentiles(unit, valid, *limits) if kind == "percentile" else (limits[0], limits[1])
    with np.errstate(invalid="ignore", over="ignore"):
        if low:
            unit -= np.float32(low)
        unit /= np.float32(max(high - low, 1e-12))
    return unit


def full_scale(dtype: np.dtype[np.generic]) -> float:
    """Return what `full` divides by: the largest value of an integer type, 1 for floats and booleans."""
    return float(np.iinfo(dtype.name).max) if np.issubdtype(dtype, np.integer) else 1.0


def holds_data(values: NDArray[np.generic], rule: str) -> NDArray[np.bool_] | None:
    """Return where (H, W, C) numbers are not what the rule knows to be no data; None where it knows nothing."""
    nodata = Rule.parse(rule).nodata
    if nodata is None:
        return None
    missing = values.astype(np.float32, copy=False) == np.float32(nodata)
    return ~np.asarray(missing.all(axis=2))


def bands_of(header: Header, modality: Modality) -> list[int]:
    """Return the bands (from 0) of an image that a modality has, as many as it has channels.

    Bands that are named are taken by their names: red, green and blue, or the near infrared of a thermal modality. Of
    others the challenge says which of at least how many they are; else they are the first, one of them as often as
    needed. Several bands of SAR: the first.
    """
    channels, count, colours = modality.channels, header.bands, header.colours
    wanted = ("red", "green", "blue") if channels == 3 else ("nir",) if modality.kind == "thermal" else ()
    if wanted and set(wanted) <= set(colours):
        return [colours.index(colour) for colour in wanted]
    told = [list(modality.bands[least]) for least in sorted(modality.bands) if least <= count][-1:]
    if told and not (channels == 1 and colours and colours[told[0][0]] in ("red", "green", "blue")):
        return told[0]
    return list(range(channels)) if channels <= count else [0] * channels


def _percentiles(values: Image, valid: NDArray[np.bool_] | None, low: float, high: float) -> tuple[float, float]:
    seen = values[np.isfinite(values)] if valid is None else values[valid & np.isfinite(values).all(axis=2)]
    if seen.size == 0:
        return 0.0, 1.0
    bottom, top = np.percentile(seen, [low, high])
    return float(bottom), float(top)


# --- The rule of every group of files, found once from the training images and used unchanged for all others.

SAMPLED = 64  # training images of a modality and sample type that are looked at
VALUES = 1 << 18  # numbers of them all
SIDE = 256  # pixels each way of an image, spread over it
APART = 8.0  # archives whose large values differ by more are of different sensors
DEPTHS = (8, 10, 12, 14, 16, 24, 32)  # bits that whole numbers are kept in
HEAVY = 4.0  # times the median that the 99th percentile of linear SAR lies above it, of scaled SAR it does not
LEAST, LEAST_RADAR = 1 / 8, 1 / 2  # of the depth that the middle 98 % of the values must fill, or a window is better
RANGE = 60.0  # dB below the 99th percentile that a window reaches at most
FAR = 2.0  # times the span of the middle 98 % of the values that the others may reach before they are left out
RARE = 2e-4  # share of values at either end that say nothing about a range: hot and dead pixels

Group = tuple[str, str, str]  # archive, modality, sample type
RuleTable = dict[Group, str]


def find_rules(catalog: Catalog, radiometry: Radiometry) -> RuleTable:
    """Return the rule of every group: the recipe's for its modality and archive, else the training images'.

    All archives whose files have samples of one type and a like range share a rule, which is found from training images
    spread evenly over archives and locations; validation and test inputs take the training images' rule.
    """
    members: dict[tuple[str, str], dict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
    for entry in catalog.entries:
        archive, modality, kind = group_of(entry)
        members[modality, kind][archive].append(entry)
    table: RuleTable = {}
    for (modality, kind), archives in members.items():
        own = {archive: radiometry.rule(modality, "auto", f"{archive}/") for archive in archives}
        if "auto" in own.values():
            found = _rules_of(catalog.root, archives, catalog.challenge.modalities[modality], kind)
            own = {archive: found[archive] if rule == "auto" else rule for archive, rule in own.items()}
        table |= {(archive, modality, kind): rule for archive, rule in own.items()}
    return table


def group_of(entry: Entry) -> Group:
    """Return the group whose images have one rule."""
    return entry.info.source, entry.info.modality, sample_type(entry.header)


def sample_type(header: Header) -> str:
    """Return the type of an image's numbers: `uint16`, with the bits that are declared to be used `uint16:12`."""
    if header.photometric == "palette":
        return "uint8"
    if header.scales:
        return "float32"
    return f"{header.dtype}:{header.bits}" if header.bits else header.dtype


def _rules_of(root: Path, archives: Mapping[str, list[Entry]], modality: Modality, kind: str) -> dict[str, str]:
    """Return the rule of each archive whose images have samples of one type."""
    if modality.range:
        low, high = map(_number, modality.range)
        return dict.fromkeys(archives, f"window:{low}:{high}")
    if kind == "uint8":
        return dict.fromkeys(archives, "full")
    taught = {
        name: [entry for entry in entries if entry.info.role != "input" and entry.info.split == "train"]
        for name, entries in archives.items()
    }
    training = {name: entries for name, entries in taught.items() if entries} or archives
    each = max(4, SAMPLED // len(training))
    seen = {name: _values(root, entries, modality, each) for name, entries in training.items()}
    clusters = _clusters(seen)
    rules = [rule_for(np.concatenate([seen[name] for name in names]), modality, kind) for names in clusters]
    result = {name: rule for names, rule in zip(clusters, rules, strict=True) for name in names}
    for name in archives.keys() - training.keys():
        one = len(rules) == 1
        result[name] = rules[0 if one else _nearest(_values(root, archives[name], modality, each), clusters, seen)]
    return result


def _clusters(seen: Mapping[str, Values]) -> list[list[str]]:
    """Return the archives that are of one sensor by the range of their values: all of them, in the usual case."""
    levels = {name: level(values) for name, values in seen.items()}
    clusters: list[list[str]] = []
    for name in sorted(levels, key=lambda name: (levels[name], name)):
        last = levels[clusters[-1][-1]] if clusters else (False, 0.0)
        if clusters and last[0] == levels[name][0] and levels[name][1] <= APART * max(last[1], 1e-30):
            clusters[-1].append(name)
        else:
            clusters.append([name])
    return clusters


def _nearest(values: Values, clusters: Sequence[Sequence[str]], seen: Mapping[str, Values]) -> int:
    negative, top = level(values)
    others = [level(np.concatenate([seen[name] for name in names])) for names in clusters]
    distances = [(negative != other[0], abs(math.log(max(top, 1e-30) / max(other[1], 1e-30)))) for other in others]
    return distances.index(min(distances))


def level(values: Values) -> tuple[bool, float]:
    """Return whether most values are negative, and how large the large ones are."""
    nodata = undeclared_nodata(values)
    values = values[values != nodata] if nodata is not None else values
    if not values.size:
        return False, 0.0
    return bool(np.median(values) < 0), float(np.percentile(np.abs(values), 99))


def _values(root: Path, entries: Sequence[Entry], modality: Modality, count: int) -> Values:
    """Return numbers of at most `count` images that are spread evenly over their locations, as many of each."""
    chosen = _spread(entries, count)
    most = max(1, VALUES // max(len(chosen), 1))
    parts = []
    for entry in chosen:
        with damage_ignored():
            samples = read_samples(root / entry.path, lambda header: bands_of(header, modality), SIDE)
            numbers = samples.values[samples.valid].astype(np.float64).ravel()
            parts.append(numbers[:: max(1, -(-numbers.size // most))])
    return np.concatenate(parts) if parts else np.zeros(0)


def _spread(entries: Sequence[Entry], count: int) -> list[Entry]:
    """Return at most about `count` images, as many of each location, of locations spread evenly over all of them."""
    by_location: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_location[entry.info.location or entry.path].append(entry)
    chosen = evenly_spaced(list(by_location.values()), count)
    each = -(-count // len(chosen))
    return [entry for members in chosen for entry in evenly_spaced(members, each)]


def rule_for(values: NDArray[np.generic], modality: Modality, kind: str) -> str:
    """Return the rule for numbers of a sample type, seen in a sample of a group's files.

    Whole numbers use the smallest of 8, 10, 12, 14 ... bits that holds them, and a window where they fill little of it.
    Floats within 0..1 are taken as they are. SAR whose large values rise far above its median is linear, amplitude or
    power, and gets a window in dB; SAR in dB or scaled already, and everything else, maps the range of its values.
    """
    numbers: Values = values.astype(np.float64)
    nodata = undeclared_nodata(numbers)
    if nodata is not None:
        numbers = numbers[numbers != nodata]
    if not numbers.size:
        return "full"
    rule = _radar(numbers, kind) if modality.kind == "radar" else _plain(numbers, kind)
    return rule if nodata is None else f"{rule},nodata:{_number(nodata)}"


def _plain(values: Values, kind: str, least: float = LEAST) -> str:
    low, high = robust_range(values)
    signed = kind.startswith("int")
    whole = kind.startswith("uint") or (low >= 0 and high > 1 and bool((values == np.rint(values)).all()))
    if whole and not signed:
        return _depth(values, high, kind, least)
    bottom, top = np.percentile(values, [1, 99])
    scaled = low >= 0.0 and high <= 1.0 and (least == LEAST or top - bottom >= LEAST)
    return "full" if scaled and not signed else _window(values)


def _depth(values: Values, high: float, kind: str, least: float) -> str:
    """Return the rule for whole numbers from 0 on: the depth that holds them, or a window where they fill little."""
    name, _, bits = kind.partition(":")
    own = np.iinfo(name).bits if name.startswith("uint") else 64
    depth = int(bits) if bits else next((depth for depth in DEPTHS if high < 2**depth and depth < own), own)
    bottom, top = np.percentile(values, [1, 99])
    if top - bottom < least * 2**depth and values.size > 100 and depth > 8:
        return _window(values)
    return "full" if depth == own else f"full:{2**depth - 1}"


def _radar(values: Values, kind: str) -> str:
    positive = values[values > 0]
    middle, top = np.percentile(positive, [50, 99]) if positive.size else (0.0, 0.0)
    if np.median(values) < 0 or (values < 0).mean() > 0.01:
        return _window(values)  # dB
    if top <= HEAVY * middle:
        return _plain(values, kind, LEAST_RADAR) if kind.startswith("uint") or top <= 1 else _window(values)
    power = kind.startswith("float") and middle < 1
    decibels = (10 if power else 20) * np.log10(positive)
    low, high = np.percentile(decibels, [1, 99])
    return f"{'power' if power else 'amplitude'}-db:{max(low, high - RANGE):.2f}:{high:.2f}"


def _window(values: Values) -> str:
    """Return the window of all values but the few that say nothing, or of the middle 98 % where these lie far out."""
    low, high = np.percentile(values, [1, 99])
    least, most = robust_range(values)
    if values.size >= 100 and most - least <= FAR * (high - low):
        low, high = least, most
    if low == high:
        low, high = values.min(), values.max()
    return "full" if low == high else f"window:{_number(low)}:{_number(high)}"


def _number(value: float) -> str:
    return f"{value:.6f}" if not value or 1e-2 <= abs(value) < 1e9 else f"{value:.9e}"


def robust_range(values: Values) -> tuple[float, float]:
    """Return the least and the largest value but for the few at either end that a broken pixel could be."""
    rare = min(max(3, round(RARE * values.size)), values.size // 20)
    ordered = np.partition(values, (rare, values.size - 1 - rare))
    return float(ordered[rare]), float(ordered[values.size - 1 - rare])


CONVENTIONS = frozenset((-99.0, -999.0, -9999.0, -32767.0, -32768.0, 9999.0, 99999.0, 32767.0, 65535.0, 4294967295.0))


def undeclared_nodata(values: Values) -> float | None:
    """Return the value that stands for no data though nothing says so: often there, and far away from all others."""
    if values.size < 100:
        return None
    for value, share in ((float(values.min()), 5e-4), (float(values.max()), 5e-3)):
        here = values == value
        rest = values[~here]
        if here.mean() < share or not rest.size:
            continue
        usual = value in CONVENTIONS or abs(value) > 1e19
        if value == values.max() and not usual:
            continue  # a sensor that is saturated shows it there
        bottom, top = np.percentile(rest, [1, 99])
        gap = float(np.abs(rest - value).min())
        if top > bottom and gap > (0.5 if usual else 2) * (top - bottom):
            return value
    return None
