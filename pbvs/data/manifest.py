"""The contract between pairing and everything after it: a CSV file with a row for each pair."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path

from pbvs.errors import PbvsError
from pbvs.files import is_unfinished, read_error, write_text


@dataclass(frozen=True, slots=True)
class Pair:
    """An input picture and, where it is known, its target; paths are relative to the data root, with '/'."""

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
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(map(attrgetter(*COLUMNS), pairs))
    write_text(path, buffer.getvalue())


def read_manifest(path: Path) -> list[Pair]:
    """Read a manifest; raise PbvsError naming the row and column when it is not one.

    What many rows say alike (task, location, rules) is kept once, so that a row takes 0.4 KiB of memory.
    """
    if not path.is_file():
        raise PbvsError(f"There is no manifest {path}; make it with `pbvs build-pairs --data ROOT`.")
    if is_unfinished(path.parent):
        raise PbvsError(f"The manifests in {path.parent} were not written to the end; run `pbvs build-pairs` again.")
    try:
        with path.open(encoding="utf-8") as file:
            pairs = list(_pairs(path, file))
    except csv.Error as error:
        raise PbvsError(f"{path} is no CSV file ({error}); make it anew with `pbvs build-pairs`.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise read_error(path, error) from error
    if len({pair.name for pair in pairs}) < len(pairs):
        raise PbvsError(f"{path} has two rows of the same name; make it anew with `pbvs build-pairs`.")
    return pairs


def _pairs(path: Path, lines: Iterable[str]) -> Iterator[Pair]:
    reader = csv.reader(lines)
    places = {column: place for place, column in enumerate(next(reader, []))}
    missing = [column for column in COLUMNS if column not in places]
    if missing:
        raise PbvsError(f"{path} has no column {missing[0]!r}; make it anew with `pbvs build-pairs`.")
    order = [(places[column], column not in UNLIKE) for column in COLUMNS]
    short = [""] * (1 + max(place for place, _ in order))
    known: dict[str, str] = {}
    for number, row in enumerate(filter(None, reader), 2):
        row += short[len(row) :]
        values = (known.setdefault(row[place], row[place]) if alike else row[place] for place, alike in order)
        yield _checked(path, number, Pair(*values))


def _checked(path: Path, line: int, pair: Pair) -> Pair:
    for column in ("name", "task", "split", "source"):
        if not getattr(pair, column):
            raise PbvsError(
                f"{path}, line {line}: the column {column!r} is empty; make the manifest anew with `pbvs build-pairs`."
            )
    name = pair.name
    if name.startswith(".") or len(name) > 200 or any(mark in name for mark in "/\\\0\n\r"):
        raise PbvsError(f"{path}, line {line}: {name[:80]!r} cannot be a file's name; make the manifest anew.")
    for rule in (pair.source_rule, pair.target_rule):
        if rule and not _RULE.match(rule):
            raise PbvsError(f"{path}, line {line}: there is no radiometry rule {rule[:80]!r}; make the manifest anew.")
    return pair
