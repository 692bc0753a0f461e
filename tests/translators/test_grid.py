"""Inputs of any resolution are brought to the one that the network was trained on, and nothing else is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from pbvs.data.images import resize, to_uint8, write_png
from pbvs.data.manifest import Pair
from pbvs.metrics.perceptual import Lpips
from pbvs.recipe import Recipe, parse_recipe
from pbvs.seeds import generator
from pbvs.training.checkpoint import read_model
from pbvs.translators import make_translator
from pbvs.translators.base import FitContext, Translator
from pbvs.translators.inference import Grid
from tests.tasks import TASKS

SIDE = 96
STAGE = {
    "method": "unet", "width": 8, "levels": 3, "widest": 2, "style": 4, "size": 48, "batch_size": 6, "epochs": 30,
    "rounds": 4, "lpips_weight": 0.0, "ema_decay": 0.95, "learning_rate": 5e-3, "validate_every": 30,
}  # fmt: skip


def scene(number: int, split: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """An image of patches and their grain, and what it means: where the grain is fine it is dark.

    As in the challenge's pairs, a part of the target cannot be known from the input.
    """
    random = generator(number, split, "grain")
    patches = gaussian_filter(random.standard_normal((SIDE, SIDE)), 12)
    noise, unknown = (random.standard_normal((SIDE, SIDE)) for _ in range(2))
    fine, coarse, unknown = (x / x.std() for x in map(gaussian_filter, (noise, noise, unknown), (1.6, 4.0, 2.0)))
    source = 0.5 + 0.15 * np.where(patches > 0, fine, coarse)
    target = gaussian_filter(np.where(patches > 0, 0.3, 0.7), 2.0) + 0.1 * unknown
    return tuple(x.clip(0, 1).astype(np.float32)[:, :, None] for x in (source, target))  # type: ignore[return-value]


def write_scenes(root: Path, count: int, split: str) -> list[Pair]:
    pairs = []
    for number in range(count):
        names = [f"{split}_{number}_{role}.png" for role in ("source", "target")]
        for name, image in zip(names, scene(number, split), strict=True):
            write_png(root / name, to_uint8(image))
        pairs.append(Pair(f"{split}{number}", "sar2eo", split, f"location{number}", *names, alignment="none"))
    return pairs


def recipe_of(chips: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    tables = {"name": "grid", "chips": chips or {}, "stages": {"sar2eo": {**STAGE, **changes}}}
    return parse_recipe(tables, "grid.toml")


def trained(folder: Path, recipe: Recipe) -> Translator:
    root = folder / "data"
    root.mkdir(parents=True, exist_ok=True)
    translator = make_translator(TASKS["sar2eo"], recipe.stages["sar2eo"])
    train, val = write_scenes(root, 12, "train"), write_scenes(root, 1, "val")
    translator.fit(FitContext(recipe, root, train, val, folder / "model", folder / "cache"))
    return translator


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Translator]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("grid")
    translator = trained(folder, recipe_of())
    torch.set_num_threads(threads)
    return folder / "model", translator


def score(translator: Translator, scale: float) -> float:
    """(RMSE + distance of the random trunk) / 2 of unseen scenes whose inputs come at `scale` times the grid."""
    lpips, side = Lpips("random"), round(SIDE * scale)
    found = []
    for number in range(6):
        source, target = scene(number, "test")
        made = resize(translator.translate([resize(source, side, side)])[0], SIDE, SIDE)
        x, y = (torch.from_numpy(image).permute(2, 0, 1)[None] * 2 - 1 for image in (made, target))
        with torch.inference_mode():
            found.append((float(np.sqrt(np.mean((made - target) ** 2))) + float(lpips(x, y))) / 2)
    return float(np.mean(found))


def test_inputs_of_other_resolutions_score_as_those_of_the_training(model: tuple[Path, Translator]) -> None:
    _, translator = model
    original = score(translator, 1.0)
    for scale in (0.3, 0.5, 0.75, 1.6, 2.4):
        assert score(translator, scale) == pytest.approx(original, rel=0.25 if scale == 0.3 else 0.15), scale


def test_without_that_they_score_worse_which_a_recipe_can_choose(model: tuple[Path, Translator]) -> None:
    folder, translator = model
    native = make_translator(TASKS["sar2eo"], recipe_of(input_grid="native").stages["sar2eo"])
    native.load(folder)
    assert native.input_grid is None
    assert score(native, 1.0) == score(translator, 1.0)
    for scale in (0.5, 2.4):
        assert score(native, scale) > 1.3 * score(translator, 1.0)


def test_the_model_file_says_what_it_was_trained_on(model: tuple[Path, Translator]) -> None:
    folder, translator = model
    _, _, metadata = read_model(folder / "model.safetensors", "unet")
    assert metadata["grid"] == translator.input_grid == {"least": SIDE, "most": SIDE, "whole": False}


def test_whole_images_resized_for_training_are_resized_for_prediction(tmp_path: Path) -> None:
    recipe = recipe_of({"mode": "whole"}, epochs=1, rounds=1, validate_every=1)
    translator = trained(tmp_path, recipe)
    assert translator.input_grid == {"least": 48, "most": 48, "whole": True}
    images = [np.full((30, 70, 1), 0.5, np.float32), np.full((48, 48, 1), 0.5, np.float32)]
    assert [image.shape for image in translator.render(images)] == [(48, 48, 1), (48, 48, 1)]
    assert [image.shape for image in translator.translate(images)] == [(30, 70, 1), (48, 48, 1)]


def test_sizes_within_those_of_the_training_stay() -> None:
    grid = Grid.of([(200, 200)] * 40 + [(400, 400)] * 40 + [(4000, 4000), (10, 10)])
    assert grid == Grid(200, 400)
    assert [grid.size(*size) for size in ((200, 200), (300, 300), (398, 402), (403, 403))] == [
        (200, 200), (300, 300), (398, 402), (403, 403),
    ]  # fmt: skip
    assert grid.size(100, 100) == (200, 200)
    assert grid.size(2518, 2518) == (400, 400)
    assert grid.size(50, 200) == (100, 400)
    assert Grid.of([]) is None
