"""What every method of translation can do: fit, translate, save and load."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pbvs.challenge import Task
from pbvs.data.images import resize
from pbvs.data.manifest import Pair
from pbvs.recipe import Recipe, Stage

ImageArray = NDArray[np.float32]


@dataclass(frozen=True)
class FitContext:
    """What a stage learns from, and where it may keep what it needs to go on after an interruption."""

    recipe: Recipe
    root: Path  # data root that the pairs' paths are relative to
    train: Sequence[Pair]
    val: Sequence[Pair]  # pairs with targets, of held-out locations
    folder: Path  # the stage's own folder, models/<task>
    cache: Path  # prepared chips, shared by all runs
    initial: Path | None = None  # model folder of the stage to start from
    weights: Path | None = None  # where the frozen trunks lie
    device: str = "cpu"
    jobs: int = 1  # processes that prepare and load data
    trained: int = 0  # epochs of the finished model that training goes on from; 0: it begins, or goes on after a stop
    ahead: float = 0.0  # pixels that the stages after this one will learn from, for the time left


class Translator(ABC):
    """A method for one task; `parts` are the loaded translators of the stages it requires."""

    method: ClassVar[str]
    learns: ClassVar[bool] = True  # whether `fit` looks at pairs; otherwise new data do not make its model old
    uses_device: ClassVar[bool] = True  # whether it needs torch and a device

    def __init__(self, task: Task, stage: Stage, parts: Mapping[str, Translator] | None = None, device: str = "cpu"):
        self.task = task
        self.stage = stage
        self.parts = dict(parts or {})
        self.device = device

    @abstractmethod
    def fit(self, context: FitContext) -> None:
        """Learn from pairs; called again after an interruption it goes on where it stopped."""

    @abstractmethod
    def render(self, images: Sequence[ImageArray]) -> list[ImageArray]:
        """Translate (H, W, C_source) float32 images in [0, 1] to (H', W', C_target), at the sizes that suit the method.

        Whoever wants another size resamples this once, instead of what was resampled already.
        """

    def translate(self, images: Sequence[ImageArray]) -> list[ImageArray]:
        """Translate (H, W, C_source) float32 images in [0, 1] to (H, W, C_target) of the same height and width."""
        made = self.render(images)
        return [resize(result, *image.shape[:2]) for result, image in zip(made, images, strict=True)]

    @property
    def input_grid(self) -> dict[str, Any] | None:
        """What inputs are brought to before they are translated (`inference.Grid`); None: inputs stay as they are."""
        return None

    @property
    def training(self) -> dict[str, Any]:
        """What a finished training is known by: `epoch`, `chosen_on`, `parted`, `ends`; {} where nothing learns."""
        return {}

    def disk(self) -> int:
        """Return about how many bytes training leaves in the model's folder; 0 where that is next to nothing."""
        return 0

    def measure(self, context: FitContext) -> float:
        """Return the seconds that a step of training takes here, measured on a few; nothing is written or kept."""
        return 0.0

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write all that `load` needs into `folder`."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read what `save` wrote; raise PbvsError when it is missing, damaged or of another architecture."""
