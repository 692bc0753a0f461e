"""How something is measured: ours and the plain way in turns, medians, spread, and how time grows with the work."""

from __future__ import annotations

import math
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Cost:
    """What one call took: seconds on the clock, and seconds of all cores together."""

    wall: float
    cpu: float


@dataclass
class Row:
    """One line of the table. `ratio` is ours / plain where the bound is "<=", plain / ours where it is ">="."""

    part: str
    what: str
    ratio: float
    low: float  # quartiles of the ratios of neighbours in time
    high: float
    bound: str = ""  # "<= 1.05", ">= 1.3", or empty for a figure without one
    ours: float | None = None  # seconds, medians
    plain: float | None = None
    cpu: float | None = None  # the same ratio of the cores' seconds, which other people's work disturbs less
    repeats: int = 1
    note: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """Return "yes" or "NO" for a row with a bound."""
        if not self.bound:
            return ""
        sign, _, limit = self.bound.partition(" ")
        return "yes" if (self.ratio <= float(limit) if sign == "<=" else self.ratio >= float(limit)) else "NO"

    def as_json(self) -> dict[str, Any]:
        """Return the row with figures of four digits."""
        found = {key: rounded(value) for key, value in asdict(self).items()}
        return {**found, "held": self.verdict}


def rounded(value: Any) -> Any:
    """Return floats with four significant digits, also inside lists and tables."""
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value


def cost(work: Callable[[], Any]) -> Cost:
    """Call `work` once and return what it took, its child processes included."""
    before, start = _cpu(), time.perf_counter()
    work()
    return Cost(time.perf_counter() - start, _cpu() - before)


def _cpu() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def in_turns(
    ours: Callable[[], Cost], plain: Callable[[], Cost], repeats: int, warm: int = 1
) -> tuple[list[Cost], list[Cost]]:
    """Measure A B A B; the first `warm` of each are thrown away."""
    found: tuple[list[Cost], list[Cost]] = ([], [])
    for number in range(repeats + warm):
        for costs, measure in zip(found, (ours, plain), strict=True):
            taken = measure()
            if number >= warm:
                costs.append(taken)
    return found


def compare(
    part: str,
    what: str,
    ours: Callable[[], Any],
    plain: Callable[[], Any],
    *,
    repeats: int,
    bound: str = "",
    warm: int = 1,
    note: str = "",
) -> Row:
    """Measure two functions of this process in turns."""
    costs = in_turns(lambda: cost(ours), lambda: cost(plain), repeats, warm)
    return row_of(part, what, *costs, bound=bound, note=note)


def row_of(part: str, what: str, ours: Sequence[Cost], plain: Sequence[Cost], *, bound: str, note: str = "") -> Row:
    """Return the row of two series taken in turns."""
    faster = bound.startswith(">=")
    ratios = [(b.wall / a.wall) if faster else (a.wall / b.wall) for a, b in zip(ours, plain, strict=True)]
    low, middle, high = quartiles(ratios)
    spent = [max(1e-9, statistics.median(c.cpu for c in costs)) for costs in (ours, plain)]
    return Row(
        part,
        what,
        middle,
        low,
        high,
        bound,
        statistics.median(c.wall for c in ours),
        statistics.median(c.wall for c in plain),
        spent[1] / spent[0] if faster else spent[0] / spent[1],
        len(ours),
        note,
    )


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return lower quartile, median and upper quartile; of fewer than four values the extremes and the median."""
    if len(values) < 4:
        return min(values), statistics.median(values), max(values)
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Return k of the least-squares fit seconds = c * sizes^k (1: twice the work takes twice the time)."""
    x, y = [math.log(s) for s in sizes], [math.log(s) for s in seconds]
    mx, my = statistics.fmean(x), statistics.fmean(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum((a - mx) ** 2 for a in x)


def growth(what: str, measure: Callable[[int], Cost], sizes: Sequence[int], unit: str, rounds: int = 2) -> Row:
    """Measure the work at each size, the smallest of a few rounds, and fit the exponent; the bound allows for noise."""
    taken = [[measure(size) for size in sizes] for _ in range(rounds)]
    best = [min(costs, key=lambda c: c.wall) for costs in zip(*taken, strict=True)]
    every = [exponent(sizes, [c.wall for c in costs]) for costs in taken]
    row = Row("growth", what, exponent(sizes, [c.wall for c in best]), min(every), max(every), "<= 1.15")
    row.cpu, row.repeats = exponent(sizes, [max(1e-9, c.cpu) for c in best]), rounds
    row.facts = {"unit": unit, "sizes": list(sizes), "seconds": [c.wall for c in best]}
    row.note = ", ".join(f"{size}: {c.wall:.2f} s" for size, c in zip(sizes, best, strict=True)) + f" ({unit})"
    return row
