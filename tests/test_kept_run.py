"""A run made by an earlier version is still scored, packaged, listed and gone on with (tests/kept_run)."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pbvs import aliases
from pbvs.cli import main
from pbvs.files import read_json
from pbvs.networks.unet import UNetConfig, build_unet
from pbvs.recipe import load_recipe
from pbvs.run import Run
from pbvs.seeds import torch_generator
from pbvs.training.checkpoint import read_model, write_tensors

KEPT = Path(__file__).parent / "kept_run"
STAGES = ("sar2eo", "sar2rgb", "sar2ir", "rgb2ir")


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a copy of the kept run, with its data and manifests in the working folder."""
    shutil.copytree(KEPT, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PBVS_DATA", raising=False)
    return Run("kept")


def _pbvs(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main([*arguments])
    return int(stop.value.code or 0)


def _content(run: Run) -> dict[str, bytes]:
    """Return the bytes of models and predictions by path."""
    found = [*run.folder.glob("models/*/model.*"), *run.folder.glob("predictions/*/*/*.png")]
    return {str(path.relative_to(run.folder)): path.read_bytes() for path in found}


def test_it_is_gone_on_with_and_nothing_is_made_again(kept: Run, capfd: pytest.CaptureFixture[str]) -> None:
    before = _content(kept)
    assert len(before) == 4 + 6 + 8
    assert _pbvs("predict", "--all", "--run", "kept", "--data", "data", "--jobs", "1", "--device", "cpu") == 0
    assert _content(kept) == before
    said = capfd.readouterr().err
    assert "nothing to add" in said and ": training unet" not in said and ": training pix2pixhd" not in said


def test_a_lost_prediction_is_made_again_by_its_models_equal_in_every_pixel(kept: Run) -> None:
    lost = [path for split in ("val", "test") for path in kept.folder.glob(f"predictions/{split}/*/*.png")]
    images = {path: np.asarray(Image.open(path)) for path in lost}
    for path in lost:
        path.unlink()
    assert _pbvs("predict", "--all", "--run", "kept", "--data", "data", "--jobs", "1", "--device", "cpu") == 0
    for path, image in images.items():
        assert int(np.abs(np.asarray(Image.open(path)).astype(int) - image).max()) <= 1, path


def test_its_scores_are_what_they_were(kept: Run, capfd: pytest.CaptureFixture[str]) -> None:
    then = read_json(KEPT / "submissions/kept/scores/summary.json")
    assert _pbvs("score", "--run", "kept", "--data", "data", "--lpips-net", "random", "--jobs", "1") == 0
    said = capfd.readouterr().out
    assert f"{then['combined']:.4f}" in said
    for task in STAGES:
        assert f"{then['tasks'][task]['score']:.4f}" in said


def test_it_is_packaged_with_the_same_pixels(kept: Run) -> None:
    def images(path: Path) -> dict[str, bytes]:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".png")]
            return {name: np.asarray(Image.open(io.BytesIO(archive.read(name)))).tobytes() for name in names}

    then = images(kept.archive)
    kept.archive.unlink()
    assert _pbvs("package", "--run", "kept", "--data", "data") == 0
    assert images(kept.archive) == then


def test_more_epochs_go_on_from_its_training_state(kept: Run, capfd: pytest.CaptureFixture[str]) -> None:
    text = kept.recipe_file.read_text(encoding="utf-8")
    start = text.index("[stages.sar2rgb]")
    longer = text[:start] + text[start:].replace("epochs = 1\n", "epochs = 2\n", 1)
    Path("longer.toml").write_text(longer, encoding="utf-8")
    words = ("predict", "--task", "sar2rgb", "--run", "kept", "--recipe", "longer.toml", "--data", "data")
    assert _pbvs(*words, "--jobs", "1", "--device", "cpu") == 0
    said = capfd.readouterr().err
    assert "going on after step" in said
    assert "validates on other images" not in said
    assert load_recipe(kept.recipe_file).stages["sar2rgb"].model_dump()["epochs"] == 2


def test_it_is_listed(kept: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert _pbvs("runs") == 0
    assert "kept" in capfd.readouterr().out


def test_aliases_change_names_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(aliases.RECIPE_KEYS, "radiometry", "intensity")
    monkeypatch.setitem(aliases.RECIPE_KEYS, "stages.*.old", "stages.*.new")
    monkeypatch.setitem(aliases.RECIPE_VALUES, "stages.*.method", {"then": "now"})
    old = {"name": "x", "radiometry": {"sar": "auto"}, "stages": {"sar2eo": {"method": "then", "old": 3}}}
    new = {"name": "x", "intensity": {"sar": "auto"}, "stages": {"sar2eo": {"method": "now", "new": 3}}}
    assert aliases.recipe(old) == new == aliases.recipe(new)
    assert aliases.original(new) == old == aliases.original(old)
    both = {"stages": {"sar2eo": {"old": 1, "new": 2}}}
    assert aliases.recipe(both) == {"stages": {"sar2eo": {"new": 2}}}
    monkeypatch.setitem(aliases.FLAGS, "--pictures", "--images")
    assert aliases.arguments(["--debug", "score", "--pictures=3"]) == ["--debug", "score", "--images=3"]
    assert json.dumps(aliases.stored([{"pictures": 1}])) == '[{"images": 1}]'


def test_grey_is_gray_in_recipes_and_models_of_earlier_versions(tmp_path: Path) -> None:
    text = 'name = "x"\n[stages.rgb2ir]\nmethod = "unet"\nresidual = "gr{}y"\n'
    recipes = []
    for letter in "ea":
        (tmp_path / "x.toml").write_text(text.format(letter), encoding="utf-8")
        recipes.append(load_recipe(tmp_path / "x.toml"))
    assert recipes[0] == recipes[1] and recipes[0].stages["rgb2ir"].model_dump()["residual"] == "gray"
    config = UNetConfig(3, 1, width=8, levels=2, residual="gray")
    tensors = build_unet(config, torch_generator(1, "unet")).state_dict()
    write_tensors(
        tmp_path / "model.safetensors", tensors, {"kind": "unet", "config": {**asdict(config), "residual": "grey"}}
    )
    assert read_model(tmp_path / "model.safetensors", "unet")[1] == config
