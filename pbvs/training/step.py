"""What the trainer needs to know of a method: its networks, its optimisers, and how a batch becomes gradients."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from pbvs.devices import world_size


@dataclass(frozen=True)
class Batch:
    """Images in [-1, 1], (N, C, H, W), and where the target is known, (N, 1, H, W) bool."""

    source: Tensor
    target: Tensor
    valid: Tensor
    first: int = 0  # the first image's index in the whole training, which what is random may depend on


@dataclass(frozen=True)
class Execution:
    """How a step is computed; none of it changes what is learnt but for rounding."""

    half_precision: bool = False  # the forward pass in bfloat16
    channels_last: bool = False  # the order of numbers in memory that convolutions of some GPUs like best
    compiled: bool = False  # by torch.compile, which takes its time at the first step

    def prepare(self, module: nn.Module) -> nn.Module:
        """Return what is called in a module's place: joined with the other processes', compiled."""
        if self.channels_last:
            module.to(memory_format=torch.channels_last)
        made: nn.Module = DistributedDataParallel(module) if world_size() > 1 else module
        return cast(nn.Module, torch.compile(made)) if self.compiled else made

    def batch(self, batch: Batch) -> Batch:
        """Return the batch in the order of memory that the networks have."""
        if not self.channels_last:
            return batch
        source, target = (x.contiguous(memory_format=torch.channels_last) for x in (batch.source, batch.target))
        return replace(batch, source=source, target=target)

    @contextlib.contextmanager
    def exchange(self, modules: Iterable[nn.Module], last: bool) -> Iterator[None]:
        """Within it, processes exchange gradients only when the optimisers step next (`last`)."""
        with contextlib.ExitStack() as stack:
            for module in modules:
                if world_size() > 1 and not last:
                    stack.enter_context(cast(DistributedDataParallel, module).no_sync())
            yield


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

    `ends` are the epochs at which trainings ended that this one goes on from; here they change nothing.

    The first two phases are the paper's (section 4.2: 30, then 10 at half the rate). The linear phase is the published
    pix2pixHD's, whose first epoch still runs at the rate before it and whose last at 1/decay of it.
    """

    rate: float
    full: int
    half: int = 0
    decay: int = 0
    ends: tuple[int, ...] = ()
    whole: ClassVar[bool] = False  # whether an epoch's rate depends on how many there are

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
