"""What pages are made of: templates, formatted numbers, and charts as inline SVG that stretch with the page while their
text and strokes keep their size.

Positions along x are percentages; curves lie in a nested 100 x 100 view that is stretched, with strokes that are not.
Every text goes through markupsafe, so a name from the data cannot become markup.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from pbvs import __version__
from pbvs.challenge import Challenge
from pbvs.evaluation.results import number
from pbvs.seeds import evenly_spaced

T = TypeVar("T")
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
    return round(100.0 * min(max((value - low) / ((high - low) or 1.0), 0.0), 1.0), 3)


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


@dataclass(frozen=True)
class Plot:
    """A drawing with what its axes say; `unit` names the horizontal axis."""

    title: str
    svg: Markup
    left: tuple[str, str] = ("", "")  # top and bottom of the vertical axis
    below: tuple[str, str] = ("", "")  # ends of the horizontal axis
    unit: str = ""
    note: str = ""


def curve(data: Curve, unit: str = "epoch") -> Plot:
    """Draw one curve on its own scale, from its smallest to its largest value."""
    low, high = min(data.y), max(data.y)
    spread = high - low
    start, length = data.x[0], (data.x[-1] - data.x[0]) or 1.0

    def point(i: int) -> str:
        height = (data.y[i] - low) / spread if spread else 0.5
        return f"{100 * (data.x[i] - start) / length:.2f},{95 - 90 * height:.2f}"

    path = "M" + " L".join(point(i) for i in evenly_spaced(range(len(data.y)), MAX_POINTS, ends=True))
    parts = [Markup('<path class="curve" d="{}"/>').format(path)]
    note = f"last {data.y[-1]:.4g}"
    if data.best is not None:
        x = 100 * (data.x[data.best] - start) / length
        parts.append(Markup('<line class="best" x1="{0:.2f}" x2="{0:.2f}" y1="0" y2="100"/>').format(x))
        note = f"best {data.y[data.best]:.4g} at {unit} {data.x[data.best]:g}, {note}"
    svg = _stretched(Markup("").join(parts), f"{data.name} over training", 84)
    ends = (f"{data.x[0]:g}", f"{data.x[-1]:g}")
    return Plot(data.name.replace("_", " "), svg, (f"{high:.3g}", f"{low:.3g}"), ends, unit, note)


def distribution(title: str, values: Sequence[float]) -> Plot:
    """Draw how many images have which value, in 24 bins from the smallest to the largest, with the median marked."""
    known = np.asarray(values, np.float64)
    low, high = float(known.min()), float(known.max())
    high = high if high > low else low + 1e-3
    counts, _ = np.histogram(known, bins=24, range=(low, high))
    top, width = max(1, int(counts.max())), 100 / len(counts)
    bar = Markup('<rect class="bar" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}"/>')
    bars = [bar.format(i * width, 100 - 100 * n / top, width * 0.92, 100 * n / top) for i, n in enumerate(counts)]
    x = 100 * (float(np.median(known)) - low) / (high - low)
    line = Markup('<line class="middle" x1="{0:.2f}" x2="{0:.2f}" y1="0" y2="100"/>').format(x)
    svg = _stretched(Markup("").join([*bars, line]), f"Histogram of {title}", 110)
    note = f"{len(known)} images, median {np.median(known):.3f}"
    return Plot(title, svg, (str(top), "0"), (f"{low:.3f}", f"{high:.3f}"), "images by score", note)


@dataclass(frozen=True)
class Spot:
    """A point that opens an image or lists a location when it is clicked."""

    x: float
    y: float
    name: str
    task: str
    value: float = 0.0


def scatter(title: str, spots: Sequence[Spot], unit: str) -> Plot:
    """Draw images as points of two numbers; a click opens one."""
    left, right = min(spot.x for spot in spots), max(spot.x for spot in spots)
    low, high = min(spot.y for spot in spots), max(spot.y for spot in spots)
    dot = Markup(
        '<circle class="spot" cx="{}%" cy="{}%" r="3.5" data-image="{}" data-task="{}"><title>{}</title></circle>'
    )
    kept = evenly_spaced(spots, 2000)
    drawn = [
        dot.format(
            2 + 0.96 * _percent(spot.x, left, right or 1.0),
            98 - 0.96 * _percent(spot.y, low, high),
            spot.name,
            spot.task,
            f"{spot.name}: {spot.y:.3f} at {spot.x:.3f}",
        )
        for spot in kept
    ]
    svg = Markup('<svg class="plot" role="img" aria-label="{}" width="100%" height="150">{}</svg>').format(
        title, Markup("").join(drawn)
    )
    ends = (f"{left:.2f}", f"{right:.2f}")
    return Plot(title, svg, (f"{high:.3f}", f"{low:.3f}"), ends, unit, correlation(spots))


def correlation(spots: Sequence[Spot]) -> str:
    """Say how two numbers go together: Spearman's rank correlation, where there are enough images."""
    if len(spots) < 8 or len({spot.x for spot in spots}) < 2 or len({spot.y for spot in spots}) < 2:
        return f"{len(spots)} images"
    ranks = pd.DataFrame([(spot.x, spot.y) for spot in spots]).rank()
    value = float(np.corrcoef(ranks[0], ranks[1])[0, 1])
    return f"{len(spots)} images, rank correlation {value:+.2f}"


def location_map(title: str, spots: Sequence[Spot], task: str) -> Plot:
    """Draw locations, x and y in degrees east and north, north up; the colour says in which fifth a value lies."""
    width, height = 320.0, 200.0
    middle_x = (min(spot.x for spot in spots) + max(spot.x for spot in spots)) / 2
    middle_y = (min(spot.y for spot in spots) + max(spot.y for spot in spots)) / 2
    squeeze = max(0.05, math.cos(math.radians(middle_y)))
    reach = max(
        (max(abs(spot.x - middle_x) for spot in spots)) * 2 * squeeze / width,
        (max(abs(spot.y - middle_y) for spot in spots)) * 2 / height,
        1e-5,
    )
    ranked = sorted(spot.value for spot in spots)
    edges = [ranked[min(len(ranked) - 1, len(ranked) * i // 5)] for i in range(1, 5)]
    dot = Markup(
        '<circle class="spot level{}" cx="{:.2f}" cy="{:.2f}" r="4.5" data-location="{}" data-task="{}">'
        "<title>{}</title></circle>"
    )
    drawn = [
        dot.format(
            sum(spot.value >= edge for edge in edges) if edges[0] < edges[-1] else 2,
            width / 2 + (spot.x - middle_x) * squeeze * 0.86 / reach,
            height / 2 - (spot.y - middle_y) * 0.8 / reach,
            spot.name,
            task,
            f"{spot.name}: {spot.value:.3f}",
        )
        for spot in sorted(spots, key=lambda spot: spot.value)
    ]
    svg = Markup('<svg class="map" viewBox="0 0 320 200" role="img" aria-label="{}">{}</svg>').format(
        title, Markup("").join(drawn)
    )
    kilometres = reach * width * 111.32 / 0.86
    note = f"{len(spots)} locations around {abs(middle_y):.2f}° {'N' if middle_y >= 0 else 'S'}, "
    note += f"{abs(middle_x):.2f}° {'E' if middle_x >= 0 else 'W'}; the map is {kilometres:.3g} km wide"
    return Plot(title, svg, note=note)


def clusters(points: Sequence[T], at: Callable[[T], tuple[float, float]], cell: float = 2.0) -> list[list[T]]:
    """Return points in groups that lie together: cells of `cell` degrees that touch, the largest group first.

    `at` gives a point's degrees east and north.
    """
    cells: dict[tuple[int, int], list[T]] = {}
    for point in points:
        x, y = at(point)
        cells.setdefault((math.floor(x / cell), math.floor(y / cell)), []).append(point)
    groups = []
    while cells:
        waiting, group = [next(iter(cells))], []
        while waiting:
            column, row = waiting.pop()
            group += cells.pop((column, row), [])
            waiting += [(column + i, row + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (column + i, row + j) in cells]
        groups.append(group)
    return sorted(groups, key=len, reverse=True)


def _stretched(content: Markup, label: str, height: int) -> Markup:
    return Markup(
        '<svg class="plot" role="img" aria-label="{}" width="100%" height="{}" viewBox="0 0 100 100" '
        'preserveAspectRatio="none">{}</svg>'
    ).format(label, height, content)


# --- Templates into pages: everything is escaped, nothing is loaded from elsewhere, and only our own script runs.

DIGEST = re.compile("[0-9a-f]{40,64}")


def render(template: str, challenge: Challenge, **view: Any) -> str:
    """Render one of the package's templates, for a challenge's tasks; everything in `view` is escaped."""
    explorer = view.get("explorer")
    # The digest is of the script as the browser sees it; no other script can run, whatever a name in the data says.
    script = hashlib.sha256(str(explorer["script"]).encode()).digest() if explorer else b""
    allowed = f"'sha256-{base64.b64encode(script).decode('ascii')}'" if explorer else "'none'"
    view = {"explorer": None, "made_from": "", "task_title": functools.partial(task_title, challenge), **view}
    return environment().get_template(template).render(version=__version__, allowed=allowed, **view)


@functools.cache
def environment() -> jinja2.Environment:
    """Return the templates with escaping switched on for every file and an error for every name that is not there."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("pbvs.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["score"] = format_score
    made.filters["short"] = format_value
    return made


def task_title(challenge: Challenge, name: str) -> str:
    """Return a task as people write it, for instance `SAR to EO`."""
    task = challenge.tasks.get(name)
    return f"{challenge.source_title(task)} to {challenge.title_of(task.target)}" if task else name


def format_score(value: Any, digits: int = 3) -> str:
    """Return a number with fixed digits, or a dash where there is none."""
    known = number(value)
    return "–" if known is None else f"{known:.{digits}f}"


def format_value(value: Any) -> str:
    """Return any value from a JSON file as one short line."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {format_value(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(format_value(item) for item in value)
    if isinstance(value, str) and DIGEST.fullmatch(value):
        return f"{value[:12]}…"  # whole in provenance.json
    return "–" if value is None else str(value)
