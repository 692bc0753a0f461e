"""Which shift each archive or location has left between SAR and its targets, and the pairs that are corrected by it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from pbvs.data.layout import place_of
from pbvs.data.manifest import Pair
from pbvs.data.pairs import open_pair
from pbvs.data.shift import FEWEST, REACH, Shift, Surface, estimate, information_surface
from pbvs.errors import PbvsError
from pbvs.parallel import in_chunks
from pbvs.progress import track

SAMPLED = 40  # pairs of a group that are looked at
OF_A_LOCATION = 24  # different SAR pictures from which a location gets a shift of its own
SIDE = 512  # pixels of a picture's middle that are looked at

Group = tuple[str, str, str]  # task, archive, location (empty for the archive as a whole)


def find_shifts(pairs: Sequence[Pair], root: Path, jobs: int = 1, backend: str = "loky") -> dict[Group, Shift]:
    """Return the shift of each group of SAR pairs with targets that is large enough to tell one.

    A location with many SAR pictures is a group of its own; all others are taken together by archive.
    """
    groups = _groups(pairs)
    chosen = [(group, pair) for group, members in groups.items() for pair in _spread(members)]
    work = partial(_surfaces, root)
    found = in_chunks(work, [pair for _, pair in chosen], jobs, backend, few=16, chunk=4)
    surfaces: dict[Group, list[Surface]] = defaultdict(list)
    progress = track(found, "measuring misregistration", len(chosen), unit="pair")
    for (group, _), surface in zip(chosen, progress, strict=True):
        if surface is not None:
            surfaces[group].append(surface)
    shifts = {group: estimate(members) for group, members in surfaces.items()}
    return {group: shift for group, shift in sorted(shifts.items()) if shift is not None}


def correct(pairs: Iterable[Pair], shifts: dict[Group, Shift]) -> list[Pair]:
    """Return the pairs, those of groups whose shift is trusted with it written into them."""
    result = []
    for pair in pairs:
        shift = _shift_for(pair, shifts) if pair.target else None
        text = f"{shift.down:.2f} {shift.across:.2f}" if shift is not None and shift.trusted else ""
        result.append(replace(pair, shift=text) if text else pair)
    return result


def group_name(group: Group) -> str:
    """Return a group as people read it."""
    task, archive, location = group
    return " ".join(filter(None, (task, archive, location)))


def _shift_for(pair: Pair, shifts: dict[Group, Shift]) -> Shift | None:
    own, whole = _group(pair), _archive(pair)
    return shifts.get(own) or shifts.get(whole)


def _group(pair: Pair) -> Group:
    task, archive, _ = _archive(pair)
    return task, archive, "" if pair.task == "sar2eo" else pair.location


def _archive(pair: Pair) -> Group:
    place = place_of(pair.source)
    return pair.task, "?" if isinstance(place, str) else place.source, ""


def _groups(pairs: Sequence[Pair]) -> dict[Group, list[Pair]]:
    """Sort pairs into groups; of several pairs with one SAR picture only the first counts."""
    by_location: dict[Group, dict[str, Pair]] = defaultdict(dict)
    for pair in pairs:
        if pair.target and pair.task.startswith("sar"):
            by_location[_group(pair)].setdefault(pair.source, pair)
    groups: dict[Group, list[Pair]] = defaultdict(list)
    for group, members in by_location.items():
        key = group if len(members) >= OF_A_LOCATION else (group[0], group[1], "")
        groups[key] += members.values()
    return {group: members for group, members in groups.items() if len(members) >= FEWEST}


def _spread(members: Sequence[Pair]) -> list[Pair]:
    if len(members) <= SAMPLED:
        return list(members)
    return [members[index * len(members) // SAMPLED] for index in range(SAMPLED)]


def _surfaces(root: Path, pairs: Sequence[Pair]) -> list[Surface | None]:
    return [_surface(root, pair) for pair in pairs]


def _surface(root: Path, pair: Pair) -> Surface | None:
    try:
        opened = open_pair(replace(pair, shift=""), root)
    except PbvsError:
        return None
    assert opened.target is not None
    middle = tuple(
        slice(max(0, (length - SIDE) // 2), max(0, (length - SIDE) // 2) + SIDE) for length in opened.valid.shape
    )
    return information_surface(opened.source[middle], opened.target[middle], opened.valid[middle], REACH)
