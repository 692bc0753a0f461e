"""CSV files row by row: written as they come, and read when they are asked for, so that memory does not grow."""

from __future__ import annotations

import csv
import io
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import eq
from pathlib import Path
from typing import Any, TypeVar

from pbvs.errors import PbvsError
from pbvs.files import atomic_path, read_error
from pbvs.lazy import Lazy

T = TypeVar("T")
Make = Callable[[list[str]], T]  # makes an item of a row's fields


def write_rows(path: Path, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write rows as CSV below a header, whole or not at all."""
    with atomic_path(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


class Rows(Lazy[T]):
    """The items of a CSV file with a header, or some of them, as they were when it was opened.

    A row takes 16 bytes of memory and some microseconds to be read. Threads and forked processes may share the
    object; pickled it is a list. The file may be replaced by another meanwhile, as everything here writes files.
    """

    def __init__(self, file: _File, make: Make[T], starts: array[int], ends: array[int]):
        self._file = file
        self._make = make
        self._starts = starts
        self._ends = ends

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self._starts)

    def item(self, number: int) -> T:
        """Read one row; raises PbvsError when the disk fails or the file was rewritten."""
        return self._make(self._file.fields(self._starts[number], self._ends[number]))

    def __eq__(self, other: object) -> bool:
        """Return whether another sequence has equal items."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(eq, self, other))

    def __reduce__(self) -> tuple[type[list[T]], tuple[list[T]]]:
        """Go to another process as a list."""
        return list, (list(self),)

    def every(self, step: int, first: int) -> Rows[T]:
        """Return a view of each `step`-th item from the `first` on."""
        return Rows(self._file, self._make, self._starts[first::step], self._ends[first::step])

    def where(self, keep: Callable[[T], bool]) -> Rows[T]:
        """Return a view of the items that `keep` says yes to, in their order."""
        kept = Rows(self._file, self._make, array("q"), array("q"))
        for start, end, item in zip(self._starts, self._ends, self, strict=True):
            if keep(item):
                kept._starts.append(start)
                kept._ends.append(end)
        return kept


def open_rows(
    path: Path, reader: Callable[[list[str]], Make[T]], hint: str, check: Callable[[int, T], None] | None = None
) -> Rows[T]:
    """Return a CSV file's rows, read by what `reader` makes of the header, after each was read once.

    `check` is given each item with its number, counted from 2 as a header and rows of one line are in an editor.
    Empty lines are skipped. Raises PbvsError when the file cannot be read or is no CSV in UTF-8, with `hint`, the
    words that say what to do; and whatever `reader` and `check` raise.
    """
    starts, ends = array("q"), array("q")
    try:
        file = _File(path)
        records = file.records()
        make = reader(next(records, (0, 0, []))[2])
        for number, (start, end, fields) in enumerate((record for record in records if record[2]), 2):
            item = make(fields)
            if check:
                check(number, item)
            starts.append(start)
            ends.append(end)
    except csv.Error as error:
        raise PbvsError(f"{path} is no CSV file ({error}); {hint}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise read_error(path, error) from error
    return Rows(file, make, starts, ends)


class _File:
    """An open file that is read at given places, which threads and forked processes can do at the same time."""

    def __init__(self, path: Path):
        self.path = path
        self.handle = -1
        self.handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self.handle >= 0:
            os.close(self.handle)

    def records(self) -> Iterator[tuple[int, int, list[str]]]:
        """Yield where each record begins and ends, in bytes, and its fields."""
        start = 0
        with open(self.handle, "rb", closefd=False) as file:
            lines = _Lines(file)
            for fields in csv.reader(lines):  # which takes no line before it needs it
                yield start, lines.taken, fields
                start = lines.taken

    def fields(self, start: int, end: int) -> list[str]:
        """Return the fields of the record at a place; raises PbvsError when the disk fails or the file was changed."""
        try:
            data = os.pread(self.handle, end - start, start)
            if len(data) == end - start:
                return next(csv.reader(io.StringIO(data.decode("utf-8"), newline="\n")))
        except OSError as error:
            raise read_error(self.path, error) from error
        except (csv.Error, UnicodeDecodeError, StopIteration):
            pass
        raise PbvsError(f"{self.path} was rewritten while it was in use; start the command again.")


class _Lines:
    """The lines of a UTF-8 file; `taken` is how many bytes they had so far."""

    def __init__(self, file: Iterable[bytes]):
        self.taken = 0
        self._file = file

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            self.taken += len(line)
            yield line.decode("utf-8")
