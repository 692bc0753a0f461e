"""Records of a run that somebody damaged: a sentence for that run, and nothing at all for the others.

`tests/faults/records.py` damages every record of a finished run before every command that reads it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pbvs.errors import PbvsError
from pbvs.evaluation.leaderboard import board_text, leaderboard
from pbvs.experiments.runs import overview
from pbvs.files import misfit
from pbvs.run import Run, read_metadata
from pbvs.submission.uploads import local_score
from tests.evaluation.scored_runs import write_scored
from tests.faults.records import damages

REPOSITORY = Path(__file__).parents[2]

WHOLE = [
    "", "[]", "null", "5", '"x"', "NaN", '{"combined": Infinity}', '{"combined": 1e400}', '{"run": "\\ud800"}',
    "[" * 900 + "]" * 900, '{"a":' * 900 + "1" + "}" * 900, '{"combined": ' + "9" * 5000 + "}",
]  # fmt: skip
PARTS: list[tuple[str, Any]] = [
    ("tasks", []), ("tasks", {"sar2eo": []}), ("tasks", {"sar2eo": {"score": "x"}}), ("protocol", "l2"), ("lpips", [1]),
    ("protocol", {"name": 5}), ("combined", "x"), ("combined", True), ("split", 7), ("notes", "x"), ("interval", []),
    ("baselines", {"input": 5}), ("made_from", 5), ("made_from", {"sar2eo": []}),
]  # fmt: skip
SCORES = {"sar2eo": {"a-1": 0.5, "b-1": 0.25}}


def two(folder: Path) -> Run:
    """Two scored runs, `good` and the one that is returned."""
    write_scored(Run("good", folder), SCORES)
    return write_scored(Run("bad", folder), SCORES)


def check(folder: Path) -> None:
    bad, good = overview(folder, folder / "none")
    assert (bad.run, good.run, good.problem, bool(good.score)) == ("bad", "good", "", True)
    assert "summary.json" in bad.problem and "\n" not in bad.problem
    ours = [board for board in leaderboard(folder, folder / "none") if board.ours]
    assert "good" in board_text(ours)


@pytest.mark.parametrize("text", WHOLE)
def test_a_damaged_record_is_a_problem_of_its_run_alone(text: str, tmp_path: Path) -> None:
    run = two(tmp_path)
    (run.scores / "summary.json").write_text(text, encoding="utf-8")
    check(tmp_path)


@pytest.mark.parametrize(("key", "value"), PARTS)
def test_a_part_of_another_type_is_named(key: str, value: Any, tmp_path: Path) -> None:
    run = two(tmp_path)
    path = run.scores / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}), encoding="utf-8")
    with pytest.raises(PbvsError, match=f"has no valid '{key}"):
        read_metadata(path)
    with pytest.raises(PbvsError, match=r"summary\.json"):
        local_score(run)
    check(tmp_path)


@pytest.mark.parametrize("recipe", ["", "a = ", "a = [", 'name = 5\n[stages]\nsar2eo = "x"\n', "\0", "a." * 999])
def test_a_damaged_recipe_stops_no_other_run(recipe: str, tmp_path: Path) -> None:
    two(tmp_path).recipe_file.write_text(recipe, encoding="utf-8")
    bad, good = overview(tmp_path, tmp_path / "none")
    assert (bool(bad.problem), good.problem) == (True, "")
    assert "good" in board_text([board for board in leaderboard(tmp_path, tmp_path / "none") if board.ours])


def test_a_misfit_is_found_where_it_is() -> None:
    shape = {"a": (int, None.__class__), "b": [float], "c": {"*": str}, "d": [int, str]}
    assert misfit({"a": 1, "b": [1.5], "c": {"x": "y"}, "d": [1, "x"], "e": object()}, shape) == ""
    assert misfit({"a": None}, shape) == ""
    assert misfit({"a": True}, shape) == ".a"
    assert misfit({"b": [1.5, "x"]}, shape) == ".b.1"
    assert misfit({"c": {"x": 1}}, shape) == ".c.x"
    assert misfit({"d": [1]}, shape) == ".d"
    assert misfit([], shape) == "."


@pytest.mark.slow
def test_no_damaged_record_breaks_a_command() -> None:
    # In a process of its own: pytest's streams are not those that a forked command's words are read from.
    line = [sys.executable, "-m", "tests.faults.records", "--limit", "260", "--seed", "0"]
    done = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr
    assert "260 tried, 0 bad" in done.stdout, done.stdout
    tried = [int(row.split("|")[4]) for row in done.stdout.splitlines() if row.startswith("| `")]
    assert sum(count > 0 for count in tried) > 12


def test_damages_are_of_every_kind() -> None:
    found = dict(damages("x.json", json.dumps({"a": [{"b": 1}], "c": "x"})))
    assert found["a.0.b = 0"] == '{"a": [{"b": null}], "c": "x"}'
    assert found["without a.0"] == '{"a": [], "c": "x"}'
    assert {"c = 13", "whole 0", "cut"} <= found.keys() and "NaN" in found["c = 13"]
    found = dict(damages("x.toml", 'a = 1\n[b]\nc = "x"\n'))
    assert found["c at 10 = 8"] == "a = 1\n[b]\nc = nan\n"
    found = dict(damages("x.csv", "a,b\n1,2\n"))
    assert found["cell 1, 1 = 1"] == "a,b\n1,x\n"
