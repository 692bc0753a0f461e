"""How far SAR lies off its targets, from many pairs together; never from one, which does more harm than good.

For every whole-pixel shift the joint histogram of source and target is counted exactly, as correlations of the
histogram bins' masks in the Fourier domain. Every pair's surface of mutual information is brought to mean 0 and
deviation 1 and they are averaged, so that no single pair decides. The peak is trusted only when it is sharp, when it
stays where it is without any quarter of the pairs, and when most pairs gain by it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pbvs.challenge import Challenge, load_challenge
from pbvs.data.align import open_pair
from pbvs.data.catalog import PathReader
from pbvs.data.manifest import Pair, Pairs, pairs_digest
from pbvs.devices import in_chunks
from pbvs.errors import PbvsError, of_data
from pbvs.files import read_record, write_json
from pbvs.logs import track
from pbvs.recipe import Radiometry
from pbvs.seeds import evenly_spaced

Surface = NDArray[np.float64]  # (2 R + 1, 2 R + 1): mutual information in nats by shift down and across

REACH = 12  # pixels each way that are looked at
BINS = 8
FOLDS = 4  # parts of the pairs, each left out in turn
FEWEST = 8  # pairs below which nothing is said
AGREEMENT = 1.25  # pixels that the answer may move when a quarter of the pairs is left out
SHARP = 3.2  # deviations that a peak must rise above the surface away from it; unrelated images reach about 3
GAIN = 0.01  # relative growth of mutual information below which a correction is not worth it
SMOOTHING = 1.5  # pixels: standard deviation of the Gaussian that calms speckle


@dataclass(frozen=True)
class Shift:
    """Where many pairs say the source lies: it shows at (row + down, column + across) what the target shows.

    Pixels are the target's.
    """

    down: float
    across: float
    pairs: int
    information: float  # mean mutual information at the peak, nats
    unshifted: float  # the same without a shift
    sharpness: float  # deviations that the peak rises above the surface away from it
    spread: float  # largest move of the answer when a quarter of the pairs is left out, pixels
    gaining: float  # share of pairs whose own mutual information is higher at the peak than without a shift

    @property
    def length(self) -> float:
        """Return the distance in pixels."""
        return float(np.hypot(self.down, self.across))

    @property
    def trusted(self) -> bool:
        """Return whether the pairs agree on it well enough to move images by it."""
        found = self.sharpness >= SHARP and self.spread <= AGREEMENT
        better = self.information > self.unshifted * (1 + GAIN) and self.gaining > 0.6
        inside = max(abs(self.down), abs(self.across)) < REACH - 1
        return found and better and inside and self.length >= 0.5

    def as_json(self) -> dict[str, Any]:
        """Return the figures, rounded, and whether they are trusted."""
        return {**{key: round(value, 4) for key, value in asdict(self).items()}, "trusted": self.trusted}


def information_surface(
    source: NDArray[np.float32], target: NDArray[np.float32], valid: NDArray[np.bool_], reach: int = REACH
) -> Surface | None:
    """Return the mutual information (nats) of source and target (H, W, C) in [0, 1] for every shift up to `reach`.

    Both are made one band, smoothed and cut into eight bins of equal counts; the source's values are taken as
    logarithms. None when the image is too small or one of them is flat.
    """
    height, width = valid.shape
    if min(height, width) < 4 * reach:
        return None
    inner = np.zeros_like(valid)
    inner[reach:-reach, reach:-reach] = valid[reach:-reach, reach:-reach]
    moving = _bins(np.log(source.mean(axis=2) + 1 / 255), valid)
    fixed = _bins(target.mean(axis=2), inner)
    if moving is None or fixed is None:
        return None
    return _information(_joint_counts(moving, fixed, reach))


def estimate(surfaces: Sequence[Surface]) -> Shift | None:
    """Return the shift that the mean of many pairs' surfaces peaks at; None for fewer than eight pairs."""
    if len(surfaces) < FEWEST:
        return None
    stack = np.stack(surfaces)
    equal = stack - stack.mean(axis=(1, 2), keepdims=True)
    equal /= np.maximum(equal.std(axis=(1, 2), keepdims=True), 1e-9)
    mean = equal.mean(axis=0)
    reach = mean.shape[0] // 2
    row, column = np.unravel_index(int(mean.argmax()), mean.shape)
    down, across = _peak(mean)
    without = [_peak(np.delete(equal, np.s_[start::FOLDS], axis=0).mean(axis=0)) for start in range(FOLDS)]
    return Shift(
        down=down,
        across=across,
        pairs=len(surfaces),
        information=float(stack[:, row, column].mean()),
        unshifted=float(stack[:, reach, reach].mean()),
        sharpness=_sharpness(mean, int(row), int(column)),
        spread=max(float(np.hypot(y - down, x - across)) for y, x in without),
        gaining=float((stack[:, row, column] > stack[:, reach, reach]).mean()),
    )


def _bins(band: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32] | None:
    """Return (BINS, H, W) masks of a smoothed band's bins of equal counts, 0 where not valid; None where none is."""
    from scipy.ndimage import gaussian_filter

    if valid.sum() < 64 * BINS:
        return None
    smooth = gaussian_filter(band.astype(np.float32), SMOOTHING)
    edges = np.quantile(smooth[valid], np.linspace(0, 1, BINS + 1)[1:-1])
    if edges[0] == edges[-1]:
        return None
    index = np.searchsorted(edges, smooth, side="right")
    masks: NDArray[np.float32] = ((index[None] == np.arange(BINS)[:, None, None]) & valid).astype(np.float32)
    return masks


def _joint_counts(moving: NDArray[np.float32], fixed: NDArray[np.float32], reach: int) -> NDArray[np.float64]:
    """Return (BINS, BINS, 2 R + 1, 2 R + 1): how often bins of both meet at each shift, by correlation."""
    from scipy.fft import irfft2, rfft2

    shape = moving.shape[1:]
    spectrum, other = rfft2(moving, axes=(1, 2)), np.conj(rfft2(fixed, axes=(1, 2)))
    rows, columns = (np.arange(-reach, reach + 1) % length for length in shape)
    near = np.ix_(rows, columns)
    counts = [[irfft2(first * second, s=shape)[near] for second in other] for first in spectrum]
    return np.maximum(np.array(counts, np.float64), 0)


def _information(counts: NDArray[np.float64]) -> Surface:
    joint = counts / np.maximum(counts.sum(axis=(0, 1)), 1)
    independent = joint.sum(axis=0)[None] * joint.sum(axis=1)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(joint > 1e-9, joint * np.log(joint / independent), 0.0)
    surface: Surface = terms.sum(axis=(0, 1))
    return surface


def _peak(surface: Surface) -> tuple[float, float]:
    """Return the shift at the highest point, between pixels by a parabola through its neighbours."""
    row, column = np.unravel_index(int(surface.argmax()), surface.shape)
    reach = surface.shape[0] // 2
    return (
        float(row - reach + _vertex(surface[:, column], int(row))),
        float(column - reach + _vertex(surface[row, :], int(column))),
    )


def _vertex(line: NDArray[np.float64], at: int) -> float:
    if not 0 < at < len(line) - 1:
        return 0.0
    before, here, after = line[at - 1 : at + 2]
    bend = before - 2 * here + after
    return 0.0 if bend >= 0 else float(0.5 * (before - after) / bend)


def _sharpness(surface: Surface, row: int, column: int) -> float:
    """Return how many deviations the peak rises above the surface more than four pixels away from it."""
    rows, columns = np.indices(surface.shape)
    away = surface[np.hypot(rows - row, columns - column) > 4]
    return float((surface[row, column] - away.mean()) / max(float(away.std()), 1e-9))


# --- Which shift each archive or location has left between SAR and its targets, and the pairs that are corrected by it.

SAMPLED = 40  # pairs of a group that are looked at
OF_A_LOCATION = 24  # different SAR images from which a location gets a shift of its own
SIDE = 512  # pixels of an image's middle that are looked at

Group = tuple[str, str, str]  # task, archive, location (empty for the archive as a whole)


def find_shifts(
    pairs: Sequence[Pair], root: Path, jobs: int = 1, *, challenge: Challenge | None = None
) -> dict[Group, Shift]:
    """Return the shift of each group of radar pairs with targets that is large enough to tell one.

    A location with many SAR images is a group of its own; all others are taken together by archive.
    """
    challenge = challenge or load_challenge()
    groups = _groups(pairs, PathReader(challenge))
    chosen = [(group, pair) for group, members in groups.items() for pair in evenly_spaced(members, SAMPLED)]
    work = partial(_surfaces, root, Radiometry().of(challenge))
    found = in_chunks(work, [pair for _, pair in chosen], jobs, few=16, chunk=4)
    surfaces: dict[Group, list[Surface]] = defaultdict(list)
    progress = track(found, "measuring misregistration", len(chosen), unit="pair")
    for (group, _), surface in zip(chosen, progress, strict=True):
        if surface is not None:
            surfaces[group].append(surface)
    shifts = {group: estimate(members) for group, members in surfaces.items()}
    return {group: shift for group, shift in sorted(shifts.items()) if shift is not None}


RECORD = "misregistration.json"  # beside the manifests


def recorded_shifts(
    pairs: Pairs, root: Path, manifests: Path | None, jobs: int = 1, *, challenge: Challenge, measure: bool = True
) -> dict[Group, Shift]:
    """Return the shifts of `find_shifts` and write them beside the manifests.

    Without `measure` return those written there for the same pairs; none where there are none.
    """
    every = [pair.with_digests({}) for rows in pairs.values() for pair in rows]
    path, made_from = manifests and manifests / RECORD, pairs_digest(every)
    if not measure:
        return _read_record(path, made_from) if path is not None and path.is_file() else {}
    shifts = find_shifts(every, root, jobs, challenge=challenge)
    if path is not None:
        groups = [[*group, shift.as_json()] for group, shift in shifts.items()]
        write_json(path, {"made_from": made_from, "groups": groups})
    return shifts


def _read_record(path: Path, made_from: str) -> dict[Group, Shift]:
    try:
        known = read_record(path, made_from=str, groups=list)
        rows = known["groups"] if known["made_from"] == made_from else []
        names = [field.name for field in fields(Shift)]
        return {(task, archive, location): Shift(**{n: row[n] for n in names}) for task, archive, location, row in rows}
    except PbvsError as error:
        of_data(error)
    except (KeyError, TypeError, ValueError):
        pass  # damaged: measured again when it is asked for
    return {}


def correct(pairs: Iterable[Pair], shifts: dict[Group, Shift], *, challenge: Challenge | None = None) -> list[Pair]:
    """Return the pairs, those of groups whose shift is trusted with it written into them."""
    reader = PathReader(challenge or load_challenge())
    result = []
    for pair in pairs:
        groups = (_group(pair, reader), _archive(pair, reader)) if pair.target else ()
        shift = next((shifts[group] for group in groups if group in shifts), None)
        text = f"{shift.down:.2f} {shift.across:.2f}" if shift is not None and shift.trusted else ""
        result.append(replace(pair, shift=text) if text else pair)
    return result


def group_name(group: Group) -> str:
    """Return a group as people read it."""
    task, archive, location = group
    return " ".join(filter(None, (task, archive, location)))


def _group(pair: Pair, reader: PathReader) -> Group:
    task, archive, _ = _archive(pair, reader)
    return task, archive, "" if reader.challenge.task(task).pairing == "name" else pair.location


def _archive(pair: Pair, reader: PathReader) -> Group:
    info = reader.read(pair.source)
    return pair.task, "?" if isinstance(info, str) else info.source, ""


def _groups(pairs: Sequence[Pair], reader: PathReader) -> dict[Group, list[Pair]]:
    """Sort radar pairs into groups; of several pairs with one radar image only the first counts."""
    challenge = reader.challenge
    radar = {name for name, task in challenge.tasks.items() if challenge.modalities[task.source].kind == "radar"}
    by_location: dict[Group, dict[str, Pair]] = defaultdict(dict)
    for pair in pairs:
        if pair.target and pair.task in radar:
            by_location[_group(pair, reader)].setdefault(pair.source, pair)
    groups: dict[Group, list[Pair]] = defaultdict(list)
    for group, members in by_location.items():
        key = group if len(members) >= OF_A_LOCATION else (group[0], group[1], "")
        groups[key] += members.values()
    return {group: members for group, members in groups.items() if len(members) >= FEWEST}


def _surfaces(root: Path, radiometry: Radiometry, pairs: Sequence[Pair]) -> list[Surface | None]:
    return [_surface(root, radiometry, pair) for pair in pairs]


def _surface(root: Path, radiometry: Radiometry, pair: Pair) -> Surface | None:
    try:
        opened = open_pair(replace(pair, shift=""), root, radiometry)
    except PbvsError as error:
        of_data(error)
        return None
    assert opened.target is not None
    starts = (max(0, (length - SIDE) // 2) for length in opened.valid.shape)
    middle = tuple(slice(start, start + SIDE) for start in starts)
    first = opened.source[:, :, : radiometry.challenge.task(pair.task).first_channels]
    return information_surface(first[middle], opened.target[middle], opened.valid[middle], REACH)
