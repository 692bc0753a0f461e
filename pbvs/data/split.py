"""Which locations are kept from training: whole pieces of ground, chosen by a hash so that no other one changes it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pbvs.data.catalog import natural_key, number_of
from pbvs.data.geometry import Footprints
from pbvs.data.headers import Header
from pbvs.data.manifest import Pair
from pbvs.seeds import derive
from pbvs.text import few

MEETING = 0.01  # share of an image that another must cover to show the same ground: neighbours' borders may touch
TUNING = 0.1  # share of the training locations that choose epochs and factors


def meet(first: Header, second: Header, footprints: Footprints) -> bool:
    """Return whether two georeferenced images show some of the same ground."""
    covered = footprints.overlap(first, second), footprints.overlap(second, first)
    return max(covered) > MEETING


def find_neighbours(headers: Mapping[str, Iterable[Header]], footprints: Footprints) -> dict[str, set[str]]:
    """Return for each location, by its georeferenced images, the other locations that show some of the same ground."""
    neighbours: dict[str, set[str]] = {name: set() for name in headers}
    images = [(name, header) for name in headers for header in dict.fromkeys(headers[name]) if header.georeferenced]
    for first, second in _near([footprints.corners_of(header) for _, header in images]):
        (name, one), (other, two) = images[first], images[second]
        if name != other and other not in neighbours[name] and meet(one, two, footprints):
            neighbours[name].add(other)
            neighbours[other].add(name)
    return neighbours


def find_ground(neighbours: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Return the ground of each location: the first by name of all that a chain of neighbours ties to it.

    >>> find_ground({"a": {"b"}, "b": {"a", "c"}, "c": {"b"}, "d": set()})
    {'a': 'a', 'b': 'a', 'c': 'a', 'd': 'd'}
    """
    ground: dict[str, str] = {}
    for name in sorted(neighbours, key=natural_key):
        waiting = [] if name in ground else [name]
        while waiting:
            reached = waiting.pop()
            ground[reached] = name
            waiting += [other for other in neighbours[reached] if other not in ground]
    return ground


def _near(footprints: Sequence[Sequence[tuple[float, float]]]) -> Iterator[tuple[int, int]]:
    """Yield the pairs of quadrilaterals whose boxes meet."""
    corners = np.array(footprints).reshape(-1, 4, 2)
    low, high = corners.min(axis=1), corners.max(axis=1)
    for index in range(len(corners)):
        both = ((low[index + 1 :] < high[index]) & (low[index] < high[index + 1 :])).all(axis=1)
        yield from ((index, index + 1 + int(other)) for other in np.flatnonzero(both))


class HeldOut(NamedTuple):
    """The locations on the validation side of a split, and those that lie on neither because both sides reach them."""

    names: set[str]
    between: set[str]


def hold_out(
    locations: Iterable[tuple[str, str]], share: float, seed: int, neighbours: Mapping[str, set[str]] | None = None
) -> HeldOut:
    """Return which of (archive, location) are held out: about `share` of each archive that has several.

    Neighbours, which show some of the same ground, are held out together. Where so many are tied to one another that
    they cannot be, some that lie together are held out and those around them are on neither side. An archive of two
    pieces of ground or more gives at least one and keeps at least one.

    >>> sorted(hold_out([("a", str(number)) for number in range(12)], 0.15, seed=1).names)
    ['4', '9']
    """
    choice = _Choice(dict.fromkeys(locations), seed, neighbours or {})
    for archive in choice.archives if share > 0 else ():
        choice.hold(archive, share)
    return HeldOut(choice.held, choice.between - choice.held)


class _Choice:
    """The locations held out so far, archive by archive."""

    def __init__(self, locations: Iterable[tuple[str, str]], seed: int, neighbours: Mapping[str, set[str]]):
        self.archives: dict[str, list[str]] = defaultdict(list)
        for archive, name in locations:
            self.archives[archive].append(name)
        names = dict.fromkeys(name for members in self.archives.values() for name in members)
        self.seed = seed
        self.neighbours = {name: neighbours.get(name, set()) & names.keys() for name in names}
        self.pieces: dict[str, set[str]] = defaultdict(set)
        self.ground = find_ground(self.neighbours)
        for name, piece in self.ground.items():
            self.pieces[piece].add(name)
        self.held: set[str] = set()
        self.between: set[str] = set()

    def hold(self, archive: str, share: float) -> None:
        """Hold out about `share` of an archive's locations, counting those that are held out already."""
        names = set(self.archives[archive])
        wanted = min(len(names) - 1, max(1, math.floor(share * len(names) + 0.5)))
        sizes = {piece: len(self.pieces[piece] & names) for name in names if (piece := self.ground[name])}
        ranked = list(dict.fromkeys(self.ground[name] for name in self._ranked(archive, names)))
        had = self._take(ranked, sizes, wanted, len(self.held & names))
        if wanted and not had:
            had = self._take([min(ranked, key=lambda piece: sizes[piece])], sizes, len(names) // 2, 0)
        if wanted and not had:
            self._cut(archive, wanted)

    def _take(self, ranked: Iterable[str], sizes: Mapping[str, int], wanted: int, had: int) -> int:
        """Hold out the pieces that fit, in their order; return how many locations of their archive are held out."""
        for piece in ranked:
            if had >= wanted:
                break
            fits = had + sizes[piece] <= wanted and not self.pieces[piece] & self.held
            if fits and self._leaves_some(self.pieces[piece]):
                self.held |= self.pieces[piece]
                had += sizes[piece]
        return had

    def _cut(self, archive: str, wanted: int) -> None:
        """Hold out some locations that lie together, and take those around them from both sides."""
        ranked = self._ranked(archive, self.archives[archive])
        inside: list[str] = []
        waiting = ranked[:1]
        while waiting and len(inside) < wanted:
            inside.append(waiting.pop(0))
            around = self.neighbours[inside[-1]] - {*inside, *waiting}
            waiting += self._ranked(archive, around)
        around = set().union(*(self.neighbours[name] for name in inside)) - set(inside)
        if self._leaves_some({*inside, *around}):
            self.held |= set(inside)
            self.between |= around

    def _ranked(self, archive: str, names: Iterable[str]) -> list[str]:
        return sorted(names, key=lambda name: derive(self.seed, "hold out", archive, name))

    def _leaves_some(self, names: set[str]) -> bool:
        """Return whether every archive keeps a location for training when these leave it too."""
        gone = self.held | self.between | names
        return all(not gone.issuperset(members) for members in self.archives.values() if names.intersection(members))


def hold_out_scenes(scenes: Iterable[str], share: float, seed: int) -> set[str]:
    """Return the scenes held out of those given, which may repeat."""
    return hold_out((("chips", scene) for scene in sorted(set(scenes), key=natural_key)), share, seed).names


def scene_of(stem: str, crops_per_scene: int) -> str:
    """Return the scene that a chip was cut from: blocks of consecutive ids; chips without a number stand alone."""
    number = number_of(stem)
    return f"scene_{stem}" if number is None else f"scene_{number // crops_per_scene}"


def describe_ground(neighbours: Mapping[str, set[str]], held: set[str], between: set[str]) -> list[str]:
    """Return sentences on the locations that share ground with others, and how the split treats them."""
    shared = [name for name, others in neighbours.items() if others]
    if not shared:
        return []
    pieces = len({piece for name, piece in find_ground(neighbours).items() if neighbours[name]})
    inside = sum(name in held for name in shared)
    sentences = [
        f"{len(shared)} locations overlap with others, on {pieces} pieces of ground; {inside} of them are held out, "
        "each with all that it overlaps with in training."
    ]
    if between:
        names = few(sorted(between, key=natural_key))
        sentences.append(
            f"{len(between)} locations between both sides are on neither ({names}): all of their archive lies together."
        )
    return sentences


def split_for_tuning(pairs: Sequence[Pair], share: float = TUNING, seed: int = 2024) -> tuple[list[Pair], list[Pair]]:
    """Return training pairs in two parts: those to train on, and those to choose epochs, factors and settings by.

    About `share` of the pieces of ground, at least one where there are two, are kept for choosing, so that the score
    on the validation split says nothing of the choice. The same pairs and seed give the same parts, whatever the
    order; both keep the pairs' order.
    """
    ground = [pair.ground or pair.location or pair.name for pair in pairs]
    chosen = hold_out((("tuning", piece) for piece in sorted(set(ground))), share, seed).names
    parts: tuple[list[Pair], list[Pair]] = ([], [])
    for pair, piece in zip(pairs, ground, strict=True):
        parts[piece in chosen].append(pair)
    return parts
