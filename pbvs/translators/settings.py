"""What every stage with a trained network says of its training; the methods' own settings build on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from pbvs.recipe import Stage, TaskName
from pbvs.settings import Settings

LpipsNet = Literal["vgg", "alex", "squeeze", "random"]
SMALLEST = {"vgg": 16, "alex": 31, "squeeze": 17, "random": 31}  # pixels a side that each net needs


class Perceptual(Settings):
    """One LPIPS of the loss; see `training.losses.PerceptualTerm`."""

    net: LpipsNet = "vgg"
    """Network of this LPIPS; random is no LPIPS, for wiring checks."""
    weight: float = Field(default=1.0, gt=0)
    """Weight of this term, multiplied by `lpips_weight`."""
    transforms: bool = False
    """Move, flip, turn and zoom both images alike, at random, before they are compared."""
    crops: int = Field(default=0, ge=0, le=64)
    """Random squares of each image that are compared; 0 compares the whole image."""
    crop_size: int = Field(default=64, ge=16, le=2048)
    """Pixels a side of these squares."""


class NetworkStage(Stage):
    """What every stage with a trained network says of its training.

    Rates: `epochs` at `learning_rate`, then `half_rate_epochs` at half of it (paper, section 4.2), then `decay_epochs`
    falling linearly (published pix2pixHD: epochs 100, half_rate_epochs 0, decay_epochs 100).
    """

    # What may change and training still goes on from its state; any other change makes it another training.
    FREE: ClassVar[frozenset[str]] = frozenset(
        {"epochs", "half_rate_epochs", "decay_epochs", "validate_every", "validation_images", "patience", "keep"}
        | {"save_minutes", "test_time_flips", "inference_memory", "recompute", "deterministic", "input_grid"}
        | {"choose_by", "watch_net", "channels_last", "compile"}
    )

    init_from: TaskName | None = None
    """Task whose trained model gives the first weights."""
    channels: Literal["native", "replicated"] = "native"
    """Gray images have one channel, or become three equal ones (replicated)."""
    size: int = Field(512, ge=16, le=2048)
    """Pixels a side of the chips that training sees."""
    epochs: int = Field(30, ge=0, le=10**6)
    """Epochs at the full learning rate."""
    half_rate_epochs: int = Field(10, ge=0, le=10**6)
    """Epochs at half the learning rate, after the first."""
    decay_epochs: int = Field(0, ge=0, le=10**6)
    """Epochs in which the rate falls linearly, after the others."""
    batch_size: int = Field(1, ge=1, le=65536)
    """Chips in a batch of one process; the optimiser sees batch_size x accumulate x processes."""
    accumulate: int = Field(1, ge=1, le=65536)
    """Batches whose gradients are added up for one step."""
    learning_rate: float = Field(2e-4, gt=0)
    """Full learning rate."""
    lpips_weight: float = Field(1.0, ge=0)
    """Weight of LPIPS in the loss; 0 leaves it out."""
    lpips_net: LpipsNet = "vgg"
    """Network of the loss's LPIPS; random is no LPIPS, for wiring checks."""
    perceptual: tuple[Perceptual, ...] = ()
    """Several LPIPS terms, each a table, in place of `lpips_net`."""
    l2_weight: float = Field(1.0, ge=0)
    """Weight of L2, the root mean square error on [0, 1]; 0 leaves it out."""
    ema_decay: float = Field(0.999, ge=0, lt=1)
    """Decay of the moving average whose network translates; 0 takes the network as it is."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Numbers on a GPU; auto is bf16 where the GPU has it."""
    channels_last: bool = False
    """Keep images in the memory order that tensor cores like; slower on a CPU."""
    compile: bool = False
    """Use torch.compile: some minutes at first, then quicker steps where a GPU waits for work."""
    recompute: bool = False
    """Compute activations again in the backward pass: less memory, a third more work."""
    deterministic: bool = False
    """Give the same bits on a GPU too; slower."""
    validate_every: int = Field(1, ge=1, le=10**6)
    """Epochs from one validation to the next."""
    validation_images: int = Field(32, ge=0, le=10**6)
    """Most held-out pairs that a validation looks at; 0 validates nothing."""
    choose_by: str = "auto"
    """Protocol that chooses the epoch; auto is the challenge's."""
    choose_on: Literal["val", "train"] = "val"
    """Choose the epoch on validation, or on a part of the training locations kept from learning."""
    watch_net: Literal["auto", "none", "alex", "squeeze", "vgg"] = "auto"
    """Network of an LPIPS that no loss sees, which is watched; auto takes one whose weights are here."""
    patience: int = Field(0, ge=0, le=10**6)
    """Validations without a better score before training stops; 0 never stops early."""
    keep: Literal["best", "last"] = "best"
    """Translate with the best epoch's network or the last one's."""
    save_minutes: float = Field(10.0, ge=0)
    """Minutes between training states inside an epoch; 0 saves after every step."""
    input_grid: Literal["trained", "native"] = "trained"
    """Bring inputs to the sizes trained on, or take them as they are."""
    test_time_flips: Literal["never", "always", "auto"] = "never"
    """Average over the eight symmetries; auto does where it scores better on validation."""
    inference_memory: float = Field(4.0, gt=0)
    """GiB of activations that translating may take before it cuts images into tiles."""

    @property
    def chosen_on(self) -> str | None:
        """The images that choose the epoch, as a recipe says it; None where the last epoch is kept."""
        return self.choose_on if self.keep == "best" and self.validation_images else None

    @property
    def multiple(self) -> int:
        """What the sides of the network's images must be multiples of."""
        return 1

    def replace(self, settings: Mapping[str, Any]) -> Stage:
        """Return the stage with these settings; `lpips_net` is then the net of every LPIPS term."""
        if self.perceptual and (net := settings.get("lpips_net")):
            settings = {
                **settings,
                "perceptual": tuple(term.model_copy(update={"net": net}) for term in self.perceptual),
            }
        return super().replace(settings)

    @property
    def all_epochs(self) -> int:
        """The epochs of all phases."""
        return self.epochs + self.half_rate_epochs + self.decay_epochs

    @property
    def passes(self) -> int:
        """How often training goes through the chips."""
        return self.all_epochs

    def work(self, samples: int) -> float:
        """Return the pixels that all passes over so many samples go through."""
        return self.passes * samples * float(self.size) ** 2

    @property
    def least_size(self) -> int:
        """The smallest `size` that the networks can learn on."""
        return self.multiple

    @property
    def perceptual_terms(self) -> tuple[Perceptual, ...]:
        """The LPIPS terms of the loss with the weights that they count with, none where `lpips_weight` is 0."""
        if not self.lpips_weight:
            return ()
        terms = self.perceptual or (Perceptual(net=self.lpips_net),)
        return tuple(term.model_copy(update={"weight": self.lpips_weight * term.weight}) for term in terms)

    @property
    def trunks(self) -> tuple[str, ...]:
        """The frozen networks that the loss needs, by the names of `pbvs weights list`."""
        return tuple(dict.fromkeys(term.net for term in self.perceptual_terms if term.net != "random"))

    @property
    def has_start(self) -> bool:
        """Whether the first weights are another model's, which may be used as they are, with no epochs."""
        return self.init_from is not None

    @model_validator(mode="after")
    def _trains(self) -> NetworkStage:
        if self.size % self.multiple:
            raise ValueError(f"size {self.size} must be a multiple of {self.multiple} for its number of downsamplings")
        if self.size < self.least_size:
            raise ValueError(
                f"size {self.size} leaves too little of an image after its downsamplings; it must be at least "
                f"{self.least_size}, or take fewer downsamplings"
            )
        for term in self.perceptual_terms:
            side = min(term.crop_size, self.size) if term.crops else self.size
            if side < SMALLEST[term.net]:
                raise ValueError(f"LPIPS with {term.net} needs at least {SMALLEST[term.net]} pixels a side, not {side}")
            if term.crops and term.crop_size > self.size:
                raise ValueError(f"crop_size {term.crop_size} is larger than the images of size {self.size}")
        if self.passes < 1 and not self.has_start:
            raise ValueError("epochs, half_rate_epochs and decay_epochs are all 0, so nothing would be learnt")
        return self

    @property
    def requires(self) -> tuple[TaskName, ...]:
        """The stage whose weights this one starts from, when there is one."""
        return (self.init_from,) if self.init_from else ()
