"""The log of uploads: found by digest, amended later, counted against the day's ten."""

from __future__ import annotations

import datetime
import math
from pathlib import Path

import pytest

from pbvs.api import package
from pbvs.challenge import load_challenge
from pbvs.errors import PbvsError, UsageError
from pbvs.files import read_json, sha256, write_json
from pbvs.run import Run
from pbvs.submission import uploads as log
from tests.submission.workspace import Workspace

MAVIC = load_challenge("mavic-t-2026")
NOON = datetime.datetime(2026, 2, 3, 12, tzinfo=datetime.timezone.utc)


def test_an_upload_knows_its_run_and_local_score(workspace: Workspace) -> None:
    run = workspace.run()
    path = package(run, manifests=workspace.manifests, data=workspace.root)
    summary = {"combined": 0.3125, "split": "val", "lpips": {"net": "alex", "is_lpips": True}}
    write_json(run.scores / "summary.json", summary)
    log.add(path, workspace.submissions, note="first,\n with a comma", when=NOON)
    (found,) = log.read_log(workspace.submissions)
    assert found.sha256 == sha256(path)
    assert (found.number, found.run, found.local) == (1, "hand", "0.3125 (val, alex)")
    assert (found.when, found.note) == ("2026-02-03T12:00:00Z", "first, with a comma")


def test_another_archive_has_no_run(workspace: Workspace, tmp_path: Path) -> None:
    workspace.run()
    other = tmp_path / "theirs.zip"
    other.write_bytes(b"not ours")
    assert log.add(other, workspace.submissions, board=0.4).run == ""
    assert log.read_log(workspace.submissions)[0].board == "0.4"


def test_score_of_another_net_is_labelled(tmp_path: Path) -> None:
    run = Run("r", tmp_path)
    write_json(
        run.scores / "summary.json", {"combined": 0.5, "split": "val", "lpips": {"net": "random", "is_lpips": False}}
    )
    assert log.local_score(run) == "0.5000 (val, not LPIPS)"


def test_what_is_left_counts_the_day_and_not_what_failed(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"x")
    for _ in range(3):
        log.add(path, tmp_path, when=NOON, anyway=True)
    log.add(path, tmp_path, when=NOON - datetime.timedelta(days=1), anyway=True)
    log.amend(2, tmp_path, {"status": "failed"})
    uploads = log.read_log(tmp_path)
    assert log.left(uploads, MAVIC, NOON.date()) == (8, 57)
    assert log.left(uploads, MAVIC, datetime.date(2026, 5, 1)) == (10, 57)


def test_a_day_begins_in_utc(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"x")
    east = datetime.timezone(datetime.timedelta(hours=9))
    upload = log.add(path, tmp_path, when=datetime.datetime(2026, 2, 4, 1, tzinfo=east))
    assert upload.when.startswith("2026-02-03T")


def test_board_score_is_typed_in_later(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"x")
    log.add(path, tmp_path)
    assert log.amend(1, tmp_path, {"board": 0.33}).board == "0.33"
    assert log.read_log(tmp_path)[0].board == "0.33"


def test_impossible_entries_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"x")
    with pytest.raises(PbvsError, match="There is no archive"):
        log.add(tmp_path / "none.zip", tmp_path)
    with pytest.raises(UsageError, match="is no number"):
        log.add(path, tmp_path, board=float("nan"))
    with pytest.raises(UsageError, match="no upload 7"):
        log.amend(7, tmp_path, {"board": 0.1})
    assert log.read_log(tmp_path) == []


@pytest.mark.parametrize(
    "text", ["a,b\n1,2\n", "number,when,archive,sha256,run,local,board,status,note\nx,2026-01-01,,,,,,,\n"]
)
def test_a_damaged_log_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(PbvsError, match=r"log\.csv"):
        log.read_log(tmp_path)


def test_a_rehearsal_is_no_upload(workspace: Workspace) -> None:
    run = workspace.run()
    path = package(run, manifests=workspace.manifests, data=workspace.root)
    record = run.folder / "package.json"
    write_json(record, {**read_json(record), "split": "val"})
    with pytest.raises(UsageError, match=r"rehearsal; upload what `pbvs package --run hand` writes"):
        log.add(path, workspace.submissions)
    assert log.read_log(workspace.submissions) == []
    assert log.add(path, workspace.submissions, anyway=True).run == "hand"


def test_a_zip_is_logged_once_unless_it_failed(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"x")
    log.add(path, tmp_path)
    with pytest.raises(UsageError, match="already, as upload 1"):
        log.add(path, tmp_path)
    log.amend(1, tmp_path, {"status": "failed"})
    assert log.add(path, tmp_path).number == 2
    assert log.add(path, tmp_path, anyway=True).number == 3


def test_a_score_out_of_range_is_insisted_on(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"x")
    with pytest.raises(UsageError, match="not between 0 and 5"):
        log.add(path, tmp_path, board=41)
    log.add(path, tmp_path, board=4.9)
    with pytest.raises(UsageError, match="not between 0 and 5"):
        log.amend(1, tmp_path, {"board": 5.2})
    assert log.amend(1, tmp_path, {"board": 5.2}, anyway=True).board == "5.2"


@pytest.mark.parametrize(
    ("challenge", "low", "high"),
    [("mavic-t-2026", 0, 5), ("mavic-t-2024", 0, 5), ("multiearth-sar2eo", 0, 1), ("rgb2nir", -math.inf, 2)],
)
def test_the_range_of_scores_is_that_of_the_challenges_rule(
    challenge: str, low: float, high: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "challenge_of", lambda *_: load_challenge(challenge))
    path = tmp_path / "a.zip"
    path.write_bytes(b"x")
    log.add(path, tmp_path)
    for score in (max(low, -30), (max(low, 0) + high) / 2, high):
        assert log.amend(1, tmp_path, {"board": score}).board == f"{score:g}"
    for score in (low - 0.01, high + 0.01):
        with pytest.raises(UsageError, match=r"no number|not between"):
            log.amend(1, tmp_path, {"board": score})


def test_a_note_is_no_formula_for_a_spreadsheet(tmp_path: Path) -> None:
    path = tmp_path / "=cmd.zip"
    path.write_bytes(b"x")
    log.add(path, tmp_path, note="@SUM(1) \x1b[2J")
    text = (tmp_path / "log.csv").read_text()
    assert "'=cmd.zip" in text and "'@SUM(1)" in text and "\x1b" not in text
    (found,) = log.read_log(tmp_path)
    assert (found.archive, found.note) == ("=cmd.zip", "@SUM(1) \\x1b[2J")


def test_a_challenge_without_limits_says_so() -> None:
    free = MAVIC.model_copy(update={"submission": MAVIC.submission.model_copy(update={"a_day": 0, "in_all": 0})})
    assert log.left([], free) == (None, None)
    assert log.say_left([], free) == "The challenge mavic-t-2026 sets no limit of uploads."
