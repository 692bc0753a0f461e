"""Scores lie by split and protocol; those of earlier versions are still read; the newest in common are compared."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pbvs.errors import PbvsError
from pbvs.evaluation.compare import compare
from pbvs.evaluation.leaderboard import our_boards
from pbvs.evaluation.results import find_scores, read_scores
from pbvs.files import write_text
from pbvs.run import Run
from tests.evaluation.hand_made import Place
from tests.evaluation.scored_runs import write_scored


@pytest.fixture
def place(tmp_path: Path) -> Place:
    write_text(tmp_path / "plain.toml", 'name = "plain"\n[[terms]]\nmetric = "l1"\n')
    return Place(tmp_path).make().spoil()


def test_each_protocol_has_a_place_and_none_is_overwritten(place: Place) -> None:
    first = place.score()
    second = place.score(protocol=place.folder / "plain.toml", lpips_net=None, weights=Path("nowhere"))
    assert first.folder == place.run.scores / "val" / "l2-lpips-random"
    assert second.folder == place.run.scores / "val" / "plain"
    assert read_scores(place.run).protocol["name"] == "plain"  # the newest
    found = read_scores(place.run, find_scores(place.run, protocol="l2-lpips-random"))
    assert found.summary == first.summary
    assert found.images.drop(columns="reason").equals(first.images.drop(columns="reason"))
    with pytest.raises(PbvsError, match=r"no scores of test; make them with `pbvs score --run hand --split test`"):
        find_scores(place.run, split="test")
    boards = our_boards(place.run.submissions)
    assert {board.title.split(", ")[1] for board in boards} == {"l2-lpips", "plain"}


def test_scores_of_earlier_versions_are_read_and_compared(tmp_path: Path) -> None:
    images = {f"p{n % 4}-{n}": 0.2 + 0.01 * n for n in range(8)}
    old = write_scored(Run("old", tmp_path), {"sar2eo": images})
    assert (old.scores / "summary.json").is_file()
    found = read_scores(old)
    assert found.folder == old.scores and found.terms == ("rmse", "lpips")
    assert found.scores("sar2eo") == pytest.approx(images)
    assert find_scores(old, "val", "l2-lpips") == old.scores
    assert compare(old, old).combined.identical


def test_the_newest_scores_that_both_runs_have_are_compared(tmp_path: Path) -> None:
    runs = []
    for name in ("one", "two"):
        run = write_scored(Run(name, tmp_path), {"sar2eo": {f"p{n}-{n}": 0.2 for n in range(4)}})
        for protocol in ("a", "b"):
            for file in [*run.scores.glob("*.csv"), run.scores / "summary.json"]:
                write_text(run.score_folder("val", protocol) / file.name, file.read_text())
        runs.append(run)
    (runs[0].score_folder("val", "b") / "summary.json").unlink()
    os.utime(runs[1].score_folder("val", "b") / "summary.json", (2e9, 2e9))
    found = compare(*runs)
    assert found.before.folder.name == found.after.folder.name != "b"
    assert compare(*runs, protocol="a").after.folder.name == "a"
