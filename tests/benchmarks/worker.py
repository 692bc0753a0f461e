"""Work in a process of its own, called again and again from outside, so that two ways can be measured in turns.

A worker is named "module:function"; the function takes keyword arguments and returns what is called at each turn.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Cost, cost


class Worker:
    """A child process; `turn` lets it work once."""

    def __init__(self, name: str, environment: dict[str, str] | None = None, **arguments: Any):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.worker", name, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self.value: Any = None
        self.peak = 0.0  # MiB, the most that the process has held so far
        self._read()

    def turn(self) -> Cost:
        """Let it work once and return what that took."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> Cost:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"A worker ended early with status {self.process.wait()}.")
        said = json.loads(line)
        self.value, self.peak = said["value"], said["peak"]
        return Cost(said["wall"], said["cpu"])

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()


def peak_memory() -> float:
    """Return the most MiB that this process has held.

    Linux counts what the parent held at the fork into `ru_maxrss`, so that its own status is asked where there is one.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Serve turns until the other side closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the work prints must not mix with the answers
    module, _, function = sys.argv[1].partition(":")
    work = getattr(importlib.import_module(module), function)(**json.loads(sys.argv[2]))
    value: list[Any] = [None]

    def once() -> None:
        value[0] = work()

    def answer(taken: Cost) -> None:
        peak = peak_memory()
        print(json.dumps({"wall": taken.wall, "cpu": taken.cpu, "value": value[0], "peak": peak}), file=answers)
        answers.flush()

    answer(Cost(0.0, 0.0))
    for _ in sys.stdin:
        answer(cost(once))


if __name__ == "__main__":
    main()
