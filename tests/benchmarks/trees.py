"""What the parts work on, made once in a folder: images, trees in the archives' layout, a finished run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pbvs.data.images import write_png
from pbvs.data.manifest import Pair, manifest_path
from tests.manifests import write_manifest


def scene(seed: int, side: int, bands: int) -> NDArray[np.uint8]:
    """Return an image whose detail is that of aerial imagery: smooth areas, edges and some noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side].astype(np.float32) / side
    layers = []
    for _ in range(bands):
        wave = np.zeros((side, side), np.float32)
        for _ in range(12):
            a, b, phase = [*rng.normal(0, 14, 2).tolist(), rng.uniform(0, 6)]
            wave += np.sign(np.sin(a * rows + b * columns + phase)) * rng.uniform(2, 14)
        layers.append(118 + wave + rng.normal(0, 3, (side, side)))
    return np.clip(np.stack(layers, axis=2), 0, 255).astype(np.uint8)


def images(folder: Path, count: int, side: int, bands: int = 3, different: int = 4) -> list[Path]:
    """Write `count` images, of which only a few differ, and return their paths."""
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        if number < different:
            write_png(path, scene(number, side, bands))
        else:
            shutil.copyfile(paths[number % different], path)
    return paths


def input_pairs(task: str, root: Path, paths: list[Path], split: str = "test") -> list[Pair]:
    """Return manifest rows for inputs without targets."""
    return [Pair(path.stem, task, split, "", path.relative_to(root).as_posix()) for path in paths]


def finished_run(folder: Path, scale: float) -> tuple[Any, Path]:
    """Write a run with predictions of all tasks, as many as the challenge's times `scale`; return it and manifests."""
    from pbvs.files import write_json, write_text
    from pbvs.recipe import dump_recipe, parse_recipe
    from pbvs.run import Run
    from tests.tasks import TASKS

    run, manifests = Run("bench", folder / "submissions"), folder / "manifests"
    stages: dict[str, Any] = {name: {"method": "grayscale"} for name in TASKS}
    write_text(run.recipe_file, dump_recipe(parse_recipe({"name": "bench", "stages": stages}, "the benchmark")))
    for name, task in TASKS.items():
        count = max(1, round((3586 if name == "sar2eo" else 60) * scale))
        paths = images(run.prediction_folder("test", name), count, task.challenge_size, task.target_channels)
        facts = {"made_from": "", "images": count, "seconds": 1.0, "device": "cpu", "evaluation_size": "challenge"}
        write_json(run.prediction_folder("test", name).with_name(f"{name}.json"), {**facts, "expected": count})
        write_manifest(
            manifest_path(manifests, name, "test"), input_pairs(name, run.prediction_folder("test", name), paths)
        )
    return run, manifests
