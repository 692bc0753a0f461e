"""A light U-Net trained on the score itself: what a recipe can say of it. Recipes up to 0.1 call it `regression`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pbvs.translators.settings import NetworkStage


class UNetStage(NetworkStage):
    """A U-Net trained on the score itself; the rate rises and then falls by a cosine over all epochs.

    The phases of the epochs are added up. With more of them a finished training goes on: the rate rises and falls once
    more, over those that are added.
    """

    ALIKE = ("method", "width", "levels", "widest", "blocks", "style", "shuffle")

    method: Literal["unet"]
    """A light U-Net trained on the score itself."""
    size: int = Field(128, ge=16, le=2048)
    """Pixels a side of the chips that training sees."""
    batch_size: int = Field(8, ge=1, le=65536)
    """Chips in a batch of one process; the optimiser sees batch_size x accumulate x processes."""
    half_rate_epochs: int = Field(0, ge=0, le=10**6)
    """Added to the epochs: the rate falls by a cosine over all of them."""
    learning_rate: float = Field(2e-3, gt=0)
    """Highest learning rate."""
    ema_decay: float = Field(0.998, ge=0, lt=1)
    """Decay of the moving average whose network translates; 0 takes the network as it is."""
    warm_up: float = Field(0.05, ge=0, lt=1)
    """Share of the epochs in which the rate rises."""
    weight_decay: float = Field(0.01, ge=0)
    """Weight decay of the optimiser."""
    rounds: int = Field(1, ge=1, le=1000)
    """Times that an epoch sees each chip."""
    dihedral: bool = True
    """Flip and turn chips."""
    shift_tolerance: int = Field(0, ge=0, le=8)
    """Pixels by which an image may lie beside its target before L2 counts it."""
    blur: float = Field(0.0, ge=0, le=1)
    """Make inputs softer by up to this share of their detail."""
    sharpen: float = Field(0.0, ge=0, le=4)
    """Make inputs crisper by up to this multiple of their detail."""
    brightness: float = Field(0.0, ge=0, lt=1)
    """Make inputs darker or brighter by up to this share."""
    zoom: float = Field(1.0, ge=1, le=2)
    """Show both images larger or smaller by up to this factor."""
    width: int = Field(32, ge=4, le=4096)
    """Channels of the finest level."""
    levels: int = Field(4, ge=1, le=7)
    """Levels of the U-Net, each at half the resolution of the one above."""
    widest: int = Field(4, ge=1, le=64)
    """Channels of the coarsest levels, as a multiple of the width."""
    blocks: int = Field(1, ge=1, le=256)
    """Residual blocks of a level, each way."""
    style: int = Field(64, ge=0, le=4096)
    """Numbers that describe the whole image to every block of the decoder; 0 for none."""
    shuffle: Literal[1, 2, 4] = 2
    """Side of the squares of pixels that become channels."""
    residual: Literal["none", "gray"] = "none"
    """The network makes the image, or corrects the mean of its input's channels (gray)."""

    @property
    def passes(self) -> int:
        """How often training goes through the chips: in each epoch as often as it has rounds."""
        return self.rounds * super().passes

    @property
    def multiple(self) -> int:
        """The side of a square at the coarsest level."""
        return int(self.shuffle * 2 ** (self.levels - 1))
