"""The loop over pictures: threads read, the networks see batches of one size, every picture keeps its own numbers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pbvs.data.manifest import Pair
from pbvs.networks.lpips import Lpips
from pbvs.progress import track
from pbvs.scoring.material import Loaded, Pixels, Task, load
from pbvs.scoring.perceptual import lpips_pairs
from pbvs.scoring.pixel import pixel_errors
from pbvs.scoring.protocol import Protocol

BATCH_PIXELS = 16 * 256 * 256  # pictures of one batch have together at most so many, or there is one picture


@dataclass
class Row:
    """One pair's numbers, or why there are none."""

    pair: Pair
    prediction: str
    status: str = "ok"
    reason: str = ""
    l1: float | None = None
    mse: float | None = None
    rmse: float | None = None
    lpips: float | None = None


class Engine:
    """A protocol with its network, ready to score tasks."""

    def __init__(self, protocol: Protocol, weights: Path | None, device: str = "cpu", jobs: int = 1, batch: int = 16):
        self.protocol = protocol
        self.device = device
        self.jobs = jobs
        self.batch = batch
        self.lpips = Lpips(protocol.lpips_net, weights).to(device)

    def score(self, task: Task, read_target: Callable[[Pair], Pixels]) -> list[Row]:
        """Return a row for each of the task's pairs, in their order."""
        rows: dict[str, Row] = {}
        for group in self._groups(self._loaded(task, read_target)):
            for row in self._compare(task, group):
                rows[row.pair.name] = row
        return [rows[pair.name] for pair in task.pairs]

    def _loaded(self, task: Task, read_target: Callable[[Pair], Pixels]) -> Iterator[Loaded]:
        with ThreadPoolExecutor(self.jobs) as pool:
            stream = ahead(pool, lambda pair: load(task, pair, self.protocol, read_target), task.pairs, 2 * self.batch)
            yield from track(stream, f"{task.name}: scoring", total=len(task.pairs), unit="image")

    def _groups(self, stream: Iterable[Loaded]) -> Iterator[list[Loaded]]:
        """Gather pictures of one shape into batches; what could not be read goes through alone."""
        waiting: dict[tuple[int, ...], list[Loaded]] = {}
        for item in stream:
            if item.target is None:
                yield [item]
                continue
            height, width, _ = item.target.shape
            group = waiting.setdefault(item.target.shape, [])
            group.append(item)
            if len(group) >= max(1, min(self.batch, BATCH_PIXELS // (height * width))):
                yield waiting.pop(item.target.shape)
        yield from waiting.values()

    def _compare(self, task: Task, group: list[Loaded]) -> Iterator[Row]:
        pairs = [(a.prediction, a.target) for a in group if a.prediction is not None and a.target is not None]
        distances = iter(lpips_pairs(self.lpips, [p for p, _ in pairs], [t for _, t in pairs], self.device))
        for item in group:
            row = Row(item.pair, task.prediction(item.pair).name, item.status, item.reason)
            if item.prediction is not None and item.target is not None:
                errors = pixel_errors(item.prediction, item.target)
                row.l1, row.mse, row.rmse, row.lpips = errors.l1, errors.mse, errors.rmse, next(distances)
            yield row


def ahead(
    pool: ThreadPoolExecutor, work: Callable[[Pair], Loaded], items: Iterable[Pair], count: int
) -> Iterator[Loaded]:
    """Yield `work(item)` in order, with at most `count` results waiting, so that memory stays flat."""
    waiting: deque[Future[Loaded]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) >= count:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
