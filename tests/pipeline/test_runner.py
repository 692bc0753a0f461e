"""The staged runner on synthetic data: what is done is kept, what changed is made again, nothing trained is lost."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pbvs.data.build import build_pairs
from pbvs.data.manifest import manifest_path, read_manifest
from pbvs.data.synthetic import write_demo
from pbvs.errors import PbvsError, UsageError
from pbvs.files import read_json
from pbvs.lineage import stale, training_notes
from pbvs.pipeline import Request, predict
from pbvs.recipe import Recipe, parse_recipe
from pbvs.run import Run
from pbvs.training.trainer import Trainer
from pbvs.training.validation import read_log
from pbvs.translators.pix2pixhd import Pix2PixHDStage
from pbvs.translators.pix2pixhd.translator import Pix2PixHD
from tests.manifests import write_manifest

NETWORK = {
    "method": "pix2pixhd",
    "size": 16,
    "epochs": 1,
    "half_rate_epochs": 0,
    "batch_size": 16,
    "generator_width": 2,
    "discriminator_width": 2,
    "discriminators": 1,
    "downsamplings": 1,
    "residual_blocks": 0,
    "vgg_weight": 0.0,
    "lpips_weight": 0.0,
    "validation_images": 1,
}


def _recipe(**changes: Any) -> Recipe:
    stages = {
        "sar2eo": {**NETWORK, **changes},
        "sar2rgb": {**NETWORK, "init_from": "sar2eo"},
        "sar2ir": {"method": "cascade", "first": "sar2rgb", "intensity": 1.15},
        "rgb2ir": {"method": "grayscale", "intensity": 1.3},
    }
    return parse_recipe({"name": "tiny", "evaluation_size": "native", "stages": stages}, "tiny")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runner")
    write_demo(folder / "data", seed=1)
    build_pairs(folder / "data", folder / "manifests")
    return {"root": folder / "data", "manifests": folder / "manifests", "submissions": folder / "submissions"}


@pytest.fixture(scope="module")
def run(world: dict[str, Path]) -> Run:
    return predict(Request(_recipe(), run="whole", device="cpu", **world))


def _state(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*.png")} | {
        str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")
    }


@pytest.mark.parametrize("task", ["sar2eo", "sar2rgb", "sar2ir", "rgb2ir"])
@pytest.mark.parametrize("split", ["val", "test"])
def test_every_input_has_its_prediction(run: Run, world: dict[str, Path], task: str, split: str) -> None:
    pairs = read_manifest(manifest_path(world["manifests"], task, split))
    assert pairs
    assert {p.stem for p in run.prediction_folder(split, task).glob("*.png")} == {pair.name for pair in pairs}
    image = Image.open(run.prediction(split, task, pairs[0].name))
    assert image.mode == ("RGB" if task == "sar2rgb" else "L")


def test_a_second_run_does_nothing_that_is_done(run: Run, world: dict[str, Path]) -> None:
    before = _state(run.folder)
    predict(Request(_recipe(), run="whole", device="cpu", **world))
    assert _state(run.folder) == before


def test_only_what_was_lost_is_made_again(run: Run, world: dict[str, Path]) -> None:
    before = _state(run.folder)
    lost = next(iter(sorted(run.prediction_folder("test", "rgb2ir").glob("*.png"))))
    lost.unlink()
    predict(Request(None, run="whole", device="cpu", **world))
    after = _state(run.folder)
    changed = {name for name in before if before[name] != after.get(name)}
    assert changed == {str(lost.relative_to(run.folder))}


@pytest.mark.parametrize("key", ["images", "seconds"])
def test_a_count_that_is_gone_from_a_record_is_taken_again(key: str, run: Run, world: dict[str, Path]) -> None:
    before, path = _state(run.folder), run.prediction_metadata_file("test", "rgb2ir")
    metadata = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in metadata.items() if name != key}))
    predict(Request(None, run="whole", device="cpu", **world))
    after = json.loads(path.read_text())
    assert after["images"] in (metadata["images"], len(list(run.prediction_folder("test", "rgb2ir").glob("*.png"))))
    assert after["seconds"] >= 0
    assert _state(run.folder).keys() == before.keys()


def test_another_factor_makes_only_its_own_images_again(run: Run, world: dict[str, Path]) -> None:
    before = _state(run.folder)
    recipe = _recipe()
    brighter = recipe.stages["rgb2ir"].model_copy(update={"intensity": 1.2})
    changed = recipe.model_copy(update={"stages": {**recipe.stages, "rgb2ir": brighter}})
    with pytest.raises(PbvsError, match=r"stages\.rgb2ir\.intensity: 1\.3 then, 1\.2 now"):
        predict(Request(changed, run="whole", **world))
    assert _state(run.folder) == before
    predict(Request(changed, run="whole", change_recipe=True, **world))
    after = _state(run.folder)
    assert {Path(name).parts[2] for name in before if before[name] != after[name]} == {"rgb2ir"}
    predict(Request(recipe, run="whole", change_recipe=True, device="cpu", **world))


def test_a_trained_model_is_never_lost_by_a_changed_recipe(run: Run, world: dict[str, Path]) -> None:
    before = _state(run.folder)
    for change_recipe in (False, True):
        with pytest.raises(PbvsError, match="--retrain"):
            predict(
                Request(_recipe(learning_rate=1e-3), run="whole", device="cpu", change_recipe=change_recipe, **world)
            )
    assert _state(run.folder) == before


def test_more_epochs_go_on_where_training_ended(world: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    predict(Request(_recipe(), run="longer", tasks=["sar2eo"], device="cpu", **world))
    predict(Request(_recipe(epochs=2), run="longer", tasks=["sar2eo"], device="cpu", **world))
    assert "going on after step" in capfd.readouterr().err
    whole = predict(Request(_recipe(epochs=2), run="at-once", tasks=["sar2eo"], device="cpu", **world))
    longer = Run("longer", world["submissions"])
    state = "models/sar2eo/state.safetensors"
    assert (longer.folder / state).exists() and (whole.folder / state).exists()
    log = [
        [line.split(",")[4:9] for line in (run.model("sar2eo") / "log.csv").read_text().splitlines()]
        for run in (longer, whole)
    ]
    assert log[0] == log[1]


UNET = {
    "method": "unet",
    "size": 16,
    "batch_size": 8,
    "width": 4,
    "levels": 1,
    "style": 0,
    "lpips_weight": 0.0,
    "validation_images": 1,
}


def _chain(first: int, second: int) -> Recipe:
    stages = {
        "sar2eo": {**UNET, "epochs": first},
        "sar2rgb": {**UNET, "epochs": second, "init_from": "sar2eo"},
        "sar2ir": {"method": "cascade", "first": "sar2rgb"},
    }
    return parse_recipe({"name": "chain", "evaluation_size": "native", "stages": stages}, "chain")


@pytest.fixture(scope="module")
def chain(world: dict[str, Path]) -> Run:
    return predict(Request(_chain(2, 2), run="chain", splits=["val"], device="cpu", **world))


@pytest.fixture
def copied(chain: Run, world: dict[str, Path], tmp_path: Path) -> tuple[Run, dict[str, Any]]:
    """A copy of the finished run, and where to go on with it."""
    shutil.copytree(chain.folder, tmp_path / chain.name)
    run = Run(chain.name, tmp_path)
    return run, {**world, "submissions": tmp_path, "run": chain.name, "splits": ["val"], "device": "cpu"}


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def test_a_unet_goes_on_with_more_epochs_and_what_started_from_it_is_named(
    copied: tuple[Run, dict[str, Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    run, where = copied
    before = _files(run.folder)
    with pytest.raises(PbvsError, match=r"sar2rgb was trained .*requires\.sar2eo changed.*--task sar2rgb --retrain"):
        predict(Request(_chain(4, 2), **where))
    assert _files(run.folder) == before
    predict(Request(_chain(4, 2), tasks=["sar2eo"], **where))
    said = capfd.readouterr().err
    assert "unet: go on from epoch 2 to 4," in said and "sar2eo: goes on from epoch 2 to 4" in said
    rates = read_log(run.model("sar2eo") / "log.csv")["learning_rate"].tolist()
    assert len(rates) == 4 and rates[:2] == rates[2:]
    assert {item.what for item in stale(run, where["manifests"])} >= {"The model of sar2rgb", "The model of sar2ir"}
    after = _files(run.folder)
    assert {name: after.get(name) for name in before if "sar2rgb" in name} == {
        name: data for name, data in before.items() if "sar2rgb" in name
    }
    predict(Request(None, tasks=["sar2rgb"], retrain=True, **where))
    predict(Request(None, **where))
    assert not stale(run, where["manifests"])


def test_all_stages_go_on_each_from_its_own_end_also_after_a_kill_between_them(
    copied: tuple[Run, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, where = copied
    at_once = Run("chain", where["submissions"] / "whole")
    shutil.copytree(run.folder, at_once.folder)
    predict(Request(_chain(3, 4), **{**where, "submissions": at_once.submissions}))
    finished = (run.model("sar2rgb") / "model.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        plain, epochs = Trainer.save, []

        def save(self: Trainer) -> None:
            plain(self)
            epochs.append(self.what)
            if epochs == ["sar2eo", "sar2rgb"]:
                raise KeyboardInterrupt

        patch.setattr(Trainer, "save", save)
        with pytest.raises(KeyboardInterrupt):
            predict(Request(_chain(3, 4), **where))
    assert (run.model("sar2rgb") / "model.safetensors").read_bytes() == finished
    predict(Request(_chain(3, 4), **where))
    for task in ("sar2eo", "sar2rgb"):
        for name in ("model.safetensors", "earlier.json"):
            path = Path("models") / task / name
            assert (run.folder / path).read_bytes() == (at_once.folder / path).read_bytes(), path
    record = read_json(run.model_metadata_file("sar2rgb"))
    assert (record["training"]["ends"], record["older_start"]) == ([2, 4], ["sar2eo"])
    assert "sar2rgb started from sar2eo as it was before that went on with more epochs." in training_notes(
        run, "val", ["sar2rgb"]
    )
    assert not stale(run, where["manifests"])
    before = _files(run.folder)
    with pytest.raises(PbvsError, match="sar2rgb has 4 epochs and the recipe asks for 3"):
        predict(Request(_chain(3, 3), **where))
    (run.model("sar2eo") / "state.safetensors").unlink()
    with pytest.raises(PbvsError, match=r"state\.safetensors, from which the training of sar2eo would go on"):
        predict(Request(_chain(5, 5), **where))
    del before["models/sar2eo/state.safetensors"]
    assert _files(run.folder) == before


def test_what_an_interrupted_training_left_is_taken_by_its_own_kind_alone(
    copied: tuple[Run, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped with more epochs, and then retrained, a model begins at its first epoch and not at the third."""
    run, where = copied
    rates = read_log(run.model("sar2eo") / "log.csv")["learning_rate"].tolist()
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", lambda self, micro: _stop())
        for options in ({}, {"retrain": True}, {}):
            with pytest.raises(KeyboardInterrupt):
                predict(Request(_chain(3, 2), tasks=["sar2eo"], **options, **where))
            there = (run.folder / "models/.sar2eo.next/state.safetensors").is_file()
            assert there == (options == {})
    predict(Request(_chain(3, 2), tasks=["sar2eo"], **where))
    longer = read_log(run.model("sar2eo") / "log.csv")["learning_rate"].tolist()
    assert longer[:2] == rates and len(longer) == 3
    assert not list((run.folder / "models").glob(".*"))


def _stop() -> None:
    raise KeyboardInterrupt


def test_a_task_that_the_recipe_lacks_is_refused(world: dict[str, Path]) -> None:
    only = parse_recipe({"name": "x", "stages": {"rgb2ir": {"method": "grayscale"}}}, "x")
    with pytest.raises(UsageError, match="no stage for sar2eo"):
        predict(Request(only, tasks=["sar2eo"], **world))


def test_a_broken_input_is_told_and_the_rest_is_written(world: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(world["root"], root)
    pairs = read_manifest(manifest_path(world["manifests"], "rgb2ir", "test"))
    broken = root / pairs[0].source
    broken.write_bytes(broken.read_bytes()[:100])
    only = parse_recipe({"name": "gray", "stages": {"rgb2ir": {"method": "grayscale"}}}, "gray")
    with pytest.raises(PbvsError, match=f"{pairs[0].source} has changed since the manifests were made"):
        predict(Request(only, run="b", **{**world, "root": root}))
    # Manifests of earlier versions do not say what the bytes were.
    manifests = tmp_path / "manifests"
    shutil.copytree(world["manifests"], manifests)
    for split in ("train", "val", "test"):
        path = manifest_path(manifests, "rgb2ir", split)
        write_manifest(path, [replace(pair, source_digest="", target_digest="") for pair in read_manifest(path)])
    world = {**world, "manifests": manifests}
    with pytest.raises(PbvsError, match="1 inputs could not be predicted"):
        predict(Request(only, root=root, manifests=world["manifests"], submissions=tmp_path / "s", splits=["test"]))
    written = list((tmp_path / "s/gray/predictions/test/rgb2ir").glob("*.png"))
    assert len(written) == len(pairs) - 1


def test_training_that_was_stopped_begins_again_on_images_that_changed(
    world: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def stop(self: Pix2PixHD, context: Any, validator: Any) -> None:
        raise KeyboardInterrupt

    root, manifests = tmp_path / "data", tmp_path / "manifests"
    shutil.copytree(world["root"], root)
    build_pairs(root, manifests)
    where: dict[str, Any] = {
        "tasks": ["sar2eo"],
        "root": root,
        "manifests": manifests,
        "submissions": tmp_path / "s",
        "device": "cpu",
    }
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Pix2PixHD, "_choose_flips", stop)  # all is learnt, and the model not marked as done
        predict(Request(_recipe(), **where))
    predict(Request(_recipe(), **where))
    assert "going on after step" in capfd.readouterr().err
    shutil.rmtree(tmp_path / "s")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Pix2PixHD, "_choose_flips", stop)
        predict(Request(_recipe(), **where))
    image = root / read_manifest(manifest_path(manifests, "sar2eo", "train"))[0].source
    Image.open(image).point(lambda level: 255 - level).save(image)
    build_pairs(root, manifests)
    predict(Request(_recipe(), **where))
    assert "was trained from other data or settings" in capfd.readouterr().err
    predict(Request(_recipe(), run="fresh", **where))
    models = [tmp_path / f"s/{name}/models/sar2eo/model.safetensors" for name in ("tiny", "fresh")]
    assert models[0].read_bytes() == models[1].read_bytes()


def test_training_does_not_begin_without_a_file_that_the_manifest_names(world: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(world["root"], root)
    gone = read_manifest(manifest_path(world["manifests"], "sar2eo", "train"))[0].source
    (root / gone).unlink()
    with pytest.raises(PbvsError, match="run `pbvs build-pairs` again"):
        predict(
            Request(
                _recipe(),
                tasks=["sar2eo"],
                root=root,
                manifests=world["manifests"],
                submissions=tmp_path / "s",
                device="cpu",
            )
        )
    assert not list((tmp_path / "s").rglob("*.safetensors"))


def test_a_newer_version_with_more_settings_goes_on_with_the_model(run: Run, world: dict[str, Path]) -> None:
    class Newer(Pix2PixHDStage):
        novelty: float = 1.0

    recipe = _recipe()
    newer = Newer.model_validate(recipe.stages["sar2eo"].model_dump())
    same = recipe.model_copy(update={"stages": {**recipe.stages, "sar2eo": newer}})
    before = _state(run.folder)
    predict(Request(same, run="whole", tasks=["sar2eo"], device="cpu", **world))
    assert _state(run.folder) == before
    other = newer.model_copy(update={"novelty": 2.0})
    changed = recipe.model_copy(update={"stages": {**recipe.stages, "sar2eo": other}})
    with pytest.raises(PbvsError, match="another recipe"):
        predict(Request(changed, run="whole", tasks=["sar2eo"], device="cpu", **world))


def test_changed_data_are_seen_before_and_after_the_manifests_are_made_again(tmp_path: Path) -> None:
    root, manifests = tmp_path / "data", tmp_path / "manifests"
    write_demo(root, seed=1)
    build_pairs(root, manifests)
    only = parse_recipe(
        {"name": "gray", "evaluation_size": "native", "stages": {"rgb2ir": {"method": "grayscale"}}}, "gray"
    )
    place = {"root": root, "manifests": manifests, "submissions": tmp_path / "s"}
    run = predict(Request(only, splits=["test"], **place))  # type: ignore[arg-type]
    before = _state(run.folder)
    pair = read_manifest(manifest_path(manifests, "rgb2ir", "test"))[0]
    other = read_manifest(manifest_path(manifests, "rgb2ir", "test"))[1]
    (root / pair.source).write_bytes((root / other.source).read_bytes())
    with pytest.raises(PbvsError, match="has changed since the manifests were made; run `pbvs build-pairs` again"):
        predict(Request(only, splits=["test"], **place))  # type: ignore[arg-type]
    assert _state(run.folder) == before
    build_pairs(root, manifests)
    assert [item.what for item in stale(run, manifests)] == ["The predictions of rgb2ir (test)"]
    predict(Request(only, splits=["test"], **place))  # type: ignore[arg-type]
    assert not stale(run, manifests)
    a, b = (Image.open(run.prediction("test", "rgb2ir", each.name)).tobytes() for each in (pair, other))
    assert a == b
