"""Every image below a data root, by location, modality, date, size and georeference; what is not usable, and why."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pbvs.data.cache import HeaderCache, as_text
from pbvs.data.headers import Header, read_headers
from pbvs.data.images import SUFFIXES
from pbvs.data.layout import Place, file_key, place_of
from pbvs.errors import PbvsError, UsageError
from pbvs.logs import track
from pbvs.parallel import in_chunks

CATALOG_COLUMNS = (
    "path", "modality", "source", "location", "role", "split", "task", "base", "date",
    "width", "height", "bands", "dtype", "crs", "transform", "nodata",
)  # fmt: skip
JUNK = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})


class Entry(NamedTuple):
    """One image: its path relative to the root, what the path says and what the header says."""

    path: str
    place: Place
    header: Header
    stem: str  # the file's name without its suffix
    size: int  # of the file, in bytes


class Found(NamedTuple):
    """A file as the walk sees it."""

    path: str
    size: int
    mtime_ns: int


@dataclass
class Catalog:
    """What a scan found."""

    root: Path
    entries: list[Entry] = field(default_factory=list)
    unused: list[tuple[str, str]] = field(default_factory=list)  # path, reason
    junk: int = 0  # hidden files and what macOS and Windows leave behind
    others: int = 0  # files that are no images

    def leave_out(self, path: str, reason: str) -> None:
        """List a file that cannot be used."""
        self.unused.append((path, " ".join(reason.split())))


def scan(root: Path, cache: Path | None = None, jobs: int = 1, backend: str = "loky") -> Catalog:
    """Walk `root` and read every image's header, `jobs` at a time.

    `cache` is a file that remembers headers as long as an image's size and time stay what they were.
    Raises UsageError when there is no such folder, PbvsError when it holds no image of the archives' layout.
    """
    if not root.is_dir():
        raise UsageError(f"There is no data folder {root}; give the folder of the unpacked archives with --data.")
    catalog = Catalog(root)
    placed = _place(catalog)
    known = HeaderCache(cache)
    headers = _read(root, [file for file, _ in placed], known, jobs, backend)
    for (file, place), header in zip(placed, headers, strict=True):
        if isinstance(header, str):
            catalog.leave_out(file.path, header)
        else:
            stem = file.path[file.path.rfind("/") + 1 : file.path.rfind(".")]
            catalog.entries.append(Entry(file.path, place, header, stem, file.size))
    if not catalog.entries:
        raise PbvsError(
            f"{root} holds no image in the archives' layout ({len(catalog.unused)} files could not be used); "
            "see the README for the folders that are expected."
        )
    known.write()
    return catalog


def _place(catalog: Catalog) -> list[tuple[Found, Place]]:
    placed = []
    for file in sorted(walk(catalog), key=lambda file: file_key(file.path)):
        place = place_of(file.path)
        if isinstance(place, str):
            catalog.leave_out(file.path, place)
        else:
            placed.append((file, place))
    return placed


def _read(root: Path, files: list[Found], known: HeaderCache, jobs: int, backend: str) -> list[Header | str]:
    """Return each file's header, or the reason why it has none; only what the cache does not know is read."""
    headers = [known.get(*file) for file in files]
    missing = [index for index, header in enumerate(headers) if header is None]
    work = [(files[index].path, files[index].size) for index in missing]
    read = track(in_chunks(partial(read_headers, root), work, jobs, backend), "reading headers", len(work))
    for index, header in zip(missing, read, strict=True):
        headers[index] = header
        known.put(*files[index], header)
    return [header for header in headers if header is not None]


def walk(catalog: Catalog) -> Iterator[Found]:
    """Yield the images below the catalogue's root; links are followed, but no folder is entered twice."""
    seen: set[tuple[int, int]] = set()
    waiting = [("", str(catalog.root))]
    while waiting:
        prefix, folder = waiting.pop()
        try:
            status = Path(folder).stat()
            if (status.st_dev, status.st_ino) in seen:
                catalog.leave_out(prefix, "a link to a folder that is scanned already")
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as items:
                below: list[tuple[str, str]] = []
                for item in items:
                    found = _visit(catalog, item, prefix, below)
                    if found is not None:
                        yield found
            waiting += sorted(below, reverse=True)
        except OSError as error:
            catalog.leave_out(prefix, f"the folder cannot be read: {error.strerror}")


def _visit(catalog: Catalog, item: os.DirEntry[str], prefix: str, below: list[tuple[str, str]]) -> Found | None:
    """Return an image; count or list what is none, and add a folder to `below`."""
    name = item.name
    path = f"{prefix}/{name}" if prefix else name
    if name.startswith(".") or name in JUNK:
        catalog.junk += 1
    elif not _safe(name):
        catalog.leave_out(path.encode("utf-8", "backslashreplace").decode(), "its name cannot be written down")
    elif item.is_dir():
        below.append((path, item.path))
    elif name[name.rfind(".") :].lower() not in SUFFIXES:
        catalog.others += 1
    elif not item.is_file():
        catalog.leave_out(path, "it is a broken link or no plain file")
    else:
        status = item.stat()
        return Found(path, status.st_size, status.st_mtime_ns)
    return None


def _safe(name: str) -> bool:
    """Return whether a name can be written as UTF-8 and read again; one of invalid bytes is not printable."""
    return name.isprintable() and "\\" not in name


def catalog_texts(folder: Path, catalog: Catalog) -> dict[Path, str]:
    """Return catalog.csv, a row for each image, and unused.csv, a row with a reason for each that is not used."""
    return {
        folder / "catalog.csv": as_text(CATALOG_COLUMNS, map(_row, catalog.entries)),
        folder / "unused.csv": as_text(("path", "reason"), sorted(set(catalog.unused))),
    }


def _row(entry: Entry) -> tuple[Any, ...]:
    place, header = entry.place, entry.header
    transform = " ".join(map(repr, header.transform))
    nodata = "" if header.nodata is None else header.nodata
    return (
        entry.path, place.modality, place.source, place.location, place.role, place.split, place.task,
        place.base or entry.stem, place.date, header.width, header.height, header.bands, header.dtype, header.crs,
        transform, nodata,
    )  # fmt: skip
