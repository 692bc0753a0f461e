"""Infrared as grayscale times an intensity factor, alone or after another model: what a recipe can say of it."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from pbvs.recipe import Stage, TaskName


class ToneStage(Stage):
    """How channels become one: intensity * (weighted channels)^gamma + offset, clipped; `pbvs calibrate` finds them.

    The defaults of all but `intensity` are the paper's: every channel counts the same, no offset, no gamma.
    """

    TONE: ClassVar[tuple[str, ...]] = ("intensity", "channel_weights", "offset", "gamma")

    intensity: float = Field(1.0, gt=0, le=10)
    """Factor of the grayscale."""
    channel_weights: tuple[float, ...] = ()
    """A weight for each channel; empty is their mean."""
    offset: float = Field(0.0, ge=-1, le=1)
    """Added to the result, of [0, 1]."""
    gamma: float = Field(1.0, ge=0.1, le=10)
    """Exponent of the grayscale before the factor."""


class GrayscaleStage(ToneStage):
    """Mean of the channels' distance from black times `intensity`, clipped (paper, sections 3.4 and 3.5)."""

    method: Literal["grayscale"]
    """Grayscale times a factor; no training."""


class CascadeStage(ToneStage):
    """The model of the task `first`, then grayscale times `intensity` (paper, section 3.6, SAR2IR)."""

    method: Literal["cascade"]
    """Another task's model, then grayscale times a factor."""
    first: TaskName
    """Task whose model translates first."""

    @property
    def requires(self) -> tuple[TaskName, ...]:
        """The first model."""
        return (self.first,)
