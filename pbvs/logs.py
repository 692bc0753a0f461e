"""Progress that people see: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

from pbvs.text import escaped, fitted

T = TypeVar("T")
QUIET_SECONDS = 30.0  # between the lines printed where there is no terminal
_quiet = False  # whether progress is kept to the log


def set_quiet(quiet: bool) -> None:
    """Print no progress from now on, or print it again; warnings and errors are printed always."""
    global _quiet
    _quiet = quiet


def say(text: str) -> None:
    """Print a message to standard error, where it does not mix with a command's output: escaped, and `fitted`."""
    LOG.info(escaped(text))
    if not _quiet or text.startswith("Warning"):
        print(fitted(text, sys.stderr), file=sys.stderr, flush=True)


def track(items: Iterable[T], what: str, total: int | None = None, unit: str = "file") -> Iterator[T]:
    """Yield `items`, showing how far they are: a tqdm bar on a terminal, else a line every half minute."""
    total = len(items) if total is None and isinstance(items, Sized) else total
    if sys.stderr.isatty() and not _quiet:
        from tqdm import tqdm

        yield from tqdm(items, desc=what, total=total, unit=unit, dynamic_ncols=True, leave=False)
        return
    last = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        if time.monotonic() - last > QUIET_SECONDS:
            last = time.monotonic()
            say(f"{what}: {count}{'' if total is None else f' of {total}'}")


class Meter:
    """Counts steps towards a total and says now and then how fast they go and how long they will still take."""

    def __init__(self, what: str, total: int, done: int, bar: Any = None):
        self.what, self.total, self.done, self.bar = what, total, done, bar
        self.started = self.last = time.monotonic()
        self.first = done
        self.images = 0

    def advance(self, steps: int, images: int, describe: Callable[[], str]) -> None:
        """Count `steps` done on `images` images; `describe` is asked only when something is shown."""
        self.done += steps
        self.images += images
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(steps)
        if now - self.last >= (1.0 if self.bar is not None else QUIET_SECONDS):
            self.last = now
            text = f"{describe()} {self.images / (now - self.started):.3g} images/s"
            if self.bar is not None:
                self.bar.set_postfix_str(text)
            else:
                left = (self.total - self.done) * (now - self.started) / max(1, self.done - self.first)
                say(f"{self.what}: step {self.done} of {self.total}, {text}, {left / 60:.0f} min left")


def duration(seconds: float) -> str:
    """Return a time as people say it.

    >>> duration(42), duration(754), duration(9000), duration(200000)
    ('42 s', '13 min', '2.5 h', '2.3 days')
    """
    for unit, size, digits in (("days", 86400, 1), ("h", 3600, 1), ("min", 60, 0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def size_text(size: int) -> str:
    """Return bytes as people say them.

    >>> size_text(400_000), size_text(39_000_000), size_text(3_400_000_000)
    ('0.4 MB', '39 MB', '3.4 GB')
    """
    unit, scale = ("TB", 1e12) if size >= 1e12 else ("GB", 1e9) if size >= 1e9 else ("MB", 1e6)
    return f"{size / scale:.{1 if size < 10 * scale else 0}f} {unit}"


@contextlib.contextmanager
def meter(what: str, total: int, done: int = 0) -> Iterator[Meter]:
    """Yield a Meter: a tqdm bar on a terminal, else a line every half minute."""
    if not sys.stderr.isatty() or _quiet:
        yield Meter(what, total, done)
        return
    from tqdm import tqdm

    with tqdm(total=total, initial=done, desc=what, unit="step", dynamic_ncols=True, leave=False) as bar:
        yield Meter(what, total, done, bar)


# --- What was done to a run, in its own log.txt: each command with its times, what it said, and how it ended.

NAME = "log.txt"
LOG = logging.getLogger("pbvs")
GONE = "a folder that is gone"
LOG.setLevel(logging.INFO)
LOG.propagate = False


class RunLog(logging.Handler):
    """One command's lines: kept until a folder is known, then appended to its log.txt as they come."""

    def __init__(self, arguments: Sequence[str]):
        super().__init__()
        self.process = os.getpid()  # workers that are forked from this one write nothing
        self.begun = time.monotonic()
        self.lines: list[str] = []
        self.folders: dict[Path, int] = {}  # -> how many of the lines it has
        self._mark(f"in {here()}: pbvs {shlex.join(arguments)}")

    def bind(self, folder: Path) -> None:
        """Write the lines, those before this call too, to `folder`/log.txt."""
        self.folders.setdefault(Path(folder).absolute(), 0)
        self.flush()

    def emit(self, record: logging.LogRecord) -> None:
        """Add a record's lines, and those of its trace."""
        self.lines += [f"    {escaped(line)}" for line in self.format(record).lstrip("\n").splitlines()]
        self.flush()

    def end(self, status: int) -> None:
        """Add how and when the command ended."""
        self._mark(f"ended with status {status} after {time.monotonic() - self.begun:.1f} s")
        self.flush()

    def _mark(self, text: str) -> None:
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.lines.append(f"{now} process {self.process} {text}")

    def flush(self) -> None:
        """Append to each folder's file what it lacks; a disk that is full is told by what must be written."""
        for folder, done in self.folders.items() if os.getpid() == self.process else ():
            text = "".join(f"{line}\n" for line in self.lines[done:])
            with contextlib.suppress(OSError):
                own = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)  # a link in its place is not followed
                handle = os.open(folder / NAME, os.O_WRONLY | os.O_APPEND | os.O_CREAT | own, 0o666)
                with os.fdopen(handle, "wb", buffering=0) as file:
                    file.write(text.encode("utf-8", "backslashreplace"))
                self.folders[folder] = len(self.lines)


@contextlib.contextmanager
def opened(arguments: Sequence[str]) -> Iterator[RunLog]:
    """Keep a command's log while the block runs."""
    handler = RunLog(arguments)
    LOG.addHandler(handler)
    try:
        yield handler
    finally:
        LOG.removeHandler(handler)


def bind(folder: Path) -> None:
    """Let the current command, if there is one, keep its log in `folder`."""
    for handler in LOG.handlers:
        if isinstance(handler, RunLog):
            handler.bind(folder)


def here() -> str:
    """Return the working folder; GONE where it was removed under a shell that stands in it."""
    try:
        return str(Path.cwd())
    except OSError:
        return GONE


# --- End within two seconds when asked to: Ctrl-C and SIGTERM become one sentence and an exit status.

GRACE = 1.2  # seconds for the work to end by itself
SENTENCE = "Stopped. What was finished is kept; the same command goes on from there."
SIGNALS = (signal.SIGINT, signal.SIGTERM)

received: int | None = None  # the signal that asked this process to stop


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised where Ctrl-C would be."""


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """While the block runs, SIGTERM raises as Ctrl-C does, and either ends the process within two seconds."""
    if threading.current_thread() is not threading.main_thread() or os.name != "posix":
        yield  # Windows ends a process that is asked to by itself
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    watcher = threading.Thread(target=_watch, args=(read,), daemon=True, name="stopping")
    watcher.start()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    hook, threading.excepthook = threading.excepthook, _quiet_once_stopped
    try:
        # The byte is written even while Python code cannot run, as in a long call inside torch.
        wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, _raise)
        yield
    finally:
        threading.excepthook = hook
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(write)
        watcher.join()
        os.close(read)


def _quiet_once_stopped(failed: threading.ExceptHookArgs) -> None:
    """Keep to the log what a thread complains of while everything ends, such as joblib's manager of its workers."""
    if received is None:
        threading.__excepthook__(failed)
    else:
        LOG.info(f"While stopping: {failed.exc_type.__name__}: {failed.exc_value}")


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
    """Say the sentence, also in the log, end this process's children and it, with the status that shells expect."""
    for handler in LOG.handlers:
        if isinstance(handler, RunLog):
            handler.end(128 + number)
    with contextlib.suppress(OSError, ValueError):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"\n{fitted(SENTENCE, sys.stderr)}\n".encode())
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


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
