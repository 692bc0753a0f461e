"""Training samples: chips of aligned pairs, chosen, cut and turned by (seed, epoch, index) alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pbvs.data.chips import Array, Prepared, prepare, write_bad_chips
from pbvs.data.images import resize
from pbvs.data.manifest import Pair
from pbvs.data.pairing import days_between
from pbvs.errors import PbvsError
from pbvs.logs import say
from pbvs.recipe import Augmentation, Chips, Radiometry, Sampling
from pbvs.seeds import generator


class Sample(NamedTuple):
    """One chip: uint8 tensors, 0..255, of the same height and width."""

    source: Tensor  # (C_source, S, S)
    target: Tensor  # (C_target, S, S)
    valid: Tensor  # (1, S, S): 255 where both images hold data


class Item(NamedTuple):
    """A chip to draw: a prepared pair and, for windows, where it is cut."""

    prepared: Prepared
    corner: tuple[int, int] | None


class ChipDataset(Dataset[Sample]):
    """Map-style data set; `ds[(epoch, position)]` is a Sample, `len(ds)` the samples of an epoch.

    The order and choice of an epoch come from (seed, epoch), the cut and turn of a sample from (seed, epoch, index of
    its chip): the number of workers and processes changes nothing. With `augmentation=None` (validation) every chip is
    seen in order, cut at its centre.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        root: Path,
        radiometry: Radiometry | None = None,
        chips: Chips | None = None,
        *,
        size: int,
        seed: int,
        augmentation: Augmentation | None = None,
        cache: Path,
        jobs: int = 1,
        sampling: Sampling | None = None,
        backend: str = "loky",
    ) -> None:
        """Prepare the pairs' chips in `cache`; raise PbvsError when none of them can be used."""
        self.size, self.seed, self.augmentation = size, seed, augmentation
        self.sampling = sampling or Sampling(policy="all", pairs_per_location=0)
        known = [pair for pair in pairs if pair.target]
        if not known:
            raise PbvsError("There are no pairs with targets to learn from; run `pbvs build-pairs` and see unused.csv.")
        radiometry = radiometry or Radiometry()
        self.task = radiometry.challenge.task(known[0].task)
        prepared = prepare(known, root, radiometry, chips or Chips(), size, cache, jobs, backend)
        self.bad = [item for item in prepared if item.reason]
        self._report_bad(prepared, cache)
        self.items = _items(prepared)
        self._groups = _group(self.items, by_name=self.task.pairing == "name")
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return sum(min(len(members), self._limit(members)) for members in self._groups)

    def __getitem__(self, at: tuple[int, int]) -> Sample:
        epoch, position = at
        index = int(self._epoch(epoch)[position])
        array = _load(self.items[index].prepared)
        array = self._cut(array, self.items[index].corner, epoch, index)
        split = self.task.source_channels
        tensor = torch.from_numpy(np.require(array, requirements=["C_CONTIGUOUS", "WRITEABLE"]))
        return Sample(tensor[:split], tensor[split:-1], tensor[-1:])

    def sizes(self) -> list[tuple[int, int]]:
        """Return (height, width) of each usable pair on its target's grid, as it is kept in the cache."""
        return [(item.prepared.height, item.prepared.width) for item in self.items]

    def _limit(self, members: Sequence[int]) -> int:
        unlimited = self.augmentation is None or self.sampling.policy == "all" or not self.sampling.pairs_per_location
        return len(members) if unlimited else self.sampling.pairs_per_location

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self._choose(epoch))
        return self._order[1]

    def _choose(self, epoch: int) -> NDArray[np.int64]:
        chosen = [index for members in self._groups for index in self._of_location(members, epoch)]
        order = np.array(chosen, dtype=np.int64)
        if self.augmentation is None:
            return order
        return generator(self.seed, "order", epoch).permutation(order)

    def _of_location(self, members: Sequence[int], epoch: int) -> list[int]:
        limit = self._limit(members)
        if len(members) <= limit:
            return list(members)
        location = self.items[members[0]].prepared.pair.location
        draw = [members[i] for i in generator(self.seed, "choose", epoch, location).permutation(len(members))]
        if self.sampling.policy == "nearest-date":
            nearest = min(draw, key=lambda index: _days(self.items[index].prepared.pair))
            draw = [nearest, *(index for index in draw if index != nearest)]
        return draw[:limit]

    def _cut(self, array: Array, corner: tuple[int, int] | None, epoch: int, index: int) -> Array:
        random = None if self.augmentation is None else generator(self.seed, "augment", epoch, index)
        side = self._side(random)
        array = _pad(array, side)
        top, left = corner or _corner(array.shape[1] - side, array.shape[2] - side, random)
        # A window may lie at the image's edge, where a larger side has to begin earlier.
        top, left = min(top, array.shape[1] - side), min(left, array.shape[2] - side)
        array = array[:, top : top + side, left : left + side]
        if side != self.size:
            array = _zoomed(array, self.size)
        return array if random is None else self._changed(array, random)

    def _side(self, random: np.random.Generator | None) -> int:
        """Return the side of the square to cut, which zoom makes smaller or larger than the chip."""
        if random is None or self.augmentation is None or self.augmentation.zoom == 1:
            return self.size
        return round(self.size * float(self.augmentation.zoom ** random.uniform(-1, 1)))

    def _changed(self, array: Array, random: np.random.Generator) -> Array:
        """Turn and flip both images, then make the source softer or crisper, darker or brighter."""
        change = self.augmentation or Augmentation()
        if change.turns:
            array = np.rot90(array, int(random.integers(4)), axes=(1, 2))
        if change.flips and random.integers(2):
            array = array[:, :, ::-1]
        if change.blur or change.sharpen:
            array = _sharpened(array, self.task.source_channels, random.uniform(-change.blur, change.sharpen))
        if change.brightness:
            factor = random.uniform(1 - change.brightness, 1 + change.brightness)
            array = _brightened(array, self.task.source_channels, factor)
        return array

    def _report_bad(self, prepared: Sequence[Prepared], cache: Path) -> None:
        if self.bad or any(item.bad for item in prepared):
            path = cache / f"bad_{self.task.name}_{prepared[0].pair.split}.jsonl"
            write_bad_chips(path, prepared)
            windows = sum(len(item.bad) for item in prepared)
            also = f" and {windows} windows" if windows else ""
            say(f"{self.task.name}: {len(self.bad)} of {len(prepared)} pairs{also} are left out, listed in {path}")
        if len(self.bad) == len(prepared):
            raise PbvsError(f"None of the {len(prepared)} pairs of {self.task.name} can be used: {self.bad[0].reason}.")


def _items(prepared: Sequence[Prepared]) -> list[Item]:
    good = [item for item in prepared if not item.reason]
    return [Item(item, corner) for item in good for corner in (item.windows or (None,))]


def _group(items: Sequence[Item], by_name: bool) -> list[list[int]]:
    """Return the indices of each location's chips; pairs by name have no location to balance."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        pair = item.prepared.pair
        groups[pair.name if by_name else pair.location].append(index)
    return list(groups.values())


def _load(prepared: Prepared) -> Array:
    try:
        array: Array = np.load(prepared.file, mmap_mode="r", allow_pickle=False)
        return array
    except (OSError, ValueError) as error:
        raise PbvsError(
            f"The prepared chip {prepared.file} is gone or damaged ({error}); start the command again."
        ) from None


def _pad(array: Array, size: int) -> Array:
    """Extend an image that is smaller than `size` by reflection, as often as it takes."""
    while min(array.shape[1:]) < size:
        grow = [max(0, min(size - length, length - 1)) if length > 1 else size - 1 for length in array.shape[1:]]
        widths = ((0, 0), (0, grow[0]), (0, grow[1]))
        array = (
            np.pad(array, widths, mode="reflect") if min(array.shape[1:]) > 1 else np.pad(array, widths, mode="edge")
        )
    return array


def _sharpened(array: Array, source_channels: int, amount: float) -> Array:
    """Add `amount` times the source's detail, what a mean over 3 x 3 pixels takes away; negative amounts soften.

    Resampling has softened the images of some archives and not those of others.
    """
    source = array[:source_channels].astype(np.float32)
    edged = np.pad(source, ((0, 0), (1, 1), (1, 1)), mode="edge")
    height, width = source.shape[1:]
    mean = sum((edged[:, i : i + height, j : j + width] for i in range(3) for j in range(3)), np.float32(0)) / 9
    crisp = np.rint(source + np.float32(amount) * (source - mean)).clip(0, 255).astype(np.uint8)
    return np.concatenate((crisp, array[source_channels:]))


def _brightened(array: Array, source_channels: int, factor: float) -> Array:
    """Multiply the source by `factor`, rounded and clipped."""
    source = array[:source_channels].astype(np.float32) * np.float32(factor)
    return np.concatenate((np.rint(source).clip(0, 255).astype(np.uint8), array[source_channels:]))


def _zoomed(array: Array, size: int) -> Array:
    """Resample a square to `size` pixels a side; pixels that are not wholly valid become invalid."""
    pixels = resize(array.transpose(1, 2, 0).astype(np.float32) / 255, size, size)
    zoomed: Array = np.rint(pixels.transpose(2, 0, 1) * 255).astype(np.uint8)
    zoomed[-1] = np.where(zoomed[-1] >= 254, 255, 0)
    return zoomed


def _corner(down: int, across: int, random: np.random.Generator | None) -> tuple[int, int]:
    if random is None:
        return down // 2, across // 2
    return int(random.integers(down + 1)), int(random.integers(across + 1))


def _days(pair: Pair) -> int:
    return days_between(pair.source_date, pair.target_date)
