"""One command at a time on a run: the second is told who holds it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from pbvs import logs
from pbvs.errors import PbvsError
from pbvs.files import make_folder, open_no_follow, write_error
from pbvs.logs import say

NAME = ".lock"
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}  # some network file systems


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder` while the block runs; the system releases it even when the process is killed.

    A lock that is a link is refused, so that nothing outside the folder is written. Raises PbvsError naming the holder
    when another process has it, or when the folder cannot be written.
    """
    path = folder / NAME
    try:
        make_folder(folder)
    except OSError as error:
        raise write_error(path, error) from error
    if path.is_symlink():
        raise PbvsError(f"{path} is a link; remove it and run the command again.")
    lock = FileLock(path, blocking=False, fallback_to_soft=False, is_singleton=False)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock)
            _sign(path)
        except Timeout:
            raise PbvsError(f"{folder} is in use by {_holder(path)}; wait for it to end, or stop it.") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise write_error(path, error) from error
            say(f"{folder} cannot be locked ({error.strerror}): make sure that no second command works on it.")
        logs.bind(folder)
        yield


def _sign(path: Path) -> None:
    """Write who holds the lock into its file; only a help, so that a full disk is no error here."""
    words = f"process {os.getpid()} on {socket.gethostname()} (pbvs {' '.join(sys.argv[1:3])})\n"
    with contextlib.suppress(OSError):
        handle = open_no_follow(path, os.O_WRONLY | os.O_TRUNC)
        try:
            os.write(handle, words.encode("utf-8", "backslashreplace"))
        finally:
            os.close(handle)


def _holder(path: Path) -> str:
    said = b""
    with contextlib.suppress(OSError):
        handle = open_no_follow(path, os.O_RDONLY)
        try:
            said = os.read(handle, 500)
        finally:
            os.close(handle)
    return said.decode("utf-8", "replace").strip() or "another process"
