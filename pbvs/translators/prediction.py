"""Stream a split's images through a translator: decode, translate, quantise and encode, with flat memory."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pbvs.data.images import resize, to_uint8, to_uint16, write_png, write_png16
from pbvs.data.manifest import Pair
from pbvs.errors import PbvsError
from pbvs.logs import track
from pbvs.parallel import ahead
from pbvs.translators.base import ImageArray, Translator

A = TypeVar("A")


@dataclass
class Outcome:
    """What came of a stream: images written, the seconds that took, and the sentences of those that failed."""

    images: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


def predict_pairs(
    translator: Translator,
    pairs: Sequence[Pair],
    read: Callable[[Pair], ImageArray],
    target: Callable[[Pair], Path],
    *,
    size: int | None,
    what: str,
    jobs: int = 1,
    batch: int = 8,
    dtype: str = "uint8",
    scale: int = 1,
) -> Outcome:
    """Translate each pair's input and write it as a PNG of 8 bits, or 16 where `dtype` says so, at `target(pair)`.

    `size` is the side of the square that the challenge evaluates, None for `scale` times the input's own. Images that
    cannot be read are reported in the outcome and the rest goes on. `jobs` threads decode and encode; at most a few
    batches are in memory at a time.
    """
    outcome = Outcome()
    start = time.perf_counter()
    with ThreadPoolExecutor(jobs) as readers, ThreadPoolExecutor(jobs) as writers:
        pending: deque[Future[None]] = deque()
        stream = ahead(readers, lambda pair: _try_read(read, pair), pairs, 2 * batch)
        for group in _batches(track(stream, what, total=len(pairs), unit="image"), batch):
            outcome.failures += [result for _, result in group if isinstance(result, str)]
            good = [(pair, result) for pair, result in group if not isinstance(result, str)]
            for (pair, image), made in zip(good, translator.render([image for _, image in good]), strict=True):
                times = 1 if pair.target else scale  # an input with a target is on its target's grid already
                shape = (size, size) if size else (times * image.shape[0], times * image.shape[1])
                pending.append(writers.submit(_write, target(pair), made, shape, dtype))
            while len(pending) > 2 * batch:
                pending.popleft().result()
            outcome.images += len(good)
        for future in pending:
            future.result()
    outcome.seconds = time.perf_counter() - start
    return outcome


def _try_read(read: Callable[[Pair], ImageArray], pair: Pair) -> tuple[Pair, ImageArray | str]:
    try:
        return pair, read(pair)
    except PbvsError as error:
        return pair, str(error)


def _write(path: Path, image: ImageArray, shape: tuple[int, ...], dtype: str) -> None:
    resized = resize(image, *shape)
    if dtype == "uint8":
        write_png(path, to_uint8(resized))
    else:
        write_png16(path, to_uint16(resized))


def _batches(items: Iterator[A], size: int) -> Iterator[list[A]]:
    group: list[A] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
