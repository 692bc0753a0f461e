"""The archive itself is scored: the numbers are those of its own images, wherever they came from."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from pbvs.api import package
from pbvs.errors import PbvsError, UsageError
from pbvs.files import held, read_json
from pbvs.submission import zips
from pbvs.submission.score import score_archive
from pbvs.submission.zips import write_zip
from tests.submission.workspace import COUNT, Workspace, entries, noise, png_bytes
from tests.tasks import TASKS


def targets(folder: Path) -> Path:
    for name, data in entries().items():
        if name != "readme.txt":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    return folder


def score(path: Path, workspace: Workspace, **options: Any) -> dict[str, Any]:
    return score_archive(path, "test", submissions=workspace.submissions, lpips_net="random", **options)


def test_a_perfect_archive_scores_nought(workspace: Workspace, tmp_path: Path) -> None:
    path = package(workspace.run(), manifests=workspace.manifests, data=workspace.root)
    summary = score(path, workspace, targets=targets(tmp_path / "targets"))
    assert summary["combined"] == pytest.approx(0.0, abs=1e-6)
    assert {task: summary["tasks"][task]["images"] for task in TASKS} == COUNT
    assert read_json(workspace.submissions / "hand-scores.json")["archive"] == "hand.zip"


def test_it_is_the_archive_that_counts_not_the_run(workspace: Workspace, tmp_path: Path) -> None:
    run = workspace.run()
    path = package(run, manifests=workspace.manifests, data=workspace.root)
    workspace.run(seed=700)
    assert score(path, workspace, targets=targets(tmp_path / "targets"))["combined"] == pytest.approx(0.0, abs=1e-6)


def test_anybodys_archive_with_tiff_and_rgb(workspace: Workspace, tmp_path: Path) -> None:
    items = entries()
    for index in range(COUNT["rgb2ir"]):
        items[f"rgb2ir/{index}.tiff"] = items.pop(f"rgb2ir/{index}.png") and png_bytes(noise(100 + index, 1), "TIFF")
    items["sar2eo/4.png"] = png_bytes(noise(104, 1)[:, :, None].repeat(3, 2))
    path = tmp_path / "theirs.zip"
    write_zip(path, items.items())
    summary = score(path, workspace, targets=targets(tmp_path / "targets"))
    assert summary["combined"] == pytest.approx(0.0, abs=1e-6)
    assert summary["evaluation_size"] == "native"


def test_what_a_killed_scoring_left_is_removed_and_nothing_else(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    names = ("pbvs-score-1-left", "pbvs-score-1-held", "pbvs-score-1-new", "pbvs-score-theirs", "other-1-x")
    for name in names:
        (scratch / name / "sar2eo").mkdir(parents=True)
    (scratch / "pbvs-score-1-link").symlink_to(scratch / "other-1-x")
    (scratch / "pbvs-score-1-file").touch()
    for path in scratch.iterdir():
        if path.name != "pbvs-score-1-new":
            os.utime(path, (10**9, 10**9), follow_symlinks=False)
    path = package(workspace.run(), manifests=workspace.manifests, data=workspace.root)
    with held(scratch / "pbvs-score-1-held"):
        score(path, workspace, targets=targets(tmp_path / "targets"))
    kept = {*names, "pbvs-score-1-link", "pbvs-score-1-file"} - {"pbvs-score-1-left"}
    assert {path.name for path in scratch.iterdir()} == kept
    assert (scratch / "other-1-x/sar2eo").is_dir()


def test_other_names_are_told(workspace: Workspace, tmp_path: Path) -> None:
    path = package(workspace.run(), manifests=workspace.manifests, data=workspace.root)
    with pytest.raises(PbvsError, match="no prediction that has a target"):
        score(path, workspace, manifests=workspace.manifests, root=workspace.root)
    with pytest.raises(UsageError, match="no folder of targets"):
        score(path, workspace, targets=tmp_path / "none")
    with pytest.raises(UsageError, match="holds no targets"):
        score(path, workspace, targets=workspace.submissions)


def test_a_harmful_archive_is_not_unpacked(workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "evil.zip"
    write_zip(path, {"../../evil.png": b"x"}.items())
    with pytest.raises(PbvsError, match="is not unpacked"):
        score(path, workspace, targets=targets(tmp_path / "targets"))


def test_as_many_entries_are_scored_as_there_are_inputs(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger's archive has a limit; one for inputs that are known may have as many entries as they are."""
    path = package(workspace.run(), manifests=workspace.manifests, data=workspace.root)
    monkeypatch.setattr(zips, "LIMITS", zips.Limits(entries=2))
    summary = score(path, workspace, targets=targets(tmp_path / "targets"))
    assert {task: summary["tasks"][task]["images"] for task in TASKS} == COUNT


def test_nothing_of_a_run_is_written(workspace: Workspace, tmp_path: Path) -> None:
    run = workspace.run()
    path = package(run, manifests=workspace.manifests, data=workspace.root)
    before = sorted(run.folder.rglob("*"))
    score(path, workspace, targets=targets(tmp_path / "targets"))
    assert sorted(run.folder.rglob("*")) == before
    assert sorted(file.name for file in workspace.submissions.iterdir()) == ["hand", "hand-scores.json", "hand.zip"]
