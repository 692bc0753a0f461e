"""Scored runs without images: only what `pbvs score` would have written."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pbvs.files import write_json, write_text
from pbvs.recipe import dump_recipe, load_recipe
from pbvs.run import Run
from tests.tasks import TASKS

Scores = dict[str, dict[str, float | None]]  # task -> image -> score


def write_scored(run: Run, scores: Scores, **changes: Any) -> Run:
    """Write a run whose images have the given scores; the location is what stands before the first '-'."""
    write_text(run.recipe_file, dump_recipe(load_recipe("demo")))
    for task, images in scores.items():
        buffer = io.StringIO()
        writer = csv.writer(buffer)
        writer.writerow(["name", "location", "status", "l1", "mse", "rmse", "lpips"])
        for name, value in images.items():
            status = "missing" if value is None else "ok"
            numbers = ["", "", "", ""] if value is None else [value, value * value, value, value]
            writer.writerow([name, name.split("-")[0], status, *numbers])
        write_text(run.scores / f"{task}.csv", buffer.getvalue())
    means = {task: _mean([value for value in images.values() if value is not None]) for task, images in scores.items()}
    summary = {
        "run": run.name, "split": "val", "partial": False, "notes": [],
        "protocol": {"name": "l2-lpips", "terms": ["pixel", "lpips"], "pixel": "rmse"},
        "lpips": {"net": "alex", "version": "0.1", "is_lpips": True},
        "combined": sum(means.get(task, 1.0) for task in TASKS) / len(TASKS),
        "tasks": {task: {"status": "scored", "score": mean} for task, mean in means.items()},
    }  # fmt: skip
    write_json(run.scores / "summary.json", summary | changes)
    return run


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 1.0


def maker(folder: Path) -> Callable[..., Run]:
    """Return a function that writes a scored run into `folder`."""

    def make(name: str, scores: Scores, **changes: Any) -> Run:
        return write_scored(Run(name, folder), scores, **changes)

    return make
