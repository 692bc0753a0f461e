"""Adding a method takes one folder and one line: done here in a copy of the package, as CONTRIBUTING tells it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from pbvs.data.images import read_image
from tests.conftest import REPOSITORY
from tests.manifests import write_manifest
from tests.translators.scenes import write_pairs

SETTINGS = '''"""The negative of the input: what a recipe can say of it."""

from typing import Literal

from pydantic import Field

from pbvs.recipe import Stage


class NegativeStage(Stage):
    """Brightness turned round."""

    method: Literal["negative"]
    strength: float = Field(1.0, ge=0, le=1)
'''
TRANSLATOR = '''"""The negative of the input."""

from pbvs.translators.base import Translator


class Negative(Translator):
    """Nothing is learnt."""

    method = "negative"
    learns = False
    uses_device = False

    def fit(self, context):
        """Nothing to do."""

    def render(self, images):
        """Return 1 - image, mixed with the image."""
        return [self.stage.strength * (1 - image) + (1 - self.stage.strength) * image for image in images]

    def save(self, folder):
        """Nothing to keep."""
        folder.mkdir(parents=True, exist_ok=True)

    def load(self, folder):
        """Nothing to read."""
'''
LINE = '    "negative": Method("pbvs.translators.negative", "NegativeStage", "Negative"),\n'
RECIPE = """\
name = "n"
evaluation_size = "native"
[stages.sar2eo]
method = "negative"
strength = %s
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pbvs", "predict", "--all", "--recipe", "n.toml", "--data", "data", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_a_folder_and_a_line_are_a_method(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "pbvs", tmp_path / "pbvs", ignore=shutil.ignore_patterns("__pycache__"))
    registry = tmp_path / "pbvs" / "translators" / "__init__.py"
    text = registry.read_text(encoding="utf-8")
    before, after = text.split('    "unet": Method(')
    registry.write_text(f'{before}{LINE}    "unet": Method({after}', encoding="utf-8")
    method = tmp_path / "pbvs" / "translators" / "negative"
    method.mkdir()
    (method / "__init__.py").write_text(SETTINGS, encoding="utf-8")
    (method / "translator.py").write_text(TRANSLATOR, encoding="utf-8")
    for split in ("train", "val", "test"):
        write_manifest(
            tmp_path / f"data_manifests/sar2eo_{split}.csv", write_pairs(tmp_path / "data", "sar2eo", 2, split=split)
        )
    (tmp_path / "n.toml").write_text(RECIPE % "1.0", encoding="utf-8")
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    made = read_image(tmp_path / "submissions/n/predictions/test/sar2eo/test0.png").astype(int)
    source = read_image(tmp_path / "data/test_0_source.png").astype(int)
    assert np.abs(made - (255 - source)).max() == 0
    assert "strength = 1.0" in (tmp_path / "submissions/n/recipe.toml").read_text(encoding="utf-8")
    (tmp_path / "n.toml").write_text(RECIPE % "2.0", encoding="utf-8")
    refused = run(tmp_path, "--run", "other")
    assert refused.returncode == 1
    assert "stages.sar2eo.strength" in refused.stderr
