"""The short form of the faults of reading: some dozens, and proof that a careless reader would be found."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.scenarios import SCENARIOS

REPOSITORY = Path(__file__).parents[2]
LIGHT = ("submissions log", "export", "install", "package", "build-pairs again", "predict", "runs")
CARELESS = """
from pathlib import Path
from tests.faults.points import Scenario, run_points
from tests.faults.reading import ReadBench, start_again_with_the_library

def act():
    try:
        text = Path("in.txt").read_text()
    except OSError:
        text = "nothing"
    Path("out.txt").write_text(text)

reason = start_again_with_the_library()
if reason:
    print("skipped:", reason)
else:
    count = run_points(Scenario("careless", act, lambda: Path("in.txt").write_text("x" * 99)), None, kind=ReadBench)
    print("careless:", count.tried, len(count.lost), *count.lost)
"""


def _said(*command: str) -> str:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    if found := re.search(r"^skipped: (.*)", done.stdout, re.MULTILINE):
        pytest.skip(found[1])
    return done.stdout


def _points(names: list[str], *options: str) -> str:
    return _said("-m", "tests.faults", "--reading", *(word for name in names for word in ("--only", name)), *options)


def test_no_fault_of_reading_goes_unsaid() -> None:
    said = _points(list(LIGHT), "--limit", "5")
    assert re.search(rf"points tried: {5 * len(LIGHT)} .*lost: 0", said)


@pytest.mark.slow
def test_no_fault_of_reading_in_training_and_scoring_goes_unsaid() -> None:
    heavy = [name for name, scenario in SCENARIOS.items() if scenario.torch and name != "ablate"]
    assert "lost: 0" in _points(heavy, "--limit", "20", "--minutes", "10")


@pytest.mark.slow
def test_data_that_change_before_and_during_a_command_are_seen() -> None:
    names = ("build-pairs", "predict", "package")
    said = _said("-m", "tests.faults", "--changing", *(f"--only={name}" for name in names), "--limit", "20")
    assert re.search(r"points tried: 60 .*lost: 0", said)


@pytest.mark.slow
def test_data_that_change_before_and_during_scoring_and_training_are_seen() -> None:
    assert "lost: 0" in _said("-m", "tests.faults", "--changing", "--only=score", "--only=train", "--limit", "10")


def test_a_reader_that_takes_an_error_for_a_fact_is_found() -> None:
    said = _said("-c", CARELESS)
    tried, lost = map(int, re.findall(r"careless: (\d+) (\d+)", said)[0])
    assert tried > lost >= 6
    assert "went unsaid" in said and "short at read" not in said  # Python reads on after a short read
