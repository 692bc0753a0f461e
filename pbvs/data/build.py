"""`pbvs build-pairs`: from a data root to manifests that say which image is paired with which, and why."""

from __future__ import annotations

import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pbvs.challenge import CHALLENGES, DEFAULT, SPLITS, Challenge, Task, dump_challenge, load_challenge
from pbvs.data.cache import CACHE_NAME, FileCache, digests
from pbvs.data.catalog import Catalog, Entry, catalog_tables, natural_key, scan
from pbvs.data.geometry import Footprints
from pbvs.data.headers import Header
from pbvs.data.intensity import RuleTable, find_rules, group_of
from pbvs.data.manifest import (
    Further,
    Pair,
    Pairs,
    check_loss,
    is_pair_name,
    join_further,
    manifest_path,
    pair_name,
    pairs_table,
    unique_names,
)
from pbvs.data.pairing import (
    Location,
    Match,
    Partners,
    Refusal,
    Rules,
    check,
    draw,
    group_locations,
    pair_by_name,
    same_footprint,
    serves,
)
from pbvs.data.registration import Group, Shift, correct, group_name, recorded_shifts
from pbvs.data.split import describe_ground, find_ground, find_neighbours, hold_out, hold_out_scenes, scene_of
from pbvs.data.statistics import as_json, doubts_of, measure, measure_groups, warnings_of
from pbvs.errors import PbvsError, UsageError
from pbvs.files import is_unfinished, json_text, unfinished, write_text
from pbvs.logs import track
from pbvs.recipe import Radiometry
from pbvs.run import MANIFESTS, locked, read_metadata
from pbvs.text import table_text

Locations = dict[tuple[str, str], Location]  # by split and name
Candidates = dict[tuple[tuple[str, str], str], list[Match | Refusal]]  # by split and name of a location, and task
ORIGINS = {"train": "archive", "val": "held-out", "test": "official"}
CHALLENGE_FILE = "challenge.toml"  # beside the manifests, where the challenge is a team's own


@dataclass
class Summary:
    """What build-pairs made; also written as summary.json."""

    root: str
    images: int
    unused: int
    junk: int
    pairs: dict[str, dict[str, int]]  # task -> split -> rows
    held_out: list[str]
    warnings: list[str]
    details: dict[str, Any]  # settings, modalities, radiometry, brightness

    def as_json(self) -> dict[str, Any]:
        """Return the summary as a JSON value."""
        return {**{key: value for key, value in vars(self).items() if key != "details"}, **self.details}


def find_root(option: Path | None, manifests: Path = MANIFESTS) -> Path:
    """Return the data root: the option, else $PBVS_DATA, else the one that the manifests were made from.

    Raises UsageError when none is given or the folder is not there.
    """
    root = option or (Path(os.environ["PBVS_DATA"]) if os.environ.get("PBVS_DATA") else None)
    where = "given by --data or PBVS_DATA"
    if root is None and (manifests / "summary.json").is_file():
        root = Path(str(read_metadata(manifests / "summary.json").get("root", "")))
        where = f"named in {manifests / 'summary.json'}"
    if root is None or not str(root):
        raise UsageError("No data folder is given; use --data ROOT or set PBVS_DATA (`pbvs demo-data DIR` makes one).")
    if not root.is_dir():
        hint = "name another with --data, or make one with `pbvs demo-data DIR`"
        raise UsageError(f"The data folder {root}, {where}, does not exist; {hint}.")
    return root


def find_challenge(option: str | Path | None, manifests: Path = MANIFESTS) -> Challenge:
    """Return the challenge: the option, else the one that the manifests were made for, else the default."""
    return load_challenge(option or challenge_of(manifests))


def challenge_of(manifests: Path) -> str:
    """Return the name, or the path of the file, of the challenge that manifests were made for, else the default's."""
    summary = read_metadata(manifests / "summary.json")
    name = str((summary.get("challenge") or {}).get("name", DEFAULT))
    own = manifests / CHALLENGE_FILE
    return name if name in CHALLENGES.names or not own.is_file() else str(own)


def build_pairs(
    root: Path,
    manifests: Path = MANIFESTS,
    *,
    rules: Rules | None = None,
    challenge: str | Path | Challenge = DEFAULT,
    radiometry: Radiometry | None = None,
    crops_per_scene: int | None = None,
    share: float | None = None,
    correct_shift: bool = False,
    jobs: int = 1,
) -> Summary:
    """Scan `root`, pair its images and write `<task>_<split>.csv`, catalog.csv, unused.csv and summary.json.

    `challenge` says which files are what, and how they are paired. `share` of every archive's locations is held out
    for validation, and `crops_per_scene` consecutive ids are one scene: the challenge says how much and how many where
    they are None. With `correct_shift` the misregistration left in an archive's or location's SAR is estimated, and
    corrected where many pairs agree. The same data and settings give the same bytes. Raises UsageError when `root` does
    not exist, PbvsError when nothing in it can be used, or a split with pairs in the manifests has none any more.
    """
    root, manifests = Path(root), Path(manifests)
    chosen = load_challenge(challenge)
    cache = FileCache(manifests / CACHE_NAME, root)
    catalog = scan(root, cache, jobs, challenge=chosen)
    intensity = find_rules(catalog, (radiometry or Radiometry()).of(chosen))
    builder = Builder(catalog, rules or Rules(), intensity, crops_per_scene, share)
    pairs = {key: unique_names(rows) for key, rows in builder.collect().items()}
    if not any(pairs.values()):
        raise _unpaired(catalog, manifests)
    check_loss(pairs, manifests, root)
    found = digests(dict.fromkeys(path for rows in pairs.values() for pair in rows for path in pair.paths), cache, jobs)
    pairs = {key: [pair.with_digests(found) for pair in rows] for key, rows in pairs.items()}
    shifts: dict[Group, Shift] = {}
    if correct_shift:
        shifts = recorded_shifts(pairs, root, manifests, jobs, challenge=chosen)
        pairs = {key: correct(rows, shifts, challenge=chosen) for key, rows in pairs.items()}
    inputs, modalities = measure(root, pairs, cache, jobs, challenge=chosen)
    summary = _summary(builder, pairs)
    groups = measure_groups(catalog, intensity, cache, jobs)
    doubts = half_placed(catalog, pairs) + doubts_of(groups, intensity) + warnings_of(inputs)
    summary.warnings += doubts
    summary.details["doubts"] = doubts
    summary.details["groups"] = {" ".join(group): figures.as_json() for group, figures in groups.items()}
    summary.details["brightness"] = {"inputs": as_json(inputs.items()), "modalities": as_json(modalities.items())}
    summary.details["misregistration"] = {group_name(group): shift.as_json() for group, shift in shifts.items()}
    cache.check_at_rest()
    cache.write()
    tables = {manifest_path(manifests, *key): pairs_table(rows) for key, rows in pairs.items()}
    texts = {path: table_text(table) for path, table in {**tables, **catalog_tables(manifests, catalog)}.items()}
    if chosen.name not in CHALLENGES.names:
        texts[manifests / CHALLENGE_FILE] = dump_challenge(chosen)
    with locked(manifests):
        _write(manifests, {**texts, manifests / "summary.json": json_text(summary.as_json())})
    return summary


def _write(folder: Path, texts: dict[Path, str]) -> None:
    """Write the files that are not there already with these texts."""
    there = {file: file.read_bytes() for file in texts if file.is_file()}
    changed = {file: text for file, text in texts.items() if there.get(file) != text.encode()}
    if changed or is_unfinished(folder):
        with unfinished(folder):  # half old, half new, they would mix training and validation
            for file, text in changed.items():
                write_text(file, text)


@dataclass
class Builder:
    """A catalogue on its way to pairs; what is not paired is added to the catalogue's unused."""

    catalog: Catalog
    rules: Rules
    intensity: RuleTable
    crops_per_scene: int | None = None  # None: as the challenge says
    share: float | None = None
    held_out: set[str] = field(default_factory=set)
    between: set[str] = field(default_factory=set)  # locations on neither side of the split
    neighbours: dict[str, set[str]] = field(default_factory=dict)  # locations that show some of the same ground
    ground: dict[str, str] = field(default_factory=dict)  # of each location
    refused: list[Refusal] = field(default_factory=list)
    pairs: Pairs = field(default_factory=dict)

    def __post_init__(self) -> None:
        hold_out = self.challenge.hold_out
        self.block = self.crops_per_scene or hold_out.block
        self.share = hold_out.share if self.share is None else self.share
        self.pairs = {(task, split): [] for task in self.challenge.tasks for split in SPLITS}
        self.footprints = Footprints(entry.header for entry in self.catalog.entries)
        self.partners = {
            name: Partners(self.catalog.entries, task, self.challenge)
            for name, task in self.challenge.tasks.items()
            if task.further
        }

    @property
    def challenge(self) -> Challenge:
        """Whose tasks the pairs are for."""
        return self.catalog.challenge

    def collect(self) -> Pairs:
        """Return the pairs of every task and split."""
        tasks = self.challenge.tasks.values()
        self._stacks([task for task in tasks if task.pairing != "name"])
        for task in (task for task in tasks if task.pairing == "name"):
            self._by_name(task)
        self._inputs()
        self._list_loose()
        return self.pairs

    def _stack(self, source: Entry, task: Task) -> list[tuple[Entry, str]] | Refusal:
        """Return what is stacked behind a source with how it is aligned, or why something is missing."""
        if not task.further:
            return []
        if source.too_large:
            return Refusal(source, source.too_large)
        images = self.partners[task.name].of(source)
        if isinstance(images, str):
            return Refusal(source, images)
        stacked = []
        for image in images:
            fit = same_footprint(image, source) if task.pairing == "name" else self._check(image, source)
            if isinstance(fit, Refusal):
                return Refusal(source, f"{image.path} cannot be stacked with it: {fit.reason}")
            stacked.append((image, fit.alignment))
        return stacked

    def _check(self, source: Entry, target: Entry) -> Match | Refusal:
        return check(source, target, self.rules.min_overlap, self.footprints)

    def _whole(self, match: Match | Refusal, task: Task) -> Match | Refusal:
        """Return a match with its further sources, or why one is missing."""
        if isinstance(match, Refusal) or not task.further:
            return match
        stacked = self._stack(match.source, task)
        return stacked if isinstance(stacked, Refusal) else match._replace(further=tuple(stacked))

    def _list_loose(self) -> None:
        """List the images of further sources that are in no pair and have no reason yet."""
        used = {path for rows in self.pairs.values() for pair in rows for path in pair.paths}
        used |= {path for path, _ in self.catalog.unused}
        for entry in self.catalog.entries if self.partners else ():
            if entry.path not in used and self._is_further(entry):
                self.catalog.leave_out(entry.path, "no image that it would be stacked with is in a pair")

    def _is_further(self, entry: Entry) -> bool:
        tasks = (self.challenge.tasks[name] for name in self.partners)
        return any(entry.info.modality in task.further and serves(entry, task, inputs=True) for task in tasks)

    def _stacks(self, tasks: Sequence[Task]) -> None:
        """Pair the images of locations: those of one base, or a sample of all that could be."""
        locations, duplicates = group_locations(self.catalog.entries, tasks, self.footprints)
        self.catalog.unused += duplicates
        candidates = self._candidates(locations, tasks)
        given = {task for (split, _), task in candidates if split == "val"}  # their validation is not ours to choose
        held = self._hold_out(locations, candidates, given)
        used: set[str] = set()
        for ((split, name), task), checked in candidates.items():
            ours = split == "train" and task not in given
            if not (ours and name in self.between):
                matches = self._add(name, task, "val" if ours and name in held else split, checked)
                used |= {entry.path for match in matches for entry in match.entries}
        self._list_unused(locations, tasks, candidates, used)

    def _candidates(self, locations: Locations, tasks: Sequence[Task]) -> Candidates:
        found: Candidates = {}
        for key, location in track(locations.items(), "pairing", len(locations), unit="location"):
            for task in tasks:
                checked = [self._whole(self._check(*pair), task) for pair in location.candidates(task, self.rules)]
                if any(isinstance(item, Match) for item in checked):
                    found[key, task.name] = checked
                else:
                    self.refused += [item for item in checked if isinstance(item, Refusal)]
        return found

    def _hold_out(self, locations: Locations, candidates: Candidates, given: set[str]) -> set[str]:
        """Return the locations of the validation split, chosen by the ground that their targets show."""
        targets: dict[str, set[Header]] = defaultdict(set)
        for ((_, name), _), checked in candidates.items():
            targets[name] |= {item.target.header for item in checked if isinstance(item, Match)}
        self.neighbours = find_neighbours(targets, self.footprints)
        _tie_namesakes(locations.values(), targets, self.neighbours)
        self.ground = find_ground(self.neighbours)
        usable = {key for key, task in candidates if key[0] == "train" and task not in given}
        sources = ((location.source, key[1]) for key, location in locations.items() if key in usable)
        held, self.between = hold_out(sources, self.share or 0.0, self.rules.seed, self.neighbours)
        self.held_out |= held
        return held

    def _add(self, name: str, task: str, split: str, checked: Sequence[Match | Refusal]) -> list[Match]:
        """Add a location's pairs: in training every candidate or those drawn, elsewhere those drawn."""
        every = split == "train" and self.rules.sampling == "random" and self.rules.draw == "each-epoch"
        matches = (
            [item for item in checked if isinstance(item, Match)] if every else draw(checked, name, task, self.rules)
        )
        limit = str(self.rules.limit or "") if every else ""
        self.pairs[task, split] += [self.pair(match, task, split, name, limit) for match in matches]
        return matches

    def _list_unused(self, locations: Locations, tasks: Sequence[Task], candidates: Candidates, used: set[str]) -> None:
        """List the images of locations that are in no pair; in val and test those of sources alone are inputs."""
        reasons = {item.source.path: item.reason for item in reversed(self.refused)}
        possible: dict[str, str] = {}
        for ((_, name), _), checked in candidates.items():
            reasons |= {item.source.path: item.reason for item in checked if isinstance(item, Refusal)}
            possible |= {entry.path: name for item in checked if isinstance(item, Match) for entry in item.entries}
        listed = used | {path for path, _ in self.catalog.unused}
        for (split, _), location in locations.items():
            for entry in location:
                if entry.path in listed:
                    continue
                served = [task for task in tasks if task.source == entry.info.modality and serves(entry, task)]
                if entry.path in possible:
                    self.catalog.leave_out(entry.path, self._undrawn(possible[entry.path]))
                elif entry.path in reasons:
                    self.catalog.leave_out(entry.path, reasons[entry.path])
                elif split != "train" and served:
                    for task in served:
                        self._add_input(entry, task, split)
                elif not self._is_further(entry):
                    self.catalog.leave_out(entry.path, self._alone(location, entry))

    def _undrawn(self, name: str) -> str:
        """Return why a match of a location is in no manifest."""
        if name not in self.between:
            return "it was not drawn into a pair"
        held = min(self.neighbours[name] & self.held_out, key=natural_key)
        return f"its ground is that of {held}, which is held out, and of other locations, which are not"

    def _alone(self, location: Location, entry: Entry) -> str:
        info = entry.info
        if location.mosaics.get(info.modality) and info.role != "mosaic":
            sources = (task.source for task in self.challenge.tasks.values() if task.target == info.modality)
            title = next(map(self.challenge.title_of, sources), "")
            return f"the location's mosaic is the {title}'s target in its place, and no other image has its base"
        return "nothing in its location can be paired with it"

    def _by_name(self, task: Task) -> None:
        matches: dict[str, list[Match]] = {split: [] for split in SPLITS}
        inputs: list[tuple[Entry, str]] = []
        for split, found in pair_by_name(self.catalog.entries, task, self.challenge):
            if isinstance(found, Entry):
                inputs.append((found, split))
            elif isinstance(found := self._whole(found, task), Refusal):
                self.catalog.leave_out(found.source.path, found.reason)
            else:
                matches[split].append(found)
        held = set() if matches["val"] else self._held_by_name(matches["train"])
        self.held_out |= held
        for split, members in matches.items():
            for match in members:
                name = self._ground(match)
                where = "val" if split == "train" and name in held else split
                self.pairs[task.name, where].append(self.pair(match, task.name, where, name))
        for entry, split in inputs:
            self._add_input(entry, task, split)

    def _held_by_name(self, matches: Sequence[Match]) -> set[str]:
        """Return the locations, and the scenes of images without one, that are held out."""
        locations = ((match.source.info.source, match.source.info.location) for match in matches)
        scenes = (self._ground(match) for match in matches if not match.source.info.location)
        share, seed = self.share or 0.0, self.rules.seed
        held = hold_out(sorted({location for location in locations if location[1]}), share, seed).names
        return held | hold_out_scenes(scenes, share, seed)

    def _ground(self, match: Match) -> str:
        return match.source.info.location or scene_of(match.source.id, self.block)

    def _inputs(self) -> None:
        seen: dict[tuple[str, str, str], str] = {}
        for entry in self.catalog.entries:
            info = entry.info
            if info.role != "input" or info.modality in self.challenge.tasks[info.task].further:
                continue
            key = (info.task, info.split, entry.input_name.lower())
            if key in seen:
                self.catalog.leave_out(entry.path, f"the same name as {seen[key]}, which is used")
            elif self._add_input(entry, self.challenge.tasks[info.task], info.split):
                seen[key] = entry.path

    def _add_input(self, entry: Entry, task: Task, split: str) -> bool:
        """Add an input whose target is not known, and return whether all its sources are there."""
        reason = entry.too_large or ("" if is_pair_name(entry.input_name) else "no prediction can have that name")
        stacked = Refusal(entry, reason) if reason else self._stack(entry, task)
        if isinstance(stacked, Refusal):
            self.catalog.leave_out(entry.path, stacked.reason)
            return False
        self.pairs[task.name, split].append(self.input(entry, task.name, split, stacked))
        return True

    def pair(self, match: Match, task: str, split: str, location: str, limit: str = "") -> Pair:
        """Return the manifest's row of a match."""
        source, target, alignment, overlap, further = match
        return replace(
            self.input(source, task, split, further),
            name=pair_name(location, source.id, target.id),
            location=location,
            target=target.path,
            target_date=target.info.date,
            origin=ORIGINS[split],
            alignment=alignment,
            overlap=f"{overlap:.4f}",
            target_rule=self.intensity[group_of(target)],
            ground=self.ground.get(location, location),
            limit=limit,
        )

    def input(self, entry: Entry, task: str, split: str, stacked: Iterable[tuple[Entry, str]]) -> Pair:
        """Return the manifest's row of an input whose target is not known."""
        return Pair(
            entry.input_name,
            task,
            split,
            entry.info.location,
            entry.path,
            source_date=entry.info.date,
            origin="official",
            alignment="none",
            source_rule=self.intensity[group_of(entry)],
            further=join_further(Further(each.path, self.intensity[group_of(each)], how) for each, how in stacked),
        )


def _tie_namesakes(
    locations: Iterable[Location], targets: dict[str, set[Header]], neighbours: dict[str, set[str]]
) -> None:
    """Make neighbours of locations of one folder name that may show the same ground, as one has no georeference."""
    by_folder: dict[str, list[str]] = defaultdict(list)
    for location in locations:
        if location.name in targets:
            by_folder[location.folder].append(location.name)
    for names in by_folder.values():
        for one, other in itertools.permutations(names, 2):
            if not all(any(header.georeferenced for header in targets[name]) for name in (one, other)):
                neighbours[one].add(other)


def _unpaired(catalog: Catalog, manifests: Path) -> PbvsError:
    """Write unused.csv and return the error that names it and its first reasons."""
    path = manifests / "unused.csv"
    with locked(manifests):
        write_text(path, table_text(catalog_tables(manifests, catalog)[path]))
    return PbvsError(
        f"{catalog.root} has {len(catalog.entries)} images, but none of them can be paired; "
        f"{path} says why: {catalog.first_reasons}"
    )


def half_placed(catalog: Catalog, pairs: Pairs) -> list[str]:
    """Return a sentence for each archive with pairs of which one image alone says where on Earth it is."""
    headers = {entry.path: (entry.header, entry.info.source) for entry in catalog.entries}
    found: dict[str, list[str]] = defaultdict(list)
    for pair in (pair for rows in pairs.values() for pair in rows if pair.target and pair.alignment == "footprint"):
        (source, archive), (target, _) = headers[pair.source], headers[pair.target]
        if source.georeferenced != target.georeferenced:
            path, header = (pair.target, target) if source.georeferenced else (pair.source, source)
            found[archive].append(f"{path} ({header.origin})" if header.origin else path)
    return [
        f"{archive}: {len(paths)} pairs have a georeference in one image alone, so that equal footprints are assumed; "
        f"the first without one is {paths[0]}."
        for archive, paths in sorted(found.items())
    ]


def _summary(builder: Builder, pairs: Pairs) -> Summary:
    catalog, challenge = builder.catalog, builder.challenge
    ground = describe_ground(builder.neighbours, builder.held_out, builder.between) if builder.between else []
    choices = {"crops_per_scene": builder.block, "validation_share": builder.share}
    return Summary(
        root=str(catalog.root.resolve()),
        images=len(catalog.entries),
        unused=len(set(catalog.unused)),
        junk=catalog.junk,
        pairs=count_pairs(pairs),
        held_out=sorted(builder.held_out, key=natural_key),
        warnings=[f"{task} has no {split} images." for (task, split), rows in pairs.items() if not rows] + ground,
        details={
            "challenge": {"name": challenge.name, "digest": challenge.data_digest()},
            "settings": {**vars(builder.rules), **choices},
            "modalities": _count(f"{entry.info.modality} {entry.header.dtype}" for entry in catalog.entries),
            "archives": _count(entry.info.source for entry in catalog.entries),
            "alignments": _count(pair.alignment for rows in pairs.values() for pair in rows),
            "radiometry": {" ".join(group): rule for group, rule in sorted(builder.intensity.items())},
        },
    )


def count_pairs(pairs: Pairs) -> dict[str, dict[str, int]]:
    """Return the number of pairs by task and split."""
    return {
        task: {split: len(pairs[task, split]) for split in SPLITS} for task in dict.fromkeys(key[0] for key in pairs)
    }


def _count(items: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(items).items()))
