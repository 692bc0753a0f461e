"""Commands that need no torch never import it, and help imports nothing heavy at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pbvs.cli import COMMANDS
from pbvs.data.synthetic import Amounts, write_demo

HEAVY = (
    "torch",
    "pandas",
    "rasterio",
    "joblib",
    "jinja2",
    "skimage",
    "scipy",
    "matplotlib",
    "lpips",
    "numpy",
    "pydantic",
)
SMALL = Amounts(scenes=2, validation_scenes=1, test_scenes=1, locations=2, inputs=1)
# Calls the command line with each list of arguments in turn; says which heavy modules were there after each.
SCRIPT = """
import io, json, sys, contextlib
from pbvs.cli import main
found = []
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            main(arguments)
            status = 0
        except SystemExit as stop:
            status = stop.code
    found.append([arguments, status, [name for name in json.loads(sys.argv[2]) if name in sys.modules]])
print(json.dumps(found))
"""
RECIPE = """\
name = "grey"
evaluation_size = "native"
[stages.rgb2ir]
method = "grayscale"
intensity = 1.3
"""


def imported(calls: list[list[str]], folder: Path) -> list[tuple[list[str], object, list[str]]]:
    """Run commands one after the other in a fresh process; return what was imported after each."""
    command = [sys.executable, "-c", SCRIPT, json.dumps(calls), json.dumps(HEAVY)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PBVS_")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return [tuple(row) for row in json.loads(done.stdout)]


def test_no_help_imports_anything_heavy(tmp_path: Path) -> None:
    calls = [["--help"], *([name, "--help"] for name in COMMANDS)]
    for arguments, status, heavy in imported(calls, tmp_path):
        assert status == 0, arguments
        assert not heavy, f"pbvs {' '.join(arguments)} has imported {', '.join(heavy)}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("free")
    write_demo(folder / "data", seed=3, amounts=SMALL)
    (folder / "grey.toml").write_text(RECIPE, encoding="utf-8")
    return folder


def test_the_way_to_a_grayscale_submission_needs_no_torch(place: Path) -> None:
    calls = [
        ["build-pairs", "--data", "data", "--jobs", "1"],
        ["predict", "--recipe", "grey.toml", "--task", "rgb2ir", "--jobs", "1"],
        ["package", "--run", "grey", "--tasks", "rgb2ir"],
        ["check", "submissions/grey.zip", "--evaluation-size", "native"],
        ["runs"],
        ["submissions"],
        ["leaderboard"],
        ["check-data", "data", "--jobs", "1"],
    ]
    found = imported(calls, place)
    for arguments, _, heavy in found:
        assert "torch" not in heavy, f"pbvs {' '.join(arguments)} has imported torch"
    assert [status for _, status, _ in found[:3]] == [0, 0, 0]
