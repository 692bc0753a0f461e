"""A small run with everything a report can show, made without a network."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from pbvs.data.images import to_uint8, write_png
from pbvs.data.manifest import Pair, manifest_path
from pbvs.files import write_json, write_text
from pbvs.recipe import dump_recipe, load_recipe
from pbvs.run import Run
from pbvs.seeds import generator
from tests.manifests import write_manifest
from tests.tasks import TASKS

IMAGES = 7
HOSTILE = "<script>alert('x')</script>&\"loc"


def landscape(key: int, channels: int, size: int) -> np.ndarray:
    """Smooth ground with a few bright blocks, in [0, 1]."""
    rng = generator(5, key)
    y, x = np.mgrid[0:size, 0:size] / size
    ground = 0.4 + 0.2 * np.sin(6 * x + key) * np.cos(5 * y - key)
    for _ in range(6):
        top, left, side = (int(v) for v in rng.integers(4, size - 20, 3) // np.array([1, 1, 4]))
        ground[top : top + side + 4, left : left + side + 4] += rng.uniform(-0.3, 0.4)
    bands = [ground * factor for factor in (1.0, 0.85, 0.7)[:channels]]
    return np.stack(bands, axis=2).clip(0, 1).astype(np.float32)


class World:
    """A data root, manifests and a run; `scored` and `predicted` choose how far the run has come."""

    def __init__(self, folder: Path, size: int = 64, location: str = HOSTILE, images: int = IMAGES) -> None:
        self.root, self.manifests = folder / "data", folder / "manifests"
        self.size, self.images = size, images
        self.location = location
        for task in TASKS:
            for split in ("val", "test"):
                write_manifest(manifest_path(self.manifests, task, split), self.pairs(task, split))
            for pair in self.pairs(task, "val"):
                self._write_data(pair)

    def pairs(self, task: str, split: str) -> list[Pair]:
        known = split == "val"
        return [
            Pair(
                name=f"{task}-{i}",
                task=task,
                split=split,
                location=f"{self.location}-{i % 3}",
                source=f"{task}/{i}_in.png",
                target=f"{task}/{i}_out.png" if known else "",
                origin="held-out" if known else "official",
                alignment="none",
            )
            for i in range(self.images if known else 2)
        ]

    def _write_data(self, pair: Pair) -> None:
        task, key = TASKS[pair.task], int(pair.name.rsplit("-", 1)[1])
        target = landscape(key, task.target_channels, self.size)
        grain = generator(1, key).gamma(4, 0.25, (self.size, self.size, 1))
        source = target if task.source_channels == 3 else (target.mean(axis=2, keepdims=True) * grain).clip(0, 1)
        if task.source_channels == 3:
            source = np.repeat(source, 3, axis=2)
        write_png(self.root / pair.source, to_uint8(source))
        write_png(self.root / pair.target, to_uint8(target))

    def run(
        self, folder: Path, name: str = "one", *, predicted: bool = True, scored: bool = True, shift: float = 0.0
    ) -> Run:
        made = Run(name, folder)
        write_text(made.recipe_file, dump_recipe(load_recipe("demo")))
        if predicted:
            self._predict(made)
        if scored:
            self._score(made, shift)
            self._train(made)
        return made

    def _predict(self, run: Run) -> None:
        for task in TASKS.values():
            for split in ("val", "test"):
                for pair in self.pairs(task.name, split):
                    key = int(pair.name.rsplit("-", 1)[1])
                    noise = generator(3, key).normal(0, 0.02 + 0.04 * key, (self.size, self.size, 1))
                    image = landscape(key, task.target_channels, self.size) * 0.9 + noise
                    write_png(run.prediction(split, task.name, pair.name), to_uint8(image))
                record = run.prediction_folder(split, task.name).with_suffix(".json")
                write_json(record, {"made_from": "0" * 64, "images": 2, "seconds": 0.5, "device": "cpu"})

    def _score(self, run: Run, shift: float) -> None:
        tasks = {}
        for task in TASKS:
            rows = [self._row(pair, i, shift) for i, pair in enumerate(self.pairs(task, "val"))]
            path = run.scores / f"{task}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
            tasks[task] = task_summary(rows)
        write_json(run.scores / "summary.json", summary(run.name, tasks))

    def _row(self, pair: Pair, i: int, shift: float) -> dict[str, object]:
        rmse, lpips = 0.1 + 0.01 * i + shift, 0.2 + 0.03 * i + shift
        return {
            "name": pair.name, "location": pair.location, "source": pair.source, "target": pair.target,
            "prediction": f"{pair.name}.png", "status": "ok", "l1": rmse * 0.8, "mse": rmse**2, "rmse": rmse,
            "lpips": lpips,
        }  # fmt: skip

    def _train(self, run: Run) -> None:
        lines = ["epoch,step,seconds,learning_rate,g_total,d_real,val_rmse,val_lpips,val_score"]
        for i in range(1, 11):
            validation = f"{0.3 / i:.4f},nan,{0.4 - 0.03 * i + 0.004 * i * i:.4f}" if i % 2 == 0 else ",,"
            lines.append(f"{i},{i * 10},{i}.5,0.0002,{9 / i:.3f},{0.5 - i / 50:.3f},{validation}")
        write_text(run.model("sar2eo") / "log.csv", "\n".join(lines) + "\n")
        write_json(run.model("sar2eo") / "done.json", {"made_from": "1" * 64, "best_epoch": 4, "seconds": 12.5})
        write_json(run.provenance_file, {"pbvs": "0.1.0", "seed": 2024, "packages": {"torch": "2.13"}})


def task_summary(rows: list[dict[str, object]]) -> dict[str, object]:
    means = {key: float(np.mean([row[key] for row in rows])) for key in ("l1", "mse", "rmse", "lpips")}
    score = (means["rmse"] + means["lpips"]) / 2
    places = sorted({str(row["location"]) for row in rows})
    return {
        "status": "scored", "reason": "", "images": len(rows), "expected": len(rows), "score": score,
        "interval": [score - 0.03, score + 0.04], **means, "fid": None, "kid": None,
        "locations": {place: {"images": 3, "rmse": 0.1, "lpips": 0.2, "score": 0.15} for place in places},
    }  # fmt: skip


def summary(name: str, tasks: dict[str, dict[str, object]]) -> dict[str, object]:
    combined = float(np.mean([float(str(task["score"])) for task in tasks.values()]))
    return {
        "run": name, "split": "val",
        "protocol": {"name": "l2-lpips", "terms": ["pixel", "lpips"], "pixel": "rmse",
                     "description": "mean of RMSE on [0, 1] and LPIPS", "lpips_net": "alex"},
        "lpips": {"net": "alex", "version": "0.1", "is_lpips": True},
        "combined": combined, "partial": False, "interval": [combined - 0.02, combined + 0.03], "tasks": tasks,
        "sensitivity": [{"reading": "L1 instead of RMSE", "combined": 0.2, "tasks": {"sar2eo": 0.1}}],
        "notes": ["3 predictions were larger than their targets."],
    }  # fmt: skip
