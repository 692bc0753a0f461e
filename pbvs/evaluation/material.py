"""What is scored: each held-out pair's 8-bit prediction as submitted, and its target quantised the same way."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pbvs.challenge import get_task
from pbvs.data.images import read_image, resize, to_uint8
from pbvs.data.manifest import Pair
from pbvs.errors import PbvsError
from pbvs.evaluation.protocol import Protocol
from pbvs.files import visible_names

if TYPE_CHECKING:
    from torch import Tensor

Pixels = NDArray[np.uint8]


class Refused(PbvsError):
    """A prediction that cannot be scored, with a one-word status for the table."""

    def __init__(self, status: str, message: str):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Task:
    """One task's pairs with targets, and where its predictions and targets are."""

    name: str
    pairs: Sequence[Pair]
    predictions: Path
    size: int | None  # side of the square at which it is evaluated; None for the target's own size
    known: Container[str] = frozenset()  # every name of the split, also those without a target

    def prediction(self, pair: Pair) -> Path:
        """Path of the submitted image."""
        return self.predictions / f"{pair.name}.png"


@dataclass
class Unexpected:
    """The files in a predictions folder that no pair asks for: of a name of their own, or of another file's."""

    extra: list[str] = field(default_factory=list)
    duplicate: list[str] = field(default_factory=list)


def unexpected_predictions(task: Task) -> Unexpected:
    """Compare a folder with the expected names."""
    unknown = sorted(name for name in visible_names(task.predictions) if not _is_expected(task, name))
    stems = dict.fromkeys((_stem(name) for name in unknown), 0)
    for name in visible_names(task.predictions) if stems else ():
        if (stem := _stem(name)) in stems:
            stems[stem] += 1
    return Unexpected(
        extra=[name for name in unknown if stems[_stem(name)] == 1],
        duplicate=[name for name in unknown if stems[_stem(name)] > 1],
    )


def _is_expected(task: Task, name: str) -> bool:
    return name.endswith(".png") and name[:-4] in task.known


def _stem(name: str) -> str:
    return Path(name).stem.lower()


def target_pixels(image: NDArray[np.float32], size: int | None) -> Pixels:
    """Bring a target in [0, 1] to the evaluation size and to 8 bits, as predictions are when they are submitted."""
    return to_uint8(image if size is None else resize(image, size, size))


def read_prediction(path: Path, shape: tuple[int, int, int], protocol: Protocol, task: str) -> Pixels:
    """Read a submitted image for a target of `shape` (H, W, C).

    Raises Refused (missing, unreadable, wrong-mode, wrong-size) with a sentence; where the protocol says so, an image
    of another size is resampled instead.
    """
    check_there(path, task)
    try:
        stored = read_image(path)
    except PbvsError as error:
        raise Refused("unreadable", str(error)) from None
    if stored.dtype != np.uint8:
        raise Refused("wrong-mode", f"{path} has {stored.dtype} pixels, not 8 bits; write it as an 8-bit PNG.")
    pixels = _channels(path, stored.astype(np.uint8, copy=False), shape[2])
    if pixels.shape[:2] == shape[:2]:
        return pixels
    if protocol.other_size == "resample":
        return to_uint8(resize(pixels.astype(np.float32) / 255.0, *shape[:2]))
    height, width = pixels.shape[:2]
    raise Refused(
        "wrong-size", f"{path} is {width} x {height}, not {shape[1]} x {shape[0]} as its target; predict it again."
    )


def _channels(path: Path, pixels: Pixels, channels: int) -> Pixels:
    """Return `pixels` with the target's channels: a grey image may be stored as RGB with three equal channels."""
    if pixels.shape[2] == channels:
        return pixels
    if channels == 1 and pixels.shape[2] == 3 and bool((pixels == pixels[:, :, :1]).all()):
        return pixels[:, :, :1]
    raise Refused(
        "wrong-mode", f"{path} has {pixels.shape[2]} channels, not {channels} as its target; write it in that mode."
    )


@dataclass
class Loaded:
    """One pair, ready to be compared, or the reason why it cannot be."""

    pair: Pair
    status: str = "ok"
    reason: str = ""
    prediction: Pixels | None = None
    target: Pixels | None = None
    place: int = 0  # of the pair in its task's order
    key: str = ""  # of the target, in the store
    taps: list[Tensor] | None = None  # the target's LPIPS features, where the store has them
    layers: list[Tensor] | None = None  # the target's Inception features, where the store has them

    @property
    def equal(self) -> bool:
        """Whether the prediction is the target, pixel for pixel."""
        return self.prediction is not None and self.target is not None and np.array_equal(self.prediction, self.target)


def load(task: Task, pair: Pair, protocol: Protocol, read_target: Callable[[Pair], Pixels]) -> Loaded:
    """Read both images of a pair; what a file got wrong is in the status and reason, never raised."""
    path = task.prediction(pair)
    try:
        check_there(path, task.name)
        target = read_target(pair)
        wanted = get_task(task.name).target_channels
        if target.ndim != 3 or target.shape[2] != wanted:
            raise PbvsError(f"The target {pair.target} has shape {target.shape}, not {wanted} channels.")
        return Loaded(pair, prediction=read_prediction(path, target.shape, protocol, task.name), target=target)
    except Refused as error:
        return Loaded(pair, error.status, str(error))
    except PbvsError as error:
        return Loaded(pair, "no-target", str(error))


def check_there(path: Path, task: str) -> None:
    """Raise Refused when there is no prediction."""
    if not path.is_file():
        raise Refused("missing", f"There is no prediction {path}; run `pbvs predict --task {task}`.")
