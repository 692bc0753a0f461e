"""A run with its targets, made by hand: images of noise, so that every number is known or can be worked out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pbvs.data.images import write_png
from pbvs.data.manifest import Pair, manifest_path
from pbvs.evaluation.evaluate import score
from pbvs.evaluation.results import Scores
from pbvs.files import write_text
from pbvs.recipe import dump_recipe, parse_recipe
from pbvs.run import Run
from tests.manifests import write_manifest
from tests.tasks import TASKS

SIDE = 48
STAGES = {
    "sar2eo": {"method": "grayscale"},
    "sar2rgb": {"method": "grayscale"},
    "sar2ir": {"method": "cascade", "first": "sar2rgb"},
    "rgb2ir": {"method": "grayscale"},
}


def noise(seed: int, channels: int, side: int = SIDE) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (side, side, channels), dtype=np.uint8)


@dataclass
class Place:
    """A data root, manifests and one run whose predictions are the targets, until a test changes them."""

    folder: Path
    count: int = 4

    @property
    def run(self) -> Run:
        return Run("hand", self.folder / "submissions")

    @property
    def manifests(self) -> Path:
        return self.folder / "manifests"

    def pairs(self, task: str) -> list[Pair]:
        return [
            Pair(f"p{n}", task, "val", f"place{n // 2}", f"in/{task}/{n}.png", f"out/{task}/{n}.png")
            for n in range(self.count)
        ]

    def target(self, task: str, n: int) -> Path:
        return self.folder / "data" / "out" / task / f"{n}.png"

    def prediction(self, task: str, n: int) -> Path:
        return self.run.prediction("val", task, f"p{n}")

    def make(self, evaluation_size: str = "native", side: int = SIDE) -> Place:
        recipe = parse_recipe({"name": "hand", "evaluation_size": evaluation_size, "stages": STAGES}, "hand")
        write_text(self.run.recipe_file, dump_recipe(recipe))
        for number, task in enumerate(TASKS.values()):
            write_manifest(manifest_path(self.manifests, task.name, "val"), self.pairs(task.name))
            for n in range(self.count):
                image = noise(100 * number + n, task.target_channels, side)
                write_png(self.target(task.name, n), image)
                write_png(self.prediction(task.name, n), image)
                write_png(self.folder / "data" / "in" / task.name / f"{n}.png", noise(n, task.source_channels, side))
        return self

    def spoil(self) -> Place:
        """Replace every prediction by other noise."""
        for number, task in enumerate(TASKS.values()):
            for n in range(self.count):
                write_png(self.prediction(task.name, n), noise(7000 + 100 * number + n, task.target_channels))
        return self

    def score(self, **options: Any) -> Scores:
        settings = {"lpips_net": "random", "cache": None, "baselines": False, **options}
        return score(self.run, root=self.folder / "data", manifests=self.manifests, **settings)
