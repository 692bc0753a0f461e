"""A recipe in one line, for the readme's description."""

from __future__ import annotations

from typing import Any

from pbvs import __version__
from pbvs.recipe import Recipe


def describe(recipe: Recipe) -> str:
    """Return what the recipe does, in one line: its name and description, then a clause for each stage."""
    stages = ", ".join(f"{task}: {_stage(stage.model_dump())}" for task, stage in recipe.stages.items())
    said = f" ({recipe.description})" if recipe.description else ""
    return f"pbvs {__version__}, recipe {recipe.name}{said}; {stages}"


def _stage(stage: dict[str, Any]) -> str:
    words = [str(stage["method"])]
    if "size" in stage:
        words.append(f"{stage['size']} px")
    if "epochs" in stage:
        words.append(f"{stage['epochs'] + stage.get('half_rate_epochs', 0)} epochs")
    if stage.get("init_from"):
        words.append(f"from {stage['init_from']}")
    if stage.get("first"):
        words.append(f"on {stage['first']}")
    if "intensity" in stage:
        words.append(f"x {stage['intensity']:g}")
    return " ".join(words)
