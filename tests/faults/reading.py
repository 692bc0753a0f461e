"""Every call that reads a file or lists a folder, counted, and one of them made to fail, whoever makes it.

Much of what pbvs reads is read by libraries in C and Rust, which replacing Python's functions does not reach. So
reads.c is compiled with the machine's C compiler, and Python started again with it before the C library.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pbvs.errors import PbvsError
from tests.faults.injector import is_ignored
from tests.faults.normal import without_clock
from tests.faults.points import Bench, is_temporary, tree

ONCE = {"eio": errno.EIO, "eacces": errno.EACCES, "enoent": errno.ENOENT, "estale": errno.ESTALE}
STAYS = {"bad": errno.EIO, "gone": errno.ENOENT}  # from this call on, whatever is asked of the file
SHORT = -1
# What is said of one run among others, that are shown: in a shared folder, and where its files cannot be read.
OF_ONE_RUN = re.compile(r"is not yours to read and is left out|^Damaged: run ", re.MULTILINE)
ABSENT = "There is no image"
MODES = {  # by what is done: open, read, stat or map a file; open or list a folder
    "o": (*ONCE, *STAYS),
    "r": ("eio", "estale", "short", "bad"),
    "s": ("eio", "eacces", "estale"),  # what is said not to be there is taken not to be there
    "m": ("eio", "estale"),
    "d": (*ONCE, *STAYS),
    "l": ("eio", "estale"),
}
NAMES = {"o": "open", "r": "read", "s": "stat", "m": "mmap", "d": "open folder", "l": "list folder"}
SENTENCE = re.compile(r"^(Usage error|Error): \S", re.MULTILINE)
_MARK = "PBVS_TEST_READS"


def start_again_with_the_library() -> str:
    """Restart this process with reads.c before the C library; return why that cannot be, where it cannot."""
    library = os.environ.pop(_MARK, "")
    if library:
        os.environ.pop("LD_PRELOAD")
        Path(library).unlink()  # it stays mapped
        return ""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux" or compiler is None:
        return "reading is disturbed through a library that needs Linux and a C compiler (cc)"
    handle, library = tempfile.mkstemp(prefix="pbvs-reads-", suffix=".so")
    os.close(handle)
    source = Path(__file__).with_name("reads.c")
    command = [compiler, "-std=gnu11", "-O1", "-shared", "-fPIC", "-o", library, str(source), "-ldl", "-lpthread"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        Path(library).unlink()
        return f"the C compiler refuses reads.c: {done.stderr[:500]}"
    environment = {**os.environ, _MARK: library, "LD_PRELOAD": library}
    environment.pop("COLUMNS", None)  # by which sentences would be folded
    return os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


class ReadBench(Bench):
    """Runs one scenario undisturbed, then with one call that reads failing after the other."""

    def _watched(self) -> None:
        """Run the command and write down its calls, each as `kind/path`."""
        calls = self.facts.with_suffix(".calls")
        handle = os.open(calls, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        _library().reads_watch(os.fsencode(self.work), handle)
        self.scenario.act()
        _library().reads_watch(b"", -1)
        lines = calls.read_text(errors="surrogateescape").splitlines()
        self.facts.write_text(json.dumps([[line for line in lines if _is_input(line)], {}]))

    def _same(self, name: str, found: bytes) -> bool:
        """Return whether a table says what it should; that an input was gone for a while is kept as `earlier`."""
        if name.endswith("provenance.json"):
            return bool(without_clock(_now(found)) == without_clock(_now(self.tables[name])))
        return super()._same(name, found)

    def points(self) -> Iterator[tuple[int, str]]:
        """Yield every (call, mode) that makes a difference."""
        seen: Counter[str] = Counter()
        self.calls: list[tuple[str, str, int]] = []
        for number, call in enumerate(self.kinds):
            self.calls.append((call[0], str(self.work) + call[1:].rstrip("/"), seen[call]))
            seen[call] += 1
            listed = call[0] == "d" and self.scenario.name == "runs"  # which says what is there at that moment
            yield from ((number, mode) for mode in MODES[call[0]] if not (listed and mode == "gone"))

    def try_point(self, number: int, mode: str) -> str:
        """Fail one call; return what was lost or went unsaid, or nothing."""
        self._reset()
        kind, path, at = self.calls[number]
        where = f"{mode} at {NAMES[kind]} {at} of {path.removeprefix(str(self.work) + '/')}"
        status, told = self._fork(lambda: self._disturbed(number, mode)), self.said()
        if what := self._visible(any_version=True):
            return f"after {where}: {what}"
        if "Traceback" in told or status not in ((0,) if mode == "short" else (0, 1, 2)):
            return f"{where} ended with {status}: {told}"
        if OF_ONE_RUN.search(told):
            return ""
        if status and not SENTENCE.search(told):
            return f"{where} ended without a sentence: {told}"
        if not status and (what := self._differs()) and not self._page_says():
            return f"{where} went unsaid, and the result differs: {what} {told}"
        if tree(self.work) in (self.before, self.after):  # what comes next is what comes without a fault
            return ""
        if what := self._second_run():
            return f"after {where} ({status}: {told.strip()}) {what}"
        return ""

    def _page_says(self) -> bool:
        """Return whether a page has a sentence in the place of an image that is gone; the page does without it."""
        pages = [name for name in tree(self.work) if name.endswith(".html")]
        return any(ABSENT in (self.work / name).read_text() for name in pages)

    def _disturbed(self, number: int, mode: str) -> None:
        kind, path, at = self.calls[number]
        error = SHORT if mode == "short" else (ONCE | STAYS)[mode]
        root = os.fsencode(self.work)
        _library().reads_fail(root, os.fsencode(path), ord(kind), at, error, int(mode in STAYS))
        try:
            self.scenario.act()
        except OSError as error:  # of the scenario's own: no command lets one through
            raise PbvsError(str(error)) from error
        finally:
            _library().reads_watch(b"", -1)


def _now(provenance: bytes) -> dict[str, Any]:
    return {key: value for key, value in json.loads(provenance).items() if key != "earlier"}


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def _is_input(call: str) -> bool:
    """Return whether what is read has the same name in every run, and is not only there for who is at work."""
    path = Path(call[1:])
    return not is_ignored(path) and not is_temporary(path)
