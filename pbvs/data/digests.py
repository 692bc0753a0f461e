"""The digest of every picture that was prepared, remembered as long as its size and time stay what they were."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from pbvs.errors import PbvsError
from pbvs.files import inside, read_text, sha256
from pbvs.rows import write_rows

VERSION = "digests 1"


def content_digest(path: Path) -> str:
    """Return the SHA-256 of a picture's bytes; raise PbvsError when it is gone or cannot be read."""
    try:
        return sha256(path)
    except FileNotFoundError:
        raise PbvsError(f"There is no picture {path}; run `pbvs build-pairs` again if the data have moved.") from None
    except OSError as error:
        raise PbvsError(f"The picture {path} cannot be read ({error.strerror}); check its permissions.") from None


class Digests:
    """A table of digests by path, size and time; one that is missing or damaged is simply empty."""

    def __init__(self, path: Path, root: Path) -> None:
        """Read the table at `path`; the pictures asked for lie below `root`."""
        self.path = path
        self.root = root.resolve()
        self._rows = _load(path)
        self._stamps: dict[str, tuple[str, str, str]] = {}
        self._changed = False

    def get(self, relative: str) -> str | None:
        """Return a picture's digest when it is known and the picture is what it was."""
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
            write_rows(self.path, (VERSION,), ((path, *row) for path, row in self._rows.items()))
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


def _load(path: Path) -> dict[str, tuple[str, str, str]]:
    if not path.is_file():
        return {}
    try:
        rows = csv.reader(io.StringIO(read_text(path)))
        if next(rows, None) != [VERSION]:
            return {}
        return {row[0]: (row[1], row[2], row[3]) for row in rows}
    except (PbvsError, csv.Error, IndexError):
        return {}
