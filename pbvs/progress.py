"""Progress that people see: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

T = TypeVar("T")
QUIET_SECONDS = 30.0  # between the lines printed where there is no terminal


def say(text: str) -> None:
    """Print one line to standard error, where it does not mix with a command's output."""
    print(text, file=sys.stderr, flush=True)


def track(items: Iterable[T], what: str, total: int | None = None, unit: str = "file") -> Iterator[T]:
    """Yield `items`, showing how far they are: a tqdm bar on a terminal, else a line every half minute."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, desc=what, total=total, unit=unit, dynamic_ncols=True, leave=False)
    else:
        yield from _track_in_lines(items, what, total)


def _track_in_lines(items: Iterable[T], what: str, total: int | None) -> Iterator[T]:
    last = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        if time.monotonic() - last > QUIET_SECONDS:
            last = time.monotonic()
            say(f"{what}: {count}{'' if total is None else f' of {total}'}")
