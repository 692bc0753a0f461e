"""The loop that any method trains in: steps, averages, logs, validates, saves, and goes on where it was killed."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pbvs import aliases
from pbvs.devices import world_size
from pbvs.errors import PbvsError
from pbvs.files import sweep
from pbvs.logs import meter, say
from pbvs.run import STATE
from pbvs.training import checkpoint, distributed
from pbvs.training.step import Batch, BatchPlan, Chips, Feed, Schedule, TrainingStep, batches
from pbvs.training.validation import VALIDATION, Log, epoch_line, write_curves

DIVERGED = 20.0  # times the lowest epoch's loss
PAIRS = "pairs"  # the part of a state's identity that earlier versions did not write
PARTED = 1.05  # times the lowest distance by a network that no loss has seen
Validation = Mapping[str, float | None]


@dataclass(frozen=True)
class Settings:
    """How a method is trained; nothing here changes what a step computes except batch, accumulate and schedule."""

    schedule: Schedule
    batch_size: int = 1
    accumulate: int = 1
    ema_decay: float = 0.999
    validate_every: int = 1
    patience: int = 0
    save_minutes: float = 10.0
    keep: str = "best"
    feed: Feed = field(default_factory=Feed)
    identity: Mapping[str, Any] = field(default_factory=dict)  # what a state must agree on to be gone on with
    free: frozenset[str] = frozenset()  # settings of the stage that may differ; versions up to 0.1 noted some
    choice: str = ""  # digest of how epochs are compared
    lpips_net: str = ""  # of the protocol by which they are
    trained: int = 0  # epochs of the finished model that this goes on from; states of 0.1 do not say
    higher_is_better: bool = False  # the validation's score
    ahead: float = 0.0  # work of the recipe's later stages, in trainings of this one


class Trainer:
    """Trains `method` on `chips`, keeping all in `folder`.

    `validate(network, epoch)` returns the `validation.NAMES` of the held-out pairs; `publish(network, metadata)` is
    called whenever a network is the one to keep; `kept()` returns the one that was kept last.
    """

    def __init__(
        self,
        method: TrainingStep,
        chips: Chips,
        folder: Path,
        settings: Settings,
        *,
        what: str = "training",
        validate: Callable[[nn.Module, int], Validation] | None = None,
        publish: Callable[[nn.Module, Mapping[str, Any]], None] | None = None,
        kept: Callable[[], nn.Module] | None = None,
    ):
        self.method, self.chips, self.folder, self.settings = method, chips, folder, settings
        self.what, self.validate, self.publish, self.kept = what, validate, publish, kept
        self.schedule = settings.schedule
        self.plan = BatchPlan(len(chips), settings.batch_size, settings.accumulate, world_size())
        self.average = Average(method.network, settings.ema_decay)
        self.progress = checkpoint.Progress()
        self.sums = torch.zeros(len(method.losses), dtype=torch.float64, device=settings.feed.device)
        self._saved_at, self._saved_step = time.monotonic(), 0
        self._began: tuple[float, int] | None = None  # the clock and the step when this process began

    @property
    def last_step(self) -> int:
        """The step after which training ends."""
        return self.schedule.epochs * self.plan.steps

    def run(self) -> None:
        """Train to the end of the schedule, or go on from the state in the folder.

        Raises PbvsError when a loss is no number any more or has grown beyond reason; the last good state is kept.
        """
        self.restore()
        if self.done():
            if self.last_step == 0:  # no epochs: the first weights are the model, an imported checkpoint used as it is
                self._publish({"epoch": 0, "step": 0, "validation": {}})
            return
        log = Log(self.folder, self.progress.step, self.method.losses) if distributed.is_main() else None
        try:
            self._train(log)
        except KeyboardInterrupt:
            if log is not None:
                say(f"{self.what}: stopped at step {self.progress.step}; it will go on from step {self._saved_step}.")
            raise
        if log is not None:
            log.close()

    def _train(self, log: Log | None) -> None:
        started = time.monotonic() - self.progress.seconds
        self._began = time.monotonic(), self.progress.step
        with meter(self.what, self.last_step, self.progress.step) as bar:
            for batch in self._steps():
                losses = self._step(batch)
                self.progress.seconds = time.monotonic() - started
                bar.advance(1, self.plan.per_step, partial(self._describe, losses))
                if self.progress.step % self.plan.steps == 0:
                    self._end_epoch(log)
                    if self.done():
                        break
                elif time.monotonic() - self._saved_at >= self.settings.save_minutes * 60:
                    self.save()

    def done(self) -> bool:
        """Return whether the schedule is at its end or validation stopped improving long ago."""
        patience = self.settings.patience
        stopped = bool(patience) and self.progress.stale >= patience
        return self.progress.step >= self.last_step or stopped

    def _steps(self) -> Iterator[list[Batch]]:
        settings, first = self.settings, self.progress.step
        self.method.begin_epoch(first // self.plan.steps + 1)
        collected: list[Batch] = []
        for batch in batches(self.chips, self.plan, first, self.last_step, settings.feed):
            collected.append(batch)
            if len(collected) == settings.accumulate:
                yield collected
                collected = []

    def _step(self, micro: list[Batch]) -> Tensor:
        """Take one optimiser step and return its losses, (number of losses,) float64."""
        epoch = self.progress.step // self.plan.steps + 1
        found = torch.zeros_like(self.sums)
        for number, batch in enumerate(micro, 1):
            losses = self.method.accumulate(batch, 1 / len(micro), last=number == len(micro))
            found += torch.stack([losses[name].double() for name in self.method.losses]) / len(micro)
        self.sums += found
        if self.settings.feed.device == "cpu":
            self._check_finite()
        self.method.step(self.schedule.at(epoch))
        self.progress.step += 1
        self.average.update(self.progress.step)
        return found

    def _end_epoch(self, log: Log | None) -> None:
        self._check_finite()
        epoch = self.progress.step // self.plan.steps
        sums = distributed.total(self.sums.cpu().clone()) / self.plan.steps / self.plan.processes
        means = dict(zip(self.method.losses, sums.tolist(), strict=True))
        self._check_divergence(means[self.method.losses[0]])
        ends = self.progress.step >= self.last_step
        validation: Validation = {}
        if self.validate is not None and (ends or epoch % self.settings.validate_every == 0):
            validation = self.validate(self.average.network, epoch)
        self._judge(validation, epoch)
        if log is not None:
            row = {"epoch": epoch, "step": self.progress.step, "seconds": round(self.progress.seconds, 3)}
            measured = {f"val_{name}": value for name, value in validation.items()}
            log.add({**row, "learning_rate": self.schedule.at(epoch), **means, **measured})
            names = (*self.method.losses, *VALIDATION, "learning_rate")
            write_curves(self.folder / "curves.png", {name: log.column(name) for name in names})
            say(self._line(epoch, means[self.method.losses[0]], validation.get("score")))
        self.sums.zero_()
        self.save()
        if not ends:
            self.method.begin_epoch(epoch + 1)

    def _judge(self, validation: Validation, epoch: int) -> None:
        """Keep the network when it is the best so far, or simply the last where nothing can be compared."""
        score, progress = validation.get("score"), self.progress
        self._watch(validation, epoch)
        metadata = {"epoch": epoch, "step": progress.step, "validation": dict(validation), "parted": progress.parted}
        if score is None:
            if progress.best_score is None or self.settings.keep == "last":
                self._publish(metadata)
            return
        sign = -1 if self.settings.higher_is_better else 1
        better = progress.best_score is None or sign * score < sign * progress.best_score
        progress.stale = 0 if better else progress.stale + 1
        if better:
            progress.best_score, progress.best_step = score, progress.step
        if better or self.settings.keep == "last":
            self._publish(metadata)

    def _watch(self, validation: Validation, epoch: int) -> None:
        """Warn when the score is the best so far and a network that no loss has seen says that images got worse."""
        unseen, lowest, score = validation.get("unseen"), self.progress.lowest_unseen, validation.get("score")
        if unseen is None:
            return
        self.progress.lowest_unseen = unseen if lowest is None else min(unseen, lowest)
        best = self.progress.best_score
        if best is None or score is None or not lowest:
            return
        improves = score > best if self.settings.higher_is_better else score < best
        self.progress.parted = unseen > PARTED * lowest if improves else self.progress.parted
        if improves and self.progress.parted and distributed.is_main():
            say(
                f"{self.what}: epoch {epoch} scores best, but to a net that it is not trained on it is "
                f"{unseen / lowest - 1:.0%} further from the targets than before; the images may only please the loss."
            )

    def _line(self, epoch: int, loss: float, score: float | None) -> str:
        progress = self.progress
        best = None if progress.best_score is None else (progress.best_score, progress.best_step // self.plan.steps)
        began, first = self._began or (time.monotonic(), progress.step)
        second = (time.monotonic() - began) / max(1, progress.step - first)  # of one step, validation included
        left = second * (self.last_step - progress.step)
        in_all = left + second * self.last_step * self.settings.ahead
        return epoch_line(self.what, (epoch, self.schedule.epochs), progress.step, loss, score, best, left, in_all)

    def _publish(self, metadata: Mapping[str, Any]) -> None:
        if self.publish is not None and distributed.is_main():
            self.publish(self.average.network, metadata)

    def _check_finite(self) -> None:
        sums = self.sums.tolist()
        for name, value in zip(self.method.losses, sums, strict=True):
            if not math.isfinite(value):
                raise PbvsError(
                    f"{self.what} stopped at step {self.progress.step + 1}: the loss {name} is not a number any more. "
                    f"The last good state and model are kept in {self.folder}; lower learning_rate, or set "
                    'precision = "fp32", and start again.'
                )

    def _check_divergence(self, watched: float) -> None:
        lowest = self.progress.lowest
        if lowest is not None and watched > DIVERGED * max(lowest, 1e-3):
            raise PbvsError(
                f"{self.what} diverged: the mean loss rose from {lowest:.4g} to {watched:.4g}. The last good state and "
                f"model are kept in {self.folder}; lower learning_rate and start again."
            )
        self.progress.lowest = watched if lowest is None else min(lowest, watched)

    def _describe(self, losses: Tensor) -> str:
        epoch = min(self.schedule.epochs, (self.progress.step - 1) // self.plan.steps + 1)
        values = dict(zip(self.method.losses, losses.tolist(), strict=True))
        shown = " ".join(f"{name[:4]} {value:.3g}" for name, value in values.items() if value)
        return f"epoch {epoch}/{self.schedule.epochs} rate {self.schedule.at(epoch):.2g} {shown}"

    def save(self) -> None:
        """Write the whole state, unless a loss is no number."""
        self._check_finite()
        self._saved_at, self._saved_step = time.monotonic(), self.progress.step
        self.progress.per_step = self.plan.per_step
        if not distributed.is_main():
            return
        tensors = self._tensors() | checkpoint.optimizer_tensors(self.method.optimizers)
        metadata: dict[str, Any] = {"progress": asdict(self.progress)}
        metadata |= {"identity": dict(self.settings.identity), "choice": self.settings.choice}
        metadata |= {"ends": [*self.schedule.ends, self.schedule.epochs], "lpips_net": self.settings.lpips_net}
        checkpoint.write_tensors(self.folder / STATE, tensors, metadata)

    def _tensors(self) -> dict[str, Tensor]:
        """Return what every state holds beside the optimisers' moments."""
        tensors = {**checkpoint.module_tensors(self.method.modules), "sums": self.sums}
        if self.average.decay:
            tensors |= checkpoint.module_tensors({"network": self.average.network}, "average")
        return tensors

    def restore(self) -> None:
        """Go back to the state in the folder, if there is one; a state of another model or data is put aside.

        Raises PbvsError for a damaged state, one of other processes, and one that is further than is asked for.
        """
        path = self.folder / STATE
        if distributed.is_main():
            sweep(self.folder)
        distributed.barrier()
        if not path.is_file():
            return
        tensors, metadata = checkpoint.read_tensors(path)
        if not self._is_ours(metadata.get("identity")):
            self._put_aside(path)
            return
        progress = checkpoint.check_state(path, tensors, metadata, self._tensors())
        if progress.per_step not in (0, self.plan.per_step):
            raise PbvsError(
                f"{self.what} took {progress.per_step} samples a step until step {progress.step}, and would now take "
                f"{self.plan.per_step}; start as many processes as before, or train it again with --retrain."
            )
        self.progress, self._saved_step = progress, progress.step
        self._continue(metadata.get("ends") or [self.settings.trained or self.schedule.epochs])
        checkpoint.restore_modules(self.method.modules, tensors)
        checkpoint.restore_optimizers(self.method.optimizers, tensors, path)
        if self.average.decay:
            checkpoint.restore_modules({"network": self.average.network}, tensors, "average")
        self.sums.copy_(tensors["sums"])
        say(f"{self.what}: going on after step {self.progress.step} of {self.last_step}")
        if metadata.get("choice", self.settings.choice) != self.settings.choice:
            other = "validates on other images or by another measure; scores of before do not compare"
            if PAIRS in self.settings.identity and PAIRS not in metadata["identity"]:
                other = "begun by a version that did not note which images it validates on; measures the model again"
            say(f"{self.what}: {other}")
            self._choose_again()

    def _is_ours(self, identity: Any) -> bool:
        stage = identity.get("stage") if isinstance(identity, dict) else None
        if isinstance(stage, dict):
            stage = {k: v for k, v in stage.items() if k not in self.settings.free}
            identity = {PAIRS: self.settings.identity[PAIRS], **identity, "stage": stage}
        return bool(aliases.stored(identity) == aliases.stored(self.settings.identity))

    def _continue(self, ends: list[int]) -> None:
        """Go on from trainings that ended, or were to end, at these epochs; raise PbvsError for fewer of them."""
        planned, epochs, reached = ends[-1], self.schedule.epochs, -(-self.progress.step // self.plan.steps)
        if epochs < (least := planned if self.schedule.whole else reached):
            raise PbvsError(
                f"{self.what} is at epoch {reached} of {planned}, and the recipe asks for {epochs} in all; ask for "
                f"{least} or more, or train in another --run."
            )
        if epochs > planned:
            self.progress.stale = 0
            say(f"{self.what}: goes on from epoch {reached} to {epochs}; {planned} were asked for before")
        self.schedule = replace(self.schedule, ends=tuple(ends if epochs > planned else ends[:-1]))

    def _choose_again(self) -> None:
        """Measure the kept network as epochs are compared now, so that only a better one takes its place."""
        progress, last = self.progress, self.settings.keep == "last"
        if last or progress.best_score is None:
            progress.best_step = progress.step
        epoch = progress.best_step // self.plan.steps
        network = self.average.network if last or self.kept is None else self.kept()
        validation = self.validate(network, epoch) if self.validate else {}
        progress.best_score, progress.lowest_unseen = validation.get("score"), validation.get("unseen")
        if last:
            self._publish({"epoch": epoch, "step": progress.step, "validation": dict(validation), "parted": False})

    def _put_aside(self, path: Path) -> None:
        distributed.barrier()
        if distributed.is_main():
            aside = path.with_name("superseded.safetensors")
            path.replace(aside)
            say(f"{self.what}: the state found was trained from other data or settings; it is now {aside.name}")
        distributed.barrier()


# --- The moving average of a network's weights, which validates and translates better than the last step's.


class Average:
    """average <- decay * average + (1 - decay) * weights after every step.

    The decay rises to its value as (1 + step) / (10 + step), so that early weights are soon forgotten. With decay 0
    the network itself is used.
    """

    def __init__(self, network: nn.Module, decay: float):
        self.decay = decay
        self.source = network
        self.network = copy.deepcopy(network).requires_grad_(False) if decay else network

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` steps."""
        if not self.decay:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        for average, weight in zip(self.network.parameters(), self.source.parameters(), strict=True):
            average.lerp_(weight, 1 - decay)
