"""A chain of two models: the first stage's translator, then grayscale (the paper's SAR2IR)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pbvs.stages import CascadeStage
from pbvs.translators.base import Picture
from pbvs.translators.grayscale import Grayscale


class Cascade(Grayscale):
    """Translates with the model of the stage's `first` task, then makes grayscale of what that gives."""

    method: ClassVar[str] = "cascade"
    uses_device: ClassVar[bool] = True
    stage: CascadeStage

    def translate(self, pictures: Sequence[Picture]) -> list[Picture]:
        """Return (H, W, 1) in [0, 1] for each picture (paper, section 3.6)."""
        return super().translate(self.parts[self.stage.first].translate(pictures))
