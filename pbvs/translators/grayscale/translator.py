"""Infrared as grayscale times an intensity factor: the paper's gray density reconstruction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pbvs.errors import PbvsError
from pbvs.files import read_record, write_json
from pbvs.translators.base import FitContext, ImageArray, Translator
from pbvs.translators.grayscale import CascadeStage, GrayscaleStage, ToneStage


def grayscale(
    image: ImageArray, intensity: float, channel_weights: Sequence[float] = (), offset: float = 0.0, gamma: float = 1.0
) -> ImageArray:
    """Return (H, W, 1): the mean of the channels' distance from black, times `intensity`, clipped to [0, 1].

    Source: paper, sections 3.4 (mean distance from black over the three channels) and 3.5 (intensity factor, clipped
    to 0..255; here on the [0, 1] scale, so that nothing is rounded twice). Beyond the paper, and off by default: a
    weight for each channel instead of the mean, a gamma before the factor, an offset after it. Raises PbvsError when
    there are not as many weights as channels.
    """
    gray = _weighed(image, channel_weights) if channel_weights else _mean(image)
    if gamma != 1.0:
        np.power(np.maximum(gray, 0.0, out=gray), np.float32(gamma), out=gray)
    gray *= np.float32(intensity)
    if offset:
        gray += np.float32(offset)
    return np.clip(gray, 0.0, 1.0, out=gray)


def _mean(image: ImageArray) -> ImageArray:
    gray: ImageArray = image[:, :, :1].copy()
    for band in range(1, image.shape[2]):  # the bits of mean(axis=2) in a third of its time
        gray += image[:, :, band : band + 1]
    gray /= np.float32(image.shape[2])
    return gray


def _weighed(image: ImageArray, weights: Sequence[float]) -> ImageArray:
    if len(weights) != image.shape[2]:
        raise PbvsError(
            f"The recipe has {len(weights)} channel_weights for an image of {image.shape[2]} channels; "
            "give one for each, or none."
        )
    return (image @ np.asarray(weights, np.float32))[:, :, None]


class Grayscale(Translator):
    """Needs no training: its only number is the recipe's intensity factor."""

    method: ClassVar[str] = "grayscale"
    learns: ClassVar[bool] = False
    uses_device: ClassVar[bool] = False
    stage: GrayscaleStage | CascadeStage

    @property
    def tone(self) -> dict[str, Any]:
        """What the recipe says of the channels' way to one."""
        return {name: getattr(self.stage, name) for name in ToneStage.TONE}

    def fit(self, context: FitContext) -> None:
        """Nothing is learnt."""

    def render(self, images: Sequence[ImageArray]) -> list[ImageArray]:
        """Return each image's grayscale in [0, 1], (H, W, 1), or as often as the target has channels.

        Of several sources the first counts.
        """
        return self.tint([image[:, :, : self.task.first_channels] for image in images])

    def tint(self, images: Sequence[ImageArray]) -> list[ImageArray]:
        """Return each image's grayscale as `render` does, whatever image it is."""
        count = self.task.target_channels
        gray = (grayscale(image, **self.tone) for image in images)
        return [image if count == 1 else image.repeat(count, axis=2) for image in gray]

    def save(self, folder: Path) -> None:
        """Write the factor and what else the recipe says."""
        write_json(folder / "model.json", {"method": self.method, **self.tone})

    def load(self, folder: Path) -> None:
        """Check that the folder holds the same numbers; raise PbvsError when it holds others."""
        saved = {"channel_weights": [], "offset": 0.0, "gamma": 1.0, **read_record(folder / "model.json")}
        for name, value in self.tone.items():
            wanted = list(value) if isinstance(value, tuple) else value
            if saved.get(name) != wanted:
                raise PbvsError(
                    f"{folder / 'model.json'} has the {name} {saved.get(name)}, the recipe {wanted}; "
                    "predict again with --retrain."
                )


# --- A chain of two models: the first stage's translator, then grayscale (the paper's SAR2IR).


class Cascade(Grayscale):
    """Translates with the model of the stage's `first` task, then makes grayscale of what that gives."""

    method: ClassVar[str] = "cascade"
    uses_device: ClassVar[bool] = True
    stage: CascadeStage

    def render(self, images: Sequence[ImageArray]) -> list[ImageArray]:
        """Return (H, W, 1) in [0, 1] for each image (paper, section 3.6)."""
        first = self.parts[self.stage.first]
        return self.tint(first.render([image[:, :, : first.task.source_channels] for image in images]))

    @property
    def input_grid(self) -> dict[str, Any] | None:
        """The first model's."""
        return self.parts[self.stage.first].input_grid
