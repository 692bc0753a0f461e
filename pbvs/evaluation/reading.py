"""What is scored: each held-out pair's prediction as submitted, and its target quantised the same way."""

from __future__ import annotations

import contextlib
import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pbvs.challenge import Task
from pbvs.data.align import open_masked_target
from pbvs.data.images import read_image, resize, to_uint8
from pbvs.data.manifest import Pair
from pbvs.errors import PbvsError, of_data
from pbvs.files import atomic_path, digest, inside, read_error, sweep, visible_names
from pbvs.metrics.base import LEVELS, Array
from pbvs.metrics.protocol import Protocol
from pbvs.recipe import Radiometry

if TYPE_CHECKING:
    from torch import Tensor


Mask = NDArray[np.bool_]


class Refused(PbvsError):
    """A prediction that cannot be scored, with a one-word status for the table."""

    def __init__(self, status: str, message: str):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class TaskToScore:
    """One task's pairs of a split, where its predictions are, and how both are read and compared."""

    name: str
    listed: Sequence[Pair]  # those without a target, too
    predictions: Path
    root: Path
    radiometry: Radiometry
    protocol: Protocol | None = None
    evaluation_size: str = "native"  # the recipe's, where the protocol leaves it to that: challenge or native
    predict: Callable[[Pair], NDArray[np.float32]] | None = None  # makes the prediction instead of reading one

    @cached_property
    def pairs(self) -> Sequence[Pair]:
        """The pairs that have a target."""
        return [pair for pair in self.listed if pair.target]

    @property
    def task(self) -> Task:
        """What the challenge says of the task."""
        return self.radiometry.challenge.task(self.name)

    @property
    def size(self) -> int | None:
        """The side of the square at which it is evaluated; None for the target's own size."""
        rule = self.protocol.evaluation_size if self.protocol else "recipe"
        asked = self.evaluation_size if rule == "recipe" else rule
        return self.task.challenge_size if asked == "challenge" else None

    @property
    def dtype(self) -> str:
        """The type of predictions, to which targets are quantised."""
        return self.radiometry.challenge.outputs.stored

    def prediction(self, pair: Pair) -> Path:
        """Path of the submitted image."""
        return self.predictions / f"{pair.name}.png"

    def read(self, pair: Pair) -> Images:
        """Read both images of a pair; what a file got wrong is in the status and reason.

        Raises ReadError where the disk fails, and for a baseline where the target is gone: it is kept for as long as
        the files are what they were.
        """
        path = self.prediction(pair)
        try:
            if self.predict is None and not path.is_file():
                raise Refused("missing", f"There is no prediction {path}; run `pbvs predict --task {self.name}`.")
            target, valid = self._target(pair)
            return Images(pair, prediction=self._prediction(pair, path, target.shape), target=target, valid=valid)
        except Refused as error:
            return Images(pair, error.status, str(error))
        except PbvsError as error:
            gone = self.predict is None and not inside(self.root, pair.target).exists()
            return Images(pair, "no-target", str(error) if gone else of_data(error))

    def _target(self, pair: Pair) -> tuple[Array, Mask]:
        image, valid = open_masked_target(pair, self.root, self.radiometry)
        wanted = self.task.target_channels
        if image.ndim != 3 or image.shape[2] != wanted:
            raise PbvsError(f"The target {pair.target} has shape {image.shape}, not {wanted} channels.")
        if self.size is not None:
            image = resize(image, self.size, self.size)
            valid = resize(valid[:, :, None].astype(np.float32), self.size, self.size)[:, :, 0] > 0.99
        return quantised(image, self.dtype), valid

    def _prediction(self, pair: Pair, path: Path, shape: tuple[int, ...]) -> Array:
        if self.predict is not None:
            made = self.predict(pair)
            return quantised(made if made.shape[:2] == shape[:2] else resize(made, *shape[:2]), self.dtype)
        try:
            stored = read_image(path)
        except PbvsError as error:
            raise Refused("unreadable", of_data(error)) from None
        if str(stored.dtype) != self.dtype:
            bits = np.dtype(self.dtype).itemsize * 8
            raise Refused("wrong-mode", f"{path} has {stored.dtype} pixels, not {bits} bits; write it as such a PNG.")
        pixels = _with_channels(path, stored, shape[2])
        if pixels.shape[:2] == shape[:2]:
            return pixels
        if self.protocol and self.protocol.other_size == "resample":
            return quantised(resize((pixels / LEVELS[self.dtype]).astype(np.float32), *shape[:2]), self.dtype)
        height, width = pixels.shape[:2]
        raise Refused(
            "wrong-size", f"{path} is {width} x {height}, not {shape[1]} x {shape[0]} as its target; predict it again."
        )


@dataclass(slots=True)
class Images:
    """One pair, ready to be compared, or the reason why it cannot be."""

    pair: Pair
    status: str = "ok"
    reason: str = ""
    prediction: Array | None = None
    target: Array | None = None
    valid: Mask | None = None
    index: int = 0  # in the order of the task's pairs
    key: str = ""  # of the target, in the cache

    @property
    def size(self) -> int:
        """The bytes of its pixels."""
        return sum(part.nbytes for part in (self.prediction, self.target, self.valid) if part is not None)


def quantised(image: NDArray[np.float32], dtype: str) -> Array:
    """Bring an image in [0, 1] to the bits in which predictions are submitted, by rounding."""
    if dtype == "uint8":
        return to_uint8(image)
    return np.rint(image.clip(0, 1) * LEVELS[dtype]).astype(dtype)


def _with_channels(path: Path, pixels: Array, channels: int) -> Array:
    """Return `pixels` with the target's channels: a grey image may be stored as RGB with three equal channels."""
    if pixels.shape[2] == channels:
        return pixels
    if channels == 1 and pixels.shape[2] == 3 and bool((pixels == pixels[:, :, :1]).all()):
        return pixels[:, :, :1]
    raise Refused(
        "wrong-mode", f"{path} has {pixels.shape[2]} channels, not {channels} as its target; write it in that mode."
    )


def unexpected_predictions(task: TaskToScore) -> dict[str, list[str]]:
    """Return the files in a folder of predictions that no pair asks for, by what is wrong with them."""
    names, known = visible_names(task.predictions), {pair.name for pair in task.listed}
    unknown = sorted(name for name in names if not (name.endswith(".png") and name[:-4] in known))
    stems = dict.fromkeys((_stem(name) for name in unknown), 0)
    for name in visible_names(task.predictions) if stems else ():
        if (stem := _stem(name)) in stems:
            stems[stem] += 1
    twice = [name for name in unknown if stems[_stem(name)] > 1]
    extra = [name for name in unknown if stems[_stem(name)] == 1]
    return {"belong to no input": extra, "have the name of another prediction": twice}


def _stem(name: str) -> str:
    return Path(name).stem.lower()


# --- What a network made of a target, kept on disk, so that the same targets are scored sooner the next time.

FORMAT = 6  # raise when what an entry holds changes
LARGEST = 64 << 20  # bytes of one entry beyond which making it again is as quick as reading it
CAPACITY = 4 << 30  # bytes that the folder may hold
SHARE = 4  # at most one part in so many of the disk's free space
SUM = "sum"
WAITING = 16  # entries that may wait to be written


class FeatureCache:
    """A folder of safetensors files, one for each target and network; nothing is written where there is no room."""

    def __init__(self, folder: Path, capacity: int = CAPACITY):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        used = sum(path.stat().st_size for path in folder.glob("*/*"))
        self.room = min(capacity - used, shutil.disk_usage(folder).free // SHARE)
        self._writer = ThreadPoolExecutor(1)
        self._pending: list[Future[None]] = []

    def get(self, network: str, key: str) -> list[Tensor] | None:
        """Return an entry's tensors, or None when there is none that is whole."""
        from safetensors.torch import load

        try:
            found = load(self._path(network, key).read_bytes())  # from memory: reading a file itself, the library leaks
            total = int(found.pop(SUM))
            tensors = [found[str(number)] for number in range(len(found))]
            return tensors if total == sum_of(tensors) else None
        except Exception:  # missing or damaged: made again and written again
            return None

    def put(self, network: str, key: str, features: Sequence[Tensor]) -> None:
        """Write an entry in the background."""
        self._pending = [future for future in self._pending if not future.done()]
        size = sum(tap.numel() * tap.element_size() for tap in features)
        if size <= min(LARGEST, self.room) and len(self._pending) < WAITING:
            self.room -= size
            self._pending.append(self._writer.submit(self._write, self._path(network, key), list(features)))

    def close(self) -> None:
        """Wait until everything is written."""
        self._writer.shutdown()

    def _path(self, network: str, key: str) -> Path:
        name = digest([FORMAT, network, key])
        return self.folder / name[:2] / f"{name}.safetensors"

    def _write(self, path: Path, features: list[Tensor]) -> None:
        import torch
        from safetensors.torch import save

        tensors = {str(number): tap.cpu().contiguous() for number, tap in enumerate(features)}
        data = save({**tensors, SUM: torch.tensor(sum_of(list(tensors.values())))})
        with contextlib.suppress(PbvsError, OSError), atomic_path(path, durable=False) as part:
            part.write_bytes(data)  # a full disk costs the cache, not the scores


def sum_of(tensors: Sequence[Tensor]) -> int:
    """Return the CRC-32 of all bytes."""
    total = 0
    for tensor in tensors:
        total = zlib.crc32(tensor.contiguous().numpy().data, total)
    return total


def target_key(pair: Pair, root: Path, radiometry: Radiometry, size: int | None) -> str:
    """Return the digest of all that a target's pixels follow from; raises PbvsError when its file is gone."""
    files = [pair.target, pair.source] if pair.alignment == "georeference" else [pair.target]
    return digest(
        {
            "files": [file_state(inside(root, name)) for name in files],
            "rule": [pair.target_rule, radiometry.model_dump(mode="json"), radiometry.challenge.task(pair.task).target],
            "alignment": pair.alignment,
            "size": size,
        }
    )


def file_state(path: Path) -> list[Any]:
    """Return a file's path, size and times; raises PbvsError when it is gone, ReadError when the disk fails."""
    try:
        state = path.stat()
    except FileNotFoundError:
        raise PbvsError(f"There is no image {path}; run `pbvs build-pairs` again if the data have moved.") from None
    except OSError as error:
        raise read_error(path, error) from None
    return [os.fspath(path.resolve()), state.st_size, state.st_mtime_ns, state.st_ctime_ns]
