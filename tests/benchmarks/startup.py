"""How long `pbvs --help` takes, beside the least that a command line in Python takes."""

from __future__ import annotations

import subprocess
import sys

from tests.benchmarks.harness import Row, compare

OURS = [sys.executable, "-m", "pbvs", "--help"]
PLAIN = [sys.executable, "-c", "import click"]
COMMANDS = ("build-pairs", "predict", "score", "package")


def call(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def run(quick: bool) -> list[Row]:
    repeats = 5 if quick else 15
    rows = [compare("startup", "pbvs --help / import click", lambda: call(OURS), lambda: call(PLAIN),
                    repeats=repeats, bound="<= 2")]  # fmt: skip
    for name in COMMANDS:
        command = [sys.executable, "-m", "pbvs", name, "--help"]
        what = f"pbvs {name} --help / import click"
        rows.append(
            compare("startup", what, lambda command=command: call(command), lambda: call(PLAIN), repeats=repeats // 2)
        )
    return rows
