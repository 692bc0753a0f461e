"""One step of training: which samples it sees, how a method turns them into gradients, and at which rate it learns."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from pbvs.devices import rank, world_size
from pbvs.errors import PbvsError


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

    losses: tuple[str, ...]  # names of what `accumulate` returns; the first is watched for divergence

    def __init__(
        self, modules: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer], execution: Execution | None = None
    ):
        self.modules = modules  # all that has weights to learn
        self.optimizers = optimizers
        self.execution = execution or Execution()
        self._called: dict[str, nn.Module] = {}

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
        if not self._called:
            self._called = {name: self.execution.prepare(module) for name, module in self.modules.items()}

    def called(self, name: str) -> nn.Module:
        """Return what is called in a module's place: joined with the other processes', compiled, once epochs begin."""
        return self._called.get(name, self.modules[name])

    def step(self, rate: float) -> None:
        """Let every optimiser take one step at this learning rate and forget its gradients."""
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def adam(network: nn.Module, rate: float) -> torch.optim.Adam:
    """Return Adam with the published betas over all parameters, in its fused form (one pass over the memory)."""
    return torch.optim.Adam(network.parameters(), lr=rate, betas=(0.5, 0.999), fused=True)


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


# --- Which samples each step sees, and their way to the device; a function of (seed, epoch, position) alone.


Key = tuple[int, int]  # epoch counted from 0, position in that epoch's order


class Chips(Protocol):
    """A data set whose samples are asked for by (epoch, position); uint8 (source, target, valid)."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Key) -> Any: ...


@dataclass(frozen=True)
class BatchPlan:
    """How an epoch of `samples` divides into steps of `accumulate` batches in each process."""

    samples: int
    batch_size: int
    accumulate: int = 1
    processes: int = 1

    def __post_init__(self) -> None:
        if self.samples == 0:
            raise PbvsError(
                "There is nothing to learn from: the training manifest has no usable pair; "
                "make it again with `pbvs build-pairs` and read its summary."
            )
        if self.per_step > self.samples:
            raise PbvsError(
                f"A step takes {self.per_step} samples (batch_size {self.batch_size} x accumulate {self.accumulate} x "
                f"{self.processes} processes) but an epoch has only {self.samples}; make batch_size smaller."
            )

    @property
    def per_step(self) -> int:
        """Samples that the optimiser sees at once."""
        return self.batch_size * self.accumulate * self.processes

    @property
    def steps(self) -> int:
        """Steps of an epoch; the last one is filled from the epoch's beginning."""
        return -(-self.samples // self.per_step)

    def batches(self, first_step: int, last_step: int, process: int) -> Iterator[list[Key]]:
        """Yield the keys of one process's batches, for the steps counted from the beginning of training.

        Batch by batch the processes take neighbours, so that together they see what one process with a batch as large
        as theirs together would see.
        """
        for step in range(first_step, last_step):
            epoch, within = divmod(step, self.steps)
            for micro in range(self.accumulate):
                start = within * self.per_step + (micro * self.processes + process) * self.batch_size
                yield [(epoch, (start + i) % self.samples) for i in range(self.batch_size)]


@dataclass(frozen=True)
class Feed:
    """How batches come to the network: its device, how many processes load ahead, its channels (None: the files')."""

    device: str = "cpu"
    workers: int = 0
    channels: tuple[int, int] | None = None


def batches(chips: Chips, plan: BatchPlan, first_step: int, last_step: int, feed: Feed) -> Iterator[Batch]:
    """Yield batches on the feed's device, from `first_step` to before `last_step`."""
    device, workers = feed.device, feed.workers
    on_gpu = device.startswith("cuda")
    loader: DataLoader[Any] = DataLoader(
        cast("Dataset[Any]", chips),  # which need be no more than what can be asked for a key
        batch_sampler=plan.batches(first_step, last_step, rank()),
        num_workers=workers,
        pin_memory=on_gpu,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator().manual_seed(0),
    )
    for keys, (source, target, valid) in zip(plan.batches(first_step, last_step, rank()), loader, strict=True):
        epoch, position = keys[0]
        yield Batch(
            replicated(symmetric(source.to(device, non_blocking=True)), feed.channels and feed.channels[0]),
            replicated(symmetric(target.to(device, non_blocking=True)), feed.channels and feed.channels[1]),
            valid.to(device, non_blocking=True) > 0,
            epoch * plan.samples + position,
        )


def symmetric(pixels: Tensor) -> Tensor:
    """Return uint8 pixels as float32 in [-1, 1]."""
    return pixels.float().div_(127.5).sub_(1.0)


def replicated(x: Tensor, channels: int | None) -> Tensor:
    """Return gray as so many equal channels; raise PbvsError when the images have another number than asked for."""
    if channels is None or x.shape[1] == channels:
        return x
    if x.shape[1] != 1:
        raise PbvsError(
            f"The network takes {channels} channels but the images have {x.shape[1]}; change `channels` in the recipe."
        )
    return x.repeat(1, channels, 1, 1)


# --- Small data sets seen several times in one epoch, so that what is done once an epoch stays cheap.


class Rounds:
    """`chips` seen `rounds` times an epoch; each round has the order and augmentation of an epoch of its own."""

    def __init__(self, chips: Chips, rounds: int):
        self.chips, self.rounds = chips, rounds

    def __len__(self) -> int:
        return len(self.chips) * self.rounds

    def __getitem__(self, key: Key) -> Any:
        epoch, position = key
        done, within = divmod(position, len(self.chips))
        return self.chips[epoch * self.rounds + done, within]
