"""Which image is paired with which: by base, by name, or by sampling a location's images; and why some are not."""

from __future__ import annotations

import datetime
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

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

    def candidates(self, task: str, mosaics: bool) -> list[tuple[Entry, Entry]]:
        """Return every (source, target) that a task could use, in a fixed order."""
        if task == "rgb2ir":
            return list(self._same_base())
        modality = task.removeprefix("sar2")
        targets = self.mosaics.get(modality) if mosaics else None
        targets = targets or self.images.get(modality, []) + ([] if mosaics else self.mosaics.get(modality, []))
        return [pair for pair in itertools.product(self.images.get("sar", []), targets) if _comparable(*pair)]

    def _same_base(self) -> Iterator[tuple[Entry, Entry]]:
        for group in (self.images, self.mosaics):
            partner = {(entry.info.source, entry.info.base): entry for entry in group.get("ir", [])}
            for entry in group.get("rgb", []):
                key = (entry.info.source, entry.info.base)
                if key in partner:
                    yield entry, partner[key]


def group_locations(entries: Iterable[Entry]) -> tuple[dict[str, Location], list[tuple[str, str]]]:
    """Return the locations by name, and what was left out because another file has the same name but for its suffix.

    A location whose folder is in two archives is one location, so that it is held out as a whole.
    """
    locations: dict[str, Location] = {}
    twins: list[tuple[str, str]] = []
    seen: dict[str, str] = {}
    for entry in entries:
        place = entry.info
        if place.role == "input" or place.task:
            continue
        key = entry.path.rpartition(".")[0]
        if key in seen:
            twins.append((entry.path, f"the same name as {seen[key]}, which is used"))
            continue
        seen[key] = entry.path
        location = locations.setdefault(place.location, Location(place.location))
        group = location.mosaics if place.role == "mosaic" else location.images
        group[place.modality].append(entry)
    return {name: locations[name] for name in sorted(locations, key=natural_key)}, twins


def sample(
    location: Location, task: str, rules: Rules, footprints: Footprints, refused: list[tuple[str, str]]
) -> list[Match]:
    """Return a location's pairs for a task, at most `pairs_per_location`; refused ones are added with their reason.

    `random` draws without replacement; `nearest-date` takes the pairs whose dates are closest first; `all` has no
    limit. RGB and IR of one base need no sampling: all of them are taken, up to the limit.
    """
    candidates = location.candidates(task, rules.mosaics)
    if not candidates:
        return []
    order = [0]  # a generator takes longer to make than everything else here
    if len(candidates) > 1:
        order = generator(rules.seed, "pairs", task, location.name).permutation(len(candidates)).tolist()
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


def pair_by_name(
    entries: Iterable[Entry],
) -> tuple[dict[str, list[Match]], dict[str, list[Entry]], list[tuple[str, str]]]:
    """Pair the SAR and EO chips of equal names: ({split: matches}, {split: SAR without EO}, unused with reasons).

    Chips are pixel for pixel the same ground, so a pair of different sizes is refused.
    """
    chips: dict[tuple[str, str, str], dict[str, Entry]] = defaultdict(dict)
    unused: list[tuple[str, str]] = []
    for entry in entries:
        if entry.info.task != "sar2eo" or entry.info.role == "input":
            continue
        both = chips[entry.info.source, entry.info.split, entry.stem]
        if entry.info.modality in both:
            unused.append((entry.path, f"the same name as {both[entry.info.modality].path}, which is used"))
        else:
            both[entry.info.modality] = entry
    matches: dict[str, list[Match]] = {"train": [], "val": []}
    alone: dict[str, list[Entry]] = {"train": [], "val": []}
    for (_, split, _), both in sorted(chips.items(), key=lambda item: (item[0][:2], len(item[0][2]), item[0][2])):
        _sort_chip(both, matches[split], alone[split], unused)
    return matches, alone, unused


def _sort_chip(both: dict[str, Entry], matches: list[Match], alone: list[Entry], unused: list[tuple[str, str]]) -> None:
    if len(both) == 2:
        a, b = both["sar"].header, both["eo"].header
        if (a.width, a.height) == (b.width, b.height):
            matches.append(Match(both["sar"], both["eo"], "footprint", 1.0))
        else:
            sizes = f"{a.width} x {a.height} and {b.width} x {b.height}"
            unused.append((both["sar"].path, f"its size and that of {both['eo'].path} differ: {sizes}"))
    elif "sar" in both:
        alone.append(both["sar"])
    else:
        unused.append((both["eo"].path, "there is no SAR chip of that name"))


def days_between(first: str, second: str) -> int:
    """Return the days between two dates (YYYY-MM-DD), or a large number when one of them is not known."""
    if not first or not second:
        return FAR
    return abs((datetime.date.fromisoformat(first) - datetime.date.fromisoformat(second)).days)


def _comparable(source: Entry, target: Entry) -> bool:
    """Only a georeference can say that images of two archives show the same ground."""
    both = source.header.georeferenced and target.header.georeferenced
    return both or source.info.source == target.info.source
