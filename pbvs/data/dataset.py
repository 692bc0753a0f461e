"""Training samples: chips of aligned pairs, chosen, cut and turned by (seed, epoch, index) alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pbvs.challenge import Task
from pbvs.data.chips import Array, Prepared, mark_used, prepare, write_bad_chips
from pbvs.data.images import resize
from pbvs.data.manifest import Pair
from pbvs.data.pairing import days_between
from pbvs.errors import PbvsError
from pbvs.logs import say
from pbvs.recipe import Augmentation, Chips, Radiometry, Sampling
from pbvs.seeds import generator

LARGE = 64  # pairs of a location beyond which only those are prepared that are drawn


class Sample(NamedTuple):
    """One chip: uint8 tensors, 0..255, of the same height and width."""

    source: Tensor  # (C_source, S, S)
    target: Tensor  # (C_target, S, S)
    valid: Tensor  # (1, S, S): 255 where both images hold data


class Item(NamedTuple):
    """A chip to draw: a prepared pair and, for windows, where it is cut."""

    prepared: Prepared
    corner: tuple[int, int] | None
    number: int  # what its augmentation is seeded by


class ChipDataset(Dataset[Sample]):
    """Map-style data set; `ds[(epoch, position)]` is a Sample, `len(ds)` the samples of an epoch.

    The order and choice of an epoch come from (seed, epoch), the cut and turn of a sample from (seed, epoch, number of
    its chip): the number of workers and processes changes nothing. Each epoch draws from all of a location's pairs
    again, as many as `sampling` and the manifest allow; with windows the pairs are drawn once and the windows again.
    Of a location with very many pairs only those are prepared that the first `epochs` epochs draw, and others when a
    later epoch asks for them. With `augmentation=None` (validation) every chip is seen in order, cut at its centre.
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
        epochs: int = 0,
    ) -> None:
        """Prepare the pairs' chips in `cache`; raise PbvsError when none of them can be used."""
        self.size, self.seed, self.augmentation = size, seed, augmentation
        self.sampling = sampling or Sampling(policy="all", pairs_per_location=0)
        self.pairs = [pair for pair in pairs if pair.target]
        if not self.pairs:
            raise PbvsError("There are no pairs with targets to learn from; run `pbvs build-pairs` and see unused.csv.")
        radiometry, chips = radiometry or Radiometry(), chips or Chips()
        self.task = radiometry.challenge.task(self.pairs[0].task)
        self._windows = chips.mode == "windows"
        self._cache = cache
        self._prepare = partial(
            prepare, root=root, radiometry=radiometry, chips=chips, size=size, cache=cache, jobs=jobs
        )
        self.items: list[Item] = []
        self._items_of: dict[int, list[int]] = {}  # by the pair's index; of one left out none
        self.bad: list[Prepared] = []
        self._locations = _by_location(self.pairs, by_name=self.task.pairing == "name")
        self._order: tuple[int, NDArray[np.int64]] | None = None
        self._take([index for members in self._locations if not self._is_large(members) for index in members])
        self._make_ready(range(max(1, epochs)))
        self._report_bad()
        self._length = sum(len(self._chosen(members, 0)) for members in self._locations)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, at: tuple[int, int]) -> Sample:
        epoch, position = at
        item = self.items[int(self._epoch(epoch)[position])]
        array = self._cut(_load(item.prepared), item.corner, epoch, item.number)
        split = self.task.source_channels
        tensor = torch.from_numpy(np.require(array, requirements=["C_CONTIGUOUS", "WRITEABLE"]))
        return Sample(tensor[:split], tensor[split:-1], tensor[-1:])

    def sizes(self) -> list[tuple[int, int]]:
        """Return (height, width) of each usable pair on its target's grid, as it is kept in the cache."""
        return [(item.prepared.height, item.prepared.width) for item in self.items]

    # --- What is drawn.

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        if self._order is None or self._order[0] != epoch:
            self._make_ready([epoch])
            chosen = [index for members in self._locations for index in self._chosen(members, epoch)]
            order = np.array(chosen, dtype=np.int64)
            if self.augmentation is not None:
                order = generator(self.seed, "order", epoch).permutation(order)
            self._order = (epoch, order)
        return self._order[1]

    def _chosen(self, members: Sequence[int], epoch: int) -> list[int]:
        """Return a location's items in an epoch."""
        items = [item for index in self._drawn(members, epoch) for item in self._items_of[index]]
        limit = self._own_limit if self._windows else 0
        if not limit or len(items) <= limit:
            return items
        location = self.pairs[members[0]].location
        return [items[i] for i in generator(self.seed, "choose", epoch, location).permutation(len(items))[:limit]]

    def _drawn(self, members: Sequence[int], epoch: int) -> list[int]:
        """Return the pairs of a location that an epoch draws, those left out skipped."""
        left = [index for index in members if self._items_of.get(index, True)]
        limit = self._limit(members)
        if len(left) <= limit:
            return left
        epoch = 0 if self._windows or self.sampling.draw == "once" else epoch
        random = generator(self.seed, "pairs" if self._windows else "choose", epoch, self.pairs[members[0]].location)
        order = [index for i in random.permutation(len(members)) if self._items_of.get(index := members[i], True)]
        if self.sampling.policy == "nearest-date":
            pairs = self.pairs
            nearest = min(order, key=lambda index: days_between(pairs[index].source_date, pairs[index].target_date))
            order = [nearest, *(index for index in order if index != nearest)]
        return order[:limit]

    def _limit(self, members: Sequence[int]) -> int:
        """Return how many pairs of a location an epoch has at most: what the recipe and the manifest say."""
        own = 0 if self._windows else self._own_limit  # a recipe's limit is of chips
        limits = [limit for limit in (own, int(self.pairs[members[0]].limit or 0)) if limit]
        return min(limits, default=len(members)) if self.augmentation is not None else len(members)

    @property
    def _own_limit(self) -> int:
        unlimited = self.augmentation is None or self.sampling.policy == "all"
        return 0 if unlimited else self.sampling.pairs_per_location

    # --- What is prepared.

    def _is_large(self, members: Sequence[int]) -> bool:
        """Return whether a location has so many pairs that only those are prepared that are drawn."""
        return len(members) > LARGE and self._limit(members) < len(members)

    def _make_ready(self, epochs: Iterable[int]) -> None:
        """Prepare what epochs draw of large locations, and others instead of those that cannot be used."""
        large = [members for members in self._locations if self._is_large(members)]
        wanted = epochs = list(epochs) if large else []
        while wanted:
            drawn = {index for epoch in epochs for members in large for index in self._drawn(members, epoch)}
            wanted = sorted(drawn - self._items_of.keys())
            self._take(wanted)

    def _take(self, indices: Sequence[int]) -> None:
        if not indices:
            return
        for index, prepared in zip(indices, self._prepare([self.pairs[index] for index in indices]), strict=True):
            corners = () if prepared.reason else prepared.windows or (None,)
            self._items_of[index] = list(range(len(self.items), len(self.items) + len(corners)))
            number = len(self.items) if self._windows else index
            self.items += [Item(prepared, corner, number + window) for window, corner in enumerate(corners)]
            if prepared.reason or prepared.bad:
                self.bad.append(prepared)

    def _cut(self, array: Array, corner: tuple[int, int] | None, epoch: int, number: int) -> Array:
        random = None if self.augmentation is None else generator(self.seed, "augment", epoch, number)
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

    def _report_bad(self) -> None:
        whole = [prepared for prepared in self.bad if prepared.reason]
        if self.bad:
            path = self._cache / f"bad_{self.task.name}_{self.pairs[0].split}.jsonl"
            write_bad_chips(path, self.bad)
            windows = sum(len(prepared.bad) for prepared in self.bad)
            also = f" and {windows} windows" if windows else ""
            say(f"{self.task.name}: {len(whole)} of {len(self._items_of)} pairs{also} are left out, listed in {path}")
        if len(whole) == len(self._items_of) > 0:
            raise PbvsError(f"None of the {len(whole)} pairs of {self.task.name} can be used: {whole[0].reason}.")


def samples_in_epoch(
    pairs: Sequence[Pair], known: Sequence[Prepared | None], task: Task, chips: Chips, sampling: Sampling
) -> int | None:
    """Return the samples of an epoch of training on these pairs, before they are prepared.

    `known` is what the cache has of each (`chips.look_up`): what it says is left out is not counted, what it does not
    know is. None where only the cut windows can tell.
    """
    own = 0 if sampling.policy == "all" else sampling.pairs_per_location
    count = 0
    for members in _by_location(pairs, by_name=task.pairing == "name"):
        left = [found for index in members if not ((found := known[index]) and found.reason)]
        limit = int(pairs[members[0]].limit or 0)
        if chips.mode != "windows":
            count += min([len(left), *(most for most in (own, limit) if most)])
            continue
        windows = [len(found.windows) for found in left if found]
        if len(windows) < len(left) or 0 < limit < len(left):
            return None
        count += min(sum(windows), own or sum(windows))
    return count


def _by_location(pairs: Sequence[Pair], by_name: bool) -> list[list[int]]:
    """Return the indices of each location's pairs; those paired by name alone have no location to balance."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, pair in enumerate(pairs):
        groups[pair.name if by_name else pair.location].append(index)
    return list(groups.values())


def _load(prepared: Prepared) -> Array:
    try:
        array: Array = np.load(prepared.file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise PbvsError(
            f"The prepared chip {prepared.file} is gone or damaged ({error}); start the command again."
        ) from None
    mark_used(prepared.file)
    return array


def _pad(array: Array, size: int) -> Array:
    """Extend an image that is smaller than `size` by reflection, as often as it takes."""
    while min(array.shape[1:]) < size:
        grow = [max(0, min(size - length, length - 1)) if length > 1 else size - 1 for length in array.shape[1:]]
        mode: Literal["reflect", "edge"] = "reflect" if min(array.shape[1:]) > 1 else "edge"
        array = np.pad(array, ((0, 0), (0, grow[0]), (0, grow[1])), mode=mode)
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
