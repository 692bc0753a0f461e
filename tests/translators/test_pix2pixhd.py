"""The translator: trains on files, keeps what it needs, loads only what fits, and says what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pbvs.errors import PbvsError
from pbvs.networks.pix2pixhd import GeneratorConfig, build_generator
from pbvs.recipe import parse_recipe
from pbvs.seeds import generator, torch_generator
from pbvs.training.checkpoint import read_model, read_tensors, write_weights
from pbvs.training.validation import read_log
from pbvs.translators import make_translator
from pbvs.translators.network import use_bf16
from pbvs.translators.pix2pixhd.published import export_checkpoint
from pbvs.translators.pix2pixhd.translator import GanStep
from tests.tasks import TASKS
from tests.translators.scenes import context_of, recipe_of, translator_of


def image(height: int = 24, width: int = 37, channels: int = 1) -> np.ndarray:
    return generator(0, "image").random((height, width, channels), dtype=np.float32)


def test_training_leaves_a_model_a_log_curves_and_strips(tmp_path: Path) -> None:
    recipe = recipe_of()
    translator = translator_of(recipe)
    translator.fit(context_of(tmp_path, recipe))
    folder = tmp_path / "model"
    rows = read_log(folder / "log.csv")
    assert rows["epoch"].tolist() == [1, 2]
    assert rows["learning_rate"][0] == 2 * rows["learning_rate"][1]
    assert rows["val_score"].between(0, 1, inclusive="neither").all()
    for name in ("state.safetensors", "model.safetensors", "discriminator.safetensors", "curves.png"):
        assert (folder / name).stat().st_size > 1000, name
    assert sorted(path.name for path in (folder / "samples").iterdir()) == ["0001.png", "0002.png"]
    assert list((folder / "events").iterdir())
    (result,) = translator.translate([image()])
    assert result.shape == (24, 37, 1)
    assert result.dtype == np.float32
    assert 0 <= result.min() <= result.max() <= 1


def test_a_loaded_model_translates_to_the_same_bits_and_knows_how_it_was_made(tmp_path: Path) -> None:
    recipe = recipe_of()
    translator = translator_of(recipe)
    translator.fit(context_of(tmp_path, recipe))
    translator.save(tmp_path / "saved")
    again = translator_of(recipe)
    again.load(tmp_path / "saved")
    assert np.array_equal(again.translate([image()])[0], translator.translate([image()])[0])
    _, config, metadata = read_model(tmp_path / "saved" / "model.safetensors", "generator")
    assert config == GeneratorConfig(1, 1, 4, 2, 1)
    assert metadata["task"] == "sar2eo"
    assert metadata["stage"]["size"] == 32
    assert metadata["validation"]["score"] > 0


def test_the_best_epoch_is_kept(tmp_path: Path) -> None:
    recipe = recipe_of(epochs=3, learning_rate=5e-3)
    translator = translator_of(recipe)
    translator.fit(context_of(tmp_path, recipe))
    rows = read_log(tmp_path / "model" / "log.csv")
    assert translator.metadata["epoch"] == rows["epoch"][rows["val_score"].idxmin()]


@pytest.mark.parametrize("channels", ["native", "replicated"])
def test_grey_to_colour_in_both_ways(tmp_path: Path, channels: str) -> None:
    recipe = recipe_of("sar2rgb", channels=channels, epochs=1, half_rate_epochs=0)
    translator = translator_of(recipe)
    translator.fit(context_of(tmp_path, recipe))
    assert translator.config.source_channels == (1 if channels == "native" else 3)
    assert translator.translate([image()])[0].shape == (24, 37, 3)


def test_replicated_grey_comes_back_as_one_channel(tmp_path: Path) -> None:
    recipe = recipe_of(channels="replicated", epochs=1, half_rate_epochs=0)
    translator = translator_of(recipe)
    translator.fit(context_of(tmp_path, recipe))
    assert translator.translate([image()])[0].shape == (24, 37, 1)


def test_a_later_stage_starts_from_an_earlier_ones_weights(tmp_path: Path) -> None:
    first = recipe_of(learning_rate=1e-9, ema_decay=0.0)
    context = context_of(tmp_path, first)
    translator = translator_of(first)
    translator.fit(context)
    second = recipe_of("sar2rgb", learning_rate=1e-9, ema_decay=0.0)
    later = translator_of(second)
    later.fit(context_of(tmp_path, second, "later", initial=context.folder))
    (grey,) = translator.translate([image()])
    (colour,) = later.translate([image()])
    assert np.allclose(colour, np.repeat(grey, 3, axis=2), atol=1e-3)


def test_a_local_enhancer_starts_from_a_published_global_generator(tmp_path: Path) -> None:
    published = GeneratorConfig(3, 3, 8, 2, 1)
    weights = build_generator(published, torch_generator(9, "p")).state_dict()
    write_weights(tmp_path / "g.safetensors", weights, published, {})
    recipe = recipe_of(
        local_enhancers=1, local_blocks=1, fix_global_epochs=1, epochs=1, half_rate_epochs=0, ema_decay=0.0,
        init_checkpoint=str(tmp_path / "g.safetensors"),
    )  # fmt: skip
    translator = translator_of(recipe)
    translator.fit(context_of(tmp_path, recipe))
    trained, _, _ = read_model(tmp_path / "model" / "model.safetensors", "generator")
    assert torch.equal(trained["model.4.weight"], weights["model.4.weight"])
    assert torch.allclose(trained["model.1.weight"], weights["model.1.weight"].sum(1, keepdim=True))


def test_an_imported_checkpoint_is_used_as_it_is_without_epochs(tmp_path: Path) -> None:
    config = GeneratorConfig(1, 1, 4, 2, 1)
    weights = build_generator(config, torch_generator(9, "p")).state_dict()
    write_weights(tmp_path / "g.safetensors", weights, config, {})
    recipe = recipe_of(epochs=0, half_rate_epochs=0, init_checkpoint=str(tmp_path / "g.safetensors"))
    translator = translator_of(recipe)
    translator.fit(context_of(tmp_path, recipe))
    used, _, _ = read_model(tmp_path / "model" / "model.safetensors", "generator")
    assert all(torch.equal(used[name], value) for name, value in weights.items())


def test_deterministic_training_uses_no_operation_without_a_reproducible_kernel(tmp_path: Path) -> None:
    recipe = recipe_of(deterministic=True, local_enhancers=1, upsampling="resize", recompute=True)
    translator = translator_of(recipe)
    translator.fit(context_of(tmp_path, recipe))
    assert not torch.are_deterministic_algorithms_enabled()


def test_flips_are_chosen_by_validation(tmp_path: Path) -> None:
    recipe = recipe_of(test_time_flips="auto", epochs=1, half_rate_epochs=0)
    translator = translator_of(recipe)
    translator.fit(context_of(tmp_path, recipe))
    metadata = translator.metadata
    assert metadata["flips"] == (metadata["flips_score"] < metadata["plain_score"])
    again = translator_of(recipe)
    again.load(tmp_path / "model")
    assert again.metadata["flips"] == metadata["flips"]


def test_training_goes_on_after_an_interruption(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short, whole = recipe_of(epochs=1, half_rate_epochs=0), recipe_of(epochs=3, half_rate_epochs=0)
    translator_of(short).fit(context_of(tmp_path, short))
    translator_of(whole).fit(context_of(tmp_path, whole))
    assert "going on after step 2 of 6" in capsys.readouterr().err
    at_once = translator_of(whole)
    at_once.fit(context_of(tmp_path, whole, "at_once"))
    found = [read_model(tmp_path / name / "model.safetensors", "generator")[0] for name in ("model", "at_once")]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_training_can_do_without_held_out_pairs(tmp_path: Path) -> None:
    recipe = recipe_of(epochs=1, half_rate_epochs=0)
    translator = translator_of(recipe)
    translator.fit(context_of(tmp_path, recipe, val=[]))
    assert translator.metadata["validation"] == {}


UNET = {"method": "unet", "size": 32, "epochs": 1, "batch_size": 2, "width": 8, "levels": 2, "lpips_weight": 0.0}


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
@pytest.mark.parametrize("kind", ["generator", "unet"])
def test_a_training_state_exports_its_network(tmp_path: Path, kind: str, ema_decay: float) -> None:
    recipe = recipe_of(epochs=1, half_rate_epochs=0, ema_decay=ema_decay)
    if kind == "unet":
        recipe = parse_recipe({"name": "u", "stages": {"sar2eo": {**UNET, "ema_decay": ema_decay}}}, "u.toml")
    translator_of(recipe).fit(context_of(tmp_path, recipe, val=[]))
    export_checkpoint(tmp_path / "model" / "state.safetensors", tmp_path / "last.safetensors")
    last, kept = (
        read_model(path, kind)[0] for path in (tmp_path / "last.safetensors", tmp_path / "model" / "model.safetensors")
    )
    assert all(torch.equal(last[name], kept[name]) for name in kept)


def test_an_empty_manifest_is_said(tmp_path: Path) -> None:
    recipe = recipe_of()
    with pytest.raises(PbvsError, match="training manifest of sar2eo is empty"):
        translator_of(recipe).fit(context_of(tmp_path, recipe, train=[]))


def test_a_batch_over_the_data_is_said(tmp_path: Path) -> None:
    recipe = recipe_of(batch_size=5)
    with pytest.raises(PbvsError, match=r"batch_size 5 .* only 4"):
        translator_of(recipe).fit(context_of(tmp_path, recipe))


def test_a_missing_trunk_is_said_before_anything_is_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("PBVS_WEIGHTS", raising=False)
    (tmp_path / "none").mkdir()
    recipe = recipe_of(vgg_weight=10.0)
    with pytest.raises(PbvsError, match="vgg19"):
        translator_of(recipe).fit(context_of(tmp_path, recipe, weights=tmp_path / "none"))
    assert not (tmp_path / "model" / "log.csv").exists()


def test_a_model_of_another_architecture_is_said(tmp_path: Path) -> None:
    recipe = recipe_of(epochs=1, half_rate_epochs=0)
    translator_of(recipe).fit(context_of(tmp_path, recipe, val=[]))
    other = translator_of(recipe_of(generator_width=8))
    with pytest.raises(PbvsError, match="width 4 instead of 8"):
        other.load(tmp_path / "model")


def test_a_truncated_model_is_said(tmp_path: Path) -> None:
    recipe = recipe_of(epochs=1, half_rate_epochs=0)
    translator_of(recipe).fit(context_of(tmp_path, recipe, val=[]))
    path = tmp_path / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(PbvsError, match="damaged"):
        translator_of(recipe).load(tmp_path / "model")
    with pytest.raises(PbvsError, match="There is no checkpoint"):
        translator_of(recipe).load(tmp_path / "nowhere")


def test_translating_untrained_is_said() -> None:
    with pytest.raises(PbvsError, match="not trained yet"):
        translator_of(recipe_of()).translate([image()])


def test_weights_to_start_from_that_do_not_fit_are_said(tmp_path: Path) -> None:
    config = GeneratorConfig(1, 1, 8, 2, 1)
    write_weights(tmp_path / "g.safetensors", build_generator(config, torch_generator(9, "p")).state_dict(), config, {})
    recipe = recipe_of(init_checkpoint=str(tmp_path / "g.safetensors"))
    with pytest.raises(PbvsError, match="do not fit"):
        translator_of(recipe).fit(context_of(tmp_path, recipe))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 33}, "size 33 must be a multiple of 4"),
        ({"epochs": 0, "half_rate_epochs": 0}, "nothing would be learnt"),
        ({"fix_global_epochs": 1}, "needs local_enhancers"),
        ({"channels": "both"}, "channels"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": "fast"}, "learning_rate"),
    ],
)
def test_a_wrong_stage_is_refused_by_its_key(changes: dict[str, object], message: str) -> None:
    with pytest.raises(PbvsError, match=message):
        recipe_of(**changes)


def test_precision() -> None:
    assert not use_bf16("auto", "cpu")
    assert use_bf16("bf16", "cpu")
    assert not use_bf16("fp32", "cuda")


def test_the_papers_default_is_the_published_network() -> None:
    from pbvs.recipe import load_recipe

    stage = load_recipe("paper").stages["sar2eo"]
    translator = make_translator(TASKS["sar2eo"], stage)
    assert translator.config == GeneratorConfig(1, 1, 64, 4, 9)


def test_model_files_are_equal_byte_for_byte_after_going_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(epochs=2)
    translator_of(recipe).fit(context_of(tmp_path, recipe, "whole"))
    plain, steps = GanStep.step, [0]

    def stopping(self: GanStep, rate: float) -> None:
        steps[0] += 1
        if steps[0] == 5:  # in the last epoch
            raise KeyboardInterrupt
        plain(self, rate)

    monkeypatch.setattr(GanStep, "step", stopping)
    with pytest.raises(KeyboardInterrupt):
        translator_of(recipe).fit(context_of(tmp_path, recipe, "cut"))
    translator_of(recipe).fit(context_of(tmp_path, recipe, "cut"))
    for name in ("model.safetensors", "discriminator.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    header = subprocess.run(
        [sys.executable, "-c", REWRITE, str(tmp_path / "whole/model.safetensors")], capture_output=True, check=True
    )
    assert header.stdout == (tmp_path / "whole/model.safetensors").read_bytes()


# Another process writes the same file again: safetensors orders what it hashes by a seed of the process.
REWRITE = """
import sys
from pathlib import Path
from pbvs.training.checkpoint import read_tensors, write_tensors
path = Path(sys.argv[1])
again = path.with_name("again.safetensors")
write_tensors(again, *read_tensors(path))
sys.stdout.buffer.write(again.read_bytes())
"""


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"size": 16, "downsamplings": 4}, "size 16 leaves too little of an image .* at least 32"),
        ({"size": 16, "lpips_net": "alex"}, "LPIPS with alex needs at least 31 pixels a side, not 16"),
        ({"perceptual": [{"net": "vgg", "crops": 2, "crop_size": 48}]}, "crop_size 48 is larger than the images"),
        ({"perceptual": [{"net": "vgg", "weigth": 2}]}, "perceptual.0.weigth: there is no such key"),
        ({"vgg_net": "vgg13"}, "vgg_net"),
    ],
)
def test_sizes_that_networks_cannot_take_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PbvsError, match=sentence):
        recipe_of(**changes)


def test_several_lpips_terms_train_and_stand_for_the_single_one(tmp_path: Path) -> None:
    terms = [
        {"net": "random", "weight": 0.5, "transforms": True},
        {"net": "random", "weight": 0.5, "crops": 2, "crop_size": 31},
    ]
    recipe = recipe_of(perceptual=terms, epochs=1, half_rate_epochs=0)
    context = context_of(tmp_path, recipe)
    translator_of(recipe).fit(context)
    assert read_log(context.folder / "log.csv")["lpips"][0] > 0
    assert recipe.stages["sar2eo"].trunks == ()
    halved = recipe_of(perceptual=terms, lpips_weight=0.5).stages["sar2eo"]
    assert [term.weight for term in halved.perceptual_terms] == [0.25, 0.25]
    assert recipe_of(perceptual=terms, lpips_weight=0.0).stages["sar2eo"].perceptual_terms == ()
    assert recipe_of(perceptual=[{"net": "alex"}, {"net": "vgg"}], vgg_weight=1.0).stages["sar2eo"].trunks == (
        "alex", "vgg", "vgg19",
    )  # fmt: skip


def test_a_part_of_the_training_locations_chooses_the_epoch_and_teaches_nothing(tmp_path: Path) -> None:
    recipe = recipe_of(choose_on="train", epochs=1, half_rate_epochs=0)
    context = context_of(tmp_path, recipe, val=[])
    translator = translator_of(recipe)
    translator.fit(context)
    _, metadata = read_tensors(context.folder / "state.safetensors")
    assert metadata["identity"]["samples"] < len(context.train)
    assert translator.metadata["chosen_on"] == "train"
    assert read_log(context.folder / "log.csv")["val_score"].notna().all()
