"""Which image is paired with which: by base, by name, or by sampling a location's images; and why some are not."""

from __future__ import annotations

import datetime
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pbvs.challenge import SPLITS, Task
from pbvs.data.catalog import Entry
from pbvs.data.geometry import Footprints
from pbvs.data.layout import natural_key
from pbvs.recipe import Policy
from pbvs.seeds import generator

ASPECT_TOLERANCE = 0.05  # images of one footprint may differ so much in the ratio of their sides
FAR = 10**6  # days between images of which one has no date


@dataclass(frozen=True)
class Rules:
    """What decides which candidates become pairs."""

    sampling: Policy = "random"
    pairs_per_location: int = 16  # 0 is no limit
    seed: int = 2024
    min_overlap: float = 0.5
    mosaics: bool = True  # a location's mosaics, where it has them, are the only targets of its SAR


class Match(NamedTuple):
    """A source and a target that show the same ground, and how that is known."""

    source: Entry
    target: Entry
    alignment: str  # georeference or footprint
    overlap: float


@dataclass
class Location:
    """A location's images by modality; mosaics apart."""

    name: str
    images: dict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    mosaics: dict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))

    @property
    def source(self) -> str:
        """The archive that a location counts for: the first of those that have a folder of its name."""
        return min(entry.info.source for entry in self)

    def __iter__(self) -> Iterator[Entry]:
        for group in (self.images, self.mosaics):
            for entries in group.values():
                yield from entries

    def candidates(self, task: Task, mosaics: bool) -> list[tuple[Entry, Entry]]:
        """Return every (source, target) that a task could use, in a fixed order."""
        if task.pairing == "base":
            return list(self._same_base(task))
        sources = _serving(task, self.images.get(task.source, []))
        images, mosaic = (_serving(task, group.get(task.target, [])) for group in (self.images, self.mosaics))
        targets = (mosaic or images) if mosaics and task.mosaics else images + mosaic
        return [pair for pair in itertools.product(sources, targets) if _comparable(*pair)]

    def _same_base(self, task: Task) -> Iterator[tuple[Entry, Entry]]:
        for group in (self.images, self.mosaics):
            targets = _serving(task, group.get(task.target, []))
            partner = {(entry.info.source, entry.info.base): entry for entry in targets}
            for entry in _serving(task, group.get(task.source, [])):
                key = (entry.info.source, entry.info.base)
                if key in partner:
                    yield entry, partner[key]


def serves(entry: Entry, task: Task) -> bool:
    """Return whether an image may be in a task's pairs, by its modality and what its pattern says."""
    info = entry.info
    if info.role not in ("image", "mosaic") or info.modality not in (task.source, task.target):
        return False
    return info.task in ("", task.name) and (not info.tasks or task.name in info.tasks)


def _serving(task: Task, entries: Iterable[Entry]) -> list[Entry]:
    return [entry for entry in entries if serves(entry, task)]


def group_locations(
    entries: Iterable[Entry], tasks: Sequence[Task]
) -> tuple[dict[tuple[str, str], Location], list[tuple[str, str]]]:
    """Return the locations by (split, name), and what was left out as another file differs in its suffix alone.

    Only images that serve one of `tasks` count. A location whose folder is in two archives is one location, so that
    it is held out as a whole.
    """
    locations: dict[tuple[str, str], Location] = {}
    twins: list[tuple[str, str]] = []
    seen: dict[str, str] = {}
    for entry in entries:
        place = entry.info
        if not any(serves(entry, task) for task in tasks):
            continue
        key = entry.path.rpartition(".")[0]
        if key in seen:
            twins.append((entry.path, f"the same name as {seen[key]}, which is used"))
            continue
        seen[key] = entry.path
        location = locations.setdefault((place.split, place.location), Location(place.location))
        group = location.mosaics if place.role == "mosaic" else location.images
        group[place.modality].append(entry)
    ordered = sorted(locations, key=lambda key: (SPLITS.index(key[0]), natural_key(key[1])))
    return {key: locations[key] for key in ordered}, twins


def sample(
    location: Location, task: Task, rules: Rules, footprints: Footprints, refused: list[tuple[str, str]]
) -> list[Match]:
    """Return a location's pairs for a task, at most `pairs_per_location`; refused ones are added with their reason.

    `random` draws without replacement; `nearest-date` takes the pairs whose dates are closest first; `all` has no
    limit. Images of one base need no sampling: all of them are taken, up to the limit.
    """
    candidates = location.candidates(task, rules.mosaics)
    if not candidates:
        return []
    order = [0]  # a generator takes longer to make than everything else here
    if len(candidates) > 1:
        order = generator(rules.seed, "pairs", task.name, location.name).permutation(len(candidates)).tolist()
    if rules.sampling == "nearest-date":
        order.sort(key=lambda index: days_between(*(entry.info.date for entry in candidates[index])))
    limit = len(order) if rules.sampling == "all" or not rules.pairs_per_location else rules.pairs_per_location
    chosen: dict[int, Match] = {}
    for index in order if rules.sampling != "all" else range(len(candidates)):
        if len(chosen) >= limit:
            break
        match = check(*candidates[index], rules.min_overlap, footprints)
        if isinstance(match, Match):
            chosen[index] = match
        else:
            refused.append((candidates[index][0].path, match))
    return [chosen[index] for index in sorted(chosen)]


def check(source: Entry, target: Entry, min_overlap: float, footprints: Footprints) -> Match | str:
    """Return how source and target lie on one another, or the reason why they are no pair."""
    a, b = source.header, target.header
    if a.georeferenced and b.georeferenced:
        share = footprints.overlap(a, b)
        if share < min_overlap:
            return f"it covers {share:.2f} of {target.path}, less than {min_overlap:g}"
        return Match(source, target, "georeference", share)
    ratio = (a.width * b.height) / (a.height * b.width)
    if abs(ratio - 1) > ASPECT_TOLERANCE:
        return f"{a.width} x {a.height} pixels cannot be the footprint of {target.path}, {b.width} x {b.height}"
    return Match(source, target, "footprint", 1.0)


@dataclass
class Named:
    """What pairing by name found in one split."""

    matches: list[Match] = field(default_factory=list)
    inputs: list[Entry] = field(default_factory=list)  # sources without a target


def pair_by_name(
    entries: Iterable[Entry], task: Task, titles: tuple[str, str]
) -> tuple[dict[str, Named], list[tuple[str, str]]]:
    """Pair a task's images of equal names in one archive and location: (what was found by split, unused with reasons).

    They are pixel for pixel the same ground, so a pair of sizes other than the task's scale is refused. `titles` are
    what source and target are called.
    """
    groups: dict[tuple[str, str, str, str], dict[str, Entry]] = defaultdict(dict)
    unused: list[tuple[str, str]] = []
    for entry in entries:
        if not serves(entry, task):
            continue
        both = groups[entry.info.source, entry.info.split, entry.info.location, entry.id]
        if entry.info.modality in both:
            unused.append((entry.path, f"the same name as {both[entry.info.modality].path}, which is used"))
        else:
            both[entry.info.modality] = entry
    found: dict[str, Named] = {split: Named() for split in SPLITS}
    for key, both in sorted(groups.items(), key=lambda item: (item[0][:3], len(item[0][3]), item[0][3])):
        _sort_pair(both, task, titles, found[key[1]], unused)
    return found, unused


def _sort_pair(
    both: dict[str, Entry], task: Task, titles: tuple[str, str], found: Named, unused: list[tuple[str, str]]
) -> None:
    source, target = both.get(task.source), both.get(task.target)
    if source is None:
        unused.append((both[task.target].path, f"there is no {titles[0]} image of that name"))
    elif target is None:
        found.inputs.append(source)
    else:
        a, b = source.header, target.header
        if (a.width * task.scale, a.height * task.scale) == (b.width, b.height):
            found.matches.append(Match(source, target, "footprint", 1.0))
        else:
            sizes = f"{a.width} x {a.height} and {b.width} x {b.height}"
            times = f", where the task scales by {task.scale}" if task.scale != 1 else ""
            unused.append((source.path, f"its size and that of {target.path} differ: {sizes}{times}"))


def days_between(first: str, second: str) -> int:
    """Return the days between two dates (YYYY-MM-DD), or a large number when one of them is not known."""
    if not first or not second:
        return FAR
    return abs((datetime.date.fromisoformat(first) - datetime.date.fromisoformat(second)).days)


def _comparable(source: Entry, target: Entry) -> bool:
    """Only a georeference can say that images of two archives show the same ground."""
    both = source.header.georeferenced and target.header.georeferenced
    return both or source.info.source == target.info.source
