"""One command at a time on a run: the second is told who holds it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from pbvs import logs
from pbvs.errors import PbvsError
from pbvs.files import make_folder, write_error
from pbvs.logs import say

_held: set[int] = set()


def _let_go_in_child() -> None:
    """Close the locks in a forked worker, so that one which outlives a killed command does not hold them on."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go_in_child)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder` while the block runs; the system lets go of it even when the process is killed.

    Raises PbvsError naming the holder when another process has it, or when the folder cannot be written.
    """
    path = folder / ".lock"
    try:
        make_folder(folder)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise write_error(path, error) from error
    _held.add(handle)
    try:
        _take(handle, folder)
        logs.bind(folder)
        yield
    finally:
        if handle in _held:  # a forked child has closed it already
            _held.discard(handle)
            os.close(handle)


def _take(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(handle, 500, 0).decode("utf-8", "replace").strip() or "another process"
        raise PbvsError(f"{folder} is in use by {holder}; wait for it to end, or stop it.") from None
    except OSError as error:  # some network file systems have no locks; a run there must not be impossible
        say(f"{folder} cannot be locked ({error.strerror}): make sure that no second command works on it.")
    words = f"process {os.getpid()} on {socket.gethostname()} (pbvs {' '.join(sys.argv[1:3])})\n"
    with contextlib.suppress(OSError):  # the name is only a help; a full disk is told by what must be written
        os.ftruncate(handle, 0)
        os.pwrite(handle, words.encode("utf-8", "backslashreplace"), 0)
