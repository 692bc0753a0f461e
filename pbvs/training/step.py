"""What the trainer needs to know of a method: its networks, its optimisers, and how a batch becomes gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


@dataclass(frozen=True)
class Batch:
    """Images in [-1, 1], (N, C, H, W), and where the target is known, (N, 1, H, W) bool."""

    source: Tensor
    target: Tensor
    valid: Tensor
    first: int = 0  # the first image's index in the whole training, which what is random may depend on


class TrainingStep(ABC):
    """A way of training: the trainer steps the optimisers, averages `network`, saves and restores everything."""

    modules: Mapping[str, nn.Module]  # all that has weights to learn
    optimizers: Mapping[str, Optimizer]
    losses: tuple[str, ...]  # names of what `accumulate` returns; the first is watched for divergence

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """The network that translates; its moving average is what validation and prediction use."""

    @abstractmethod
    def accumulate(self, batch: Batch, share: float, last: bool) -> Mapping[str, Tensor]:
        """Add `share` times the batch's gradients to the parameters, and return the losses, detached scalars.

        `last` says that the optimisers step next, so that processes must exchange their gradients now.
        """

    def begin_epoch(self, epoch: int) -> None:
        """Do what changes between epochs; `epoch` counts from 1. Called also when a run resumes inside one."""
        return

    def step(self, rate: float) -> None:
        """Let every optimiser take one step at this learning rate and forget its gradients."""
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def adam(network: nn.Module, rate: float, betas: tuple[float, float] = (0.5, 0.999)) -> torch.optim.Adam:
    """Return Adam with the published betas over all parameters, in its fused form (one pass over the memory)."""
    return torch.optim.Adam(network.parameters(), lr=rate, betas=betas, fused=True)


# --- The learning rate as a function of the epoch, so that a resumed run needs to remember nothing.


@dataclass(frozen=True)
class Schedule:
    """`full` epochs at `rate`, then `half` at half of it, then `decay` falling linearly.

    The first two phases are the paper's (section 4.2: 30, then 10 at half the rate). The linear phase is the published
    pix2pixHD's, whose first epoch still runs at the rate before it and whose last at 1/decay of it.
    """

    rate: float
    full: int
    half: int = 0
    decay: int = 0

    @property
    def epochs(self) -> int:
        """All epochs."""
        return self.full + self.half + self.decay

    def at(self, epoch: int) -> float:
        """Return the rate of the epoch with this number, counted from 1."""
        if epoch <= self.full:
            return self.rate
        reached = self.rate / 2 if self.half else self.rate
        falling = epoch - self.full - self.half - 1
        return reached if falling < 0 else reached * (1 - falling / self.decay)
