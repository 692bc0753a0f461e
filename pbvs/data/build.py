"""`pbvs build-pairs`: from a data root to manifests that say which image is paired with which, and why."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pbvs.challenge import SPLITS, TASKS
from pbvs.data.cache import CACHE_NAME, FileCache
from pbvs.data.catalog import Catalog, Entry, catalog_tables, scan
from pbvs.data.geometry import Footprints
from pbvs.data.intensity import RuleBook, find_rules
from pbvs.data.layout import natural_key
from pbvs.data.manifest import Pair, manifest_path, pair_name, pairs_table, unique_names
from pbvs.data.pairing import Location, Match, Rules, group_locations, pair_by_name, sample
from pbvs.data.registration import Group, Shift, correct, find_shifts, group_name
from pbvs.data.split import SHARE, hold_out, hold_out_scenes, scene_of
from pbvs.data.statistics import as_json, measure, warnings_of
from pbvs.errors import PbvsError, UsageError
from pbvs.files import is_unfinished, json_text, read_json, unfinished, write_json, write_text
from pbvs.locks import locked
from pbvs.logs import track
from pbvs.recipe import Radiometry
from pbvs.run import MANIFESTS
from pbvs.tables import table_text

Pairs = dict[tuple[str, str], list[Pair]]  # by task and split


@dataclass
class Summary:
    """What build-pairs made; also written as summary.json."""

    root: str
    images: int
    unused: int
    junk: int
    pairs: dict[str, dict[str, int]] = field(default_factory=dict)  # task -> split -> rows
    held_out: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)  # settings, modalities, radiometry, brightness

    def as_json(self) -> dict[str, Any]:
        """Return the summary as a JSON value."""
        return {**{key: value for key, value in vars(self).items() if key != "facts"}, **self.facts}


def find_root(option: Path | None, manifests: Path = MANIFESTS) -> Path:
    """Return the data root: the option, else $PBVS_DATA, else the one that the manifests were made from.

    Raises UsageError when none is given or the folder is not there.
    """
    root = option or (Path(os.environ["PBVS_DATA"]) if os.environ.get("PBVS_DATA") else None)
    where = "given by --data or PBVS_DATA"
    if root is None and (manifests / "summary.json").is_file():
        root = Path(str(read_json(manifests / "summary.json").get("root", "")))
        where = f"named in {manifests / 'summary.json'}"
    if root is None or not str(root):
        raise UsageError("No data folder is given; use --data ROOT or set PBVS_DATA (`pbvs demo-data DIR` makes one).")
    if not root.is_dir():
        raise UsageError(f"The data folder {root}, {where}, does not exist.")
    return root


def build_pairs(
    root: Path,
    manifests: Path = MANIFESTS,
    *,
    rules: Rules | None = None,
    radiometry: Radiometry | None = None,
    crops_per_scene: int = 4,
    share: float = SHARE,
    correct_shift: bool = False,
    jobs: int = 1,
    backend: str = "loky",
) -> Summary:
    """Scan `root`, pair its images and write `<task>_<split>.csv`, catalog.csv, unused.csv and summary.json.

    `share` of every archive's locations is held out for validation. With `correct_shift` the misregistration left
    in an archive's or location's SAR is estimated, and corrected where many pairs agree. The same data and settings
    give the same bytes.
    Raises UsageError when `root` does not exist, PbvsError when nothing in it can be used.
    """
    rules = rules or Rules()
    root, manifests = Path(root), Path(manifests)
    return _build(
        root, manifests, rules, radiometry or Radiometry(), crops_per_scene, share, correct_shift, jobs, backend
    )


def _build(
    root: Path,
    manifests: Path,
    rules: Rules,
    radiometry: Radiometry,
    crops_per_scene: int,
    share: float,
    correct_shift: bool,
    jobs: int,
    backend: str,
) -> Summary:
    cache = FileCache(manifests / CACHE_NAME, root)
    catalog = scan(root, cache, jobs, backend)
    builder = Builder(catalog, rules, find_rules(catalog, radiometry), crops_per_scene, share)
    pairs = {key: unique_names(rows) for key, rows in builder.collect().items()}
    if not any(pairs.values()):
        raise PbvsError(f"{root} has {len(catalog.entries)} images, but none of them can be paired; see unused.csv.")
    shifts = _correct_shifts(pairs, root, jobs, backend) if correct_shift else {}
    inputs, modalities = measure(root, pairs, cache, jobs, backend)
    summary = _summary(builder, pairs)
    summary.warnings += warnings_of(inputs)
    summary.facts["brightness"] = {"inputs": as_json(inputs.items()), "modalities": as_json(modalities.items())}
    summary.facts["misregistration"] = {group_name(group): shift.as_json() for group, shift in shifts.items()}
    tables = {manifest_path(manifests, *key): pairs_table(rows) for key, rows in pairs.items()}
    texts = {path: table_text(table) for path, table in {**tables, **catalog_tables(manifests, catalog)}.items()}
    with locked(manifests):
        _write(texts, manifests / "summary.json", summary)
    return summary


def _write(texts: dict[Path, str], path: Path, summary: Summary) -> None:
    """Write the tables that are not there already, and the summary at `path`, when anything has changed."""
    changed = {file: text for file, text in texts.items() if not _holds(file, text)}
    if not changed and not is_unfinished(path.parent) and _holds(path, json_text(summary.as_json())):
        return
    with unfinished(path.parent):  # half old, half new, they would mix training and validation
        for file, text in changed.items():
            write_text(file, text)
        write_json(path, summary.as_json())


def _holds(file: Path, text: str) -> bool:
    try:
        return file.read_bytes() == text.encode()
    except OSError:
        return False


def _correct_shifts(pairs: Pairs, root: Path, jobs: int, backend: str) -> dict[Group, Shift]:
    """Estimate what misregistration is left and write the trusted shifts into the pairs; return all that was found."""
    shifts = find_shifts([pair for rows in pairs.values() for pair in rows], root, jobs, backend)
    for key, rows in pairs.items():
        pairs[key] = correct(rows, shifts)
    return shifts


@dataclass
class Builder:
    """A catalogue on its way to pairs; what is not paired is added to the catalogue's unused."""

    catalog: Catalog
    rules: Rules
    book: RuleBook
    crops_per_scene: int = 4
    share: float = SHARE
    held_out: set[str] = field(default_factory=set)
    pairs: Pairs = field(default_factory=lambda: {(task, split): [] for task in TASKS for split in SPLITS})

    def collect(self) -> Pairs:
        """Return the pairs of every task and split."""
        self._stacks()
        self._chips()
        self._inputs()
        return self.pairs

    def _stacks(self) -> None:
        locations, twins = group_locations(self.catalog.entries)
        self.catalog.unused += twins
        matches = self._sampled(locations)
        usable = {name for name, _ in matches}
        sources = ((location.source, name) for name, location in locations.items() if name in usable)
        self.held_out |= hold_out(sources, self.share, self.rules.seed)
        for (name, task), rows in matches.items():
            split, origin = ("val", "held-out") if name in self.held_out else ("train", "archive")
            self.pairs[task, split] += [self.pair(match, task, split, name, origin) for match in rows]
        self._list_alone(locations, matches)

    def _sampled(self, locations: dict[str, Location]) -> dict[tuple[str, str], list[Match]]:
        footprints = Footprints(entry.header for entry in self.catalog.entries)
        matches = {}
        for location in track(locations.values(), "pairing", unit="location"):
            for task in ("sar2rgb", "sar2ir", "rgb2ir"):
                rows = sample(location, task, self.rules, footprints, self.catalog.unused)
                if rows:
                    matches[location.name, task] = rows
        return matches

    def _list_alone(self, locations: dict[str, Location], matches: dict[tuple[str, str], list[Match]]) -> None:
        used = {entry.path for rows in matches.values() for match in rows for entry in (match.source, match.target)}
        used |= {path for path, _ in self.catalog.unused}
        for location in locations.values():
            left = [entry for entry in location if entry.path not in used]
            possible = self._possible(location) if left else set()
            for entry in left:
                reason = "it was not drawn into a pair" if entry.path in possible else _alone(location, entry)
                self.catalog.leave_out(entry.path, reason)

    def _possible(self, location: Location) -> set[str]:
        tasks = ("sar2rgb", "sar2ir", "rgb2ir")
        return {
            entry.path for task in tasks for pair in location.candidates(task, self.rules.mosaics) for entry in pair
        }

    def _chips(self) -> None:
        matches, alone, unused = pair_by_name(self.catalog.entries)
        self.catalog.unused += unused
        held: set[str] = set()
        scenes = {key: [scene_of(match.source.stem, self.crops_per_scene) for match in matches[key]] for key in matches}
        if not matches["val"]:
            held = hold_out_scenes(scenes["train"], self.share, self.rules.seed)
            self.held_out |= held
        for folder, rows in matches.items():
            for match, scene in zip(rows, scenes[folder], strict=True):
                split, origin = ("val", "held-out") if folder == "val" or scene in held else ("train", "archive")
                self.pairs["sar2eo", split].append(self.pair(match, "sar2eo", split, scene, origin))
        for entry in alone["train"]:
            self.catalog.leave_out(entry.path, "there is no EO chip of that name")
        self.pairs["sar2eo", "val"] += [self.input(entry, "sar2eo", "val") for entry in alone["val"]]

    def _inputs(self) -> None:
        seen: dict[tuple[str, str, str], str] = {}
        for entry in self.catalog.entries:
            place = entry.info
            if place.role != "input":
                continue
            key = (place.task, place.split, entry.stem.lower())
            if key in seen:
                self.catalog.leave_out(entry.path, f"the same name as {seen[key]}, which is used")
            else:
                seen[key] = entry.path
                self.pairs[place.task, place.split].append(self.input(entry, place.task, place.split))

    def pair(self, match: Match, task: str, split: str, location: str, origin: str) -> Pair:
        """Return the manifest's row of a match."""
        source, target, alignment, overlap = match
        return Pair(
            name=pair_name(location, source.stem, target.stem),
            task=task,
            split=split,
            location=location,
            source=source.path,
            target=target.path,
            source_date=source.info.date,
            target_date=target.info.date,
            origin=origin,
            alignment=alignment,
            overlap=f"{overlap:.4f}",
            source_rule=self.book.rule(source),
            target_rule=self.book.rule(target),
        )

    def input(self, entry: Entry, task: str, split: str) -> Pair:
        """Return the manifest's row of an input whose target is not known; its name is the file's stem."""
        return Pair(
            name=entry.stem,
            task=task,
            split=split,
            location=entry.info.location,
            source=entry.path,
            source_date=entry.info.date,
            origin="official",
            alignment="none",
            source_rule=self.book.rule(entry),
        )


def _alone(location: Location, entry: Entry) -> str:
    if location.mosaics.get(entry.info.modality) and entry.info.role != "mosaic":
        return "the location's mosaic is the SAR's target in its place, and no other image has its base"
    return "nothing in its location can be paired with it"


def _summary(builder: Builder, pairs: Pairs) -> Summary:
    catalog = builder.catalog
    summary = Summary(str(catalog.root.resolve()), len(catalog.entries), len(set(catalog.unused)), catalog.junk)
    summary.held_out = sorted(builder.held_out, key=natural_key)
    summary.pairs = {task: {split: len(pairs[task, split]) for split in SPLITS} for task in TASKS}
    summary.warnings = [
        f"{task} has no {split} images." for task in TASKS for split in SPLITS if not pairs[task, split]
    ]
    choices = {"crops_per_scene": builder.crops_per_scene, "validation_share": builder.share}
    summary.facts = {
        "settings": {**vars(builder.rules), **choices},
        "modalities": _count(f"{entry.info.modality} {entry.header.dtype}" for entry in catalog.entries),
        "archives": _count(entry.info.source for entry in catalog.entries),
        "alignments": _count(pair.alignment for rows in pairs.values() for pair in rows),
        "radiometry": builder.book.as_json(),
    }
    return summary


def _count(items: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(items).items()))
