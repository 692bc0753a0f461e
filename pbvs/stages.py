"""What a recipe can say of a stage: one class for each method, checked before anything runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

TaskName = Literal["sar2eo", "sar2rgb", "sar2ir", "rgb2ir"]


class Settings(BaseModel):
    """A table of a recipe: unknown keys are refused, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Stage(Settings):
    """What every stage has in common."""

    @property
    def requires(self) -> tuple[TaskName, ...]:
        """The tasks whose models must exist before this stage is trained or used."""
        return ()


class GrayscaleStage(Stage):
    """Mean of the channels' distance from black times `intensity`, clipped (paper, sections 3.4 and 3.5)."""

    method: Literal["grayscale"]
    intensity: float = Field(1.0, gt=0, le=10)


class CascadeStage(Stage):
    """The model of the task `first`, then grayscale times `intensity` (paper, section 3.6, SAR2IR)."""

    method: Literal["cascade"]
    first: TaskName
    intensity: float = Field(1.0, gt=0, le=10)

    @property
    def requires(self) -> tuple[TaskName, ...]:
        """The first model."""
        return (self.first,)


class Pix2PixHDStage(Stage):
    """Conditional GAN with the paper's losses; the numbers of facts and paper are the defaults."""

    method: Literal["pix2pixhd"]
    init_from: TaskName | None = None
    size: int = Field(512, ge=32, le=2048, multiple_of=16)
    epochs: int = Field(30, ge=1)
    half_rate_epochs: int = Field(10, ge=0)
    batch_size: int = Field(1, ge=1)
    learning_rate: float = Field(2e-4, gt=0)
    generator_width: int = Field(64, ge=1)
    discriminator_width: int = Field(64, ge=1)
    downsamplings: int = Field(4, ge=1, le=6)
    residual_blocks: int = Field(9, ge=0)
    discriminators: int = Field(2, ge=1, le=4)
    feature_matching_weight: float = Field(10.0, ge=0)
    vgg_weight: float = Field(10.0, ge=0)
    lpips_weight: float = Field(1.0, ge=0)
    l2_weight: float = Field(1.0, ge=0)
    lpips_net: Literal["vgg", "alex", "squeeze"] = "vgg"

    @property
    def requires(self) -> tuple[TaskName, ...]:
        """The stage whose weights this one starts from, when there is one."""
        return (self.init_from,) if self.init_from else ()


AnyStage = Annotated[GrayscaleStage | CascadeStage | Pix2PixHDStage, Field(discriminator="method")]
