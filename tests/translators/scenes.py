"""A few real files of one task, and a stage small enough to train on them in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pbvs.data.images import write_png
from pbvs.data.manifest import Pair
from pbvs.recipe import Recipe, parse_recipe
from pbvs.seeds import generator
from pbvs.translators import make_translator
from pbvs.translators.base import FitContext, Translator
from tests.tasks import TASKS

TINY: dict[str, Any] = {
    "method": "pix2pixhd", "size": 32, "epochs": 1, "half_rate_epochs": 1, "batch_size": 2, "generator_width": 4,
    "downsamplings": 2, "residual_blocks": 1, "discriminator_width": 4, "discriminators": 2, "discriminator_layers": 2,
    "vgg_weight": 0.0, "lpips_net": "random", "save_minutes": 0.0,
}  # fmt: skip


def write_pairs(root: Path, task: str = "sar2eo", count: int = 4, side: int = 40, split: str = "train") -> list[Pair]:
    """Write `count` pairs of smooth images as PNG and return their manifest rows."""
    root.mkdir(parents=True, exist_ok=True)
    known = TASKS[task]
    pairs = []
    for number in range(count):
        x, y = np.meshgrid(np.linspace(0, 3, side), np.linspace(0, 3, side))
        phase = generator(number, split, "scene").random(4) * 6
        base = 0.5 + 0.2 * np.sin(2 * x + phase[0]) + 0.2 * np.cos(2 * y + phase[1])
        names = []
        for role, channels in (("source", known.source_channels), ("target", known.target_channels)):
            shifted = np.stack([base * (1 - 0.2 * c) for c in range(channels)], axis=2)
            image = shifted if role == "source" else 1 - shifted
            names.append(f"{split}_{number}_{role}.png")
            write_png(root / names[-1], np.rint(image * 255).astype(np.uint8))
        pairs.append(Pair(f"{split}{number}", task, split, f"place{number}", *names, alignment="none"))
    return pairs


def recipe_of(task: str = "sar2eo", **changes: Any) -> Recipe:
    """Return a recipe with one tiny stage."""
    return parse_recipe({"name": "tiny", "stages": {task: {**TINY, **changes}}}, "tiny.toml")


def context_of(tmp_path: Path, recipe: Recipe, name: str = "model", **changes: Any) -> FitContext:
    """Return the context of the recipe's only stage on images written beside it."""
    (task,) = recipe.stages
    root = tmp_path / "data"
    defaults: dict[str, Any] = {
        "train": write_pairs(root, task),
        "val": write_pairs(root, task, 2, split="val"),
        "folder": tmp_path / name,
        "cache": tmp_path / "cache",
    }
    return FitContext(recipe=recipe, root=root, **{**defaults, **changes})


def translator_of(recipe: Recipe) -> Translator:
    """Return the untrained translator of the recipe's only stage."""
    ((task, stage),) = recipe.stages.items()
    return make_translator(TASKS[task], stage)
