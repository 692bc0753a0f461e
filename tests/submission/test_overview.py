"""Runs side by side, and how one is taken away."""

from __future__ import annotations

from pathlib import Path

import pytest

from pbvs.api import package
from pbvs.errors import PbvsError, UsageError
from pbvs.experiments.runs import differences, overview, remove
from pbvs.files import sha256, write_json
from pbvs.run import Run, all_runs, locked
from pbvs.submission import uploads as log
from tests.submission.workspace import RECIPE, Workspace


def test_a_row_for_each_run(workspace: Workspace) -> None:
    path = package(workspace.run(), manifests=workspace.manifests, data=workspace.root)
    workspace.run("other", seed=400)
    log.add(path, workspace.submissions)
    first, second = overview(workspace.submissions)
    assert (first.run, first.predictions, first.uploads) == ("hand", 20, (1,))
    assert first.packaged
    assert (second.run, second.packaged, second.uploads) == ("other", "", ())
    assert 0 < first.megabytes < 1


def test_recipes_differ_where_they_differ(workspace: Workspace) -> None:
    brighter = {**RECIPE["stages"], "rgb2ir": {"method": "grayscale", "intensity": 1.5}}
    found = differences([workspace.run(), workspace.run("other", seed=400, stages=brighter)])
    assert found == {"stages.rgb2ir.intensity": {"hand": 1.3, "other": 1.5}}


def test_removing_takes_folder_and_archive(workspace: Workspace) -> None:
    run = workspace.run()
    package(run, manifests=workspace.manifests, data=workspace.root)
    workspace.run("other")
    assert set(remove(run)) == {run.folder, run.archive}
    assert [run.name for run in all_runs(workspace.submissions)] == ["other"]
    assert not list(workspace.submissions.glob(".removed-*"))


def test_archive_can_be_kept(workspace: Workspace) -> None:
    run = workspace.run()
    package(run, manifests=workspace.manifests, data=workspace.root)
    remove(run, archive=False)
    assert run.archive.is_file()


def test_what_is_in_use_or_not_there_stays(workspace: Workspace) -> None:
    run = workspace.run()
    with locked(run.folder), pytest.raises(PbvsError, match="in use"):
        remove(run)
    assert run.exists()
    with pytest.raises(UsageError, match="no run 'none'"):
        remove(Run("none", workspace.submissions))


def test_a_link_is_not_followed(workspace: Workspace, tmp_path: Path) -> None:
    run = workspace.run()
    moved = run.folder.rename(tmp_path / "elsewhere")
    run.folder.symlink_to(moved)
    with pytest.raises(PbvsError, match="is a link"):
        remove(run)
    assert (moved / "recipe.toml").is_file()


def test_half_removed_and_odd_folders_are_no_runs(workspace: Workspace) -> None:
    run = workspace.run()
    for name in (".removed-x", ".y.installing", "my run"):
        (workspace.submissions / name).mkdir()
        (workspace.submissions / name / "recipe.toml").write_bytes(run.recipe_file.read_bytes())
    assert [row.run for row in overview(workspace.submissions)] == ["hand"]


def test_a_removal_that_was_stopped_is_finished(workspace: Workspace) -> None:
    run = workspace.run()
    package(run, manifests=workspace.manifests, data=workspace.root)
    run.folder.rename(workspace.submissions / ".removed-hand")
    remove(run)
    assert not list(workspace.submissions.iterdir())


def test_only_its_own_zips_are_removed(workspace: Workspace) -> None:
    """A run may be called as another one's rehearsal or bundle was, or is."""
    first, second = workspace.run("tiny"), workspace.run("tiny-val", seed=300)
    for run in (first, second):
        package(run, manifests=workspace.manifests, data=workspace.root)
    kept = second.archive.read_bytes()
    assert set(remove(first)) == {first.folder, first.archive}
    assert second.archive.read_bytes() == kept


def test_a_rehearsal_beside_the_run_is_removed_by_its_digest(workspace: Workspace) -> None:
    """As earlier versions wrote it."""
    run = workspace.run("tiny")
    path = package(run, manifests=workspace.manifests, data=workspace.root)
    beside = path.rename(workspace.submissions / "tiny-val.zip")
    write_json(run.folder / "package-val.json", {"archive": "tiny-val.zip", "sha256": sha256(beside), "split": "val"})
    assert beside in remove(run)
    assert not beside.exists()
