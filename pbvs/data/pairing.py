"""Which image is paired with which: by base, by name, or by sampling a location's images; and why some are not."""

from __future__ import annotations

import datetime
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from pbvs.challenge import SPLITS, Challenge, Task
from pbvs.data.catalog import Entry, natural_key
from pbvs.data.formats import too_large
from pbvs.data.geometry import Footprints, overlap_window, source_window
from pbvs.data.split import meet
from pbvs.recipe import Policy
from pbvs.seeds import generator

ASPECT_TOLERANCE = 0.05  # images of one footprint may differ so much in the ratio of their sides
FAR = 10**6  # days between images of which one has no date

Draw = Literal["each-epoch", "once"]


@dataclass(frozen=True)
class Rules:
    """What decides which candidates become pairs.

    With `draw` = "each-epoch" and random sampling a training manifest holds every candidate, and each epoch draws
    `pairs_per_location` of them again; else those that were drawn once, as validation manifests always do.
    """

    sampling: Policy = "random"
    pairs_per_location: int = 16  # 0 is no limit
    seed: int = 2024
    min_overlap: float = 0.5
    mosaics: bool = True  # a location's mosaics, where it has them, are the only targets of its SAR
    draw: Draw = "each-epoch"
    any_base: bool = False  # images of one location are paired whatever their base, where a task pairs by base

    @property
    def limit(self) -> int:
        """Most pairs of a location that are drawn; 0 is no limit."""
        return 0 if self.sampling == "all" else self.pairs_per_location


class Match(NamedTuple):
    """A source and a target that show the same ground, and how that is known."""

    source: Entry
    target: Entry
    alignment: str  # georeference or footprint
    overlap: float
    further: tuple[tuple[Entry, str], ...] = ()  # images that are stacked behind the source, and their alignment

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All its images."""
        return self.source, *(entry for entry, _ in self.further), self.target


class Refusal(NamedTuple):
    """A source that is no pair with a target, or an image that is no source of a pair, and why."""

    source: Entry
    reason: str


@dataclass
class Location:
    """A location's images by modality; mosaics apart."""

    name: str  # its folder's, with the archive before it where folders of two archives have one name
    folder: str
    images: dict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    mosaics: dict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))

    @property
    def source(self) -> str:
        """The archive that a location counts for: the first of those that have a folder of its name."""
        return min(entry.info.source for entry in self)

    def __iter__(self) -> Iterator[Entry]:
        return itertools.chain.from_iterable([*self.images.values(), *self.mosaics.values()])

    def add(self, entry: Entry) -> None:
        """Take an image in."""
        group = self.mosaics if entry.info.role == "mosaic" else self.images
        group[entry.info.modality].append(entry)

    def candidates(self, task: Task, rules: Rules) -> list[tuple[Entry, Entry]]:
        """Return every (source, target) that a task could use, in a fixed order."""
        images, mosaics = (
            [[each for each in group.get(name, []) if serves(each, task)] for name in (task.source, task.target)]
            for group in (self.images, self.mosaics)
        )
        if task.pairing == "base":
            groups = [images, mosaics]
        elif rules.mosaics and task.mosaics:
            groups = [[images[0], mosaics[1] or images[1]]]
        else:
            groups = [[images[0], images[1] + mosaics[1]]]
        if task.pairing == "base" and not rules.any_base:
            return [pair for group in groups for pair in _of_one_base(*group)]
        every = ((source, target) for group in groups for source, target in itertools.product(group[0], group[1]))
        return [pair for pair in every if _comparable(*pair)]


def serves(entry: Entry, task: Task, inputs: bool = False) -> bool:
    """Return whether an image may be in a task's pairs, or official `inputs`, by its modality and its pattern."""
    roles = ("image", "mosaic", "input") if inputs else ("image", "mosaic")
    return entry.info.role in roles and task.serves(*entry.info.served)


def group_locations(
    entries: Iterable[Entry], tasks: Sequence[Task], footprints: Footprints
) -> tuple[dict[tuple[str, str], Location], list[tuple[str, str]]]:
    """Return the locations by (split, name), and what was left out as another file differs in its suffix alone.

    Only images that serve one of `tasks` count. Folders of one name in two archives are one location where their
    footprints meet, and two where they do not or where it is not known.
    """
    found: dict[tuple[str, str, str], Location] = {}
    duplicates: list[tuple[str, str]] = []
    seen: dict[str, str] = {}
    counted: dict[tuple[Any, ...], bool] = {}  # by what makes an image serve
    for entry in entries:
        info = entry.info
        kind = info.role, *info.served
        if kind not in counted:
            counted[kind] = any(serves(entry, task) for task in tasks)
        if not counted[kind]:
            continue
        key = entry.path.rpartition(".")[0]
        if key in seen:
            duplicates.append((entry.path, f"the same name as {seen[key]}, which is used"))
            continue
        seen[key] = entry.path
        found.setdefault((info.split, info.location, info.source), Location(info.location, info.location)).add(entry)
    named = _named(found, footprints)
    ordered = sorted(named, key=lambda key: (SPLITS.index(key[0]), natural_key(key[1])))
    return {key: named[key] for key in ordered}, duplicates


def _named(found: dict[tuple[str, str, str], Location], footprints: Footprints) -> dict[tuple[str, str], Location]:
    """Return the locations by (split, name), a name that only one of them has."""
    folders: dict[tuple[str, str], list[Location]] = defaultdict(list)
    for (split, folder, _), location in sorted(found.items()):
        apart = folders[split, folder]
        same = next((other for other in apart if _meet(location, other, footprints)), None)
        if same is None:
            apart.append(location)
            continue
        for entry in location:
            same.add(entry)
    for (_, folder), apart in folders.items():
        for location in apart if len(apart) > 1 else ():
            location.name = f"{location.source}/{folder}"
    return {(split, location.name): location for (split, _), apart in folders.items() for location in apart}


def _meet(first: Location, second: Location, footprints: Footprints) -> bool:
    headers = [dict.fromkeys(entry.header for entry in of if entry.header.georeferenced) for of in (first, second)]
    return any(meet(one, two, footprints) for one, two in itertools.product(*headers))


def draw(candidates: Sequence[Match | Refusal], location: str, task: str, rules: Rules) -> list[Match]:
    """Return at most `rules.limit` of a location's matches, in their order: the same for the same seed.

    `random` draws without replacement; `nearest-date` takes the pairs whose dates are closest first.
    """
    matches = {index: match for index, match in enumerate(candidates) if isinstance(match, Match)}
    if not rules.limit or len(matches) <= rules.limit:
        return list(matches.values())
    order = [i for i in generator(rules.seed, "pairs", task, location).permutation(len(candidates)) if i in matches]
    if rules.sampling == "nearest-date":
        order.sort(key=lambda index: days_between(*(entry.info.date for entry in matches[index][:2])))
    return [matches[index] for index in sorted(order[: rules.limit])]


def check(source: Entry, target: Entry, min_overlap: float, footprints: Footprints) -> Match | Refusal:
    """Return how source and target lie on one another, or why they are no pair."""
    a, b = source.header, target.header
    if a.georeferenced and b.georeferenced:
        if b.gcps:  # which give no grid that others could be brought onto
            same = (a.crs, a.gcps, a.width, a.height) == (b.crs, b.gcps, b.width, b.height)
            reason = f"its target {target.path} is placed by control points alone, and not by the same as it"
            return same_footprint(source, target) if same else Refusal(source, reason)
        share = footprints.overlap(a, b)
        if share < min_overlap:
            return Refusal(source, f"it covers {share:.2f} of {target.path}, less than {min_overlap:g}")
        if (source.too_large or target.too_large) and (reason := _too_much(source, target)):
            return Refusal(source, reason)
        return Match(source, target, "georeference", share)
    return same_footprint(source, target)


def _too_much(source: Entry, target: Entry) -> str:
    """Return why the parts that a pair needs of large images are too large; an empty text where they are not."""
    window = overlap_window(source.header, target.header)
    parts = (source, source_window(source.header, target.header, window)), (target, window)
    for entry, part in parts:
        size = part or entry.header
        if reason := too_large(size.width, size.height, entry.size):
            return f"the part of {entry.path} that the pair needs is {reason}"
    return ""


def same_footprint(source: Entry, target: Entry) -> Match | Refusal:
    """Return source and target as images of one footprint, or why they are not: their sides, or their sizes."""
    if reason := source.too_large or target.too_large:
        return Refusal(source, reason)
    a, b = source.header, target.header
    ratio = (a.width * b.height) / (a.height * b.width)
    if abs(ratio - 1) > ASPECT_TOLERANCE:
        sizes = f"{a.width} x {a.height} pixels", f"{b.width} x {b.height}"
        return Refusal(source, f"{sizes[0]} cannot be the footprint of {target.path}, {sizes[1]}")
    return Match(source, target, "footprint", 1.0)


def pair_by_name(
    entries: Iterable[Entry], task: Task, challenge: Challenge
) -> Iterator[tuple[str, Match | Refusal | Entry]]:
    """Yield, each with its split, a task's images paired by equal names in one archive and location.

    They are pixel for pixel the same ground, so a pair of sizes other than the task's scale is refused. A source
    without a target, outside of training, is an input and comes alone.
    """
    groups: dict[tuple[str, str, str, str], dict[str, Entry]] = defaultdict(dict)
    for entry in entries:
        if serves(entry, task):
            info = entry.info
            first = groups[info.source, info.split, info.location, entry.id].setdefault(info.modality, entry)
            if first is not entry:
                yield info.split, Refusal(entry, f"the same name as {first.path}, which is used")
    for key, both in sorted(groups.items(), key=lambda item: (item[0][:3], len(item[0][3]), item[0][3])):
        source, target = both.get(task.source), both.get(task.target)
        if source and target:
            yield key[1], _of_one_size(source, target, task.scale)
        elif source and key[1] != "train":
            yield key[1], source
        else:
            missing = challenge.title_of(task.target if source else task.source)
            yield from (
                (key[1], Refusal(entry, f"there is no {missing} image of that name")) for entry in both.values()
            )


def _of_one_size(source: Entry, target: Entry, scale: int) -> Match | Refusal:
    if reason := source.too_large or target.too_large:
        return Refusal(source, reason)
    a, b = source.header, target.header
    if (a.width * scale, a.height * scale) == (b.width, b.height):
        return Match(source, target, "footprint", 1.0)
    sizes = f"{a.width} x {a.height} and {b.width} x {b.height}"
    times = f", where the task scales by {scale}" if scale != 1 else ""
    return Refusal(source, f"its size and that of {target.path} differ: {sizes}{times}")


class Partners:
    """The images of a task's further sources, found by the first source that they belong to.

    They have its split, archive and location, and its id where the task pairs by name, or it is an official input;
    else its base. Of several with one base, those of its date and id go first.
    """

    def __init__(self, images: Iterable[Entry], task: Task, challenge: Challenge) -> None:
        self.task, self.challenge = task, challenge
        self.found: dict[str, dict[tuple[str, ...], list[Entry]]] = {name: defaultdict(list) for name in task.further}
        for image in images:
            if image.info.modality in self.found and serves(image, task, inputs=True):
                self.found[image.info.modality][self.key(image)].append(image)

    def of(self, source: Entry) -> list[Entry] | str:
        """Return an image for each further source, in their order, or the reason why one is missing."""
        images = []
        for modality in self.task.further:
            image = self._one(source, self.found[modality][self.key(source)], self.challenge.title_of(modality))
            if isinstance(image, str):
                return image
            images.append(image)
        return images

    def _one(self, source: Entry, found: Sequence[Entry], title: str) -> Entry | str:
        by_name = self._by_name(source)
        if not found:
            return f"there is no {title} image of {'that name' if by_name else 'its base in its location'}"
        if len(found) > 1 and not by_name:
            found = [image for image in found if image.info.date == source.info.date] or found
            found = [image for image in found if image.id == source.id] or found
            if len(found) > 1:
                return f"{len(found)} {title} images of its location could go with it, such as {found[0].path}"
        return found[0]

    def key(self, image: Entry) -> tuple[str, ...]:
        """Return what all sources of one input have in common."""
        info = image.info
        shared = image.id if self._by_name(image) else info.base
        return info.role, info.split, info.source, info.location, shared

    def _by_name(self, image: Entry) -> bool:
        return self.task.pairing == "name" or image.info.role == "input"


def days_between(first: str, second: str) -> int:
    """Return the days between two dates (YYYY-MM-DD), or a large number when one of them is not known."""
    if not first or not second:
        return FAR
    return abs((datetime.date.fromisoformat(first) - datetime.date.fromisoformat(second)).days)


def _of_one_base(sources: Iterable[Entry], targets: Iterable[Entry]) -> Iterator[tuple[Entry, Entry]]:
    partners: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for target in targets:
        partners[target.info.source, target.info.base].append(target)
    for source in sources:
        yield from ((source, target) for target in partners[source.info.source, source.info.base])


def _comparable(source: Entry, target: Entry) -> bool:
    """Only a georeference can say that images of two archives show the same ground."""
    both = source.header.georeferenced and target.header.georeferenced
    return both or source.info.source == target.info.source
