"""One command at a time on a run: the second is told who holds it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from pbvs.errors import PbvsError


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder` while the block runs; the system lets go of it even when the process is killed.

    Raises PbvsError naming the holder when another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise PbvsError(
                f"{folder} is in use by {file.read().strip() or 'another process'}; wait for it to end, or stop it."
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} (pbvs {' '.join(sys.argv[1:3])})\n")
        file.flush()
        yield
