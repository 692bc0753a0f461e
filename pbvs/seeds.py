"""Choosing reproducibly: generators that depend on what they are for alone, and evenly spaced subsets."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def derive(seed: int, *what: int | str) -> int:
    """Return a 63-bit seed for the purpose `what` (for instance "augment", epoch, index) of the run's `seed`."""
    text = "\x1f".join(str(part) for part in (seed, *what))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *what: int | str) -> np.random.Generator:
    """Return NumPy's generator (PCG64) seeded by `derive(seed, *what)`."""
    return np.random.Generator(np.random.PCG64(derive(seed, *what)))


def torch_generator(seed: int, *what: int | str) -> torch.Generator:
    """Return a CPU torch generator seeded by `derive(seed, *what)`."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *what))


def evenly_spaced(items: Sequence[T], count: int, *, ends: bool = False) -> list[T]:
    """Return `count` of the items, evenly spaced over their order and beginning with the first; all if no more.

    With `ends` the last one is among them too (`count` is at least 2 then).

    >>> evenly_spaced("abcdef", 3), evenly_spaced("abcde", 3, ends=True)
    (['a', 'c', 'e'], ['a', 'c', 'e'])
    """
    if len(items) <= count:
        return list(items)
    if ends:
        return [items[round(number * (len(items) - 1) / (count - 1))] for number in range(count)]
    return [items[number * len(items) // count] for number in range(count)]
