"""The contract between pairing and everything after it: a CSV file with a row for each pair."""

from __future__ import annotations

import re
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from hashlib import sha256
from operator import attrgetter
from pathlib import Path

from pbvs.errors import PbvsError
from pbvs.files import is_unfinished
from pbvs.lookup import Lookup, some_equal
from pbvs.rows import Rows, open_rows, write_rows


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
    source_rule: str = ""  # radiometry rule that makes [0, 1] of the file
    target_rule: str = ""
    shift: str = ""  # "down across": target pixels by which the source is moved back, where that was asked for


_NUMBER = r"-?\d+(\.\d*)?(e[-+]?\d+)?"
_RULE = re.compile(
    rf"(full(:{_NUMBER})?|(window|percentile|power-db|amplitude-db):{_NUMBER}:{_NUMBER})\Z"
)  # data/radiometry.py says what they mean
COLUMNS = tuple(field.name for field in fields(Pair))
UNLIKE = ("name", "source", "target")  # columns that differ from row to row; the others say the same again and again


def manifest_path(folder: Path, task: str, split: str) -> Path:
    """Return where the manifest of a task's split lies."""
    return folder / f"{task}_{split}.csv"


def write_manifest(path: Path, pairs: Iterable[Pair]) -> None:
    """Write pairs as CSV, one row each, in the order given."""
    write_rows(path, COLUMNS, map(attrgetter(*COLUMNS), pairs))


def read_manifest(path: Path) -> Rows[Pair]:
    """Return the rows of a manifest, which stay on the disk (pbvs/rows.py).

    Each is looked at once: raises PbvsError naming the row and column when it is not one.
    """
    if not path.is_file():
        raise PbvsError(f"There is no manifest {path}; make it with `pbvs build-pairs --data ROOT`.")
    if is_unfinished(path.parent):
        raise PbvsError(f"The manifests in {path.parent} were not written to the end; run `pbvs build-pairs` again.")
    hashes = array("q")

    def check(line: int, pair: Pair) -> None:
        _check(path, line, pair)
        hashes.append(hash(pair.name))

    pairs = open_rows(path, partial(_maker, path), "make it again with `pbvs build-pairs`", check)
    if some_equal(hashes) and len({pair.name for pair in pairs}) < len(pairs):
        raise PbvsError(f"{path} has two rows of the same name; make it again with `pbvs build-pairs`.")
    return pairs


class ByName(Mapping[str, Pair]):
    """A manifest's pairs by their names, which are unique: 16 bytes of memory a pair beside the rows' own."""

    def __init__(self, pairs: Rows[Pair]):
        self.pairs = pairs
        self._lookup = Lookup(len(pairs), lambda number: pairs[number].name)

    def __getitem__(self, name: str) -> Pair:
        """Return the pair; raises KeyError when there is none."""
        number = self._lookup.find(name)
        if number is None:
            raise KeyError(name)
        return self.pairs[number]

    def __iter__(self) -> Iterator[str]:
        """Yield the names in the manifest's order."""
        return (pair.name for pair in self.pairs)

    def __len__(self) -> int:
        """Return how many pairs there are."""
        return len(self.pairs)


def _maker(path: Path, header: list[str]) -> Callable[[list[str]], Pair]:
    """Return what makes a pair of a row; what many rows say alike (task, location, rules) is kept once."""
    places = {column: place for place, column in enumerate(header)}
    missing = [column for column in COLUMNS if column not in places]
    if missing:
        raise PbvsError(f"{path} has no column {missing[0]!r}; make it again with `pbvs build-pairs`.")
    order = [(places[column], column not in UNLIKE) for column in COLUMNS]
    short = [""] * (1 + max(place for place, _ in order))

    def make(row: list[str]) -> Pair:
        row += short[len(row) :]
        return Pair(*(sys.intern(row[place]) if alike else row[place] for place, alike in order))

    return make


def _check(path: Path, line: int, pair: Pair) -> None:
    for column in ("name", "task", "split", "source"):
        if not getattr(pair, column):
            raise PbvsError(
                f"{path}, line {line}: the column {column!r} is empty; make the manifest again with `pbvs build-pairs`."
            )
    name = pair.name
    if name.startswith(".") or len(name) > 200 or any(mark in name for mark in "/\\\0\n\r"):
        raise PbvsError(f"{path}, line {line}: {name[:80]!r} cannot be a file's name; make the manifest again.")
    for rule in (pair.source_rule, pair.target_rule):
        if rule and not _RULE.match(rule):
            raise PbvsError(f"{path}, line {line}: there is no radiometry rule {rule[:80]!r}; make the manifest again.")


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
