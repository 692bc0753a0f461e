"""What was done to a run, in its own log.txt: each command with its times, what it said, and how it ended."""

from __future__ import annotations

import contextlib
import os
import shlex
import traceback
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path

NAME = "log.txt"


class Journal:
    """One command's lines; they are kept until a folder is known, then appended as they come."""

    def __init__(self, arguments: Sequence[str]):
        self.process = os.getpid()  # workers that are forked from this one write nothing
        self._begun = datetime.now(timezone.utc)
        self._lines = [f"{_clock(self._begun)} process {self.process} in {Path.cwd()}: pbvs {shlex.join(arguments)}"]
        self._folders: dict[Path, int] = {}  # -> how many of the lines it has

    def bind(self, folder: Path) -> None:
        """Write the lines, those before this call too, to `folder`/log.txt."""
        self._folders.setdefault(Path(folder).absolute(), 0)
        self._write()

    def note(self, text: str) -> None:
        """Add a line, or several."""
        self._lines.extend(f"    {line}" for line in text.splitlines())
        self._write()

    def fail(self, error: BaseException) -> None:
        """Add an error with its trace."""
        self.note("".join(traceback.format_exception(type(error), error, error.__traceback__)))

    def end(self, status: int) -> None:
        """Add how and when the command ended."""
        now = datetime.now(timezone.utc)
        seconds = (now - self._begun).total_seconds()
        self._lines.append(f"{_clock(now)} process {self.process} ended with status {status} after {seconds:.1f} s")
        self._write()

    def _write(self) -> None:
        if os.getpid() != self.process:
            return
        for folder, done in self._folders.items():
            text = "".join(f"{line}\n" for line in self._lines[done:])
            with contextlib.suppress(OSError):  # a full disk is told by what must be written; this is only a help
                handle = os.open(folder / NAME, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
                try:
                    os.write(handle, text.encode("utf-8", "backslashreplace"))
                finally:
                    os.close(handle)
                self._folders[folder] = len(self._lines)


_current: Journal | None = None


@contextlib.contextmanager
def opened(arguments: Sequence[str]) -> Iterator[Journal]:
    """Make a journal the current one while the block runs."""
    global _current
    before, _current = _current, Journal(arguments)
    try:
        yield _current
    finally:
        _current = before


def bind(folder: Path) -> None:
    """Let the current command, if there is one, keep its log in `folder`."""
    if _current is not None:
        _current.bind(folder)


def note(text: str) -> None:
    """Add a line to the current command's log, if there is one."""
    if _current is not None:
        _current.note(text)


def _clock(time: datetime) -> str:
    return time.isoformat(timespec="seconds")
