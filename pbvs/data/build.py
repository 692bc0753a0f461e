"""`pbvs build-pairs`: from a data root to manifests that say which picture is paired with which, and why."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from pbvs.data.catalog import Catalog, Entry, scan, write_catalog
from pbvs.data.holdout import SHARE, hold_out, hold_out_scenes, scene_of
from pbvs.data.layout import natural_key
from pbvs.data.manifest import Pair, manifest_path, write_manifest
from pbvs.data.pairing import Location, Match, Rules, group_locations, pair_by_name, sample
from pbvs.data.rules import RuleBook, find_rules
from pbvs.data.settings import Radiometry
from pbvs.errors import PbvsError, UsageError
from pbvs.files import read_json, write_json
from pbvs.progress import track
from pbvs.runs import MANIFESTS
from pbvs.tasks import SPLITS, TASKS

SAFE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
LONGEST = 150


@dataclass
class Summary:
    """What build-pairs made; also written as summary.json."""

    root: str
    pictures: int
    unused: int
    litter: int
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
) -> Summary:
    """Scan `root`, pair its pictures and write `<task>_<split>.csv`, catalog.csv, unused.csv and summary.json.

    `share` of every archive's locations is held out for validation. The same data and settings give the same bytes.
    Raises UsageError when `root` does not exist, PbvsError when nothing in it can be used.
    """
    rules = rules or Rules()
    root, manifests = Path(root), Path(manifests)
    catalog = scan(root)
    pairs, held = collect(catalog, rules, crops_per_scene, share)
    book = find_rules(catalog, radiometry or Radiometry())
    pairs = {key: unique_names(book.apply(rows)) for key, rows in pairs.items()}
    if not any(pairs.values()):
        raise PbvsError(f"{root} has {len(catalog.entries)} pictures, but none of them can be paired; see unused.csv.")
    summary = _summary(catalog, pairs, sorted(held, key=natural_key), book)
    summary.facts["settings"] = {**vars(rules), "crops_per_scene": crops_per_scene, "validation_share": share}
    for (task, split), rows in pairs.items():
        write_manifest(manifest_path(manifests, task, split), rows)
    write_catalog(manifests, catalog)
    write_json(manifests / "summary.json", summary.as_json())
    return summary


Key = tuple[str, str]


def collect(
    catalog: Catalog, rules: Rules, crops_per_scene: int, share: float
) -> tuple[dict[Key, list[Pair]], set[str]]:
    """Return the pairs of every (task, split), and the locations held out; add to the catalogue's unused."""
    pairs: dict[Key, list[Pair]] = {(task, split): [] for task in TASKS for split in SPLITS}
    held = _collect_locations(catalog, rules, share, pairs)
    held |= _collect_chips(catalog, crops_per_scene, share, rules.seed, pairs)
    _collect_inputs(catalog, pairs)
    return pairs, held


def _collect_locations(catalog: Catalog, rules: Rules, share: float, pairs: dict[Key, list[Pair]]) -> set[str]:
    locations, twins = group_locations(catalog.entries)
    catalog.unused += twins
    matches: dict[tuple[str, str], list[Match]] = {}
    for location in track(locations.values(), "pairing", unit="location"):
        found = {task: sample(location, task, rules, catalog.unused) for task in TASKS if task != "sar2eo"}
        matches.update({(location.name, task): rows for task, rows in found.items() if rows})
    usable = {name for name, _ in matches}
    held = hold_out(
        ((location.source, name) for name, location in locations.items() if name in usable), share, rules.seed
    )
    for (name, task), rows in matches.items():
        split, origin = ("val", "held-out") if name in held else ("train", "archive")
        pairs[task, split] += [make_pair(match, task, split, name, origin) for match in rows]
    _list_alone(
        catalog, locations, {entry.path for rows in matches.values() for m in rows for entry in (m.source, m.target)}
    )
    return held


def _list_alone(catalog: Catalog, locations: dict[str, Location], used: set[str]) -> None:
    listed = {path for path, _ in catalog.unused}
    for location in locations.values():
        for group in (location.images, location.mosaics):
            for entries in group.values():
                for entry in entries:
                    if entry.path not in used and entry.path not in listed:
                        catalog.leave_out(entry.path, "no pair that was sampled has it")


def _collect_chips(
    catalog: Catalog, crops_per_scene: int, share: float, seed: int, pairs: dict[Key, list[Pair]]
) -> set[str]:
    matches, alone, unused = pair_by_name(catalog.entries)
    catalog.unused += unused
    held: set[str] = set()
    if not matches["val"]:
        held = hold_out_scenes((match.source.stem for match in matches["train"]), crops_per_scene, share, seed)
    for split, rows in matches.items():
        for match in rows:
            scene = scene_of(match.source.stem, crops_per_scene)
            to_val = split == "val" or scene in held
            origin = "held-out" if to_val else "archive"
            pairs["sar2eo", "val" if to_val else "train"].append(
                make_pair(match, "sar2eo", "val" if to_val else "train", scene, origin)
            )
    for entry in alone["train"]:
        catalog.leave_out(entry.path, "there is no EO chip of that name")
    pairs["sar2eo", "val"] += [input_pair(entry, "sar2eo", "val") for entry in alone["val"]]
    return held


def _collect_inputs(catalog: Catalog, pairs: dict[Key, list[Pair]]) -> None:
    seen: dict[tuple[str, str, str], str] = {}
    for entry in catalog.entries:
        place = entry.place
        if place.role != "input":
            continue
        key = (place.task, place.split, entry.stem.lower())
        if key in seen:
            catalog.leave_out(entry.path, f"the same name as {seen[key]}, which is used")
        else:
            seen[key] = entry.path
            pairs[place.task, place.split].append(input_pair(entry, place.task, place.split))


def make_pair(match: Match, task: str, split: str, location: str, origin: str) -> Pair:
    """Return the manifest's row of a match."""
    source, target = match.source, match.target
    stems = [source.stem] if source.stem == target.stem else [source.stem, target.stem]
    return Pair(
        name="_".join([location, *stems]),
        task=task,
        split=split,
        location=location,
        source=source.path,
        target=target.path,
        source_date=source.place.date,
        target_date=target.place.date,
        origin=origin,
        alignment=match.alignment,
        overlap=f"{match.overlap:.4f}",
    )


def input_pair(entry: Entry, task: str, split: str) -> Pair:
    """Return the manifest's row of an input whose target is not known; its name is the file's stem."""
    return Pair(
        name=entry.stem, task=task, split=split, location=entry.place.location, source=entry.path,
        source_date=entry.place.date, origin="official", alignment="none",
    )  # fmt: skip


def unique_names(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs with names that are safe as file names and differ in more than case.

    An official input keeps its stem; a name that had to be changed ends in a digest of its pictures' paths.
    """
    taken = {pair.name.lower() for pair in pairs if pair.origin == "official"}
    result = []
    for pair in pairs:
        if pair.origin != "official":
            name = "".join(letter if letter in SAFE else "-" for letter in pair.name).lstrip(".-") or "pair"
            if name != pair.name or len(name) > LONGEST or name.lower() in taken:
                mark = sha256(f"{pair.source}\n{pair.target}".encode()).hexdigest()[:10]
                name = f"{name[: LONGEST - 11]}_{mark}"
            taken.add(name.lower())
            pair = replace(pair, name=name)
        result.append(pair)
    return result


def _summary(catalog: Catalog, pairs: dict[Key, list[Pair]], held: list[str], book: RuleBook) -> Summary:
    summary = Summary(str(catalog.root.resolve()), len(catalog.entries), len(set(catalog.unused)), catalog.litter)
    summary.held_out = held
    summary.pairs = {task: {split: len(pairs[task, split]) for split in SPLITS} for task in TASKS}
    summary.facts["modalities"] = _count(f"{e.place.modality} {e.header.dtype}" for e in catalog.entries)
    summary.facts["archives"] = _count(entry.place.source for entry in catalog.entries)
    summary.facts["alignments"] = _count(pair.alignment for rows in pairs.values() for pair in rows)
    summary.facts["radiometry"] = book.as_json()
    for task in TASKS:
        for split in SPLITS:
            if not pairs[task, split]:
                summary.warnings.append(f"{task} has no {split} pictures.")
    return summary


def _count(items: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(items).items()))
