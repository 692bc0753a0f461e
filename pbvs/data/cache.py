"""What was learnt of files by reading them, remembered as long as their size and times stay what they were.

Only what follows from a file's bytes belongs here: that a disk failed or a permission was missing is never remembered.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pbvs.devices import in_chunks
from pbvs.errors import PbvsError, ReadError
from pbvs.files import disk_errors, inside, sha256
from pbvs.logs import track
from pbvs.text import read_table, table_of, write_table

CACHE_NAME = ".images.csv"  # beside the manifests
COLUMNS = ("kind", "path", "stamp", "value")
DIGEST = "sha256"


def stamp_of(status: os.stat_result) -> str:
    """Return a file's size and times as text; it changes whenever the file is written, replaced or given other rights.

    The time of the last change of state (ctime) is among them, as the time of writing can be set to anything.
    """
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


class Key(NamedTuple):
    """What is known (a kind names its version) of which file."""

    kind: str
    path: str


class FileCache:
    """A CSV table of texts by kind and file below `root`, each with the stamp of the file it was learnt from.

    One that is missing, damaged or of another version is simply empty. Without a path nothing is kept.
    """

    def __init__(self, path: Path | None, root: Path) -> None:
        self.path = path
        self.root = Path(root).resolve()
        self._rows: dict[Key, tuple[str, str]] = _load(path) if path is not None and path.is_file() else {}
        self._stamps: dict[str, str] = {}  # of the files asked for
        self._changed = False

    def stamp(self, relative: str) -> str:
        """Return the stamp of a file as it was when it was first asked for.

        What was read later of a file that changed in between is kept under the older stamp, and so never taken again.
        Raises ReadError naming a file of which it cannot be told.
        """
        if relative in self._stamps:
            return self._stamps[relative]
        file = inside(self.root, relative)
        try:
            stamp = self._stamps[relative] = stamp_of(file.stat())
            return stamp
        except OSError as error:
            raise ReadError(
                f"The image {file} cannot be read ({error.strerror}); see that it is there and yours to read, "
                "or run `pbvs build-pairs` again if the data have moved."
            ) from None

    def get(self, kind: str, relative: str, stamp: str) -> str | None:
        """Return what is known of a file; None when nothing is or the file has changed."""
        self._stamps.setdefault(relative, stamp)
        row = self._rows.get(Key(kind, f"{self.root}/{relative}"))
        return row[1] if row is not None and row[0] == stamp else None

    def put(self, kind: str, relative: str, stamp: str, value: str) -> None:
        """Remember what follows from the bytes of a file that had this stamp before it was read."""
        key = Key(kind, f"{self.root}/{relative}")
        if self._rows.get(key) != (stamp, value):
            self._rows[key] = (stamp, value)
            self._changed = True

    def check_at_rest(self) -> None:
        """Raise ReadError naming a file that changed after it was first asked for: what was learnt of it is of two."""
        for relative, stamp in self._stamps.items():
            file = inside(self.root, relative)
            with disk_errors(file):
                if not stamp.startswith(stamp_of(file.stat())):
                    raise ReadError(f"The image {file} changed while it was read; run again once the data are at rest.")

    def write(self, forget: bool = False) -> None:
        """Write the table when it has changed; with `forget`, without the files that nobody asked for."""
        asked = {f"{self.root}/{relative}" for relative in self._stamps} if forget else set()
        gone = [key for key in self._rows if key.path not in asked] if forget else []
        for key in gone:
            del self._rows[key]
        if self.path is not None and (self._changed or gone):
            write_table(self.path, table_of(COLUMNS, ((*key, *row) for key, row in self._rows.items())))
            self._changed = False


def _load(path: Path) -> dict[Key, tuple[str, str]]:
    try:
        frame = read_table(path)
        kinds, paths, stamps, values = (frame[column].tolist() for column in COLUMNS)
    except (PbvsError, KeyError):
        return {}
    return dict(zip(map(Key, kinds, paths), zip(stamps, values, strict=True), strict=True))


def digests(paths: Iterable[str], cache: FileCache, jobs: int = 1) -> dict[str, str]:
    """Return the SHA-256 of images by their paths below the cache's root; only what is not known is read.

    Raises ReadError naming the first image that is gone or cannot be read.
    """
    stamps = {path: cache.stamp(path) for path in paths}
    found = {path: cache.get(DIGEST, path, stamp) or "" for path, stamp in stamps.items()}
    missing = [path for path, digest in found.items() if len(digest) != 64]
    results = in_chunks(partial(_digests, cache.root), missing, jobs)
    for path, digest in zip(missing, track(results, "reading contents", len(missing), unit="image"), strict=True):
        cache.put(DIGEST, path, stamps[path], digest)
        found[path] = digest
    return found


def _digests(root: Path, paths: Sequence[str]) -> list[str]:
    return [sha256(root / path) for path in paths]
