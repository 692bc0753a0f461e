"""Sequences whose items are made when they are asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TypeVar, overload

T = TypeVar("T", covariant=True)


class Lazy(Sequence[T]):
    """A sequence that keeps no items: `item` makes one from whatever it keeps instead."""

    @abstractmethod
    def item(self, number: int) -> T:
        """Make the item of a number from 0 to `len(self)` - 1."""

    @overload
    def __getitem__(self, place: int) -> T: ...

    @overload
    def __getitem__(self, place: slice) -> list[T]: ...

    def __getitem__(self, place: int | slice) -> T | list[T]:
        """Return an item, or a list of some; raises IndexError, and what `item` raises."""
        found = range(len(self))[place]
        return [self.item(number) for number in found] if isinstance(found, range) else self.item(found)
