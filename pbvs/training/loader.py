"""Which samples each step sees, and their way to the device; a function of (seed, epoch, position) alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pbvs.devices import rank, world_size
from pbvs.errors import PbvsError
from pbvs.training.step import Batch

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


class Keys(Sampler[list[Key]]):
    """A plan's batches from a step on, as the loader wants them."""

    def __init__(self, plan: BatchPlan, first_step: int, last_step: int):
        self.plan, self.first_step, self.last_step = plan, first_step, last_step

    def __iter__(self) -> Iterator[list[Key]]:
        return self.plan.batches(self.first_step, self.last_step, rank())

    def __len__(self) -> int:
        return (self.last_step - self.first_step) * self.plan.accumulate


class _Keyed(Dataset[Any]):
    """A data set for DataLoader, which would not take a protocol."""

    def __init__(self, chips: Chips):
        self.chips = chips

    def __getitem__(self, key: Any) -> Any:
        return self.chips[key]


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
        _Keyed(chips),
        batch_sampler=Keys(plan, first_step, last_step),
        num_workers=workers,
        pin_memory=on_gpu,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator().manual_seed(0),
    )
    for keys, (source, target, valid) in zip(Keys(plan, first_step, last_step), loader, strict=True):
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


def make_plan(chips: Chips, batch_size: int, accumulate: int) -> BatchPlan:
    """Return the plan for this data set and the processes that there are."""
    return BatchPlan(len(chips), batch_size, accumulate, world_size())


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
