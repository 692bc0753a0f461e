"""What scoring has already made of a target, kept on disk: its pixels at the evaluation size and its features.

An entry is found by a digest of everything it follows from (the file and its state, the rules, the network), so one
that is out of date is never read. Features lie in [0, 1] and are kept as 16-bit fixed point: half the disk, and the
scores stay the same to far less than 1e-6. The disk is not waited for, which would take longer than the features
themselves; each entry has a sum of its bytes, and one that a power failure damaged is made again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pbvs.challenge import get_task
from pbvs.data.align import open_target
from pbvs.data.manifest import Pair
from pbvs.errors import PbvsError
from pbvs.evaluation.material import target_pixels
from pbvs.files import atomic_path, digest, inside, sweep
from pbvs.recipe import Radiometry

FORMAT = 4  # raise when what an entry holds changes
STEPS = 32767.0
LARGEST = 64 << 20  # bytes of one entry's features beyond which making them again is as quick as reading them
CAPACITY = 8 << 30  # bytes that the folder may hold
WAITING = 64  # entries that may wait to be written
SUM = "sum"


class TargetStore:
    """A folder of entries, one file for each target and kind; without a folder nothing is kept."""

    def __init__(self, folder: Path | None, capacity: int = CAPACITY):
        self.folder = folder
        if folder:
            sweep(folder)
        self.room = capacity - _size_of(folder) if folder else 0
        self._writer = ThreadPoolExecutor(1)
        self._pending: list[Future[None]] = []

    def get(self, kind: str, key: str) -> list[Tensor] | None:
        """Return an entry's tensors, or None when there is none that is whole."""
        if self.folder is None:
            return None
        try:
            entry = np.load(self._path(kind, key), allow_pickle=False)
            tensors = [torch.from_numpy(entry[name]) for name in entry.dtype.names[1:]]
            whole = int(entry[SUM]) == sum_of(tensors)
        except Exception:  # missing or damaged: made again and written again
            return None
        return tensors if whole else None

    def put(self, kind: str, key: str, make: Callable[[], Sequence[Tensor]]) -> None:
        """Make and write an entry in the background, unless the folder is full."""
        self._pending = [future for future in self._pending if not future.done()]
        if self.folder is not None and self.room > 0 and len(self._pending) < WAITING:
            self._pending.append(self._writer.submit(self._write, self._path(kind, key), make))

    def close(self) -> None:
        """Wait until everything is written."""
        self._writer.shutdown()

    def _path(self, kind: str, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key}.{kind}.npy"

    def _write(self, path: Path, make: Callable[[], Sequence[Tensor]]) -> None:
        entry = _record(make())
        if entry.nbytes > min(LARGEST, self.room):
            return
        self.room -= entry.nbytes
        with contextlib.suppress(PbvsError), atomic_path(path, durable=False) as part, part.open("wb") as file:
            np.save(file, entry, allow_pickle=False)  # a full disk costs the cache, not the scores


def _record(tensors: Sequence[Tensor]) -> NDArray[np.void]:
    """Return tensors and their sum as one record: read at once, and quicker than from several."""
    arrays = [tensor.numpy() for tensor in tensors]
    fields = [(str(number), array.dtype, array.shape) for number, array in enumerate(arrays)]
    record = np.zeros((), [(SUM, np.int64), *fields])
    record[SUM] = sum_of(tensors)
    for number, array in enumerate(arrays):
        record[str(number)] = array
    return record


def sum_of(tensors: Iterable[Tensor]) -> int:
    """Return the sum of all bytes, eight at a time, as a signed 64-bit number: no block can turn to zeros unseen."""
    parts = [tensor.contiguous().flatten().view(torch.uint8) for tensor in tensors]
    words = [part[: len(part) // 8 * 8].view(torch.int64).sum() for part in parts]
    rests = [part[len(part) // 8 * 8 :].sum() for part in parts]
    return int(torch.stack(words + rests).sum())


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*/*")) if folder.is_dir() else 0


class Targets:
    """The targets of one task in 8 bits at the evaluation size, read or from the store."""

    def __init__(self, root: Path, radiometry: Radiometry, size: int | None, store: TargetStore):
        self.root = root
        self.radiometry = radiometry
        self.size = size
        self.store = store

    def pixels(self, pair: Pair) -> NDArray[np.uint8]:
        """Return (H, W, C); raises PbvsError when the file is gone or damaged."""
        as_stored = self.size is None and pair.target.lower().endswith(".png")  # decoded as quickly as an entry is
        if self.store.folder is None or as_stored:
            return target_pixels(open_target(pair, self.root, self.radiometry), self.size)
        key = self.key(pair)
        known = self.store.get("pixels", key)
        if known is not None:
            return known[0].numpy()
        pixels = target_pixels(open_target(pair, self.root, self.radiometry), self.size)
        self.store.put("pixels", key, lambda: [torch.from_numpy(pixels)])
        return pixels

    def key(self, pair: Pair) -> str:
        """Return the digest of all that the pixels follow from; raises PbvsError when the file is gone."""
        return target_key(pair, self.root, self.radiometry, self.size)


def target_key(pair: Pair, root: Path, radiometry: Radiometry, size: int | None) -> str:
    """Return the digest of all that a target's pixels follow from; raises PbvsError when its file is gone."""
    files = [pair.target, pair.source] if pair.alignment == "georeference" else [pair.target]
    return digest(
        {
            "format": FORMAT,
            "files": [_state(inside(root, name)) for name in files],
            "rule": [pair.target_rule, radiometry.model_dump(mode="json"), get_task(pair.task).target],
            "alignment": pair.alignment,
            "size": size,
        }
    )


def _state(path: Path) -> list[Any]:
    try:
        state = path.stat()
    except OSError:
        raise PbvsError(f"There is no image {path}; run `pbvs build-pairs` again if the data have moved.") from None
    return [os.fspath(path.resolve()), state.st_size, state.st_mtime_ns]


def to_fixed(features: Sequence[Tensor]) -> list[Tensor]:
    """Return features in [0, 1], (C, H, W), as 16-bit fixed point, channels last as the network has them in memory."""
    # Nothing is negative, so that half a step more and what is below a whole one less is rounding.
    half = torch.tensor(0.5)
    return [torch.add(half, tap.permute(1, 2, 0), alpha=STEPS).to(torch.int16).cpu() for tap in features]


def from_fixed(entry: Sequence[Tensor], device: str) -> list[Tensor]:
    """Return what `to_fixed` was given, to 1.6e-5."""
    return [tap.to(device).to(torch.float32).div_(STEPS).permute(2, 0, 1) for tap in entry]
