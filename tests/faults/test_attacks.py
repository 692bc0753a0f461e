"""Hostile files and folders: each ends in a sentence and a status, within 1 GiB and, in the slow form, 10 s."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.attacks import ATTACKS, MOST_MEMORY, MOST_SECONDS, Forks, Outcome, prepare, run


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    server = Forks()
    yield server
    server.close()


def held(what: str, found: Outcome) -> None:
    attack = ATTACKS[what]
    assert (found.status, attack.told(found.said), "Traceback" in found.said) == (attack.status, True, False), (
        found.said
    )
    assert found.memory < MOST_MEMORY


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("what", ATTACKS)
def test_a_hostile_file_costs_little_memory(what: str, forks: Forks, tmp_path: Path) -> None:
    start = run if what.startswith("input:") else forks.run  # a fork counts what was imported before it
    held(what, start(tmp_path, *prepare(what, tmp_path)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("what", ATTACKS)
def test_a_hostile_file_costs_little_time(what: str, tmp_path: Path) -> None:
    found = run(tmp_path, *prepare(what, tmp_path))
    held(what, found)
    assert found.seconds < MOST_SECONDS


def test_the_limits_are_measured(tmp_path: Path) -> None:
    """The measuring itself works: a process that takes 200 MB is seen to."""
    script = "import numpy; numpy.ones(25_000_000); import resource; print(resource.getrusage(0).ru_maxrss)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 > 200_000_000
    found = run(tmp_path, "--version")
    assert found.status == 0 and found.memory > 1 << 20 and found.seconds > 0
