"""One training step of a translator that is told its score: the metric's own two terms as the loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from pbvs.training import losses
from pbvs.training.losses import PerceptualLoss
from pbvs.training.step import Batch, Execution, Schedule, TrainingStep

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
        self.modules = {"unet": network}
        self.optimizers = {
            "unet": torch.optim.AdamW(network.parameters(), rate, BETAS, weight_decay=weight_decay, fused=True)
        }
        self.weights, self.perceptual, self.execution = weights, perceptual, execution or Execution()
        self._called: nn.Module | None = None

    @property
    def network(self) -> nn.Module:
        """The U-Net."""
        return self.modules["unet"]

    def begin_epoch(self, epoch: int) -> None:
        """Join the processes' networks, where there are several."""
        if self._called is None:
            self._called = self.execution.prepare(self.network)

    def accumulate(self, batch: Batch, share: float, last: bool) -> Mapping[str, Tensor]:
        """Add the gradients of both terms."""
        batch, called = self.execution.batch(batch), self.network if self._called is None else self._called
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
