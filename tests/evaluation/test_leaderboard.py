"""The leaderboard: published numbers as published, ours beside them and never among them."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

from pbvs.cli import cli
from pbvs.errors import PbvsError, ReadError
from pbvs.evaluation import leaderboard
from pbvs.run import Run
from pbvs.text import shortened
from tests.evaluation.scored_runs import maker

Make = Callable[..., Run]


@pytest.fixture
def scored(tmp_path: Path) -> Make:
    return maker(tmp_path / "runs")


IMAGES = {"a-1": 0.2, "b-1": 0.4}


def test_the_published_tables_are_whole() -> None:
    boards = leaderboard.published_boards()
    assert [len(board.entries) for board in boards] == [6, 4, 6]
    assert not any(board.ours for board in boards)
    winner = boards[0].entries.iloc[0]
    assert (winner["name"], winner["combined"], winner["rgb2ir"]) == ("NJUST-KMG", 0.32, 0.16)


@pytest.mark.parametrize("board", leaderboard.published_boards(), ids=lambda board: board.title)
def test_published_combined_scores_are_means_of_their_tasks(board: leaderboard.Board) -> None:
    # A slip of the pen in the tables would show here; both sides are rounded to two digits, some by truncation.
    whole = board.entries.dropna(subset=["combined", *board.tasks])
    assert len(whole)
    for _, entry in whole.iterrows():
        assert sum(entry[board.tasks]) / 4 == pytest.approx(entry["combined"], abs=0.0051)


def test_scores_that_cannot_be_listed_are_not_taken_for_none(
    scored: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = scored("a", {"sar2eo": IMAGES})
    listed = os.scandir

    def refused(path: str | Path) -> Any:
        if Path(path) == run.scores:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(ReadError, match="scores cannot be read: Permission denied"):
        run.score_folders()
    result = CliRunner().invoke(cli, ["leaderboard", "--submissions", str(tmp_path / "runs")])
    assert result.exit_code == 1
    assert isinstance(result.exception, ReadError)


def test_our_runs_stand_by_themselves_best_first(scored: Make, tmp_path: Path) -> None:
    tasks = ("sar2eo", "sar2rgb", "sar2ir", "rgb2ir")
    scored("worse", {task: {"a-1": 0.6, "b-1": 0.6} for task in tasks})
    scored("good", dict.fromkeys(tasks, IMAGES))
    scored("other-net", dict.fromkeys(tasks, IMAGES), lpips={"net": "vgg", "is_lpips": True})
    scored("wiring", dict.fromkeys(tasks, IMAGES), lpips={"net": "random", "is_lpips": False})
    scored("fewer", {"sar2eo": IMAGES}, partial=True)
    boards = leaderboard.our_boards(tmp_path / "runs")
    names = {tuple(board.entries["name"]) for board in boards}
    assert names == {("good", "worse"), ("other-net",), ("wiring",), ("fewer",)}
    assert all(board.ours for board in boards)
    text = leaderboard.board_text(boards)
    assert "NOT LPIPS (random)" in text
    assert "fewer *" in text


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_text_fits_a_terminal_and_marks_other_data(scored: Make, tmp_path: Path, columns: int) -> None:
    scored("r" * 60, {"sar2eo": IMAGES}, partial=True, combined=None)
    folder = ["leaderboard", "--submissions", str(tmp_path / "runs")]
    text = CliRunner().invoke(cli, folder, env={"COLUMNS": str(columns)}).stdout
    assert max(map(len, text.splitlines())) <= columns
    assert " ".join(text.split()).count("[OTHER DATA") == 3
    assert ("r" * 60 in text) == (columns == 120)


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_tasks_that_do_not_fit_beside_each_other_stand_in_further_blocks(columns: int) -> None:
    tasks = {f"sentinel-1-descending-to-optical-{n}": n / 8 for n in range(7)}
    entries = pd.DataFrame([{"name": "night", "combined": 0.5, **tasks, "note": ""}])
    text = leaderboard.board_text([leaderboard.Board("Mine", "here", "", True, entries)], columns)
    assert max(map(len, text.splitlines())) <= columns
    assert all(task in text and f"{value:.4f}" in text for task, value in tasks.items())
    assert text.count("  night") == (len(tasks) if columns == 60 else 4 if columns == 80 else 3)


@pytest.mark.parametrize("name", ["a", "x" * 29, "family-" * 5 + "one", "family-" * 5 + "other"])
def test_shortened_names_keep_their_end(name: str) -> None:
    short = shortened(name, 29)
    assert len(short) <= 29
    assert short[-3:] == name[-3:]
    assert short == name or len(name) > 29


def test_without_runs_it_says_what_to_do(tmp_path: Path) -> None:
    assert "pbvs score" in leaderboard.board_text(leaderboard.leaderboard(tmp_path))


def test_csv_and_json_hold_every_line(scored: Make, tmp_path: Path) -> None:
    scored("mine", {"sar2eo": IMAGES})
    folder = ["leaderboard", "--submissions", str(tmp_path / "runs")]
    rows = list(csv.DictReader(io.StringIO(CliRunner().invoke(cli, [*folder, "--csv"]).stdout)))
    assert len(rows) == 1 + 16
    assert rows[0]["name"] == "mine"
    assert rows[0]["ours"] == "True"
    assert next(row for row in rows if row["name"] == "Grayscale")["combined"] == ""
    boards = json.loads(CliRunner().invoke(cli, [*folder, "--json"]).stdout)
    assert [len(board["entries"]) for board in boards] == [1, 6, 4, 6]


def test_a_table_without_a_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("name,combined\nx,0.1\n")
    with pytest.raises(PbvsError, match="no column 'sar2eo'"):
        leaderboard.read_entries(path)
