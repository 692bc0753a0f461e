"""Runs side by side, and how one is taken away."""

from __future__ import annotations

from pathlib import Path

import pytest

from pbvs.errors import PbvsError, UsageError
from pbvs.experiments.runs import differences, overview, remove
from pbvs.files import sha256, write_json
from pbvs.locks import locked
from pbvs.run import Run, all_runs
from pbvs.submission import uploads as log
from pbvs.submission.package import package
from tests.submission.place import RECIPE, Place


def test_a_row_for_each_run(place: Place) -> None:
    path = package(place.run(), manifests=place.manifests, root=place.root)
    place.run("other", seed=400)
    log.add(path, place.submissions)
    first, second = overview(place.submissions)
    assert (first.run, first.predictions, first.uploads) == ("hand", 20, (1,))
    assert first.packaged
    assert (second.run, second.packaged, second.uploads) == ("other", "", ())
    assert 0 < first.megabytes < 1


def test_recipes_differ_where_they_differ(place: Place) -> None:
    brighter = {**RECIPE["stages"], "rgb2ir": {"method": "grayscale", "intensity": 1.5}}
    found = differences([place.run(), place.run("other", seed=400, stages=brighter)])
    assert found == {"stages.rgb2ir.intensity": {"hand": 1.3, "other": 1.5}}


def test_removing_takes_folder_and_archive(place: Place) -> None:
    run = place.run()
    package(run, manifests=place.manifests, root=place.root)
    place.run("other")
    assert set(remove(run)) == {run.folder, run.archive}
    assert [run.name for run in all_runs(place.submissions)] == ["other"]
    assert not list(place.submissions.glob(".removed-*"))


def test_archive_can_be_kept(place: Place) -> None:
    run = place.run()
    package(run, manifests=place.manifests, root=place.root)
    remove(run, archive=False)
    assert run.archive.is_file()


def test_what_is_in_use_or_not_there_stays(place: Place) -> None:
    run = place.run()
    with locked(run.folder), pytest.raises(PbvsError, match="in use"):
        remove(run)
    assert run.exists()
    with pytest.raises(UsageError, match="no run 'none'"):
        remove(Run("none", place.submissions))


def test_a_link_is_not_followed(place: Place, tmp_path: Path) -> None:
    run = place.run()
    moved = run.folder.rename(tmp_path / "elsewhere")
    run.folder.symlink_to(moved)
    with pytest.raises(PbvsError, match="is a link"):
        remove(run)
    assert (moved / "recipe.toml").is_file()


def test_half_removed_and_odd_folders_are_no_runs(place: Place) -> None:
    run = place.run()
    for name in (".removed-x", ".y.installing", "my run"):
        (place.submissions / name).mkdir()
        (place.submissions / name / "recipe.toml").write_bytes(run.recipe_file.read_bytes())
    assert [row.run for row in overview(place.submissions)] == ["hand"]


def test_a_removal_that_was_stopped_is_finished(place: Place) -> None:
    run = place.run()
    package(run, manifests=place.manifests, root=place.root)
    run.folder.rename(place.submissions / ".removed-hand")
    remove(run)
    assert not list(place.submissions.iterdir())


def test_only_its_own_zips_are_removed(place: Place) -> None:
    """A run may be called as another one's rehearsal or bundle was, or is."""
    first, second = place.run("tiny"), place.run("tiny-val", seed=300)
    for run in (first, second):
        package(run, manifests=place.manifests, root=place.root)
    kept = second.archive.read_bytes()
    assert set(remove(first)) == {first.folder, first.archive}
    assert second.archive.read_bytes() == kept


def test_a_rehearsal_beside_the_run_is_removed_by_its_digest(place: Place) -> None:
    """As earlier versions wrote it."""
    run = place.run("tiny")
    path = package(run, manifests=place.manifests, root=place.root)
    beside = path.rename(place.submissions / "tiny-val.zip")
    write_json(run.folder / "package-val.json", {"archive": "tiny-val.zip", "sha256": sha256(beside), "split": "val"})
    assert beside in remove(run)
    assert not beside.exists()
