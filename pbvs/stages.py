"""What a recipe can say of a stage: one class for each method, checked before anything runs."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

TaskName = Literal["sar2eo", "sar2rgb", "sar2ir", "rgb2ir"]


class Settings(BaseModel):
    """A table of a recipe: unknown keys are refused, values never change after reading.

    Models are recognised by what their recipe says beside the defaults: a default never changes, and a new setting's
    leaves everything as it was, so that a newer version goes on with an older one's runs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


class Stage(Settings):
    """What every stage has in common."""

    @property
    def requires(self) -> tuple[TaskName, ...]:
        """The tasks whose models must exist before this stage is trained or used."""
        return ()


class ToneStage(Stage):
    """How channels become one: intensity * (weighed channels)^gamma + offset, clipped; `pbvs calibrate` finds them.

    The defaults of all but `intensity` are the paper's: every channel counts the same, no offset, no gamma.
    """

    intensity: float = Field(1.0, gt=0, le=10)
    channel_weights: tuple[float, ...] = ()  # one for each channel; empty: the mean
    offset: float = Field(0.0, ge=-1, le=1)  # of [0, 1]
    gamma: float = Field(1.0, ge=0.1, le=10)


class GrayscaleStage(ToneStage):
    """Mean of the channels' distance from black times `intensity`, clipped (paper, sections 3.4 and 3.5)."""

    method: Literal["grayscale"]


class CascadeStage(ToneStage):
    """The model of the task `first`, then grayscale times `intensity` (paper, section 3.6, SAR2IR)."""

    method: Literal["cascade"]
    first: TaskName

    @property
    def requires(self) -> tuple[TaskName, ...]:
        """The first model."""
        return (self.first,)


class NetworkStage(Stage):
    """What every stage with a trained network says of its training.

    Rates: `epochs` at `learning_rate`, then `half_rate_epochs` at half of it (paper, section 4.2), then `decay_epochs`
    falling linearly (published pix2pixHD: epochs 100, half_rate_epochs 0, decay_epochs 100).
    """

    # What may change and training still goes on from its state; any other change makes it another training.
    FREE: ClassVar[frozenset[str]] = frozenset(
        {"epochs", "half_rate_epochs", "decay_epochs", "validate_every", "validation_images", "patience", "keep"}
        | {"save_minutes", "test_time_flips", "inference_memory", "recompute", "deterministic"}
    )

    init_from: TaskName | None = None
    channels: Literal["native", "replicated"] = "native"  # replicated: grey images become three equal channels
    size: int = Field(512, ge=16, le=2048)
    epochs: int = Field(30, ge=0)
    half_rate_epochs: int = Field(10, ge=0)
    decay_epochs: int = Field(0, ge=0)
    batch_size: int = Field(1, ge=1)  # of one process; the optimiser sees batch_size x accumulate x processes
    accumulate: int = Field(1, ge=1)
    learning_rate: float = Field(2e-4, gt=0)
    lpips_weight: float = Field(1.0, ge=0)
    lpips_net: Literal["vgg", "alex", "squeeze", "random"] = "vgg"
    l2_weight: float = Field(1.0, ge=0)
    ema_decay: float = Field(0.999, ge=0, lt=1)  # of the network that translates; 0: the network as it is
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where the GPU has it
    recompute: bool = False  # activations computed again in the backward pass: less memory, a third more work
    deterministic: bool = False  # the same bits on a GPU too, slower
    validate_every: int = Field(1, ge=1)  # epochs
    validation_images: int = Field(32, ge=0)
    patience: int = Field(0, ge=0)  # validations without a better score before training stops; 0: never
    keep: Literal["best", "last"] = "best"  # which epoch's network translates
    save_minutes: float = Field(10.0, ge=0)  # between training states inside an epoch; 0: after every step
    test_time_flips: Literal["never", "always", "auto"] = "never"  # auto: when it scores better on validation
    inference_memory: float = Field(4.0, gt=0)  # GiB of activations that translating may take before it tiles

    @property
    def multiple(self) -> int:
        """What the sides of the network's images must be multiples of."""
        return 1

    @property
    def has_start(self) -> bool:
        """Whether the first weights are another model's, which may be used as they are, with no epochs."""
        return self.init_from is not None

    @model_validator(mode="after")
    def _trains(self) -> NetworkStage:
        if self.size % self.multiple:
            raise ValueError(f"size {self.size} must be a multiple of {self.multiple} for its number of downsamplings")
        if self.epochs + self.half_rate_epochs + self.decay_epochs < 1 and not self.has_start:
            raise ValueError("epochs, half_rate_epochs and decay_epochs are all 0, so nothing would be learnt")
        return self

    @property
    def requires(self) -> tuple[TaskName, ...]:
        """The stage whose weights this one starts from, when there is one."""
        return (self.init_from,) if self.init_from else ()


class Pix2PixHDStage(NetworkStage):
    """Conditional GAN with the paper's losses; the published numbers are the defaults."""

    method: Literal["pix2pixhd"]
    init_checkpoint: str | None = None  # a generator that `pbvs checkpoint import` wrote
    generator_width: int = Field(64, ge=1)
    downsamplings: int = Field(4, ge=1, le=6)
    residual_blocks: int = Field(9, ge=0)
    local_enhancers: int = Field(0, ge=0, le=3)
    local_blocks: int = Field(3, ge=0)
    fix_global_epochs: int = Field(0, ge=0)  # at first only the last local enhancer learns
    upsampling: Literal["transpose", "resize"] = "transpose"
    discriminator_width: int = Field(64, ge=1)
    discriminators: int = Field(2, ge=1, le=4)
    discriminator_layers: int = Field(3, ge=1, le=6)
    gan_weight: float = Field(1.0, ge=0)
    feature_matching_weight: float = Field(10.0, ge=0)
    vgg_weight: float = Field(10.0, ge=0)
    vgg_input: Literal["raw", "imagenet"] = "raw"

    @property
    def multiple(self) -> int:
        """Two to the number of halvings."""
        return int(2 ** (self.downsamplings + self.local_enhancers))

    @property
    def has_start(self) -> bool:
        """Also an imported checkpoint is a start."""
        return super().has_start or self.init_checkpoint is not None

    @model_validator(mode="after")
    def _enhances(self) -> Pix2PixHDStage:
        if self.fix_global_epochs and not self.local_enhancers:
            raise ValueError("fix_global_epochs needs local_enhancers, since there is only the global generator")
        return self


class RegressionStage(NetworkStage):
    """A U-Net trained on the score itself; the rate rises and then falls by a cosine over all epochs.

    The phases of the epochs are added up; another number of them is another training, as the whole curve changes.
    """

    FREE: ClassVar[frozenset[str]] = NetworkStage.FREE - {"epochs", "half_rate_epochs", "decay_epochs"}

    method: Literal["regression"]
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
    def multiple(self) -> int:
        """The side of a square at the coarsest level."""
        return int(self.shuffle * 2 ** (self.levels - 1))


AnyStage = Annotated[GrayscaleStage | CascadeStage | Pix2PixHDStage | RegressionStage, Field(discriminator="method")]
