"""The short form of the crash points: some hundreds, and proof that a careless writer would be found."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.normal import alike
from tests.faults.points import Scenario, run_points
from tests.faults.scenarios import READ_ONLY, SCENARIOS

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names open files through /proc")


def _points(*options: str) -> str:
    """Run the crash points in a process that has no torch, so that it forks quickly."""
    command = [sys.executable, "-m", "tests.faults", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_no_crash_point_of_the_primitives_loses_anything() -> None:
    said = _points("--only", "files", "--limit", "150")
    assert re.search(r"points tried: 150 .*lost: 0", said)


def test_no_crash_point_drawn_from_the_commands_loses_anything() -> None:
    light = [name for name, scenario in SCENARIOS.items() if not scenario.torch and name not in ("files", *READ_ONLY)]
    options = [word for name in light for word in ("--only", name)]
    said = _points(*options, "--limit", "5")
    assert re.search(rf"points tried: {5 * len(light)} .*lost: 0", said)


@pytest.mark.slow
def test_no_crash_point_drawn_from_training_and_scoring_loses_anything() -> None:
    heavy = [name for name, scenario in SCENARIOS.items() if scenario.torch and name not in READ_ONLY]
    options = [word for name in heavy for word in ("--only", name)]
    assert "lost: 0" in _points(*options, "--limit", "40", "--minutes", "10")


def _careless() -> None:
    for number in range(3):
        Path(f"{number}.json").write_text('{"whole": true, "padding": "' + "x" * 100 + '"}')


def _half_careful() -> None:
    """Renames into place, but never asks the disk."""
    part = Path(".x.json.0123abcd.part")
    part.write_text('{"whole": true, "padding": "' + "x" * 100 + '"}')
    part.replace("x.json")
    Path("y.json").write_text("{}")


def test_a_writer_without_care_is_found() -> None:
    count = run_points(Scenario("careless", _careless), None)
    assert count.tried >= 30
    assert len(count.lost) >= 6


def test_a_writer_that_does_not_sync_is_found() -> None:
    count = run_points(Scenario("half careful", _half_careful), None)
    assert any("power" in lost for lost in count.lost)


def test_results_agree_to_a_millionth_and_no_further() -> None:
    table = b"row,score,seconds\none,0.1234567,0.2\n"
    assert alike("ablation-a.csv", table, b"row,score,seconds\none,0.1234574,9.5\n")  # the clock may differ
    assert not alike("ablation-a.csv", table, b"row,score,seconds\none,0.1234597,0.2\n")
    assert not alike("ablation-a.csv", table, b"row,score,seconds\ntwo,0.1234567,0.2\n")
    assert not alike("ablation-a.csv", table, table + b"two,0.1,0.2\n")
    assert alike("rgb2ir.csv", b"a,0.1683076\n", b"a,0.1683071\n")
