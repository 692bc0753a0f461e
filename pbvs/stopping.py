"""End within two seconds when asked to: Ctrl-C and SIGTERM become one sentence and an exit status.

Every file is whole or absent at any moment, so there is nothing to wait for: where the work does not end by itself
(a long call inside torch, workers that do not listen), the process leaves at once.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

GRACE = 1.2  # seconds for the work to end by itself
SENTENCE = "Stopped. What was finished is kept; the same command goes on from there."
SIGNALS = (signal.SIGINT, signal.SIGTERM)

received: int | None = None  # the signal that asked this process to stop


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised where Ctrl-C would be."""


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """While the block runs, SIGTERM raises as Ctrl-C does, and either ends the process within two seconds."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    watcher = threading.Thread(target=_watch, args=(read,), daemon=True, name="stopping")
    watcher.start()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        # The byte is written even while Python code cannot run, as in a long call inside torch.
        wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, _raise)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(write)
        watcher.join()
        os.close(read)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    global received
    received = number
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def _watch(read: int) -> None:
    """Wait for a signal's byte; when the process is still there a moment later, or on a second one, leave."""
    while data := os.read(read, 1):
        if data[0] in SIGNALS:
            select.select([read], [], [], GRACE)
            leave(data[0])


def leave(number: int) -> NoReturn:
    """Say the sentence, end this process's children and this process, with the status that shells expect."""
    with contextlib.suppress(OSError):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"\n{SENTENCE}\n".encode())
    for child in children(os.getpid()):
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGKILL)
    os._exit(128 + number)


def children(process: int) -> list[int]:
    """Return the process ids of all that descend from `process`, where the system tells."""
    found: list[int] = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, path.read_text().split()):
                found += [*children(child), child]
    return found


def _forget_in_child() -> None:
    """A forked worker must not wake its parent's watcher; SIGTERM ends it as it ends any process."""
    if signal.getsignal(signal.SIGTERM) is _raise:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


os.register_at_fork(after_in_child=_forget_in_child)
