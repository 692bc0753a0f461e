"""What a data root holds, what it lacks and what is wrong with it: what `pbvs check-data` shows."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pbvs.challenge import DEFAULT, SPLITS, Challenge, load_challenge
from pbvs.data.build import Builder, count_pairs, half_placed
from pbvs.data.cache import CACHE_NAME, FileCache, digests
from pbvs.data.catalog import Catalog, Entry, natural_key, scan
from pbvs.data.geometry import Footprints, middle
from pbvs.data.georeference import Point
from pbvs.data.headers import Header
from pbvs.data.intensity import Group, RuleTable, find_rules, group_of
from pbvs.data.manifest import Pairs
from pbvs.data.pairing import Rules
from pbvs.data.registration import Shift, group_name, recorded_shifts
from pbvs.data.split import describe_ground
from pbvs.data.statistics import BINS, Brightness, Table, doubts_of, measure, measure_groups, warnings_of
from pbvs.recipe import Radiometry
from pbvs.text import few

_COORDINATE = re.compile(r"^(-?\d{1,2}(?:\.\d+)?)_(-?\d{1,3}(?:\.\d+)?)$")  # folders are named latitude_longitude


@dataclass
class Archive:
    """One archive's images in figures."""

    name: str
    images: dict[str, int]  # by modality
    mosaics: int
    locations: int
    incomplete: dict[str, int]  # modality -> locations without it
    sizes: str
    types: str
    systems: str
    points: list[tuple[str, float, float, bool]]  # name, longitude, latitude, held out


@dataclass
class GroupFigures:
    """What the images of one archive, modality and sample type are, from a few of them."""

    archive: str
    modality: str
    kind: str  # uint16, float32 ...
    images: int
    rule: str
    figures: Brightness
    systems: str
    placed: str  # how many are georeferenced by what


@dataclass
class Inspection:
    """Everything that was found."""

    catalog: Catalog
    intensity: RuleTable
    pairs: Pairs
    archives: list[Archive]
    groups: list[GroupFigures]
    inputs: Table
    modalities: Table
    shifts: dict[str, Shift]
    missing: list[str]
    ground: list[str]  # sentences on locations that overlap
    wrong: list[tuple[str, str]]  # path, reason
    warnings: list[str]

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of pairs by task and split."""
        return count_pairs(self.pairs)


def inspect_data(
    root: Path,
    manifests: Path | None = None,
    *,
    challenge: str | Path | Challenge = DEFAULT,
    rules: Rules | None = None,
    shifts: bool = True,
    jobs: int = 1,
) -> Inspection:
    """Look at everything below `root`; nothing is written but the memory of headers beside the manifests.

    `shifts=False` does not measure the misregistration, which takes the longest: what was measured of the same pairs
    before is returned. Raises as `build_pairs` does.
    """
    cache = FileCache(manifests and manifests / CACHE_NAME, root)
    chosen = load_challenge(challenge)
    catalog = scan(root, cache, jobs, challenge=chosen, strict=False)
    intensity = find_rules(catalog, Radiometry().of(chosen))
    builder = Builder(catalog, rules or Rules(), intensity)
    pairs = builder.collect()
    inputs, modalities = measure(root, pairs, cache, jobs, challenge=chosen)
    found = recorded_shifts(pairs, root, manifests, jobs, challenge=chosen, measure=shifts)
    archives = _archives(catalog, builder.held_out)
    leaks = find_leaks(catalog, cache, jobs)
    said = [f"{len(leaks)} official inputs are among the training images too; scores on them say nothing."]
    figures = measure_groups(catalog, intensity, cache, jobs)
    cache.check_at_rest()
    cache.write()
    return Inspection(
        catalog,
        intensity,
        pairs,
        archives,
        _groups(catalog, intensity, figures),
        inputs,
        modalities,
        shifts={group_name(group): shift for group, shift in found.items()},
        missing=_missing(archives, pairs, catalog),
        ground=describe_ground(builder.neighbours, builder.held_out, builder.between),
        wrong=sorted(set(catalog.unused)) + leaks,
        warnings=half_placed(catalog, pairs) + doubts_of(figures, intensity) + warnings_of(inputs) + said[: len(leaks)],
    )


def find_leaks(catalog: Catalog, cache: FileCache, jobs: int = 1) -> list[tuple[str, str]]:
    """Return the official inputs that are byte for byte a training image; training on those is against the rules.

    Only files of one size and header are read. Raises ReadError naming the first that cannot be.
    """
    alike: dict[tuple[int, Header], list[Entry]] = defaultdict(list)
    for entry in catalog.entries:
        alike[entry.size, entry.header].append(entry)
    asked = [e for group in alike.values() if len({e.info.role == "input" for e in group}) > 1 for e in group]
    found = digests([entry.path for entry in asked], cache, jobs)
    training = {found[entry.path]: entry.path for entry in asked if entry.info.role != "input"}
    inputs = [(entry.path, found[entry.path]) for entry in asked if entry.info.role == "input"]
    return sorted((path, f"byte for byte the training image {training[d]}") for path, d in inputs if d in training)


def _archives(catalog: Catalog, held_out: set[str]) -> list[Archive]:
    by_source: dict[str, list[Entry]] = defaultdict(list)
    for entry in catalog.entries:
        by_source[entry.info.source].append(entry)
    return [_archive(name, members, held_out, catalog.challenge) for name, members in sorted(by_source.items())]


def _archive(name: str, members: list[Entry], held_out: set[str], challenge: Challenge) -> Archive:
    counted = Counter(entry.info.modality for entry in members if entry.info.role != "mosaic")
    sides = [max(entry.header.width, entry.header.height) for entry in members]
    stacks: dict[str, list[Entry]] = defaultdict(list)
    for entry in members:
        if entry.info.location:
            stacks[entry.info.location].append(entry)
    by_location = [task for task in challenge.tasks.values() if task.pairing != "name"]
    wanted = {modality for task in by_location for modality in (*task.sources, task.target)}
    there = Counter(modality for stack in stacks.values() for modality in {entry.info.modality for entry in stack})
    without = {name: len(stacks) - there[name] for name in challenge.modalities if name in wanted}
    return Archive(
        name,
        images={modality: counted[modality] for modality in challenge.modalities},
        mosaics=len(members) - counted.total(),
        locations=len(stacks),
        incomplete={modality: count for modality, count in without.items() if count},
        sizes=" to ".join(map(str, dict.fromkeys((min(sides), max(sides))))),
        types=", ".join(sorted({entry.header.dtype for entry in members})),
        systems=few(sorted({entry.header.crs[:24] or "none" for entry in members}, key=natural_key)),
        points=_points(stacks, held_out),
    )


def _groups(catalog: Catalog, intensity: RuleTable, figures: Mapping[Group, Brightness]) -> list[GroupFigures]:
    members: dict[Group, list[Header]] = defaultdict(list)
    for entry in catalog.entries:
        members[group_of(entry)].append(entry.header)
    return [
        GroupFigures(
            *group,
            images=len(headers),
            rule=intensity[group],
            figures=figures.get(group) or Brightness(np.zeros(BINS)),
            systems=few(sorted({header.crs[:24] for header in headers if header.crs}, key=natural_key)) or "none",
            placed=", ".join(f"{how} {count}" for how, count in Counter(map(_placed, headers)).most_common()),
        )
        for group, headers in sorted(members.items())
    ]


def _placed(header: Header) -> str:
    """Return by what an image is georeferenced, or what it lacks."""
    if header.georeferenced:
        return header.origin
    return f"none ({header.origin})" if header.origin else "none"


def _points(stacks: dict[str, list[Entry]], held_out: set[str]) -> list[tuple[str, float, float, bool]]:
    footprints = Footprints(entry.header for stack in stacks.values() for entry in stack)
    points = []
    for name, stack in sorted(stacks.items(), key=lambda item: natural_key(item[0])):
        known = [entry.header for entry in stack if entry.header.georeferenced]
        point = middle(footprints.corners_of(known[0])) if known else _named(name)
        if point is not None:
            points.append((name, *point, name in held_out))
    return points


def _named(folder: str) -> Point | None:
    match = _COORDINATE.match(folder)
    return (float(match.group(2)), float(match.group(1))) if match else None


def _missing(archives: Sequence[Archive], pairs: Pairs, catalog: Catalog) -> list[str]:
    lines = []
    for task in catalog.challenge.tasks:
        if absent := [split for split in SPLITS if not pairs[task, split]]:
            lines.append(f"{task}: nothing for {', '.join(absent)}.")
        if not any(pair.target for pair in pairs[task, "val"]):
            lines.append(f"{task}: no validation pair has a target, so nothing can be scored.")
    for archive in archives:
        for modality, count in archive.incomplete.items():
            title = catalog.challenge.title_of(modality)
            lines.append(f"{archive.name}: {count} of {archive.locations} locations have no {title}.")
    loose = (e.info.source for e in catalog.entries if e.info.location and not e.header.georeferenced)
    paged = (entry.info.source for entry in catalog.entries if entry.header.extra_pages)
    for name, count in Counter(paged).items():
        lines.append(f"{name}: of {count} images not all pages are read, as they are unlike.")
    for name, count in Counter(loose).items():
        lines.append(f"{name}: {count} images have no georeference; equal footprints are assumed.")
    return lines


KINDS = {  # words of a reason -> all reasons with them, without what differs from file to file
    "cannot be read": "cannot be read",
    "says it is": "too large",
    "it covers": "covers too little of its target",
    "cannot be the footprint": "another footprint",
    "byte for byte": "an official input among the training images",
    "the same name": "the same name as another file",
    "differ": "sizes of a pair differ",
}


def group_reasons(wrong: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Return the unusable files by the kind of reason, most frequent first."""
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for path, reason in wrong:
        groups[next((kind for mark, kind in KINDS.items() if mark in reason), reason)].append((path, reason))
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return [{"kind": kind, "count": len(rows), "rows": rows} for kind, rows in ordered]
