"""What a network made of a target, kept on disk, so that the same targets are scored sooner the next time.

An entry is found by a digest of everything that it follows from (the file and its state, the rules, the network), so
one that is out of date is never read. Features are kept as they are, in 32 bits: scores do not change. The disk is not
waited for; a sum in each entry tells one that a power failure damaged, which is then made again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import zlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pbvs.data.manifest import Pair
from pbvs.errors import PbvsError
from pbvs.files import atomic_path, digest, inside, sweep

if TYPE_CHECKING:
    from torch import Tensor

    from pbvs.recipe import Radiometry

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
    """Return a file's path, size and times; raises PbvsError when it is gone."""
    try:
        state = path.stat()
    except OSError:
        raise PbvsError(f"There is no image {path}; run `pbvs build-pairs` again if the data have moved.") from None
    return [os.fspath(path.resolve()), state.st_size, state.st_mtime_ns, state.st_ctime_ns]
