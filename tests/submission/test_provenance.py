"""What a run was made with is written down, and a run made again is the same or the difference is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pbvs import pipeline, provenance
from pbvs.data.images import write_png
from pbvs.errors import PbvsError
from pbvs.experiments import runs as reproduce
from pbvs.experiments.bundle import export, install
from pbvs.files import read_json, write_json
from pbvs.recipe import parse_recipe
from pbvs.run import Run
from tests.submission.workspace import RECIPE, Workspace, noise

GREY = {"name": "grey", "evaluation_size": "native", "stages": {"rgb2ir": {"method": "grayscale", "intensity": 1.3}}}


@pytest.fixture
def run(workspace: Workspace) -> Run:
    return predicted(workspace, "grey")


def predicted(workspace: Workspace, name: str) -> Run:
    return pipeline.predict(
        pipeline.Request(
            parse_recipe(GREY, "test"),
            run=name,
            splits=["test"],
            root=workspace.root,
            manifests=workspace.manifests,
            submissions=workspace.submissions,
            device="cpu",
        )
    )


def changes(run: Run, workspace: Workspace) -> dict[str, bool]:
    found = reproduce.compare_circumstances(run, workspace.manifests, workspace.root, None)
    return {difference.what: difference.decisive for difference in found}


def test_everything_that_matters_is_written(run: Run, workspace: Workspace) -> None:
    metadata = provenance.read_provenance(run.provenance_file)
    assert metadata["recipe"] == {"name": "grey", "digest": run.recipe().digest()}
    assert metadata["seed"] == run.recipe().seed
    assert set(metadata["manifests"]) == {"rgb2ir_test.csv"}
    assert metadata["data"]["files"] == 3
    assert metadata["packages"]["numpy"] == np.__version__
    assert len(metadata["code"]["sources"]) == 64
    assert metadata["device"]["kind"] == "cpu"


def test_digest_of_the_data_depends_on_content_alone(workspace: Workspace, tmp_path: Path) -> None:
    recipe = parse_recipe(RECIPE, "test")
    first = provenance.data_metadata(recipe, workspace.manifests, workspace.root)
    moved = workspace.root.rename(tmp_path / "moved")
    second = provenance.data_metadata(recipe, workspace.manifests, moved)
    assert first["digest"] == second["digest"]
    write_png(moved / "test" / "sar2eo" / "3.png", noise(77, 1)[:, :, None])
    assert provenance.data_metadata(recipe, workspace.manifests, moved)["digest"] != first["digest"]


def test_images_are_not_read_again_when_nothing_changed(
    run: Run, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_json(run.provenance_file)
    monkeypatch.setattr("pbvs.data.cache.sha256", lambda *_: pytest.fail("an image was read"))
    metadata = provenance.data_metadata(run.recipe(), workspace.manifests, workspace.root)
    assert metadata["digest"] == before["data"]["digest"]


def test_a_missing_image_changes_the_digest(workspace: Workspace) -> None:
    recipe = parse_recipe(RECIPE, "test")
    before = provenance.data_metadata(recipe, workspace.manifests, workspace.root)["digest"]
    (workspace.root / "test" / "rgb2ir" / "1.tiff").unlink()
    assert provenance.data_metadata(recipe, workspace.manifests, workspace.root)["digest"] != before


def test_earlier_circumstances_are_kept(run: Run, workspace: Workspace) -> None:
    metadata = read_json(run.provenance_file)
    write_json(run.provenance_file, {**metadata, "python": "3.9.0"})
    predicted(workspace, "grey")
    now = provenance.read_provenance(run.provenance_file)
    assert now["python"] == metadata["python"]
    assert [before["python"] for before in now["earlier"]] == ["3.9.0"]
    predicted(workspace, "grey")
    assert len(provenance.read_provenance(run.provenance_file)["earlier"]) == 1


def test_nothing_changed_nothing_to_say(run: Run, workspace: Workspace) -> None:
    assert changes(run, workspace) == {}


def test_each_change_is_named_and_weighed(run: Run, workspace: Workspace) -> None:
    metadata = read_json(run.provenance_file)
    metadata["packages"] |= {"click": "1.0", "numpy": "1.0"}
    metadata["platform"] = "elsewhere"
    write_json(run.provenance_file, metadata)
    write_png(workspace.root / "test" / "rgb2ir" / "extra.png", noise(1, 1)[:, :, None])
    manifest = workspace.manifests / "rgb2ir_test.csv"
    manifest.write_text(manifest.read_text().replace("rgb2ir/2.tiff", "rgb2ir/extra.png"))
    assert changes(run, workspace) == {
        "data.bytes": False,
        "data.digest": True,
        "manifests.rgb2ir_test.csv": True,
        "packages.click": False,
        "packages.numpy": True,
        "platform": False,
    }


def test_a_run_made_again_is_equal(run: Run, workspace: Workspace) -> None:
    assert reproduce.reproduce(run, manifests=workspace.manifests, root=workspace.root) == []
    assert reproduce.again(run).exists()
    assert reproduce.reproduce(run, manifests=workspace.manifests, root=workspace.root) == []


def test_long_names_of_runs_give_names_of_reproductions_that_differ(tmp_path: Path) -> None:
    names = ["n" * 94, "n" * 95, *("n" * 99 + end for end in "ab")]
    made = [reproduce.again(Run(name, tmp_path)).name for name in names]
    assert made[0] == "n" * 94 + "-again" and len(set(made)) == 4 and all(name.endswith("-again") for name in made)


def test_what_differs_is_listed(run: Run, workspace: Workspace) -> None:
    path = run.prediction("test", "rgb2ir", "1")
    changed = noise(5, 1)
    write_png(path, changed[:, :, None])
    run.prediction("test", "rgb2ir", "2").rename(run.prediction("test", "rgb2ir", "nobody"))
    (found,) = reproduce.reproduce(run, manifests=workspace.manifests, root=workspace.root)
    assert (found.task, found.images, found.different, found.missing) == ("rgb2ir", 3, 1, 1)
    assert found.largest > 0
    assert "rgb2ir test: 1 of 3 images differ" in str(found)


def test_data_that_moved_must_be_named(run: Run, workspace: Workspace, tmp_path: Path) -> None:
    workspace.root.rename(tmp_path / "moved")
    with pytest.raises(PbvsError, match="name it with --data"):
        reproduce.reproduce(run, manifests=workspace.manifests)
    assert reproduce.reproduce(run, manifests=workspace.manifests, root=tmp_path / "moved") == []


def test_another_run_of_that_name_is_not_touched(run: Run, workspace: Workspace) -> None:
    predicted(workspace, "grey-again")
    with pytest.raises(PbvsError, match="no reproduction"):
        reproduce.reproduce(run, manifests=workspace.manifests, root=workspace.root)


def test_a_run_without_provenance_says_what_to_do(workspace: Workspace) -> None:
    run = workspace.run()
    run.provenance_file.unlink()
    with pytest.raises(PbvsError, match="pbvs predict"):
        reproduce.reproduce(run, manifests=workspace.manifests, root=workspace.root)


def test_an_installed_bundle_predicts_the_same_without_training(run: Run, workspace: Workspace) -> None:
    other = install(export(run), workspace.submissions, "theirs")
    predicted(workspace, "theirs")
    assert reproduce.compare_predictions(run, other, "test", "rgb2ir") is None
    with pytest.raises(PbvsError, match="installed from a bundle"):
        reproduce.reproduce(other, manifests=workspace.manifests, root=workspace.root)
