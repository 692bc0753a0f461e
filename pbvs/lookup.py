"""Names among very many, at 8 or 16 bytes of memory each: found, and found twice, by their hashes."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray


class Lookup:
    """Finds the number of a name among `count` of which `name_of` gives each; 16 bytes of memory a name."""

    def __init__(self, count: int, name_of: Callable[[int], str]):
        self._name_of = name_of
        hashes = hashes_of(map(name_of, range(count)))
        self._numbers = np.argsort(hashes)
        self._hashes = hashes[self._numbers]

    def find(self, name: str) -> int | None:
        """Return the number of a name, None where there is none; of equal names any."""
        wanted = hash(name)
        for place in range(int(self._hashes.searchsorted(wanted)), len(self._hashes)):
            if self._hashes[place] != wanted:
                break
            number = int(self._numbers[place])
            if self._name_of(number) == name:
                return number
        return None


def hashes_of(names: Iterable[str]) -> NDArray[np.int64]:
    """Return (N,) hashes, 64 bits each, which another process makes differently."""
    return np.fromiter(map(hash, names), np.int64)


def some_equal(hashes: array[int]) -> bool:
    """Return whether any of the hashes, signed and of 64 bits, occurs more than once."""
    return bool(hashes) and len(np.unique(np.frombuffer(hashes, np.int64))) < len(hashes)


def count_different(names: Iterable[str]) -> int:
    """Return how many different names there are."""
    return len(np.unique(hashes_of(names)))


def repeated(names: Iterable[str]) -> Repeated:
    """Return which of the names occur more than once."""
    values, counts = np.unique(hashes_of(names), return_counts=True)
    return Repeated(values[counts > 1])


class Repeated:
    """The names that occur more than once; one whose hash equals another's (2 to the -64) counts as such."""

    def __init__(self, hashes: NDArray[np.int64]):
        self._hashes = frozenset(hashes.tolist())

    def __contains__(self, name: str) -> bool:
        """Return whether the name was there more than once."""
        return hash(name) in self._hashes

    def __bool__(self) -> bool:
        """Return whether there is any."""
        return bool(self._hashes)
