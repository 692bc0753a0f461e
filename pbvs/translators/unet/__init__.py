"""A light U-Net trained on the score itself: what a recipe can say of it. Recipes up to 0.1 call it `regression`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from pbvs.translators.settings import NetworkStage


class UNetStage(NetworkStage):
    """A U-Net trained on the score itself; the rate rises and then falls by a cosine over all epochs.

    The phases of the epochs are added up; another number of them is another training, as the whole curve changes.
    """

    FREE: ClassVar[frozenset[str]] = NetworkStage.FREE - {"epochs", "half_rate_epochs", "decay_epochs"}

    method: Literal["unet"]
    size: int = Field(128, ge=16, le=2048)
    batch_size: int = Field(8, ge=1)
    half_rate_epochs: int = Field(0, ge=0)
    learning_rate: float = Field(2e-3, gt=0)
    ema_decay: float = Field(0.998, ge=0, lt=1)
    warm_up: float = Field(0.05, ge=0, lt=1)  # share of the epochs in which the rate rises
    weight_decay: float = Field(0.01, ge=0)
    rounds: int = Field(1, ge=1)  # times that an epoch sees each chip
    dihedral: bool = True  # chips are flipped and turned
    shift_tolerance: int = Field(0, ge=0, le=8)  # pixels by which an image may lie beside its target
    blur: float = Field(0.0, ge=0, le=1)  # inputs are made softer by up to this,
    sharpen: float = Field(0.0, ge=0, le=4)  # or crisper by up to this
    brightness: float = Field(0.0, ge=0, lt=1)  # and darker or brighter by up to this share
    zoom: float = Field(1.0, ge=1, le=2)  # both images are shown larger or smaller by up to this factor
    width: int = Field(32, ge=4)
    levels: int = Field(4, ge=1, le=7)
    widest: int = Field(4, ge=1)  # channels of the coarsest levels, as a multiple of the width
    blocks: int = Field(1, ge=1)  # residual blocks of a level, each way
    style: int = Field(64, ge=0)  # numbers that describe the whole image to every block of the decoder
    shuffle: Literal[1, 2, 4] = 2  # side of the squares of pixels that become channels
    residual: Literal["none", "grey"] = "none"  # grey: the network corrects the mean of its input's channels

    @property
    def passes(self) -> int:
        """How often training goes through the chips: in each epoch as often as it has rounds."""
        return self.rounds * super().passes

    @property
    def multiple(self) -> int:
        """The side of a square at the coarsest level."""
        return int(self.shuffle * 2 ** (self.levels - 1))
