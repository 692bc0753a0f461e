"""Progress that people see: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, TypeVar

from pbvs import journal

T = TypeVar("T")
QUIET_SECONDS = 30.0  # between the lines printed where there is no terminal


def say(text: str) -> None:
    """Print one line to standard error, where it does not mix with a command's output."""
    journal.note(text)
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


class Meter:
    """Counts steps towards a total and says now and then how fast they go and how long they will still take."""

    def __init__(self, what: str, total: int, done: int, bar: Any = None):
        self.what, self.total, self.done, self.bar = what, total, done, bar
        self.started = self.last = time.monotonic()
        self.first = done
        self.images = 0

    def advance(self, steps: int, images: int, describe: Callable[[], str]) -> None:
        """Count `steps` done on `images` pictures; `describe` is asked only when something is shown."""
        self.done += steps
        self.images += images
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(steps)
        if now - self.last >= (1.0 if self.bar is not None else QUIET_SECONDS):
            self.last = now
            text = f"{describe()} {self.images / (now - self.started):.3g} images/s"
            if self.bar is not None:
                self.bar.set_postfix_str(text)
            else:
                left = (self.total - self.done) * (now - self.started) / max(1, self.done - self.first)
                say(f"{self.what}: step {self.done} of {self.total}, {text}, {left / 60:.0f} min left")


@contextlib.contextmanager
def meter(what: str, total: int, done: int = 0) -> Iterator[Meter]:
    """Yield a Meter: a tqdm bar on a terminal, else a line every half minute."""
    if not sys.stderr.isatty():
        yield Meter(what, total, done)
        return
    from tqdm import tqdm

    with tqdm(total=total, initial=done, desc=what, unit="step", dynamic_ncols=True, leave=False) as bar:
        yield Meter(what, total, done, bar)
