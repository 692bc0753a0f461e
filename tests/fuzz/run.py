"""Feed damaged files to a reader in a process of its own, with a limit on each case's time and memory."""

from __future__ import annotations

import mmap
import os
import random
import resource
import signal
import struct
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pbvs.errors import PbvsError
from tests.fuzz import mutate
from tests.fuzz.targets import Target

SECONDS = 20  # of processor time that one case may take
GIB = 2**30
MEMORY = 2 * GIB  # that one case may ask for beyond what the process has


@dataclass
class Report:
    """What came of a target's cases."""

    tried: int = 0
    refused: int = 0
    findings: list[tuple[int, str]] = field(default_factory=list)  # (seed of the case, what came out)


def case(target: Target, seeds: list[bytes], number: int) -> bytes:
    """Return the damaged file with this number, the same each time."""
    rng = random.Random(f"{target.name} {number}")
    data = rng.choice(seeds)
    for _ in range(rng.choice((1, 1, 1, 2))):
        data = damage(target, rng, data)
    return data


def damage(target: Target, rng: random.Random, data: bytes) -> bytes:
    """Damage a file once; one that is too damaged already for a kind of damage that knows the format gets another."""
    try:
        return rng.choice(target.mutations)(rng, data)
    except Exception:
        return mutate.flip_bits(rng, data)


def attempt(target: Target, path: Path, data: bytes) -> bool:
    """Read one damaged file; return whether it was refused. Anything but PbvsError comes out as it is."""
    path.write_bytes(data)
    try:
        target.read(path)
    except PbvsError as error:
        assert str(error).strip(), "an error without a sentence"
        return True
    return False


def run(target: Target, numbers: range, stop: Callable[[], bool] = lambda: False) -> Report:
    """Try the cases `numbers`; a case that ends or outlasts its process is a finding, and the next ones go on."""
    seeds = target.seeds()
    for data in seeds:  # what is whole must be read
        with tempfile.TemporaryDirectory() as folder:
            if attempt(target, Path(folder) / target.file, data):
                raise AssertionError(f"{target.name}: an undamaged file is refused")
    report = Report()
    at = numbers.start
    while at < numbers.stop and not stop():
        at = _batch(target, seeds, range(at, min(at + 500, numbers.stop)), report)
    return report


def _batch(target: Target, seeds: list[bytes], numbers: range, report: Report) -> int:
    """Try cases in one forked process; return the number to go on with."""
    shared = mmap.mmap(-1, 16)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _work(target, seeds, numbers, shared, write)
    os.close(write)
    with os.fdopen(read, errors="replace") as lines:
        said = lines.read()
    _, status = os.waitpid(child, 0)
    done, refused = struct.unpack("qq", shared[:])
    report.refused += refused
    for finding in filter(None, said.split("\x1e")):
        number, _, text = finding.partition(" ")
        report.findings.append((int(number), text))
    if status:
        report.findings.append((numbers.start + done, f"ended its process: {os.waitstatus_to_exitcode(status)}"))
        done += 1
    report.tried += done
    return numbers.start + done


def _work(target: Target, seeds: list[bytes], numbers: range, shared: mmap.mmap, write: int) -> None:
    """Try the cases in this process, and count them where the parent sees it; never returns."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.dup2(null, 1)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    refused = 0
    with tempfile.TemporaryDirectory() as folder:
        for done, number in enumerate(numbers):
            shared[:] = struct.pack("qq", done, refused)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                refused += attempt(target, Path(folder) / target.file, case(target, seeds, number))
            except BaseException:
                text = traceback.format_exc()[-1200:]
                os.write(write, f"{number} {text}\x1e".encode("utf-8", "replace"))
        shared[:] = struct.pack("qq", len(numbers), refused)
    os._exit(0)
