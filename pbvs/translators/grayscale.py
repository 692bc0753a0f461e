"""Infrared as grayscale times an intensity factor: the paper's gray density reconstruction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from pbvs.errors import PbvsError
from pbvs.files import read_json, write_json
from pbvs.stages import CascadeStage, GrayscaleStage
from pbvs.translators.base import Material, Picture, Translator


def grayscale(picture: Picture, intensity: float) -> Picture:
    """Return (H, W, 1): the mean of the channels' distance from black, times `intensity`, clipped to [0, 1].

    Source: paper, sections 3.4 (mean distance from black over the three channels) and 3.5 (intensity factor, clipped
    to 0..255; here on the [0, 1] scale, so that nothing is rounded twice).
    """
    gray: Picture = picture[:, :, :1].copy()
    for band in range(1, picture.shape[2]):  # the bits of mean(axis=2) in a third of its time
        gray += picture[:, :, band : band + 1]
    gray /= np.float32(picture.shape[2])
    gray *= np.float32(intensity)
    return np.clip(gray, 0.0, 1.0, out=gray)


class Grayscale(Translator):
    """Needs no training: its only number is the recipe's intensity factor."""

    method: ClassVar[str] = "grayscale"
    learns: ClassVar[bool] = False
    uses_device: ClassVar[bool] = False
    stage: GrayscaleStage | CascadeStage

    @property
    def intensity(self) -> float:
        """The factor that the recipe gives."""
        return self.stage.intensity

    def fit(self, material: Material) -> None:
        """Nothing is learnt."""

    def translate(self, pictures: Sequence[Picture]) -> list[Picture]:
        """Return each picture's grayscale, (H, W, 1) in [0, 1]."""
        return [grayscale(picture, self.intensity) for picture in pictures]

    def save(self, folder: Path) -> None:
        """Write the factor."""
        write_json(folder / "model.json", {"method": self.method, "intensity": self.intensity})

    def load(self, folder: Path) -> None:
        """Check that the folder holds the same factor; raise PbvsError when it holds another."""
        saved = read_json(folder / "model.json").get("intensity")
        if saved != self.intensity:
            raise PbvsError(
                f"{folder / 'model.json'} has the intensity {saved}, the recipe {self.intensity}; "
                "predict again with --retrain."
            )
