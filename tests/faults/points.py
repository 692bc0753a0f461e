"""Every crash point of a command in turn: fail it there, look at what is left, run it again, compare."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from pbvs.errors import PbvsError
from tests.faults.injector import ERRORS, KILLED, KILLS, Injector, digest_of, is_ignored
from tests.faults.normal import KEY_OF_IMAGES, alike

TIMEOUT = 120  # seconds until a forked run counts as hanging
Tree = dict[str, str]


@dataclass(frozen=True)
class Scenario:
    """A command on a prepared folder. `act` runs in a forked process whose working folder that is."""

    name: str
    act: Callable[[], None]
    prepare: Callable[[], None] = lambda: None
    torch: bool = False  # whether the command imports it: a process that has it forks more slowly


TARGETS = ".cache/pbvs/features/"
REMEMBERED = (".images.csv", "digests.csv")  # what was learnt of images by reading them, a row each


def stable(name: str) -> str:
    """Return a file's name without the key of a page's images, which tells how long predicting took."""
    return KEY_OF_IMAGES.sub(r"\1-/", name)


@dataclass
class Count:
    """What came of the points tried."""

    tried: int = 0
    known: int = 0  # points that there are
    lost: list[str] = field(default_factory=list)
    modes: Counter[str] = field(default_factory=Counter)

    def add(self, other: Count) -> None:
        """Add another count to this one."""
        self.tried += other.tried
        self.known += other.known
        self.lost += other.lost
        self.modes += other.modes


class Bench:
    """Runs one scenario undisturbed, then with one fault after the other."""

    def __init__(self, scenario: Scenario, scratch: Path):
        self.scenario = scenario
        self.work, self.start = scratch / "work", scratch / "start"
        self.out, self.facts = scratch / "out.txt", scratch / "facts.json"
        shutil.rmtree(scratch, ignore_errors=True)
        self.work.mkdir(parents=True)
        status = self._fork(scenario.prepare)
        if status:
            raise AssertionError(f"{scenario.name}: preparing ended with {status}: {self.said()}")
        shutil.copytree(self.work, self.start, symlinks=True)
        self.before = tree(self.work)
        status = self._here()
        if status:
            raise AssertionError(f"{scenario.name}: ended with {status}: {self.said()}")
        self._reset()
        self.kinds, self.versions = self._undisturbed()

    def _here(self) -> int:
        """Run the command in this process; return its status.

        What it imports and compiles is then there in every fork, and a second run needs none: a fork copies so many
        pages that it costs as much as a small command itself.
        """
        here = Path.cwd()
        os.chdir(self.work)
        signal.signal(signal.SIGALRM, _too_long)
        signal.alarm(TIMEOUT)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # whoever ends the suite does not mean this run
        try:
            with self.out.open("w") as out, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                return _status_of(self.scenario.act)
        finally:
            signal.alarm(0)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            os.chdir(here)

    def said(self) -> str:
        """Return what the last run printed."""
        return self.out.read_text(errors="replace")[-1500:]

    def _undisturbed(self) -> tuple[list[str], dict[str, set[str]]]:
        """Note what the command does and leaves; return its operations, and what was visible of each file."""
        status = self._fork(self._watched)
        if status:
            raise AssertionError(f"{self.scenario.name}: undisturbed it ended with {status}: {self.said()}")
        kinds, versions = json.loads(self.facts.read_text())
        first = tree(self.work)
        self.after = first
        self.tables = {name: (self.work / name).read_bytes() for name in first if name.endswith((".csv", ".json"))}
        self._reset()
        self._fork(self.scenario.act)
        second = tree(self.work)
        if first != second and not self._agrees(second):
            raise AssertionError(f"{self.scenario.name}: two undisturbed runs differ: {differences(first, second)}")
        return kinds, {name: set(digests) for name, digests in versions.items()}

    def _watched(self) -> None:
        """Run the command and write down its operations, and what was visible of each file."""
        injector = Injector(self.work)
        with injector.installed():
            self.scenario.act()
        versions = {name: sorted(digests) for name, digests in injector.versions.items()}
        self.facts.write_text(json.dumps([injector.kinds, versions]))

    def points(self) -> Iterator[tuple[int, str]]:
        """Yield every (operation, mode) that makes a difference."""
        for number, kind in enumerate(self.kinds):
            yield from ((number, mode) for mode in (*KILLS, *ERRORS) if mode != "half")
            if kind == "write":
                yield number, "half"
                yield number, "short"

    def try_point(self, number: int, mode: str) -> str:
        """Fail one operation; return what was lost, or nothing."""
        self._reset()
        status = self._fork(lambda: self._disturbed(number, mode))
        told = self.said()
        if what := self._visible(mode in ERRORS):
            return f"after {mode} at {number}: {what}"
        if status not in ({KILLED} if mode in KILLS else {0} if mode == "short" else {0, 1}):
            return f"{mode} at {number} ended with {status}: {told}"
        if "Traceback" in told:
            return f"{mode} at {number} printed a trace: {told}"
        if what := self._second_run():
            return f"after {mode} at {number} {what}"
        return ""

    def _second_run(self) -> str:
        """Run the command again, undisturbed; return how its result differs from what it should be, or nothing."""
        status = self._here()
        if status:
            return f"the second run ended with {status}: {self.said()}"
        return f"the second run's result differs: {what}" if (what := self._differs()) else ""

    def _differs(self) -> str:
        """Return how the folder differs from the undisturbed result, or nothing."""
        found = tree(self.work)
        return "" if found == self.after or self._agrees(found) else differences(self.after, found)

    def _agrees(self, found: Tree) -> bool:
        """Return whether a result is the undisturbed one but for rounding in its tables, and for cached targets.

        The disk is not waited for when targets are cached: a power failure loses them, and what is scored already
        does not make them again.
        """
        now, then = ({stable(name): digest for name, digest in each.items()} for each in (found, self.after))
        changed = [name for name in now if now[name] != then.get(name)]
        missing = then.keys() - now.keys()
        return all(name.startswith(TARGETS) for name in missing) and all(
            name in self.tables and self._same(name, (self.work / name).read_bytes()) for name in changed
        )

    def _same(self, name: str, found: bytes) -> bool:
        """Return whether a table says what it should; what is remembered of images may be less, but nothing else."""
        if Path(name).name in REMEMBERED:
            return set(found.splitlines()) <= set(self.tables[name].splitlines())
        return alike(Path(name).name, self.tables[name], found)

    def _disturbed(self, number: int, mode: str) -> None:
        with Injector(self.work, number, mode).installed():
            self.scenario.act()
        if mode in KILLS:  # threads took another order, and fewer operations came; still a point without a fault
            os._exit(KILLED)

    def _visible(self, any_version: bool) -> str:
        """Return what visible file is neither the old one nor one that an undisturbed run shows at some time.

        With `any_version`, which file is not whole.
        """
        for name, digest in tree(self.work).items():
            if any(is_temporary(Path(part)) for part in Path(name).parts):
                continue
            if any_version:  # what is written after an error may tell of it, so only wholeness is asked for
                if not whole(self.work / name):
                    return f"{name} is not whole"
            elif digest not in self.versions.get(str(self.work / name), set()) | {self.before.get(name)}:
                return f"{name} is no version that an undisturbed run shows ({(self.work / name).stat().st_size} bytes)"
        return ""

    def _reset(self) -> None:
        """Make the work folder what it was at the start; only what differs is touched."""
        wanted, there = _entries(self.start), _entries(self.work)
        for name in sorted(there.keys() - wanted.keys(), reverse=True):
            path = self.work / name
            path.rmdir() if there[name] is None else path.unlink()
        for name in sorted(wanted):
            if there.get(name, "") != wanted[name]:
                source, target = self.start / name, self.work / name
                target.mkdir() if wanted[name] is None else shutil.copy2(source, target)

    def _fork(self, act: Callable[[], None]) -> int:
        gc.freeze()  # the child collects nothing of the parent's, so that its pages stay shared
        child = os.fork()
        if child == 0:
            gc.disable()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            run_in_child(act, self.work, self.out)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)


def _too_long(number: int, frame: object) -> NoReturn:
    raise TimeoutError(f"not done after {TIMEOUT} seconds")


def run_in_child(act: Callable[[], None], work: Path, out: Path) -> None:
    """Run `act` in this forked process, in `work`, with all that it prints in `out`; never returns."""
    os.chdir(work)
    handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(TIMEOUT)
    try:
        status = _status_of(act)
        sys.stdout.flush()
    except BaseException:
        status = 99
    os._exit(status)


def _status_of(act: Callable[[], None]) -> int:
    """Return the exit status that a process would end with; 99 after a trace."""
    try:
        act()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except PbvsError as error:
        print(f"Error: {error}", flush=True)
        return 1
    except BaseException:
        traceback.print_exc()
        return 99
    return 0


def _entries(folder: str | Path, below: str = "") -> dict[str, tuple[int, int] | None]:
    """Return relative path -> size and time of each file, None for a folder."""
    found: dict[str, tuple[int, int] | None] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            name = below + entry.name
            if entry.is_dir(follow_symlinks=False):
                found[name] = None
                found |= _entries(entry.path, name + "/")
            else:
                status = entry.stat(follow_symlinks=False)
                found[name] = (status.st_size, status.st_mtime_ns)
    return found


def tree(folder: Path) -> Tree:
    """Return relative path -> digest of all files, less those that are only appended to."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): _digest(path) for path in files if not is_ignored(path)}


_digests: dict[tuple[object, ...], str] = {}


def _digest(path: Path) -> str:
    """Return a file's digest; of one that is the same file, unchanged, what was found before."""
    status = path.stat()
    key = (path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if key not in _digests:
        if len(_digests) > 10_000:
            _digests.clear()
        _digests[key] = digest_of(path)
    return _digests[key]


def is_temporary(path: Path) -> bool:
    """Return whether a name says that its file is not finished."""
    beside = any(part.startswith(".") and part.endswith((".next", ".gone")) for part in path.parts)
    return beside or (
        path.name.startswith(".")
        and (path.suffix in (".part", ".pbvs-part", ".installing") or path.name.startswith((".tmp", ".removed-")))
    )


def differences(expected: Tree, found: Tree) -> str:
    """Return what two trees differ in."""
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    changed = sorted(name for name in expected.keys() & found.keys() if expected[name] != found[name])
    return f"missing {missing[:5]}, extra {extra[:5]}, changed {changed[:5]}"


def whole(path: Path) -> bool:
    """Return whether a file can be read to its end as what its name says."""
    data = path.read_bytes()
    try:
        if path.suffix == ".json":
            json.loads(data)
        elif path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                return archive.testzip() is None
        elif path.suffix == ".png":
            return data.endswith(b"IEND\xaeB`\x82")
        elif path.suffix == ".html":
            return data.rstrip().endswith(b"</html>")
        elif path.suffix == ".safetensors":
            from safetensors import deserialize

            deserialize(data)
    except Exception:
        return False
    return bool(data) or path.suffix not in {".csv", ".toml", ".npy", ".tif", ".tiff"}


def run_points(
    scenario: Scenario,
    limit: int | None,
    seed: int = 0,
    stop: Callable[[], bool] = lambda: False,
    kind: type[Bench] = Bench,
) -> Count:
    """Try the scenario's points, all or `limit` drawn at random; return the count."""
    count = Count()
    folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="pbvs-faults-", dir=folder) as scratch:
        bench = kind(scenario, Path(scratch) / "bench")
        points = list(bench.points())
        count.known = len(points)
        if limit is not None and limit < len(points):
            points = random.Random(seed).sample(points, limit)
        for number, mode in points:
            lost = bench.try_point(number, mode)
            if stop():  # what was asked to end may have been this point
                break
            count.tried += 1
            count.modes[mode] += 1
            if lost:
                count.lost.append(f"{scenario.name}: {lost}")
    return count
