"""Charts as inline SVG that stretch with the page while their text and strokes keep their size.

Positions along x are percentages; curves lie in a nested 100 x 100 view that is stretched, with strokes that are not.
Every text goes through markupsafe, so a name from the data cannot become markup.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from pbvs.seeds import evenly_spaced

MAX_TICKS = 400  # images drawn in one row; more would be a smear
MAX_POINTS = 300  # points of one curve


@dataclass(frozen=True)
class ScoreRow:
    """One line of the chart of scores: every image, their mean, and the interval of the mean."""

    label: str
    mean: float | None
    interval: tuple[float, float] | None
    images: Sequence[float] = ()


@dataclass(frozen=True)
class Curve:
    """A quantity over the course of training; `best` is the index to mark."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    best: int | None = None


def upper_end(values: Iterable[float]) -> float:
    """Return a round number at or above the largest value, at least 0.1."""
    top = max(0.1, max(values, default=0.1))
    step: float = 10.0 ** math.floor(math.log10(top))
    return next(step * factor for factor in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * factor >= top * 0.999)


Axis = list[tuple[float, str]]  # (percent, text)


def score_rows(rows: Sequence[ScoreRow]) -> tuple[list[tuple[ScoreRow, Markup]], Axis]:
    """Draw the rows on one scale that starts at 0; return (row, image) and the axis."""
    top = upper_end(_numbers(rows))
    return [(row, _score_row(row, 0.0, top)) for row in rows], [(25.0 * i, f"{top * i / 4:.3g}") for i in range(5)]


def difference_rows(rows: Sequence[ScoreRow]) -> tuple[list[tuple[ScoreRow, Markup]], Axis]:
    """Draw differences on one scale with 0 in its middle; return (row, image) and the axis."""
    top = upper_end(10 * abs(value) for value in _numbers(rows)) / 10
    drawn = [(row, _score_row(row, -top, top)) for row in rows]
    return drawn, [(50.0 + 25.0 * i, f"{top * i / 2:+.3g}" if i else "0") for i in range(-2, 3)]


def _numbers(rows: Sequence[ScoreRow]) -> Iterator[float]:
    for row in rows:
        yield from row.images
        yield from row.interval or ()
        yield row.mean or 0.0


def _score_row(row: ScoreRow, low: float, high: float) -> Markup:
    parts = [Markup('<line class="rule" x1="0" x2="100%" y1="13" y2="13"/>')]
    if low < 0:
        parts.append(Markup('<line class="zero" x1="50%" x2="50%" y1="0" y2="26"/>'))
    tick = Markup('<line class="tick" x1="{0}%" x2="{0}%" y1="6" y2="20"/>')
    values = np.sort(row.images)
    parts += [
        tick.format(_percent(float(values[i]), low, high))
        for i in evenly_spaced(range(len(values)), MAX_TICKS, ends=True)
    ]
    if row.interval:
        start, end = (_percent(value, low, high) for value in row.interval)
        bar = Markup('<rect class="interval" x="{}%" width="{}%" y="9" height="8" rx="2"/>')
        parts.append(bar.format(start, round(max(end - start, 0.3), 3)))
    if row.mean is not None:
        parts.append(Markup('<circle class="mean" cx="{}%" cy="13" r="5"/>').format(_percent(row.mean, low, high)))
    return Markup('<svg class="row" role="img" aria-label="{}" width="100%" height="26">{}</svg>').format(
        _describe(row), Markup("").join(parts)
    )


def _describe(row: ScoreRow) -> str:
    text = f"{row.label}: " + ("no score" if row.mean is None else f"{row.mean:.3f}")
    return text + (f", interval {row.interval[0]:.3f} to {row.interval[1]:.3f}" if row.interval else "")


def _percent(value: float, low: float, high: float) -> float:
    return round(100.0 * min(max((value - low) / (high - low), 0.0), 1.0), 3)


def histogram(prediction: Sequence[float], target: Sequence[float], label: str) -> Markup:
    """Draw two densities over the same bins from 0 to 1: the target filled, the prediction as a line."""
    # Clipped black and white make peaks that would flatten all the rest; they may leave the image.
    inner = [*prediction[1:-1], *target[1:-1]]
    top = 1.05 * max([*inner, 0.02 * sum(target), 1e-12])
    filled = Markup('<path class="target" d="M0,100 {} L100,100 Z"/>').format(_steps(target, top))
    line = _steps(prediction, top).replace("L", "M", 1)
    drawn = Markup('<path class="prediction" d="{}"/>').format(line)
    return _stretched(Markup("{}{}").format(filled, drawn), f"Histogram of {label}: prediction against target", 92)


def _steps(heights: Sequence[float], top: float) -> str:
    width = 100.0 / max(len(heights), 1)
    points = []
    for i, height in enumerate(heights):
        y = round(100.0 - 100.0 * min(height / top, 1.0), 2)
        points += [f"L{i * width:.2f},{y}", f"L{(i + 1) * width:.2f},{y}"]
    return " ".join(points)


def curve(data: Curve) -> Markup:
    """Draw one curve on its own scale, from its smallest to its largest value."""
    low, high = min(data.y), max(data.y)
    spread = high - low
    start, length = data.x[0], (data.x[-1] - data.x[0]) or 1.0

    def place(i: int) -> str:
        height = (data.y[i] - low) / spread if spread else 0.5
        return f"{100 * (data.x[i] - start) / length:.2f},{95 - 90 * height:.2f}"

    path = "M" + " L".join(place(i) for i in evenly_spaced(range(len(data.y)), MAX_POINTS, ends=True))
    parts = [Markup('<path class="curve" d="{}"/>').format(path)]
    if data.best is not None:
        x = 100 * (data.x[data.best] - start) / length
        parts.append(Markup('<line class="best" x1="{0:.2f}" x2="{0:.2f}" y1="0" y2="100"/>').format(x))
    return _stretched(Markup("").join(parts), f"{data.name} over training", 64)


def _stretched(content: Markup, label: str, height: int) -> Markup:
    return Markup(
        '<svg class="plot" role="img" aria-label="{}" width="100%" height="{}" viewBox="0 0 100 100" '
        'preserveAspectRatio="none">{}</svg>'
    ).format(label, height, content)
