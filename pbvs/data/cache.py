"""CSV tables beside the manifests, among them the headers that a second run need not read again."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pbvs.data.headers import Header
from pbvs.errors import PbvsError
from pbvs.files import inside, read_text, sha256
from pbvs.rows import write_rows

VERSION = "headers 1"  # of what is read from a file's head; raise it when that changes


def as_text(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return rows as CSV below a header."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return buffer.getvalue()


class HeaderCache:
    """Remembers what each file's head said, as long as the file's size and time are the same.

    A cache that is missing, damaged or of another version is simply empty.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._old: dict[str, list[str]] = {}
        self._rows: dict[str, tuple[int, int, Header | str]] = {}
        self._changed = False
        if path is not None and path.is_file():
            self._old = _load(path)

    def get(self, path: str, size: int, mtime_ns: int) -> Header | str | None:
        """Return the header, or the reason why there is none; None when the file is new or has changed."""
        row = self._old.pop(path, None)
        if row is None or row[1] != str(size) or row[2] != str(mtime_ns):
            return None
        header = _parse(row)
        if header is not None:
            self._rows[path] = (size, mtime_ns, header)
        return header

    def put(self, path: str, size: int, mtime_ns: int, header: Header | str) -> None:
        """Remember a header or a reason."""
        self._rows[path] = (size, mtime_ns, header)
        self._changed = True

    def write(self) -> None:
        """Write the cache when it has changed; files that were not asked for are forgotten."""
        if self.path is not None and (self._changed or self._old):
            rows = (_format(path, *row) for path, row in self._rows.items())
            write_rows(self.path, (VERSION,), rows)


def _load(path: Path) -> dict[str, list[str]]:
    try:
        rows = csv.reader(io.StringIO(read_text(path)))
        if next(rows, None) != [VERSION]:
            return {}
        return {row[0]: row for row in rows}
    except (PbvsError, csv.Error, IndexError):
        return {}


def _format(path: str, size: int, mtime_ns: int, header: Header | str) -> tuple[Any, ...]:
    if isinstance(header, str):
        return path, size, mtime_ns, header
    transform = " ".join(map(repr, header.transform))
    return path, size, mtime_ns, "", *header[:5], transform, "" if header.nodata is None else repr(header.nodata)


def _parse(row: list[str]) -> Header | str | None:
    try:
        if row[3]:
            return row[3]
        width, height, bands, dtype, crs, transform, nodata = row[4:]
        numbers = tuple(map(float, transform.split())) if transform else ()
        return Header(int(width), int(height), int(bands), dtype, crs, numbers, float(nodata) if nodata else None)
    except (ValueError, IndexError):
        return None


# --- The digest of every image that was prepared, remembered as long as its size and time stay what they were.

DIGESTS_VERSION = "digests 1"


def content_digest(path: Path) -> str:
    """Return the SHA-256 of an image's bytes; raise PbvsError when it is gone or cannot be read."""
    try:
        return sha256(path)
    except FileNotFoundError:
        raise PbvsError(f"There is no image {path}; run `pbvs build-pairs` again if the data have moved.") from None
    except OSError as error:
        raise PbvsError(f"The image {path} cannot be read ({error.strerror}); check its permissions.") from None


class Digests:
    """A table of digests by path, size and time; one that is missing or damaged is simply empty."""

    def __init__(self, path: Path, root: Path) -> None:
        """Read the table at `path`; the images asked for lie below `root`."""
        self.path = path
        self.root = root.resolve()
        self._rows = _load_digests(path)
        self._stamps: dict[str, tuple[str, str, str]] = {}
        self._changed = False

    def get(self, relative: str) -> str | None:
        """Return an image's digest when it is known and the image is what it was."""
        stamp = self._stamp(relative)
        return self._rows.get(stamp[0], ("", "", ""))[2] if self._is_known(stamp) else None

    def put(self, relative: str, digest: str | None) -> None:
        """Remember a digest, taken after `get` was asked."""
        stamp = self._stamps.get(relative)
        if stamp is not None and digest is not None and not self._is_known(stamp):
            self._rows[stamp[0]] = (stamp[1], stamp[2], digest)
            self._changed = True

    def write(self) -> None:
        """Write the table when it has changed."""
        if self._changed:
            write_rows(self.path, (DIGESTS_VERSION,), ((path, *row) for path, row in self._rows.items()))
            self._changed = False

    def _is_known(self, stamp: tuple[str, str, str]) -> bool:
        return self._rows.get(stamp[0], ("", "", ""))[:2] == stamp[1:] and bool(stamp[1])

    def _stamp(self, relative: str) -> tuple[str, str, str]:
        if relative not in self._stamps:
            path = inside(self.root, relative)
            try:
                status = path.stat()
                self._stamps[relative] = (str(path), str(status.st_size), str(status.st_mtime_ns))
            except OSError:
                self._stamps[relative] = (str(path), "", "")
        return self._stamps[relative]


def _load_digests(path: Path) -> dict[str, tuple[str, str, str]]:
    if not path.is_file():
        return {}
    try:
        rows = csv.reader(io.StringIO(read_text(path)))
        if next(rows, None) != [DIGESTS_VERSION]:
            return {}
        return {row[0]: (row[1], row[2], row[3]) for row in rows}
    except (PbvsError, csv.Error, IndexError):
        return {}
