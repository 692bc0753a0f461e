"""Files that appear whole or not at all, digests, and paths that cannot leave their folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import io
import json
import math
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from pbvs import aliases
from pbvs.errors import PbvsError, ReadError, UsageError, WriteError

# Without it (Windows) files appear whole too, but `sweep` cannot tell whose writer is dead.
fcntl = importlib.import_module("fcntl") if os.name == "posix" else None

# Our temporary files. Those of earlier versions and the ones that safetensors makes beside the file it writes could
# be anybody's, so they are looked for only in a run's own folders.
_TEMPORARY = re.compile(r"^\..+\.[0-9a-f]{8}\.pbvs-part$")
_TEMPORARY_IN_RUNS = re.compile(r"^\..+\.[0-9a-f]{8,}\.part$|^\.tmp[A-Za-z0-9]{6}$")
_NAME_BYTES = 150  # of the final name that a temporary one shows; file systems take 255
UNFINISHED = ".unfinished"
_OS_ERROR = re.compile(r"\((?:os error )?(\d{1,3})\)$")  # as libraries in Rust and torch say it
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}  # some network file systems
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")


@contextlib.contextmanager
def atomic_path(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced to disk and renamed to `path`.

    Without `durable` the disk is not waited for, and after a power failure the file may be there with other bytes:
    only for what can be made again and is checked when it is read.
    The temporary file is there already, empty, and locked, so that `sweep` leaves it alone while its writer lives.
    On an exception it is removed and `path` stays what it was. Raises PbvsError when the disk is full or the folder
    cannot be written.
    """
    path = Path(path)
    # Not the process id: containers on a shared disk have the same ones.
    stem = path.name.encode("utf-8", "surrogateescape")[:_NAME_BYTES].decode("utf-8", "ignore")
    part = path.with_name(f".{stem}.{os.urandom(4).hex()}.pbvs-part")
    handle = -1
    try:
        make_folder(path.parent)
        while handle < 0 or not part.exists():  # another command's `sweep` may have been quicker than the lock
            if handle >= 0:
                os.close(handle)
                handle = -1
            handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            _lock(handle)
        yield part
        if durable:
            sync_file(part)
        part.replace(path)
        if durable:
            sync_folder(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        if handle >= 0:
            os.close(handle)
            with contextlib.suppress(OSError):
                part.unlink()


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each entered durably in the one above."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def remove_all(paths: Iterable[Path]) -> None:
    """Remove files, durably: none comes back after a power failure. One that is gone already is no error.

    Raises WriteError when one cannot be removed.
    """
    folders = set()
    for path in paths:
        with write_errors(path):
            path.unlink(missing_ok=True)
        folders.add(path.parent)
    for folder in folders:
        with write_errors(folder):
            sync_folder(folder)


def copy_files(source: Path, target: Path, but: Container[str] = ()) -> None:
    """Copy the files below a folder into another, each whole or not at all, without hidden ones and the names `but`."""
    for path in matching(source, "**/*"):
        if path.is_file() and path.name not in but and not path.name.startswith("."):
            with atomic_path(target / path.relative_to(source)) as part:
                shutil.copyfile(path, part)


def replace_folder(new: Path, folder: Path) -> None:
    """Put the folder `new` in the place of `folder`, which is removed only afterwards.

    Killed in the middle it leaves both, of which `restore_folder` makes the earlier state. Raises WriteError.
    """
    gone = folder.with_name(f".{folder.name}.gone")
    with write_errors(folder):
        remove_folder(gone)
        if folder.exists():
            folder.rename(gone)
        new.rename(folder)
        sync_folder(folder.parent)
        remove_folder(gone)


def restore_folder(folder: Path) -> None:
    """Undo a `replace_folder` that was interrupted before the new folder was in its place; raises WriteError."""
    gone = folder.with_name(f".{folder.name}.gone")
    with write_errors(folder):
        if gone.exists() and not folder.exists():
            gone.rename(folder)
        else:
            remove_folder(gone)


def remove_folder(folder: Path) -> None:
    """Remove a folder with all that it holds, if it is there; raises WriteError when it cannot be removed."""
    with write_errors(folder):
        if folder.is_dir():
            shutil.rmtree(folder)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with atomic_path(path) as part:
        part.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 with its line ends as they are, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; refuses NaN and infinity, which are no JSON."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Return `value` as `write_json` writes it."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


@contextlib.contextmanager
def unfinished(folder: Path) -> Iterator[None]:
    """Mark `folder` while files that belong together are written into it; the mark stays when that is interrupted."""
    mark = folder / UNFINISHED
    write_text(mark, "What lies here is not complete: the command that writes it was stopped. Start it again.\n")
    sweep(folder)
    yield
    remove_all([mark])


def is_unfinished(folder: Path) -> bool:
    """Return whether the last command that wrote all of `folder` was stopped in the middle."""
    return (folder / UNFINISHED).is_file()


def read_text(path: Path) -> str:
    """Read UTF-8 text; raise PbvsError when the file is missing, unreadable or not UTF-8."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise read_error(path, error) from error


def read_error(path: Path, error: Exception) -> PbvsError:
    """Return the sentence for a file that could not be read: a ReadError unless its bytes are at fault."""
    if isinstance(error, FileNotFoundError):
        return ReadError(f"There is no file {path}; check the path.")
    if isinstance(error, UnicodeDecodeError):
        return PbvsError(f"{path} is not UTF-8 text; save it as UTF-8.")
    reason = getattr(error, "strerror", None) or str(error)
    return ReadError(f"{path} cannot be read: {reason}; check that it is yours to read, and the disk.")


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn errors of the system into a ReadError, also those that libraries in Rust and C++ tell in words only."""
    try:
        yield
    except Exception as error:
        told = _OS_ERROR.search(str(error))
        named = told is not None and os.strerror(int(told[1])) in str(error)
        if named or (isinstance(error, OSError) and error.errno is not None):
            raise read_error(path, error) from None
        raise


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits; raise PbvsError when it cannot be read."""
    digest = hashlib.sha256()
    with disk_errors(path), Path(path).open("rb") as file:
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


def is_name(name: str) -> bool:
    """Return whether `name` is safe as a file name; hidden ones are not."""
    return _NAME.match(name) is not None


def check_name(name: str, what: str = "run name") -> str:
    """Return `name` when it is safe as a file name, else raise UsageError."""
    if not is_name(name):
        raise UsageError(
            f"The {what} {name!r} cannot be used; take letters, digits, '.', '_' and '-', "
            "starting with a letter or digit, at most 100."
        )
    return name


def open_no_follow(path: Path, flags: int) -> int:
    """Open a file of a shared folder and return its handle; a link in its place is refused with OSError (ELOOP)."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0), 0o666)


def read_at(handle: int, size: int, offset: int) -> bytes:
    """Return `size` bytes of an open file from `offset` on, fewer only at its end."""
    found = os.pread(handle, size, offset)
    while 0 < len(found) < size and (more := os.pread(handle, size - len(found), offset + len(found))):
        found += more
    return found


def sync_file(path: Path, ignored: Container[int] = ()) -> None:
    """Flush a file's bytes to the disk; the errors `ignored` are not raised."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in ignored:
            raise
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to the disk, where the file system can."""
    sync_file(path, {errno.EINVAL, errno.EBADF})


def visible_names(folder: Path) -> Iterator[str]:
    """Yield the names of a folder's files that are not hidden, in any order; none where there is no folder."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        yield from (entry.name for entry in entries if not entry.name.startswith("."))


def matching(folder: Path, pattern: str) -> list[Path]:
    """Return the paths below a folder that `pattern` names, in order of name; none where there is no folder.

    A first `**` stands for any folders below; links are not followed. Raises ReadError for a folder that cannot be
    read, or is gone between two looks at it; Path.glob takes those for empty ones.
    """
    name, _, rest = pattern.partition("/")
    found = matching(folder, rest) if name == "**" else []
    with disk_errors(folder):
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name) if folder.is_dir() else ():
            if entry.is_dir(follow_symlinks=False) if name == "**" else fnmatchcase(entry.name, name):
                path = Path(entry.path)
                found += matching(path, pattern if name == "**" else rest) if rest else [path]
    return found


def sweep(folder: Path, deep: bool = True) -> int:
    """Remove the temporary files that dead processes left in `folder` and, if `deep`, below it; return how many.

    Only names that are surely ours count; `deep` is for folders that are all ours, where those of earlier versions
    and of safetensors are removed too.
    """
    count = 0
    for part in Path(folder).glob("**/.*" if deep else ".*"):
        ours = _TEMPORARY.match(part.name) or (deep and _TEMPORARY_IN_RUNS.match(part.name))
        count += bool(ours) and not part.is_symlink() and remove_abandoned(part)
    return count


@contextlib.contextmanager
def held(path: Path) -> Iterator[bool]:
    """Hold the lock of a temporary file or folder; yield whether it is there, and was not removed before that."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        _lock(handle)
        yield path.exists()
    finally:
        os.close(handle)


def _lock(handle: int) -> None:
    """Wait for the lock of a temporary file, which nobody else has but for the moment in which it is removed."""
    if fcntl is not None:
        with contextlib.suppress(OSError):  # file systems without locks
            fcntl.flock(handle, fcntl.LOCK_EX)


def remove_abandoned(part: Path, remove: Callable[[Path], object] = Path.unlink) -> bool:
    """Remove a temporary file or folder whose writer is dead: no process holds its lock; return whether it was."""
    if fcntl is None:
        return False
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        handle = os.open(part, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        stack.callback(os.close, handle)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove(part)  # under the lock, or a writer that had not locked it yet might do so now
        return True
    return False


_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space and start the command again",
    errno.EDQUOT: "your disk quota is used up; free some space and start the command again",
    errno.EFBIG: "the file would be larger than this system allows; raise the limit (ulimit -f)",
    errno.EIO: "the disk reports an error; look at its health, or write to another disk",
    errno.EROFS: "the file system is read-only; write to another folder",
    errno.ENAMETOOLONG: "its name is too long for this file system; take a shorter folder or run name",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n) or take fewer --jobs",
    errno.ENOTDIR: "a part of its path is a file, not a folder; move that file away",
    errno.EISDIR: "a folder is in its place; move that folder away",
    errno.EACCES: "permission is denied; check the folder's owner and mode",
    errno.EPERM: "permission is denied; check the folder's owner and mode",
}


def write_error(path: Path, error: OSError) -> WriteError:
    """Return the sentence for a file that could not be written: which, why, and what to do."""
    number = error.errno
    if number is None and (match := _OS_ERROR.search(str(error))):
        number = int(match.group(1))
    reason = _ADVICE.get(number or 0, f"{error.strerror or error}; check the folder and its disk")
    return WriteError(f"{path} cannot be written: {reason}.")


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn errors of the system while `path` is written into the WriteError that says so."""
    try:
        yield
    except OSError as error:
        raise write_error(path, error) from error


class ReadTooLargeError(Exception):
    """A directory that is not read, as it would take too much memory."""


class BoundedFile(io.BufferedReader):
    """A file of which at most `most` bytes are read at a time: zipfile reads a directory of any size in one go."""

    most: int | None = None

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as the base class does; raises ReadTooLargeError when more is asked for than `most`."""
        if self.most is not None and size is not None and size > self.most:
            raise ReadTooLargeError(f"its directory takes {size} bytes")
        with disk_errors(Path(self.name)):  # which zipfile would take for damage
            return super().read(size)


# --- One loader for every JSON and TOML file: limits on what a stranger's file may ask for, and one sentence.

RECORD_BYTES = 64 << 20  # of a JSON file
TOML_BYTES = 256 << 10
DEPTH = 64  # tables within tables
DIGITS = 40  # of a whole number
_LONG_KEY = r"""(?<![\w.-])(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){64}"""  # compiling it takes a while


def read_json(path: Path, limit: int = RECORD_BYTES) -> Any:
    """Read JSON, old keys under today's names; raise PbvsError when it is not JSON or more than a record can hold.

    Refused are files of more than `limit` bytes, NaN and infinity, whole numbers of more than 40 digits, tables more
    than 64 deep and text that is not Unicode.
    """
    _check_size(path, limit)
    return aliases.stored(parse_json(read_text(path), str(path)))


def parse_json(text: str | bytes, where: str) -> Any:
    """Return the value of JSON text, with the limits of `read_json`; `where` names it in the sentence."""
    try:
        value = json.loads(text, parse_int=_whole)
        _check_value(value)
        return value
    except (ValueError, RecursionError) as error:
        raise PbvsError(f"{where} is not valid JSON ({_plain(error)}); correct it or make it again.") from None


def read_record(path: Path, again: str = "", shape: Any = None, **types: type | tuple[type, ...]) -> dict[str, Any]:
    """Read a JSON file that must hold a table; `types` are the keys that must be there with their types.

    `shape` says what keys hold that may be there (see `misfit`). Raises PbvsError saying which key is wrong, and
    `again`: the command that makes the file again.

    >>> read_record(Path("done.json"), made_from=str)  # doctest: +SKIP
    {'made_from': '5f2c…', 'seconds': 1.7}
    """
    hint = again or "make it again"
    value = read_json(path)
    if not isinstance(value, dict):
        raise PbvsError(f"{path} holds no table; {hint}.")
    wrong = [key for key, kind in types.items() if misfit(value.get(key), kind)]
    if wrong or (found := misfit(value, shape or {})):
        raise PbvsError(f"{path} has no valid {(wrong or [found.strip('.')])[0]!r}; {hint}.")
    return value


def misfit(value: Any, shape: Any, path: str = ".") -> str:
    """Return the path of the first part of a JSON value that is not as `shape` says; '' where all is.

    A shape is a type, a tuple of shapes of which one must fit, a table of shapes by key ("*": any other key; keys that
    it does not name hold anything), or a list: of one shape for all items, or of one for each.

    >>> misfit({"tasks": {"a": {"images": "x"}}}, {"tasks": {"*": {"images": int}}})
    '.tasks.a.images'
    """
    if isinstance(shape, tuple):
        return "" if any(not misfit(value, each) for each in shape) else path
    if not isinstance(shape, dict | list):
        return "" if isinstance(value, shape) and not (isinstance(value, bool) and shape in (int, float)) else path
    if type(value) is not type(shape) or (isinstance(shape, list) and len(shape) not in (1, len(value))):
        return path
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        part = shape.get(key, shape.get("*", object)) if isinstance(shape, dict) else shape[key % len(shape)]
        if found := misfit(item, part, f"{path.rstrip('.')}.{key}"):
            return found
    return ""


def read_toml(path: Path, limit: int = TOML_BYTES) -> dict[str, Any]:
    """Return the tables of a TOML file; raise PbvsError naming the file and line when it is not TOML.

    The limits are those of `read_json`, but for `limit` bytes.
    """
    _check_size(path, limit)
    return parse_toml(read_text(path), str(path))


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Return the tables of TOML text, with the limits of `read_toml`; `where` names it in the sentence."""
    if sys.version_info >= (3, 11):  # imported here, as no --help needs them
        import tomllib
    else:
        import tomli as tomllib

    if re.search(_LONG_KEY, text):  # the parser's time grows with the square of a dotted key's parts
        raise PbvsError(f"{where} is not valid TOML: a key has more than {DEPTH} parts; correct that line.")
    try:
        tables: dict[str, Any] = tomllib.loads(text)
        _check_value(tables)
        return tables
    except (ValueError, RecursionError) as error:
        raise PbvsError(f"{where} is not valid TOML: {_plain(error)}; correct that line.") from None


def dump_toml(tables: Mapping[str, Any]) -> str:
    """Return TOML text, escaped for terminals, for nested tables of strings, numbers, booleans, lists (not None)."""
    import tomli_w

    text = tomli_w.dumps(_without_none(tables))
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\U{ord(c):08X}" for c in text)


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, (list, tuple)) else value


def _check_size(path: Path, limit: int) -> None:
    with contextlib.suppress(OSError):  # told by whoever reads it
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            raise PbvsError(f"{path} is no ordinary file; put the file itself there.")
        if status.st_size > limit:
            raise PbvsError(f"{path} has {status.st_size:,} bytes, where at most {limit:,} are read; it is not ours.")


def _check_value(value: Any) -> None:
    """Raise ValueError for what no record holds; without recursion, as the value may be deep."""
    waiting = [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        if depth > DEPTH:
            raise ValueError(f"its tables are more than {DEPTH} deep")
        if isinstance(item, str):
            item.encode("utf-8")  # a lone surrogate is no text
        elif isinstance(item, dict):
            for key in item:
                key.encode("utf-8")
            waiting.extend((part, depth + 1) for part in item.values())
        elif isinstance(item, list):
            waiting.extend((part, depth + 1) for part in item)
        elif isinstance(item, float) and not math.isfinite(item):
            raise ValueError(f"{item} is no number")
        elif isinstance(item, int) and abs(item) >= 10**DIGITS:
            raise ValueError(f"a number has more than {DIGITS} digits")


def _whole(text: str) -> int:
    if len(text) > DIGITS + 1:
        raise ValueError(f"a number has more than {DIGITS} digits")
    return int(text)


def _plain(error: Exception) -> str:
    return "its tables are too deep" if isinstance(error, RecursionError) else str(error)
