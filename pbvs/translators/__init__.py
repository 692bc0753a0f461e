"""One class for each method of translation, all with the same verbs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pbvs.challenge import Task
    from pbvs.stages import Stage
    from pbvs.translators.base import Translator

# method -> module and class; a module is imported when its method is used, so grayscale never waits for torch
METHODS: dict[str, tuple[str, str]] = {
    "grayscale": ("pbvs.translators.grayscale", "Grayscale"),
    "cascade": ("pbvs.translators.grayscale", "Cascade"),
    "pix2pixhd": ("pbvs.translators.pix2pixhd", "Pix2PixHD"),
    "regression": ("pbvs.translators.regression", "Regression"),
}


def translator_class(method: str) -> type[Translator]:
    """Import and return the class of a method; raises KeyError for a method that no recipe can name."""
    module, name = METHODS[method]
    found: type[Translator] = getattr(importlib.import_module(module), name)
    return found


def make_translator(
    task: Task, stage: Stage, parts: Mapping[str, Translator] | None = None, device: str = "cpu"
) -> Translator:
    """Return an untrained translator for `task` as `stage` describes it; `parts` are the stages it requires."""
    method: str = stage.model_dump()["method"]
    return translator_class(method)(task, stage, parts, device)
