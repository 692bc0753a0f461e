"""The methods of translation: each is one folder (settings, training step, translator) and one line here.

A folder's `__init__.py` holds what a recipe can say of the method and imports no torch; its `translator.py` holds the
class with the verbs of `base.Translator`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pbvs.challenge import Task
    from pbvs.recipe import Recipe, Stage
    from pbvs.run import Run
    from pbvs.translators.base import Translator


class Method(NamedTuple):
    """Where a method lives; a module is imported when its method is used, so grayscale never waits for torch."""

    folder: str  # the package
    stage: str  # class of its settings, in the package itself
    translator: str  # class of its translator, in the package's module `translator`


METHODS: dict[str, Method] = {
    "grayscale": Method("pbvs.translators.grayscale", "GrayscaleStage", "Grayscale"),
    "cascade": Method("pbvs.translators.grayscale", "CascadeStage", "Cascade"),
    "pix2pixhd": Method("pbvs.translators.pix2pixhd", "Pix2PixHDStage", "Pix2PixHD"),
    "unet": Method("pbvs.translators.unet", "UNetStage", "UNetTranslator"),
}


def stage_class(method: str) -> type[Stage]:
    """Import and return the settings of a method; raises KeyError for a method that no recipe can name."""
    folder, name, _ = METHODS[method]
    found: type[Stage] = getattr(importlib.import_module(folder), name)
    return found


def stage_classes() -> tuple[type[Stage], ...]:
    """Return the settings of every method; a recipe's stages are one of them each, told apart by `method`."""
    return tuple(map(stage_class, METHODS))


def translator_class(method: str) -> type[Translator]:
    """Import and return the class of a method; raises KeyError for a method that no recipe can name."""
    folder, _, name = METHODS[method]
    found: type[Translator] = getattr(importlib.import_module(f"{folder}.translator"), name)
    return found


def import_methods() -> None:
    """Import every method, so that the networks that they add to `training.checkpoint.KINDS` are known."""
    for method in METHODS:
        translator_class(method)


def make_translator(
    task: Task, stage: Stage, parts: Mapping[str, Translator] | None = None, device: str = "cpu"
) -> Translator:
    """Return an untrained translator for `task` as `stage` describes it; `parts` are the stages it requires."""
    return translator_class(stage.method)(task, stage, parts, device)


def load_translator(run: Run, recipe: Recipe, task: str, device: str = "cpu") -> Translator:
    """Load a run's trained model of a task with the models that it requires.

    Raises UsageError when the recipe has no such stage, PbvsError when the model is not trained yet.
    """
    from pbvs.challenge import load_challenge
    from pbvs.errors import PbvsError, UsageError

    if task not in recipe.stages:
        raise UsageError(f"The run {run.name!r} has no task {task!r}; it has {', '.join(recipe.stages)}.")
    stage = recipe.stages[task]
    if not run.model_metadata_file(task).is_file():
        raise PbvsError(f"The run {run.name!r} has no model of {task} yet; run `pbvs predict --run {run.name} --all`.")
    parts = {name: load_translator(run, recipe, name, device) for name in stage.requires}
    where = device if translator_class(stage.method).uses_device else "cpu"
    made = make_translator(load_challenge(recipe.challenge).tasks[task], stage, parts, where)
    made.load(run.model(task))
    return made
