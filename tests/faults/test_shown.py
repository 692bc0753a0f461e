"""What strangers chose is shown and stored escaped, and no cell that people open is a formula."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pandas as pd
import pytest

from pbvs.evaluation.leaderboard import board_csv, leaderboard
from pbvs.evaluation.results import read_images, write_scores
from pbvs.files import dump_toml, parse_toml
from pbvs.run import Run
from tests.evaluation.scored_runs import write_scored
from tests.faults.scenarios import pbvs

ESCAPES = ("\x1b[2J", "\x1b]0;evil\x07", "\x9b2J", "a\u202etxt.exe", "\x7f")
FORMULAS = ("=HYPERLINK(A1)", "+1+1", "-1+1", "@SUM(A1)", "\t=1", " =1", "\uff1d1")


def shows_all(text: str) -> bool:
    """Return whether everything in a text prints, but for line ends and tabs."""
    return all(letter.isprintable() or letter in "\n\t" for letter in text)


def test_scores_of_images_hold_no_formula_and_no_escape(tmp_path: Path) -> None:
    names = [*FORMULAS, *ESCAPES, "plain", "-7", "'s"]
    table = pd.DataFrame({"task": "sar2eo", "name": names, "location": names[::-1], "status": "ok", "rmse": -0.5})
    run = Run("r", tmp_path)
    write_scores(run, tmp_path, {}, {"sar2eo": table})
    rows = list(csv.reader((tmp_path / "sar2eo.csv").open(encoding="utf-8", newline="")))
    assert shows_all("".join(cell for row in rows for cell in row))
    for row in rows[1:]:
        for cell in row:
            number = cell.removeprefix("-").replace(".", "", 1).isdecimal()
            assert number or cell.lstrip()[:1] not in "=+-@\uff1d", cell
    found = read_images(tmp_path / "sar2eo.csv", run, "sar2eo")
    kept = [name for name in names if shows_all(name)]
    assert [name for name in found["name"] if name in kept] == kept
    assert set(found["rmse"]) == {-0.5}


def test_tables_of_runs_hold_no_formula(tmp_path: Path) -> None:
    write_scored(Run("r", tmp_path), {"sar2eo": {"a-1": 0.5}}, notes=["=1+1"])
    summary = tmp_path / "r/scores/summary.json"
    text = summary.read_text().replace('"alex"', '"=cmd()"').replace("l2-lpips", "@SUM(A1)\\u001b[2J")
    summary.write_text(text)
    said = board_csv(leaderboard(tmp_path, tmp_path / "none"))
    assert shows_all(said)
    assert not [cell for row in csv.reader(said.splitlines()) for cell in row if cell[:1] in tuple("=+@")]


@pytest.mark.parametrize("evil", ESCAPES)
@pytest.mark.parametrize("line", ["runs", "runs --json", "leaderboard", "leaderboard --json", "submissions"])
def test_what_a_strangers_run_says_is_escaped(
    line: str, evil: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, said in (("r", evil), ("s", "plain")):
        run = write_scored(Run(name), {"sar2eo": {"a-1": 0.5}}, notes=[said])
        lines = run.recipe_file.read_text(encoding="utf-8").splitlines()
        lines = [f"name = {json.dumps(said)}" if row.startswith("name = ") else row for row in lines]
        run.recipe_file.write_text("\n".join(lines), encoding="utf-8")
        summary = run.scores / "summary.json"
        changed = json.loads(summary.read_text()) | {"evaluation_size": said, "run": said}
        summary.write_text(json.dumps(changed))
    upload = f"number,when,archive,sha256,run,local,board,status,note\n1,{evil}\n"
    Path("submissions/log.csv").write_text(upload, encoding="utf-8")
    try:
        pbvs(line)
    except SystemExit as stop:
        assert stop.code in (0, 1)
    told = capsys.readouterr()
    assert told.out + told.err and shows_all(told.out + told.err), told


@pytest.mark.parametrize("evil", ESCAPES)
def test_toml_is_written_without_what_does_not_print_and_says_the_same(evil: str) -> None:
    tables = {"name": evil, evil: {"x": [evil, "é\n\t"]}}
    text = dump_toml(tables)
    assert shows_all(text) and parse_toml(text, "x") == tables
