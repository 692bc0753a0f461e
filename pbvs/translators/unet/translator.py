"""The stronger baseline: a light U-Net that minimises the challenge's own score, RMSE and LPIPS."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from pbvs.errors import PbvsError
from pbvs.networks.pix2pixhd import adapt_inputs, adapt_outputs
from pbvs.networks.unet import UNet, UNetConfig, build_unet
from pbvs.recipe import Augmentation
from pbvs.seeds import torch_generator
from pbvs.training import checkpoint, losses
from pbvs.training.losses import PerceptualLoss
from pbvs.training.step import Batch, Chips, Execution, Rounds, Schedule, TrainingStep
from pbvs.translators.base import FitContext
from pbvs.translators.network import MODEL, NetworkTranslator
from pbvs.translators.unet import UNetStage


class UNetTranslator(NetworkTranslator):
    """One network and no discriminator; its moving average translates."""

    method: ClassVar[str] = "unet"
    stage: UNetStage

    @property
    def config(self) -> UNetConfig:
        """The U-Net that the recipe asks for."""
        source, target = self.channels(self.task.source_channels), self.channels(self.task.target_channels)
        sizes = ("width", "levels", "widest", "blocks", "style", "shuffle", "residual")
        return UNetConfig(source, target, **self.stage.model_dump(include=set(sizes)))

    @property
    def augmentation(self) -> Augmentation:
        """Flips and turns, zoom, and inputs made softer, crisper, darker or brighter, as the recipe says."""
        changes = self.stage.model_dump(include={"blur", "sharpen", "brightness", "zoom"})
        return Augmentation(flips=self.stage.dihedral, turns=self.stage.dihedral, **changes)

    @property
    def schedule(self) -> Schedule:
        """Half a cosine over all epochs, or over those that are added to a finished training."""
        stage = self.stage
        return Cosine(stage.learning_rate, stage.all_epochs, warm_up=stage.warm_up)

    def prepare(self, context: FitContext, perceptual: PerceptualLoss | None) -> UNetStep:
        """Return the network with its first weights, and the loss that trains it."""
        stage = self.stage
        network = build_unet(self.config, torch_generator(context.recipe.seed, "unet", self.task.name))
        if context.initial is not None:
            self._start(context.initial / MODEL, network)
        return UNetStep(
            network.to(self.device),
            Weights(stage.l2_weight, stage.shift_tolerance),
            perceptual=perceptual,
            rate=stage.learning_rate,
            weight_decay=stage.weight_decay,
            execution=self.execution,
        )

    def _chips(self, context: FitContext) -> Chips:
        return Rounds(super()._chips(context), self.stage.rounds)

    def _start(self, path: Path, network: UNet) -> None:
        """Take the weights of another stage's U-Net, its stem and head changed to this one's channels."""
        tensors, config, _ = checkpoint.read_model(path, "unet")
        checkpoint.start_from(path, network, adapt_unet(tensors, cast(UNetConfig, config), self.config))


def adapt_unet(tensors: dict[str, Tensor], old: UNetConfig, new: UNetConfig) -> dict[str, Tensor]:
    """Return U-Net weights with stem and head changed from `old` to the channels of `new`.

    Channels move in blocks of shuffle^2: one image channel's square of pixels. Raises PbvsError when the squares
    differ in size.
    """
    if old.shuffle != new.shuffle:
        raise PbvsError(
            f"A U-Net with shuffle {new.shuffle} cannot start from one with {old.shuffle}; set both stages' the same."
        )
    area = new.shuffle**2
    adapted = dict(tensors)
    stem = tensors["stem.weight"]
    stem = stem.reshape(len(stem), old.source_channels, area, *stem.shape[2:])
    adapted["stem.weight"] = adapt_inputs(stem, new.source_channels).flatten(1, 2)
    for part in ("head.weight", "head.bias"):
        head = tensors[part].reshape(old.target_channels, area, *tensors[part].shape[1:])
        adapted[part] = adapt_outputs(head, new.target_channels).flatten(0, 1)
    return adapted


# --- One training step of a translator that is told its score: the metric's own two terms as the loss.

BETAS = (0.9, 0.99)  # a short memory of the squares: trainings here last a few thousand steps
LARGEST_GRADIENT = 1.0


@dataclass(frozen=True)
class Weights:
    """What each term of the loss counts; one, and LPIPS with one, is the challenge's score, twice."""

    l2: float = 1.0
    shift_tolerance: int = 0  # pixels by which an image may lie beside its target before L2 counts it


@dataclass(frozen=True)
class Cosine(Schedule):
    """`full` epochs: a linear rise in the first `warm_up` share of them, then half a cosine down to zero.

    A training that goes on after its end keeps the curve that it had; what is added has another of its own, which is a
    warm restart: Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts" (ICLR 2017).

    >>> [round(Cosine(1.0, 4, ends=(2,), warm_up=0.0).at(epoch), 3) for epoch in (1, 2, 3, 4)]
    [0.854, 0.146, 0.854, 0.146]
    """

    warm_up: float = 0.05
    whole: ClassVar[bool] = True

    def at(self, epoch: int) -> float:
        """Return the rate of the epoch with this number, counted from 1: the curve's value at the epoch's middle."""
        first = max((end for end in self.ends if end < epoch), default=0)
        last = min((end for end in self.ends if end >= epoch), default=self.epochs)
        done = (epoch - first - 0.5) / (last - first)
        rise = min(1.0, done / self.warm_up) if self.warm_up else 1.0
        return self.rate * rise * (0.5 + 0.5 * math.cos(math.pi * done))


class UNetStep(TrainingStep):
    """Root mean square error and LPIPS of each image, weighted; AdamW with the gradient's norm held to one.

    Pixels without data count as right.
    """

    losses = ("loss", "l2", "lpips")

    def __init__(
        self,
        network: nn.Module,
        weights: Weights,
        *,
        perceptual: PerceptualLoss | None = None,
        rate: float = 2e-3,
        weight_decay: float = 0.01,
        execution: Execution | None = None,
    ):
        optimizer = torch.optim.AdamW(network.parameters(), rate, BETAS, weight_decay=weight_decay, fused=True)
        super().__init__({"unet": network}, {"unet": optimizer}, execution)
        self.weights, self.perceptual = weights, perceptual

    @property
    def network(self) -> nn.Module:
        """The U-Net."""
        return self.modules["unet"]

    def accumulate(self, batch: Batch, share: float, last: bool) -> Mapping[str, Tensor]:
        """Add the gradients of both terms."""
        batch, called = self.execution.batch(batch), self.called("unet")
        with self.execution.exchange([called], last):
            with torch.autocast(batch.source.device.type, torch.bfloat16, enabled=self.execution.half_precision):
                made = called(batch.source)
                made = torch.where(batch.valid, made, batch.target)
                l2 = losses.shifted_l2(made, batch.target, self.weights.shift_tolerance)
                lpips = self.perceptual(made, batch.target, batch.first) if self.perceptual else made.new_zeros(())
            loss = self.weights.l2 * l2 + lpips
            torch.autograd.backward([loss * share])
        return {"loss": loss.detach(), "l2": l2.detach(), "lpips": lpips.detach()}

    def step(self, rate: float) -> None:
        """Hold the gradient's norm to `LARGEST_GRADIENT`, then step."""
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_GRADIENT)
        super().step(rate)
