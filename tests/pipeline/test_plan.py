"""The plan says what then happens: steps, images, sizes; and what cannot work is said before anything is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from pbvs.cli import cli
from pbvs.data.build import build_pairs
from pbvs.data.manifest import manifest_path, read_manifest
from pbvs.data.synthetic import write_demo
from pbvs.errors import PbvsError
from pbvs.pipeline import Job, Request, plan, predict
from pbvs.preflight import Plan, StagePlan
from pbvs.recipe import Recipe, parse_recipe
from pbvs.run import Run
from tests.pipeline.test_runner import NETWORK

UNET = {
    "method": "unet",
    "size": 16,
    "epochs": 2,
    "batch_size": 3,
    "accumulate": 2,
    "rounds": 3,
    "width": 4,
    "levels": 2,
    "style": 0,
    "lpips_weight": 0.0,
    "validation_images": 2,
}


def _recipe(stages: dict[str, Any], **tables: Any) -> Recipe:
    return parse_recipe({"name": "r", "evaluation_size": "native", "stages": stages, **tables}, "r")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Data with one black pair that no training uses, and their manifests."""
    folder = tmp_path_factory.mktemp("plan")
    write_demo(folder / "data", seed=4)
    build_pairs(folder / "data", folder / "manifests")
    pair = read_manifest(manifest_path(folder / "manifests", "sar2eo", "train"))[0]
    black = folder / "data" / pair.target
    with Image.open(black) as image:
        pixels = np.zeros_like(np.asarray(image))
    Image.fromarray(pixels).save(black)
    build_pairs(folder / "data", folder / "manifests")
    return {"root": folder / "data", "manifests": folder / "manifests", "submissions": folder / "submissions"}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins with no cache."""
    monkeypatch.chdir(tmp_path)


def _job(recipe: Recipe, run: str, places: dict[str, Path]) -> Job:
    asked = frozenset(recipe.stages)
    where = Run(run, places["submissions"])
    return Job(recipe, where, places["root"], places["manifests"], None, "cpu", 1, asked)


def _plan(recipe: Recipe, run: str, places: dict[str, Path]) -> dict[str, StagePlan]:
    return {stage.task: stage for stage in _job(recipe, run, places).plan(("val",)).stages}


def _last_step(run: Run, task: str) -> int:
    return int(pd.read_csv(run.model(task) / "log.csv")["step"].iloc[-1])


RECIPES = {
    "batches": _recipe({"sar2rgb": {**NETWORK, "batch_size": 4}, "sar2eo": UNET}),
    "limits": _recipe({"sar2rgb": UNET}, sampling={"pairs_per_location": 2}),
    "all": _recipe({"sar2rgb": UNET}, sampling={"policy": "all"}),
    "a part of training": _recipe({"sar2rgb": {**UNET, "choose_on": "train"}}),
    "whole": _recipe({"sar2rgb": {**NETWORK, "epochs": 1, "decay_epochs": 2}}, chips={"mode": "whole"}),
}


@pytest.mark.parametrize("name", RECIPES)
def test_training_takes_the_steps_and_writes_the_bytes_that_were_planned(
    name: str, places: dict[str, Path], tmp_path: Path
) -> None:
    recipe, label = RECIPES[name], name.replace(" ", "-")
    first = _plan(recipe, label, places)
    run = predict(Request(recipe, run=label, splits=["val"], device="cpu", **places))
    again = _plan(recipe, f"{label}-again", places)  # what is left out is known now
    for task in recipe.stages:
        assert again[task].all_steps == _last_step(run, task)
        left_out = (tmp_path / ".cache" / "pbvs" / f"bad_{task}_train.jsonl").is_file()
        assert left_out or first[task].all_steps == _last_step(run, task)
        files = run.model(task).glob("*.safetensors")
        assert first[task].model_size == pytest.approx(sum(file.stat().st_size for file in files), rel=0.25)
        assert (again[task].chips_size == 0) and first[task].chips_size > 0
    if name == "batches":
        assert (tmp_path / ".cache" / "pbvs" / "bad_sar2eo_train.jsonl").is_file()
    chips = sum(file.stat().st_size for file in (tmp_path / ".cache" / "pbvs").glob("??/*.npy"))
    assert sum(stage.chips_size for stage in first.values()) == pytest.approx(chips, rel=0.25)


def test_steps_of_windows_are_known_once_they_are_cut(places: dict[str, Path]) -> None:
    recipe = _recipe({"sar2rgb": UNET}, chips={"mode": "windows"})
    stage = _plan(recipe, "windows", places)["sar2rgb"]
    assert stage.all_steps is None
    assert "train 2 epochs on" in str(stage)
    run = predict(Request(recipe, run="windows", splits=["val"], device="cpu", **places))
    assert _plan(recipe, "windows-again", places)["sar2rgb"].all_steps == _last_step(run, "sar2rgb")


def test_a_finished_run_has_nothing_left(places: dict[str, Path]) -> None:
    recipe = _recipe({"sar2rgb": UNET, "sar2ir": {"method": "cascade", "first": "sar2rgb"}})
    before = _plan(recipe, "done", places)
    count = len(read_manifest(manifest_path(places["manifests"], "sar2ir", "val")))
    assert before["sar2ir"].images == {"val": (count, 0)}
    run = predict(Request(recipe, run="done", splits=["val"], device="cpu", **places))
    next(iter(sorted(run.prediction_folder("val", "sar2ir").glob("*.png")))).unlink()
    after = _plan(recipe, "done", places)
    assert [stage.trains for stage in after.values()] == [False, False]
    assert after["sar2ir"].images == {"val": (1, count - 1)}
    assert "trained already; all" in str(after["sar2rgb"])
    assert "nothing to train; predict 1 val" in str(after["sar2ir"])


def test_predict_begins_with_its_plan(places: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    recipe = _recipe({"sar2rgb": {**UNET, "epochs": 1}})
    lines = _job(recipe, "said", places).plan(("val",)).lines()
    predict(Request(recipe, run="said", splits=["val"], device="cpu", **places))
    assert capfd.readouterr().err.splitlines()[: len(lines)] == lines


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_dry_run_fits_the_terminal_and_makes_nothing(
    columns: int, places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\n[stages.rgb2ir]\nmethod = "grayscale"\n[stages.sar2rgb]\n'
        + "\n".join(f"{key} = {value!r}" for key, value in UNET.items()).replace("'", '"')
    )
    arguments = ["predict", "--all", "--recipe", "mine.toml", "--dry-run", "--device", "cpu", "--jobs", "1"]
    where = ["--data", str(places["root"]), "--manifests", str(places["manifests"])]
    done = CliRunner().invoke(cli, [*arguments, *where], catch_exceptions=False)
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= columns
    text = " ".join(done.stdout.split())
    for said in ("Plan: run mine", "rgb2ir grayscale: nothing to train", "training needs none", "Time: about"):
        assert said in text
    assert lines[-1] == "Nothing stands in the way."
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.toml"]


def test_all_missing_weights_are_named_at_once_and_nothing_is_made(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PBVS_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    stages = {
        "sar2eo": {**NETWORK, "size": 32, "vgg_weight": 1.0},
        "sar2rgb": {**UNET, "size": 32, "lpips_weight": 1.0, "lpips_net": "alex"},
    }
    found = plan(Request(_recipe(stages), run="bare", device="cpu", **places))
    assert found.weights == {"vgg19": None, "alex": None}
    assert "vgg19 (for sar2eo), alex (for sar2rgb)" in found.problem
    said = " ".join(str(found).split())
    assert "Weights: vgg19 is missing, alex is missing" in said and said.endswith(found.problem)
    assert "not measured while weights are missing" in said
    with pytest.raises(PbvsError, match=r"vgg19 \(for sar2eo\), alex \(for sar2rgb\)"):
        predict(Request(_recipe(stages), run="bare", device="cpu", **places))
    assert not (places["submissions"] / "bare").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"batch_size": 5000}, "make batch_size smaller"),
        ({"choose_by": "nonsense"}, "nonsense"),
        ({**NETWORK, "init_checkpoint": "absent.safetensors"}, "absent.safetensors"),
        ({"init_from": "sar2eo", "width": 8}, "sar2rgb starts from sar2eo, and its width is 8 where sar2eo has 4"),
    ],
)
def test_what_would_stop_training_is_said_before_anything_is_made(
    changes: dict[str, Any], sentence: str, places: dict[str, Path]
) -> None:
    last = {**changes} if "method" in changes else {**UNET, **changes}
    recipe = _recipe({"sar2eo": UNET, "sar2rgb": last})
    with pytest.raises(PbvsError, match=sentence):
        predict(Request(recipe, run="stopped", device="cpu", **places))
    assert not (places["submissions"] / "stopped").exists()


def test_time_is_steps_times_their_seconds_and_a_small_disk_is_said() -> None:
    stages = (
        StagePlan("a", "unet", (), True, True, {"val": (3, 0)}, (10, 2), 10, 60, chips_size=2_000_000_000),
        StagePlan("b", "unet", ("a",), True, True, {}, (10, 2), 5, 120),
    )
    plan = Plan("run x", stages, {}, {"a": 1.0, "b": 10.0}, {Path("submissions"): 1_000_000_000})
    text = " ".join(plan.lines(80))
    assert "about 1.8 h of training" in " ".join(text.split())  # 600 + 6000 seconds
    assert "2.0 GB of chips" in text and "that may not be enough" in " ".join(text.split())


def test_what_is_set_changes_the_recipe_of_the_challenge_that_is_asked_for(tmp_path: Path) -> None:
    asked = Request("small", submissions=tmp_path, challenge="rgb2nir", changes=["seed=7"])
    recipe, run = asked.chosen
    assert (recipe.challenge, recipe.seed, run.name) == ("rgb2nir", 7, "small")
    run.write_recipe(recipe)
    kept, _ = Request(None, run="small", submissions=tmp_path, changes=["evaluation_size='native'"]).chosen
    assert (kept.challenge, kept.seed, kept.evaluation_size) == ("rgb2nir", 7, "native")
