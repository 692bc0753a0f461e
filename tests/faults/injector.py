"""The operations that change files, counted, and one of them made to fail: in SQLite's manner, each in its turn.

`os` functions and `open` are replaced in a forked process. What C libraries write by themselves is not counted, but a
kill before the next counted operation leaves it unsynced just the same, and the power failure below cuts it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import pathlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

KILLED = 137
KILLS = ("before", "half", "after", "power")
ERRORS = {"enospc": errno.ENOSPC, "eio": errno.EIO, "full": errno.ENOSPC}
MODES = (*KILLS, *ERRORS, "short")
WRITES = ("open", "write", "mkdir", "truncate")
_real = {
    name: getattr(os, name)
    for name in ("open", "write", "pwrite", "fsync", "replace", "rename", "unlink", "remove", "mkdir", "rmdir")
}
_open, _ftruncate = io.open, os.ftruncate


class Injector:
    """Counts the operations below `root`; the `at`-th one (from 0) meets with `mode`."""

    def __init__(self, root: Path, at: int = -1, mode: str = "before"):
        self.root, self.at, self.mode = str(root), at, mode
        self.count = 0
        self.kinds: list[str] = []
        self.versions: dict[str, set[str]] = {}  # path -> digests of what was ever visible there
        self.synced: set[tuple[int, int]] = set()
        self.undo: dict[str, list[Callable[[], None]]] = {}  # folder -> how to lose its entries not yet synced
        self.start = {name: _stamp(name) for name in _files(self.root)}
        self.lock = threading.RLock()

    def below(self, path: Any) -> bool:
        """Return whether a path lies below the root."""
        try:
            name = str(Path(path).absolute())
        except TypeError:
            return False
        return isinstance(name, str) and name.startswith(self.root + os.sep)

    def do(self, kind: str, act: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        """Count one operation and perform it, unless it is the one to fail."""
        with self.lock:
            number = self.count
            self.count += 1
            self.kinds.append(kind)
            if number < self.at or self.at < 0 or (number > self.at and self.mode != "full"):
                return act()
            if self.mode in ERRORS:
                if self.mode == "full" and kind not in WRITES:
                    return act()
                raise OSError(ERRORS[self.mode], os.strerror(ERRORS[self.mode]))
            if self.mode == "short":
                return half() if half else act()
            if self.mode == "half" and half:
                half()
            elif self.mode in ("after", "power"):
                act()
            if self.mode == "power":
                self.lose_unsynced()
            os._exit(KILLED)

    def lose_unsynced(self) -> None:
        """Leave the folder as the worst file system may after a power failure: unsynced bytes and entries are lost."""
        for steps in self.undo.values():
            for step in reversed(steps):
                with contextlib.suppress(OSError):
                    step()
        for name in _files(self.root):
            stamp = _stamp(name)
            if stamp == self.start.get(name) or stamp[:2] in self.synced or is_ignored(Path(name)):
                continue
            os.truncate(name, Path(name).stat().st_size // 2)

    @contextlib.contextmanager
    def installed(self) -> Iterator[Injector]:
        """Replace the functions while the block runs."""
        import builtins

        places: list[tuple[Any, str, Any]] = [(os, name, getattr(self, f"_{name}")) for name in _real]
        places += [(os, "ftruncate", self._ftruncate), (io, "open", self._io_open), (builtins, "open", self._io_open)]
        if sys.version_info < (3, 11):  # where pathlib keeps functions of its own from its import on
            accessor = pathlib._NormalAccessor  # type: ignore[attr-defined]
            names = ("open", "mkdir", "unlink", "rmdir", "rename", "replace")
            places += [
                (accessor, name, self._io_open if name == "open" else getattr(self, f"_{name}")) for name in names
            ]
        saved = [(place, name, vars(place)[name]) for place, name, _ in places]
        for place, name, function in places:
            setattr(place, name, function)
        try:
            yield self
        finally:
            for place, name, function in saved:
                setattr(place, name, function)

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        act = lambda: _real["open"](path, flags, mode, dir_fd=dir_fd)  # noqa: E731
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and dir_fd is None and self.below(path):
            return int(self.do("open", act))
        return int(act())

    def _write(self, handle: int, data: Any) -> int:
        return self._written(handle, len(data), lambda n: _real["write"](handle, data[:n]))

    def _pwrite(self, handle: int, data: Any, offset: int) -> int:
        return self._written(handle, len(data), lambda n: _real["pwrite"](handle, data[:n], offset))

    def _written(self, handle: int, size: int, write: Callable[[int], int]) -> int:
        if not self.below(_path_of(handle)):
            return write(size)
        self.synced.discard(_inode(handle))
        return int(self.do("write", lambda: write(size), lambda: write(max(1, size // 2))))

    def _ftruncate(self, handle: int, size: int) -> None:
        act = lambda: _ftruncate(handle, size)  # noqa: E731
        self.do("truncate", act) if self.below(_path_of(handle)) else act()

    def _fsync(self, handle: int) -> None:
        path = _path_of(handle)
        if not self.below(path + "/x"):
            return _real["fsync"](handle)

        def act() -> None:
            _real["fsync"](handle)
            self.synced.add(_inode(handle))
            self.undo.pop(path, None)

        return self.do("fsync", act)

    def _replace(self, source: Any, target: Any, **folders: Any) -> None:
        self._moved("replace", source, target, folders)

    def _rename(self, source: Any, target: Any, **folders: Any) -> None:
        self._moved("rename", source, target, folders)

    def _moved(self, name: str, source: Any, target: Any, folders: dict[str, Any]) -> None:
        if not self.below(target):
            return _real[name](source, target, **folders)
        for file, place in _moved(Path(source), Path(target).absolute()):
            self.versions.setdefault(str(place), set()).add(digest_of(file, place))
        act = lambda: (self._remember(Path(target)), _real[name](source, target, **folders))[1]  # noqa: E731
        return self.do(name, act)

    def _remember(self, path: Path) -> None:
        """Keep what lies at `path`, so that a power failure can bring it back."""
        path = path.absolute()
        if self.mode != "power" or not path.parent.is_dir():
            return
        old = path.read_bytes() if path.is_file() else None

        def bring_back() -> None:
            path.unlink(missing_ok=True)
            if old is not None:
                path.write_bytes(old)
                self.synced.add(_stamp(str(path))[:2])

        self.undo.setdefault(str(path.parent), []).append(bring_back)

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._removed("unlink", path, dir_fd)

    def _remove(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._removed("remove", path, dir_fd)

    def _rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._removed("rmdir", path, dir_fd)

    def _removed(self, name: str, path: Any, dir_fd: int | None) -> None:
        full = Path(_path_of(dir_fd), path) if dir_fd is not None else Path(path)
        act = lambda: _real[name](path, dir_fd=dir_fd)  # noqa: E731
        if not self.below(full):
            return act()
        if not full.exists():
            return act()
        return self.do(name, lambda: (name == "rmdir" or self._remember(full), act())[1])

    def _mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        act = lambda: _real["mkdir"](path, mode, dir_fd=dir_fd)  # noqa: E731
        return self.do("mkdir", act) if dir_fd is None and self.below(path) else act()

    def _io_open(self, file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **named: Any) -> Any:
        if isinstance(file, int) or not set(mode) & set("wax+") or not self.below(file):
            return _open(file, mode, buffering, *rest, **named)
        raw = self.do("open", lambda: _Raw(self, file, mode.replace("b", "").replace("t", "")))
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        names = dict(zip(("encoding", "errors", "newline"), rest, strict=False)) | named
        text = io.TextIOWrapper(buffered, names.get("encoding"), names.get("errors"), names.get("newline"))
        text.mode = mode
        return text


class _Raw(io.FileIO):
    def __init__(self, injector: Injector, file: Any, mode: str):
        super().__init__(file, mode)
        self._injector = injector

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._injector.synced.discard(_inode(self.fileno()))
        write = super().write
        return int(self._injector.do("write", lambda: write(view), lambda: write(view[: max(1, len(view) // 2)])))


def _path_of(handle: int) -> str:
    return os.readlink(f"/proc/self/fd/{handle}")  # noqa: PTH115


def _inode(handle: int) -> tuple[int, int]:
    status = os.fstat(handle)
    return status.st_dev, status.st_ino


def _moved(source: Path, target: Path) -> Iterator[tuple[Path, Path]]:
    """Yield each file that a renaming moves, with its new place."""
    if source.is_file():
        yield source, target
    elif source.is_dir():
        yield from ((file, target / file.relative_to(source)) for file in source.rglob("*") if file.is_file())


def _stamp(name: str) -> tuple[int, int, int, int]:
    status = Path(name).stat()
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def _files(root: str) -> list[str]:
    return [str(path) for path in Path(root).rglob("*") if path.is_file() and not path.is_symlink()]


def is_ignored(path: Path) -> bool:
    """Return whether a file is only ever appended to, or says who is at work."""
    return path.name in (".lock", "log.txt") or path.name.startswith("events.out.tfevents")


def digest_of(path: Path, name: Path | None = None) -> str:
    """Return a digest of a file's content without what differs from run to run (seconds measured, times)."""
    from tests.faults.normal import normal

    return hashlib.sha256(normal((name or path).name, path.read_bytes())).hexdigest()
