"""Scores lie by split and protocol; those of earlier versions are still read; the newest in common are compared."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pbvs.errors import PbvsError
from pbvs.evaluation.compare import compare
from pbvs.evaluation.leaderboard import our_boards
from pbvs.evaluation.results import find_scores, read_scores
from pbvs.files import write_text
from pbvs.metrics.weights import look
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


@pytest.mark.skipif(look("alex") is None or look("squeeze") is None, reason="needs AlexNet's and SqueezeNet's weights")
def test_scores_by_two_nets_of_one_protocol_lie_apart_and_a_second_choice_is_said(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {net: look(net) for net in ("alex", "squeeze")}
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("PBVS_WEIGHTS", raising=False)
    scores = {}
    for net, path in found.items():  # the weights of one come, and go
        assert path
        weights = tmp_path / net
        weights.mkdir()
        shutil.copy(path, weights)
        scores[net] = place.score(lpips_net=None, weights=weights)
        assert scores[net].folder == place.run.scores / "val" / f"l2-lpips-{net}"
        assert (scores[net].protocol["lpips_net"], scores[net].lpips["net"]) == (net, net)
        assert any(f"LPIPS is of {net} and not of vgg" in note for note in scores[net]["notes"])
    moved = [note for note in scores["squeeze"]["notes"] if "The last scores by l2-lpips were of alex" in note]
    assert len(moved) == 1 and "`--lpips-net alex`" in moved[0]
    assert not any("last scores" in note for note in scores["alex"]["notes"])
    for net, then in scores.items():
        assert read_scores(place.run, then.folder).lpips["net"] == net
    assert scores["alex"].images["lpips"].mean() != scores["squeeze"].images["lpips"].mean()
    asked = place.score(lpips_net="alex", weights=tmp_path / "alex")
    assert asked.images["lpips"].tolist() == scores["alex"].images["lpips"].tolist()
    assert not any("LPIPS is of" in note or "last scores" in note for note in asked["notes"])
