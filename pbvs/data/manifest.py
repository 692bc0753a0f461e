"""The contract between pairing and everything after it: a CSV file with one row per pair."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from hashlib import sha256
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from pbvs.data.cache import CACHE_NAME, FileCache, digests, stamp_of
from pbvs.errors import PbvsError, ReadError, WriteError, damage_ignored
from pbvs.files import disk_errors, inside, is_unfinished
from pbvs.files import sha256 as digest_of_file
from pbvs.recipe import RULE_PATTERN
from pbvs.text import read_table, table_of

if TYPE_CHECKING:
    from pandas import DataFrame

AGAIN = "make it again with `pbvs build-pairs`"


class Further(NamedTuple):
    """An image that is stacked behind a pair's source."""

    path: str
    rule: str  # intensity rule that makes [0, 1] of the file
    alignment: str  # how it is brought onto the source's grid: georeference or footprint
    digest: str = ""  # SHA-256 of the file's bytes


@dataclass(frozen=True, slots=True)
class Pair:
    """An input image and, where it is known, its target; paths are relative to the data root, with '/'."""

    name: str  # unique within its task and split; the prediction is <name>.png
    task: str
    split: str
    location: str
    source: str
    target: str = ""  # empty where only the input is given
    source_date: str = ""  # YYYY-MM-DD, or empty where the file name does not say
    target_date: str = ""
    origin: str = ""  # archive (training pair), held-out, or official (the challenge's own val or test input)
    alignment: str = ""  # how source and target are brought onto one grid: georeference, footprint, or none
    overlap: str = ""  # share of the target that the source covers, 0 to 1
    source_rule: str = ""  # intensity rule that makes [0, 1] of the file
    target_rule: str = ""
    shift: str = ""  # "down across": target pixels by which the source is moved back, where that was asked for
    ground: str = ""  # locations whose footprints overlap have the same; the location itself where it lies alone
    limit: str = ""  # most pairs of its location in one epoch; empty is no limit
    source_digest: str = ""  # SHA-256 of the file's bytes
    target_digest: str = ""
    further: str = ""  # JSON, a list of `Further` where the task has several sources; no such column where none has

    @property
    def more(self) -> tuple[Further, ...]:
        """The images that are stacked behind the source, in the order of the task's sources."""
        return tuple(Further(*row) for row in json.loads(self.further)) if self.further else ()

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """Path and digest of each image: source, further sources, and the target where it is known."""
        target = [(self.target, self.target_digest)] if self.target else []
        return (self.source, self.source_digest), *((each.path, each.digest) for each in self.more), *target

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of `files`."""
        return tuple(path for path, _ in self.files)

    def with_digests(self, found: Mapping[str, str]) -> Pair:
        """Return the pair with the SHA-256 of its images by their paths, none where `found` has none."""
        further = join_further(image._replace(digest=found.get(image.path, "")) for image in self.more)
        own = {"source_digest": found.get(self.source, ""), "target_digest": found.get(self.target, "")}
        return replace(self, **own, further=further)


Pairs = dict[tuple[str, str], list[Pair]]  # by task and split


def join_further(images: Iterable[Further]) -> str:
    """Return images as the column `further` holds them: ASCII, safe for any path; empty for none."""
    rows = [list(image) for image in images]
    return json.dumps(rows, separators=(",", ":")) if rows else ""


COLUMNS = tuple(field.name for field in fields(Pair))
SINCE_FORMAT_2 = ("shift", "ground", "limit", "source_digest", "target_digest", "further")  # others do without
LONGEST_CELL = 4096  # characters: no path of any system is longer
LONGEST_NAME = 251  # bytes of a pair's name: what file systems take, less ".png"
_BAD_NAME = re.compile(r"^\.|[/\\\0\n\r]")


def manifest_path(folder: Path, task: str, split: str) -> Path:
    """Return where the manifest of a task's split lies."""
    return folder / f"{task}_{split}.csv"


def pairs_table(pairs: Iterable[Pair]) -> DataFrame:
    """Return pairs as a frame of text, one row per pair and one column per field; `further` only where one has it.

    Unlike in tables for people no cell is quoted, since paths and names must be exact for whoever reads them.
    """
    rows = list(pairs)
    columns = COLUMNS if any(pair.further for pair in rows) else COLUMNS[:-1]
    return table_of(columns, map(attrgetter(*columns), rows))


def read_manifest(path: Path) -> list[Pair]:
    """Return the pairs of a manifest in its order; raise as `manifest_table` does."""
    frame = manifest_table(path)
    return [Pair(*row) for row in zip(*(frame[column].tolist() for column in COLUMNS), strict=True)]


def manifest_table(path: Path) -> DataFrame:
    """Return a manifest as a frame of text with the columns of `Pair`.

    Raises PbvsError naming the line and column when a row cannot be a pair, or what to do when there is no manifest.
    """
    if not path.is_file():
        raise PbvsError(f"There is no manifest {path}; make it with `pbvs build-pairs --data ROOT`.")
    if is_unfinished(path.parent):
        raise PbvsError(f"The manifests in {path.parent} were not written to the end; run `pbvs build-pairs` again.")
    frame = read_table(path, AGAIN)
    for column in COLUMNS:
        if column not in frame:
            if column not in SINCE_FORMAT_2:
                raise PbvsError(f"{path} has no column {column!r}; {AGAIN}.")
            frame[column] = ""
    for line, mistake in _mistakes(frame, path.stem):
        raise PbvsError(f"{path}, line {line}: {mistake}; {AGAIN}.")
    return cast("DataFrame", frame[list(COLUMNS)])


def _mistakes(frame: DataFrame, stem: str) -> Iterator[tuple[int, str]]:
    """Yield (line as an editor counts it, what is wrong)."""
    for column in ("name", "task", "split", "source"):
        for row in frame.index[frame[column] == ""]:
            yield row + 2, f"the column {column!r} is empty"
    for column in COLUMNS:
        most = LONGEST_CELL * (16 if column == "further" else 1)
        for row in frame.index[frame[column].str.len() > most]:
            yield row + 2, f"the column {column!r} has more than {most} characters"
    for row, name in enumerate(frame["name"]):
        if not is_pair_name(name):
            yield row + 2, f"{name[:80]!r} cannot be a file's name"
    for column in ("source_rule", "target_rule"):
        for rule in frame[column].unique():
            if rule and (rule == "auto" or not re.fullmatch(RULE_PATTERN, rule)):
                yield int((frame[column] == rule).idxmax()) + 2, f"there is no intensity rule {rule[:80]!r}"
    for row, text in enumerate(frame["further"]):
        if text and not _is_further(text):
            yield row + 2, "the column 'further' is no JSON list of [path, rule, alignment, digest]"
    for row in frame.index[frame["name"].duplicated()]:
        yield row + 2, f"there are two rows of the same name {frame['name'][row][:80]!r}"
    for row in frame.index[frame["task"] + "_" + frame["split"] != stem]:
        yield row + 2, f"the pair is of {frame['task'][row][:80]!r} and {frame['split'][row][:80]!r}, and not of {stem}"


def is_pair_name(name: str) -> bool:
    """Return whether a pair may be called so, as `<name>.png` can be a file on every command's way.

    >>> is_pair_name("a" * 251), is_pair_name("é" * 126), is_pair_name("a/b")
    (True, False, False)
    """
    return not _BAD_NAME.search(name) and len(name.encode("utf-8", "surrogateescape")) <= LONGEST_NAME


def _is_further(text: str) -> bool:
    try:
        images = [Further(*row) for row in json.loads(text)]
    except (ValueError, TypeError, RecursionError):
        return False
    return bool(images) and all(
        all(isinstance(value, str) for value in image)
        and image.path
        and image.alignment in ("georeference", "footprint")
        and image.rule != "auto"
        and re.fullmatch(RULE_PATTERN, image.rule)
        for image in images
    )


def pairs_digest(pairs: Iterable[Pair]) -> str:
    """Return the SHA-256 of all that pairs say: which images, how they are used, and the digests of their bytes.

    Two lists have the same one when every model, prediction and score made from them would be the same. The digest
    belongs into what a run remembers; it does not depend on how the CSV file is written.
    """
    total = sha256()
    for row in map(attrgetter(*COLUMNS), pairs):
        total.update("\0".join(row if row[-1] else row[:-1]).encode() + b"\n")  # as before there was `further`
    return total.hexdigest()


def check_content(pairs: Sequence[Pair], root: Path, manifests: Path, jobs: int = 1, *, there: bool = False) -> None:
    """Raise PbvsError when an image below `root` is not what it was when the manifests were made.

    Only images are read whose size or times have changed since they were last. Raises ReadError naming an image that
    is gone or cannot be read; `there` asks only those that are there.
    """
    told = [pair for pair in pairs if pair.source_digest]
    cache = FileCache(manifests / CACHE_NAME, root)
    paths = dict.fromkeys(path for pair in told for path in pair.paths)
    asked = [path for path in paths if not there or inside(root, path).is_file()]
    check_unchanged(told, digests(asked, cache, jobs))
    with contextlib.suppress(WriteError):  # a folder of someone else's: only slower the next time
        cache.write()


def check_bytes(pair: Pair, root: Path) -> None:
    """Raise ReadError when an image that was just read is not the one that the manifest was made from.

    A file is read for its digest once, and again when its size or times have changed.
    """
    files = {path: inside(root, path) for path, known in pair.files if known}
    with disk_errors(root):
        check_unchanged([pair], {path: _digest(file, stamp_of(file.stat())) for path, file in files.items()})


@lru_cache(1 << 14)
def _digest(file: Path, stamp: str) -> str:
    return digest_of_file(file)


def check_unchanged(pairs: Iterable[Pair], found: Mapping[str, str]) -> None:
    """Raise ReadError naming the first image whose bytes are not those that the manifest was made from.

    `found` are the images' SHA-256 by path; what is not among them, or not in the manifest, is not asked.
    """
    for pair in pairs:
        for path, known in pair.files:
            if known and found.get(path, known) != known:
                raise ReadError(f"{path} has changed since the manifests were made; run `pbvs build-pairs` again.")


def check_loss(pairs: Pairs, manifests: Path, root: Path) -> None:
    """Raise PbvsError when a split of a task has no pairs any more that has some in the manifests: half a mount."""
    for key, rows in pairs.items():
        before, path = list[Pair](), manifest_path(manifests, *key)
        with damage_ignored():
            before = read_manifest(path) if path.is_file() else []
        if before and not rows:
            raise PbvsError(
                f"{path} names {len(before)} pairs, and {root} has none for it: is all of the data there? The "
                "manifests stay as they were; remove that one if there shall be none, and start the command again."
            )


# --- Names of pairs that are safe as file names on every system, and unique.

SAFE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
LONGEST = 150


def pair_name(location: str, source_stem: str, target_stem: str) -> str:
    """Return location, source and target in one name; the target is left out where its stem is the source's."""
    return "_".join([location, source_stem] if source_stem == target_stem else [location, source_stem, target_stem])


def unique_names(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs with names that are safe as file names and differ in more than case.

    An official input keeps its stem; a name that had to be changed ends in a digest of its images' paths.
    """
    taken = {pair.name.lower() for pair in pairs if pair.origin == "official"}
    return [pair if pair.origin == "official" else _named(pair, taken) for pair in pairs]


def _named(pair: Pair, taken: set[str]) -> Pair:
    name = pair.name
    if not SAFE.issuperset(name) or name[0] in ".-" or len(name) > LONGEST or name.lower() in taken:
        mark = sha256(f"{pair.source}\n{pair.target}".encode()).hexdigest()[:10]
        safe = "".join(letter if letter in SAFE else "-" for letter in name).lstrip(".-") or "pair"
        name = f"{safe[: LONGEST - 11]}_{mark}"
        pair = replace(pair, name=name)
    taken.add(name.lower())
    return pair
