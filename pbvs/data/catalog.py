"""Every picture below a data root, by location, modality, date, size and georeference; what is not usable, and why."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pbvs.data.headers import Header, read_header
from pbvs.data.images import SUFFIXES
from pbvs.data.layout import Place, natural_key, place_of
from pbvs.errors import PbvsError, UsageError
from pbvs.files import write_text
from pbvs.progress import track

CATALOG_COLUMNS = (
    "path", "modality", "source", "location", "role", "split", "task", "base", "date",
    "width", "height", "bands", "dtype", "crs", "transform", "nodata",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One picture: its path relative to the root, what the path says and what the header says."""

    path: str
    place: Place
    header: Header

    @property
    def stem(self) -> str:
        """The file's name without its suffix."""
        return self.path.rpartition("/")[2].rpartition(".")[0]


@dataclass
class Catalog:
    """What a scan found."""

    root: Path
    entries: list[Entry] = field(default_factory=list)
    unused: list[tuple[str, str]] = field(default_factory=list)  # path, reason
    litter: int = 0  # hidden files and what macOS leaves behind
    others: int = 0  # files that are no pictures

    def leave_out(self, path: str, reason: str) -> None:
        """List a file that cannot be used."""
        self.unused.append((path, " ".join(reason.split())))


@dataclass(frozen=True)
class Found:
    """A file as the walk sees it."""

    path: str
    size: int
    mtime_ns: int


def scan(root: Path) -> Catalog:
    """Walk `root` and read every picture's header.

    Raises UsageError when there is no such folder, PbvsError when it holds no picture of the archives' layout.
    """
    if not root.is_dir():
        raise UsageError(f"There is no data folder {root}; give the folder of the unpacked archives with --data.")
    catalog = Catalog(root)
    found = sorted(walk(catalog), key=lambda file: natural_key(file.path))
    for file in track(found, "reading headers"):
        _enter(catalog, file)
    if not catalog.entries:
        raise PbvsError(
            f"{root} holds no picture in the archives' layout ({len(catalog.unused)} files could not be used); "
            "see the README for the folders that are expected."
        )
    return catalog


def walk(catalog: Catalog) -> Iterator[Found]:
    """Yield the pictures below the catalogue's root; links are followed, but no folder is entered twice."""
    seen: set[tuple[int, int]] = set()
    waiting = [("", catalog.root)]
    while waiting:
        prefix, folder = waiting.pop()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                catalog.leave_out(prefix, "a link to a folder that is scanned already")
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as items:
                for item in items:
                    yield from _visit(catalog, item, prefix, waiting)
        except OSError as error:
            catalog.leave_out(prefix, f"the folder cannot be read: {error.strerror}")


def _visit(catalog: Catalog, item: os.DirEntry[str], prefix: str, waiting: list[tuple[str, Path]]) -> Iterator[Found]:
    path = f"{prefix}/{item.name}" if prefix else item.name
    if item.name.startswith(".") or item.name == "__MACOSX" or item.name in ("Thumbs.db", "desktop.ini"):
        catalog.litter += 1
    elif not _safe(path):
        catalog.leave_out(path.encode("utf-8", "backslashreplace").decode(), "its name cannot be written down")
    elif item.is_dir():
        waiting.append((path, Path(item.path)))
    elif Path(item.name).suffix.lower() not in SUFFIXES:
        catalog.others += 1
    elif not item.is_file():
        catalog.leave_out(path, "it is a broken link or no plain file")
    else:
        status = item.stat()
        yield Found(path, status.st_size, status.st_mtime_ns)


def _safe(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return "\\" not in path and path.isprintable()


def _enter(catalog: Catalog, file: Found) -> None:
    place = place_of(file.path)
    if isinstance(place, str):
        catalog.leave_out(file.path, place)
        return
    try:
        header = read_header(catalog.root / file.path)
    except PbvsError as error:
        catalog.leave_out(file.path, str(error).replace(f"{catalog.root}/", ""))
        return
    catalog.entries.append(Entry(file.path, place, header))


def write_catalog(folder: Path, catalog: Catalog) -> None:
    """Write catalog.csv, a row for each picture, and unused.csv, a row with a reason for each that is not used."""
    write_table(folder / "catalog.csv", CATALOG_COLUMNS, map(_row, catalog.entries))
    write_table(folder / "unused.csv", ("path", "reason"), sorted(set(catalog.unused)))


def write_table(path: Path, columns: tuple[str, ...], rows: Any) -> None:
    """Write rows as CSV below a header, whole or not at all."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


def _row(entry: Entry) -> tuple[Any, ...]:
    place, header = entry.place, entry.header
    transform = " ".join(repr(value) for value in header.transform)
    nodata = "" if header.nodata is None else header.nodata
    return (
        entry.path, place.modality, place.source, place.location, place.role, place.split, place.task, place.base,
        place.date, header.width, header.height, header.bands, header.dtype, header.crs, transform, nodata,
    )  # fmt: skip
