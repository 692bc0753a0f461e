"""A tiny data root, its manifests and a finished run, made by hand: no model is needed to pack and check."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pbvs.challenge import load_challenge
from pbvs.data.manifest import Pair, manifest_path
from pbvs.files import digest, write_json, write_text
from pbvs.lineage import Lineage
from pbvs.recipe import dump_recipe, parse_recipe
from pbvs.run import Run
from pbvs.submission.readme import Readme, write_readme
from tests.manifests import write_manifest
from tests.tasks import TASKS

SIDE = 48
COUNT = {"sar2eo": 11, "sar2rgb": 3, "sar2ir": 3, "rgb2ir": 3}
README = write_readme(Readme(0.85, True, False, "a test: nothing else"), load_challenge().submission.readme)

RECIPE = {
    "name": "hand",
    "description": "made by hand",
    "evaluation_size": "native",
    "stages": {
        "sar2eo": {"method": "grayscale"},
        "sar2rgb": {"method": "grayscale"},
        "sar2ir": {"method": "cascade", "first": "sar2rgb", "intensity": 1.15},
        "rgb2ir": {"method": "grayscale", "intensity": 1.3},
    },
}


def noise(seed: int, bands: int, side: int = SIDE, level: int = 120) -> NDArray[np.uint8]:
    pixels = np.random.default_rng(seed).integers(level - 60, level + 60, (side, side, bands), dtype=np.uint8)
    return pixels[:, :, 0] if bands == 1 else pixels


def png_bytes(pixels: NDArray[np.generic], form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=form, **options)
    return buffer.getvalue()


def write_data(root: Path, side: int = SIDE) -> None:
    """Test inputs of all tasks in the archives' layout, and a few training targets."""
    for task in TASKS.values():
        folder, suffix = root / "test" / task.name, "png" if task.name == "sar2eo" else "tiff"
        folder.mkdir(parents=True)
        for index in range(COUNT[task.name]):
            data = png_bytes(noise(index, task.source_channels, side), "PNG" if suffix == "png" else "TIFF")
            (folder / f"{index}.{suffix}").write_bytes(data)
    chips = root / "Train_Data_and_Validation_EO_SAR" / "EO" / "train"
    workspace = root / "Train_Data_Town_SAR_IR_RGB" / "1_2"
    chips.mkdir(parents=True)
    workspace.mkdir(parents=True)
    for index in range(4):
        (chips / f"{index}.png").write_bytes(png_bytes(noise(index, 1, level=110 + 10 * index)))
        for name, bands in (("rgb", 3), ("ir", 1)):
            data = png_bytes(noise(index, bands, level=110 + 10 * index), "TIFF")
            (workspace / f"tile{index}_{name}.tiff").write_bytes(data)


def write_manifests(root: Path, folder: Path) -> None:
    for task in TASKS:
        paths = sorted((root / "test" / task).iterdir(), key=lambda path: int(path.stem))
        pairs = [Pair(path.stem, task, "test", "", path.relative_to(root).as_posix()) for path in paths]
        write_manifest(manifest_path(folder, task, "test"), pairs)


def entries() -> dict[str, bytes]:
    """The entries of a faultless archive for `write_data`."""
    found = {"readme.txt": README.encode()}
    for task in TASKS.values():
        for index in range(COUNT[task.name]):
            found[f"{task.name}/{index}.png"] = png_bytes(noise(100 + index, task.target_channels))
    return found


@dataclass(frozen=True)
class Workspace:
    """Where everything of a test lies."""

    root: Path
    manifests: Path
    submissions: Path

    def run(self, name: str = "hand", seed: int = 100, **changes: object) -> Run:
        """Make a finished run with predictions of noise."""
        run = Run(name, self.submissions)
        write_text(run.recipe_file, dump_recipe(parse_recipe({**RECIPE, **changes}, "test")))
        for task in TASKS.values():
            folder = run.prediction_folder("test", task.name)
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(COUNT[task.name]):
                (folder / f"{index}.png").write_bytes(png_bytes(noise(seed + index, task.target_channels)))
            parts = Lineage(run, run.recipe(), self.manifests).prediction_parts(task.name, "test")
            said = {"made_from": digest(parts), "parts": parts, "images": COUNT[task.name], "seconds": 0.5}
            said |= {"device": "cpu", "evaluation_size": "native"}
            write_json(folder.with_name(f"{task.name}.json"), said)
        write_json(run.provenance_file, {"format": 1, "seed": seed})
        return run
