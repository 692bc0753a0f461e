"""The loop over images: threads read, others judge batches of one size, every image keeps its own numbers.

On a CPU each core judges a batch of its own: two cores that share every convolution wait for each other at its end.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pbvs.data.manifest import Pair
from pbvs.evaluation.material import Loaded, Task, load
from pbvs.evaluation.protocol import Protocol
from pbvs.evaluation.targets import Targets, TargetStore, from_fixed, to_fixed
from pbvs.logs import track
from pbvs.metrics.inception import LAYERS, Inception, load_inception
from pbvs.metrics.lpips import Lpips
from pbvs.metrics.perceptual import Perceptual, Taps, as_tensor, full_precision
from pbvs.metrics.pixel import pixel_errors
from pbvs.metrics.weights import find_or_fetch
from pbvs.parallel import ahead

COMPONENTS = ("l1", "mse", "rmse", "lpips")
BATCH_PIXELS = 16 * 256 * 256  # images of one batch have together at most so many, or there is one image
CORES_BATCH = 8  # images of one batch where each core has its own: more are no quicker
MOST_JUDGES = 8  # batches judged at once; each takes some 200 MB

Layers = list[Tensor]  # one image's Inception features


@dataclass(slots=True)
class Row:
    """One pair's numbers, or why there are none."""

    place: int  # in the order of the task's pairs
    location: str
    status: str = "ok"
    reason: str = ""
    numbers: tuple[float, float, float, float] | None = None  # as in COMPONENTS


class TaskScores:
    """The numbers of a task's pairs in their order, 40 bytes a pair, and why some have none.

    `numbers` is (N, 4) with the columns of COMPONENTS, NaN where there are none; `locations` is where each pair lies;
    `faults` has status and reason by place. For FID, `features` has each scored pair's: (prediction, target) by name.
    """

    def __init__(self, pairs: Sequence[Pair]):
        self.pairs = pairs
        self.numbers = np.full((len(pairs), len(COMPONENTS)), np.nan)
        self.locations = [""] * len(pairs)
        self.faults: dict[int, tuple[str, str]] = {}
        self.features: dict[str, tuple[Layers, Layers]] = {}

    def add(self, row: Row) -> None:
        """Take down one pair's numbers or fault."""
        self.locations[row.place] = sys.intern(row.location)
        if row.numbers is None:
            self.faults[row.place] = row.status, row.reason
        else:
            self.numbers[row.place] = row.numbers

    @property
    def scored(self) -> NDArray[np.int64]:
        """The places of the pairs that have numbers, in order."""
        places = np.ones(len(self.pairs), bool)
        places[list(self.faults)] = False
        return np.flatnonzero(places)

    def sets(self, layer: int) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Return (N, layer) features of predictions and of targets, by name; None with fewer than two images."""
        if len(self.features) < 2:
            return None
        place = LAYERS.index(layer)
        chosen = [self.features[name] for name in sorted(self.features)]
        first, second = (torch.stack([pair[side][place] for pair in chosen]).numpy() for side in (0, 1))
        return first, second


class Engine:
    """A protocol with its networks, ready to score tasks; `store` keeps what targets need, for the next time."""

    def __init__(
        self,
        protocol: Protocol,
        lpips: Lpips,
        inception: Inception | None = None,
        *,
        store: TargetStore | None = None,
        device: str = "cpu",
        jobs: int = 1,
        batch: int = 16,
    ):
        self.protocol = protocol
        self.lpips = lpips
        self.inception = inception.to(device) if inception else None
        self.device = device
        self.jobs = jobs
        self.batch = batch
        self.store = store or TargetStore(None)
        self.perceptual = Perceptual(lpips, device)
        self.judges = min(MOST_JUDGES, torch.get_num_threads()) if device == "cpu" else 1

    def score(self, task: Task, targets: Targets) -> TaskScores:
        """Return the numbers of each of the task's pairs, and the features that FID needs."""
        scores = TaskScores(task.pairs)
        with cores_of_their_own(self.judges), ThreadPoolExecutor(self.judges) as pool:
            groups = self._groups(self._loaded(task, targets), self._size(len(task.pairs)))
            for found, features in ahead(pool, self._judge, groups, 2 * self.judges):
                scores.features.update(features)
                for row in found:
                    scores.add(row)
        return scores

    def _judge(self, group: list[Loaded]) -> tuple[list[Row], dict[str, tuple[Layers, Layers]]]:
        """Return a group's rows and, for FID, its features by name."""
        whole = [item for item in group if item.target is not None]
        values = self._distances(whole)
        rows = [_row(item, values.get(item.pair.name)) for item in group]
        return rows, self._gather(self.inception, whole) if self.inception else {}

    def _size(self, count: int) -> int:
        """Return how many images a batch has: a multiple of `judges` batches, so that none is left to one core."""
        if self.judges == 1:
            return self.batch
        rounds = -(-count // (self.judges * min(self.batch, CORES_BATCH)))
        return -(-count // (self.judges * max(1, rounds)))

    def _loaded(self, task: Task, targets: Targets) -> Iterator[Loaded]:
        """Read pairs ahead in threads, with what the store knows of their targets."""

        def read(numbered: tuple[int, Pair]) -> Loaded:
            """Read one pair."""
            place, pair = numbered
            item = load(task, pair, self.protocol, targets.pixels)
            item.place = place
            if item.target is not None and self.store.folder is not None:
                item.key = targets.key(pair)
                item.taps = None if item.equal else self.store.get(self._kind("lpips"), item.key)
                item.layers = self.store.get(self._kind("fid"), item.key) if self.inception else None
            return item

        with ThreadPoolExecutor(self.jobs) as pool:
            stream = ahead(pool, read, enumerate(task.pairs), self.batch + self.jobs)
            yield from track(stream, f"{task.name}: scoring", total=len(task.pairs), unit="image")

    def _kind(self, what: str) -> str:
        network = self.perceptual.digest if what == "lpips" or self.inception is None else self.inception.digest
        return f"{what}-{network[:16]}"

    def _groups(self, stream: Iterable[Loaded], size: int) -> Iterator[list[Loaded]]:
        """Gather images of one shape into batches; what could not be read goes through alone."""
        waiting: dict[tuple[int, ...], list[Loaded]] = {}
        for item in stream:
            if item.target is None:
                yield [item]
                continue
            height, width, _ = item.target.shape
            group = waiting.setdefault(item.target.shape, [])
            group.append(item)
            if len(group) >= max(1, min(size, BATCH_PIXELS // (height * width))):
                yield waiting.pop(item.target.shape)
        yield from waiting.values()

    def _distances(self, group: list[Loaded]) -> dict[str, float]:
        """Return LPIPS by name: 0 for equal images, one pass of the network for all others and new targets."""
        values = {item.pair.name: 0.0 for item in group if item.equal}
        others = [item for item in group if not item.equal]
        new = {item.key or item.pair.name: item for item in others if item.taps is None}
        images = [item.prediction for item in others] + [item.target for item in new.values()]
        taps = self.perceptual.taps([image for image in images if image is not None])
        made: dict[str, Taps] = dict(zip(new, taps[len(others) :], strict=True))
        for key, found in made.items():
            self.store.put(self._kind("lpips"), key, partial(to_fixed, found))
        for item, found in zip(others, taps, strict=False):
            known = made.get(item.key or item.pair.name)
            against = known if known is not None else from_fixed(item.taps or [], self.device)
            values[item.pair.name] = self.perceptual.distance(found, against)
        return values

    @torch.inference_mode()
    def _gather(self, inception: Inception, group: list[Loaded]) -> dict[str, tuple[Layers, Layers]]:
        """Return Inception's features of a group by name; an equal image has its target's, to the bit."""
        new = {item.key or item.pair.name: item for item in group if item.layers is None}
        others = [item for item in group if not item.equal]
        images = [item.prediction for item in others] + [item.target for item in new.values()]
        found = self._layers(inception, [image for image in images if image is not None])
        made = dict(zip(new, found[len(others) :], strict=True))
        for key, layers in made.items():
            self.store.put(self._kind("fid"), key, partial(list, layers))
        predicted = {item.pair.name: layers for item, layers in zip(others, found, strict=False)}
        targets = {item.pair.name: item.layers or made[item.key or item.pair.name] for item in group}
        return {name: (predicted.get(name, target), target) for name, target in targets.items()}

    def _layers(self, inception: Inception, images: list[NDArray[np.uint8]]) -> list[Layers]:
        if not images:
            return []
        values = (as_tensor(images, self.device) + 1.0).mul_(127.5).round_()
        with full_precision(self.device):
            layers = inception(values)
        return [[layers[layer][n].cpu() for layer in LAYERS] for n in range(len(images))]


def _row(item: Loaded, distance: float | None) -> Row:
    row = Row(item.place, item.pair.location, item.status, item.reason)
    if item.prediction is not None and item.target is not None and distance is not None:
        errors = pixel_errors(item.prediction, item.target)
        row.numbers = errors.l1, errors.mse, errors.rmse, distance
    return row


def make_engine(
    protocol: Protocol,
    weights: Path | None,
    *,
    with_fid: bool = False,
    cache: Path | None = None,
    device: str = "cpu",
    jobs: int = 1,
    batch: int = 16,
) -> Engine:
    """Return an engine with its networks loaded; raises PbvsError when weights it needs cannot be had."""
    inception = load_inception(obtain("inception", weights)) if with_fid or protocol.needs_fid else None
    lpips = Lpips(protocol.lpips_net, obtain(protocol.lpips_net, weights))
    store = TargetStore(cache / "targets" if cache else None)
    return Engine(protocol, lpips, inception, store=store, device=device, jobs=jobs, batch=batch)


def obtain(net: str, weights: Path | None) -> Path | None:
    """Return the file of a network's weights, downloaded where that is possible; None for the random one."""
    return None if net == "random" else find_or_fetch(net, weights)


@contextlib.contextmanager
def cores_of_their_own(count: int) -> Iterator[None]:
    """Let each of `count` threads that start inside compute on an equal share of the cores that PyTorch may use."""
    before = torch.get_num_threads()
    if count > 1:
        torch.set_num_threads(max(1, before // count))
    try:
        yield
    finally:
        if count > 1:
            torch.set_num_threads(before)
