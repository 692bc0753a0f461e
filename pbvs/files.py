"""Files that appear whole or not at all, digests, and paths that cannot leave their folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from pbvs.errors import PbvsError, UsageError

_TEMPORARY = re.compile(r"^\..+\.(\d+)\.part$")
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced to disk and renamed to `path`.

    On an exception the temporary file is removed and `path` stays what it was. Raises PbvsError when the disk is
    full or the folder cannot be written.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        sync_file(part)
        part.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise _write_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with atomic_path(path) as part:
        part.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 with its line ends as they are, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; refuses NaN and infinity, which are no JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_text(path: Path) -> str:
    """Read UTF-8 text; raise PbvsError when the file is missing, unreadable or not UTF-8."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PbvsError(f"There is no file {path}; check the path.") from None
    except UnicodeDecodeError:
        raise PbvsError(f"{path} is not UTF-8 text; save it as UTF-8.") from None
    except OSError as error:
        raise PbvsError(f"{path} cannot be read: {error.strerror}; check its permissions.") from error


def read_json(path: Path) -> Any:
    """Read JSON; raise PbvsError with the line where it stops being JSON."""
    try:
        return json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise PbvsError(f"{path} is not valid JSON ({error}); mend it or make it anew.") from None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value in its canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def inside(root: Path, relative: str) -> Path:
    """Return `root / relative`; raise PbvsError when it is absolute or would leave `root` by `..`.

    Links are followed as they are: a data folder may well be made of links.
    """
    parts = PurePosixPath(relative)
    if parts.is_absolute() or ".." in parts.parts or "\\" in relative or "\0" in relative:
        raise PbvsError(f"The path {relative!r} leaves {root}; paths must be relative to it and without '..'.")
    return Path(root) / parts


def check_name(name: str, what: str = "run name") -> str:
    """Return `name` when it is safe as a file name, else raise UsageError."""
    if not _NAME.match(name):
        raise UsageError(
            f"The {what} {name!r} cannot be used; take letters, digits, '.', '_' and '-', "
            "starting with a letter or digit."
        )
    return name


def sync_file(path: Path) -> None:
    """Flush a file's bytes to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to the disk, where the file system can."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF):
            raise
    finally:
        os.close(handle)


def sweep(folder: Path) -> int:
    """Remove the temporary files that dead processes left below `folder`; return how many."""
    count = 0
    for part in Path(folder).rglob(".*.part"):
        match = _TEMPORARY.match(part.name)
        if match and not _alive(int(match.group(1))):
            with contextlib.suppress(OSError):
                part.unlink()
                count += 1
    return count


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return pid != os.getpid()


def _write_error(path: Path, error: OSError) -> PbvsError:
    if error.errno == errno.ENOSPC:
        return PbvsError(f"The disk is full: {path} was not written; free some space and start the command again.")
    return PbvsError(f"{path} cannot be written: {error.strerror or error}; check the folder's permissions.")
