"""What a call of `predict` will do, in words that fit a terminal: stages, steps, images, weights, disk, time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pbvs.logs import duration
from pbvs.recipe import TaskName
from pbvs.text import folded, terminal_width


@dataclass(frozen=True)
class StagePlan:
    """What happens to one task; sizes are bytes still to be written, about."""

    task: TaskName
    method: str
    parts: tuple[TaskName, ...]  # whose models it starts from
    learns: bool
    trains: bool  # now
    images: Mapping[str, tuple[int, int]]  # split -> how many are still to predict, how many are there
    pairs: tuple[int, int] = (0, 0)  # that it trains on, and that choose the epoch
    epochs: int = 0
    steps: int | None = 0  # of an epoch; None: known when the windows are cut
    chips_size: int = 0
    model_size: int = 0
    images_size: int = 0
    made: int = 0  # epochs of the finished model that training goes on from

    @property
    def all_steps(self) -> int | None:
        """The steps that training takes now."""
        return None if self.steps is None else (self.epochs - self.made) * self.steps

    def __str__(self) -> str:
        """Return it in words."""
        start = f" from {' and '.join(self.parts)}" if self.parts else ""
        return f"{self.method}{start}: {self._training()}; {self._predicting()}"

    def _training(self) -> str:
        if not self.trains:
            return "trained already" if self.learns else "nothing to train"
        epochs = f"{self.epochs - self.made} epochs"
        steps = epochs if self.steps is None else f"{self.all_steps:,} steps"
        each = f" ({epochs} of {self.steps:,})" if self.steps else ""
        what = f"go on from epoch {self.made} to {self.epochs}," if self.made else "train"
        return f"{what} {steps}{each} on {self.pairs[0]:,} pairs, validate on {self.pairs[1]:,}"

    def _predicting(self) -> str:
        missing = {split: count for split, (count, _) in self.images.items() if count}
        there = sum(done for _, done in self.images.values())
        if not self.images:
            return "predict nothing"
        if not missing:
            return f"all {there:,} images are there"
        said = ", ".join(f"{count:,} {split}" for split, count in missing.items())
        return f"predict {said}" + (f" ({there:,} are there)" if there else "")


@dataclass(frozen=True)
class Plan:
    """What a call of `predict` will do, and what that takes."""

    title: str
    stages: tuple[StagePlan, ...]
    weights: Mapping[str, Path | None]  # that training needs -> where they are
    seconds: Mapping[TaskName, float] = field(default_factory=dict)  # of a step, where that was measured
    free: Mapping[Path, int] = field(default_factory=dict)  # folder -> bytes that its disk has left

    def lines(self, width: int = 0) -> list[str]:
        """Return the plan in lines of at most `width` columns, without it those of the terminal."""
        width = width or terminal_width()
        longest = max(len(stage.task) for stage in self.stages)
        rows = [(f"  {stage.task:<{longest}}  ", str(stage)) for stage in self.stages]
        rows = [("Plan:    ", self.title), *rows, ("Weights: ", self._weights()), ("Disk:    ", self._disk())]
        if any(stage.trains for stage in self.stages):
            rows.append(("Time:    ", self._time()))
        return [line for head, said in rows for line in folded(head + said, width, len(head))]

    def _weights(self) -> str:
        said = [f"{net} in {path.parent}" if path else f"{net} is missing" for net, path in self.weights.items()]
        return ", ".join(said) or "training needs none"

    def _disk(self) -> str:
        each = [(stage.chips_size, stage.model_size, stage.images_size) for stage in self.stages]
        sizes = dict(zip(("chips", "models", "images"), map(sum, zip(*each, strict=True)), strict=True))
        said = [f"{size_text(size)} of {what}" for what, size in sizes.items() if size]
        left = ", ".join(f"{size_text(free)} free in {folder}" for folder, free in self.free.items())
        short = sum(sizes.values()) > min(self.free.values(), default=sum(sizes.values()))
        warning = "; that may not be enough" if short else ""
        return (f"about {' + '.join(said)}; " if said else "nothing to add; ") + left + warning

    def _time(self) -> str:
        if None in self.weights.values():
            return "not measured while weights are missing"
        if not self.seconds:
            return "each epoch says what is left; --dry-run measures a few steps"
        known = [(stage.all_steps, self.seconds[stage.task]) for stage in self.stages if stage.trains]
        each = ", ".join(f"{task} {second:.2g} s" for task, second in self.seconds.items())
        total = sum(steps * second for steps, second in known if steps is not None)
        return f"about {duration(total)} of training, without validation (a step: {each})"


def size_text(size: int) -> str:
    """Return bytes as people say them.

    >>> size_text(400_000), size_text(39_000_000), size_text(3_400_000_000)
    ('0.4 MB', '39 MB', '3.4 GB')
    """
    unit, scale = ("TB", 1e12) if size >= 1e12 else ("GB", 1e9) if size >= 1e9 else ("MB", 1e6)
    return f"{size / scale:.{1 if size < 10 * scale else 0}f} {unit}"
