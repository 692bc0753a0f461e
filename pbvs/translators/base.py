"""What every method of translation can do: fit, translate, save and load."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from pbvs.challenge import Task
from pbvs.data.align import Input
from pbvs.data.images import resampled, resize, rows_of, to_uint8, to_uint16, write_parts, write_png16
from pbvs.data.manifest import Pair
from pbvs.devices import ROOM, ahead
from pbvs.errors import PbvsError
from pbvs.logs import track
from pbvs.recipe import Recipe, Stage

ImageArray = NDArray[np.float32]


@dataclass(frozen=True)
class FitContext:
    """What a stage learns from, and where it may keep what it needs to go on after an interruption."""

    recipe: Recipe
    root: Path  # data root that the pairs' paths are relative to
    train: Sequence[Pair]
    val: Sequence[Pair]  # pairs with targets, of held-out locations
    folder: Path  # the stage's own folder, models/<task>
    cache: Path  # prepared chips, shared by all runs
    initial: Path | None = None  # model folder of the stage to start from
    weights: Path | None = None  # where the frozen trunks lie
    device: str = "cpu"
    jobs: int = 1  # processes that prepare and load data
    trained: int = 0  # epochs of the finished model that training goes on from; 0: it begins, or goes on after a stop
    ahead: float = 0.0  # pixels that the stages after this one will learn from, for the time left


class Translator(ABC):
    """A method for one task; `parts` are the loaded translators of the stages it requires."""

    method: ClassVar[str]
    learns: ClassVar[bool] = True  # whether `fit` looks at pairs; otherwise new data do not make its model old
    uses_device: ClassVar[bool] = True  # whether it needs torch and a device

    def __init__(self, task: Task, stage: Stage, parts: Mapping[str, Translator] | None = None, device: str = "cpu"):
        self.task = task
        self.stage = stage
        self.parts = dict(parts or {})
        self.device = device

    @abstractmethod
    def fit(self, context: FitContext) -> None:
        """Learn from pairs; called again after an interruption it goes on where it stopped."""

    @abstractmethod
    def render(self, images: Sequence[ImageArray]) -> list[ImageArray]:
        """Translate (H, W, C_source) float32 images in [0, 1] to (H', W', C_target), at the sizes that suit the method.

        Whoever wants another size resamples this once, instead of what was resampled already.
        """

    def translate(self, images: Sequence[ImageArray]) -> list[ImageArray]:
        """Translate (H, W, C_source) float32 images in [0, 1] to (H, W, C_target) of the same height and width."""
        made = self.render(images)
        return [resize(result, *image.shape[:2]) for result, image in zip(made, images, strict=True)]

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) that `render` resamples an input of this size to, so that it may be read so."""
        if not (table := self.input_grid):
            return height, width
        from pbvs.translators.inference import Grid  # which imports torch

        grid = Grid(**table)
        size = grid.size(height, width)
        return size if grid.size(*size) == size else (height, width)  # or it would be resampled twice

    @property
    def input_grid(self) -> dict[str, Any] | None:
        """What inputs are brought to before they are translated (`inference.Grid`); None: inputs stay as they are."""
        return None

    @property
    def training(self) -> dict[str, Any]:
        """What a finished training is known by: `epoch`, `chosen_on`, `parted`, `ends`; {} where nothing learns."""
        return {}

    def disk(self) -> int:
        """Return about how many bytes training leaves in the model's folder; 0 where that is next to nothing."""
        return 0

    def measure(self, context: FitContext) -> float:
        """Return the seconds that a step of training takes here, measured on a few; nothing is written or kept."""
        return 0.0

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write all that `load` needs into `folder`."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read what `save` wrote; raise PbvsError when it is missing, damaged or of another architecture."""


# --- Stream a split's images through a translator: decode, translate, quantise and encode, with flat memory.

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
    read: Callable[[Pair], Input],
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
    with (
        ThreadPoolExecutor(jobs) as readers,
        ThreadPoolExecutor(jobs) as writers,
        closing(ahead(readers, lambda pair: _try_read(read, pair), pairs, 2 * batch, _bytes)) as stream,
    ):
        pending: deque[Future[None]] = deque()
        for group in _batches(track(stream, what, total=len(pairs), unit="image"), batch, _bytes):
            outcome.failures += [reason for _, _, reason in group if reason]
            good = [(pair, images.pop()) for pair, images, _ in group if images]
            results = translator.render([image.pixels for _, image in good])
            sizes = [(pair, image.height, image.width) for pair, image in good]
            del good  # a large input is not kept while its result is written
            for (pair, height, width), made in zip(sizes, results, strict=True):
                times = 1 if pair.target else scale  # an input with a target is on its target's grid already
                shape = (size, size) if size else (times * height, times * width)
                taken = max(made.nbytes, 4 * shape[0] * shape[1] * made.shape[2])
                pending.append(writers.submit(_write, target(pair), made, shape, dtype))
                while len(pending) > min(2 * batch, ROOM // max(1, taken)):
                    pending.popleft().result()
            outcome.images += len(sizes)
        for future in pending:
            future.result()
    outcome.seconds = time.perf_counter() - start
    return outcome


_Read = tuple[Pair, list[Input], str]  # with the image in a list that it is taken out of, or the reason why not


def _try_read(read: Callable[[Pair], Input], pair: Pair) -> _Read:
    try:
        return pair, [read(pair)], ""
    except PbvsError as error:
        return pair, [], str(error)


def _bytes(read: _Read) -> int:
    return sum(image.pixels.nbytes for image in read[1])


def _write(path: Path, image: ImageArray, shape: tuple[int, int], dtype: str) -> None:
    """Write an image at a size, some rows or columns at a time, so that of a large one little is in memory."""
    quantise: Callable[[ImageArray], NDArray[Any]] = to_uint8 if dtype == "uint8" else to_uint16
    parts = ((index, quantise(part)) for index, part in resampled(rows_of(image), image.shape, *shape))
    if dtype == "uint8":
        write_parts(path, (*shape, image.shape[2]), parts)
        return
    pixels = np.empty((*shape, image.shape[2]), np.uint16)
    for index, part in parts:
        pixels[index] = part
    write_png16(path, pixels)


def _batches(items: Iterator[A], size: int, weigh: Callable[[A], int]) -> Iterator[list[A]]:
    group: list[A] = []
    for item in items:
        group.append(item)
        if len(group) == size or sum(map(weigh, group)) >= ROOM:
            yield group
            group = []
    if group:
        yield group
