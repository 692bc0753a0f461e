"""What pages are made of: templates, formatted numbers, and charts, measured here and drawn by `templates/charts.html`.

Every text goes through jinja2's escaping, so a name from the data cannot become markup.
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
MAX_SPOTS = 2000
WIDTH, HEIGHT = 320, 200  # of a map, in units of its drawing
FILLED = 0.78  # share of a map that its points take
KILOMETRES = 111.32  # in a degree of latitude


@dataclass(frozen=True)
class ScoreRow:
    """One line of the chart of scores: every image, their mean, and the interval of the mean."""

    label: str
    mean: float | None
    interval: tuple[float, float] | None
    images: Sequence[float] = ()

    def __str__(self) -> str:
        """Return it in words."""
        text = f"{self.label}: " + ("no score" if self.mean is None else f"{self.mean:.3f}")
        return text + (f", interval {self.interval[0]:.3f} to {self.interval[1]:.3f}" if self.interval else "")


@dataclass(frozen=True)
class Plot:
    """A drawing with what its axes say; `unit` names the horizontal axis."""

    title: str
    svg: Markup
    left: tuple[str, str] = ("", "")  # top and bottom of the vertical axis
    below: tuple[str, str] = ("", "")  # ends of the horizontal axis
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class Spot:
    """A point that opens an image or lists a location when it is clicked."""

    x: float
    y: float
    name: str
    task: str
    value: float = 0.0


def _draw(chart: str, label: str, **numbers: Any) -> Markup:
    """Return a chart as the macro of its name draws it."""
    return Markup(getattr(environment().get_template("charts.html").module, chart)(label, **numbers))


def upper_end(values: Iterable[float]) -> float:
    """Return a round number at or above the largest value, at least 0.1."""
    top = max(0.1, max(values, default=0.1))
    step: float = 10.0 ** math.floor(math.log10(top))
    return next(step * factor for factor in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * factor >= top * 0.999)


Axis = list[tuple[float, str]]  # (percent, text)


def score_rows(rows: Sequence[ScoreRow]) -> dict[str, Any]:
    """Draw the rows on one scale that starts at 0; return rows of (row, image) and the axis."""
    top = upper_end(_numbers(rows))
    axis: Axis = [(25.0 * i, f"{top * i / 4:.3g}") for i in range(5)]
    return {"rows": [(row, _score_row(row, 0.0, top)) for row in rows], "axis": axis}


def difference_rows(rows: Sequence[ScoreRow]) -> dict[str, Any]:
    """Draw differences on one scale with 0 in its middle; return rows of (row, image) and the axis."""
    top = upper_end(10 * abs(value) for value in _numbers(rows)) / 10
    axis: Axis = [(50.0 + 25.0 * i, f"{top * i / 2:+.3g}" if i else "0") for i in range(-2, 3)]
    return {"rows": [(row, _score_row(row, -top, top)) for row in rows], "axis": axis}


def _numbers(rows: Sequence[ScoreRow]) -> Iterator[float]:
    for row in rows:
        yield from (*row.images, *(row.interval or ()), row.mean or 0.0)


def _score_row(row: ScoreRow, low: float, high: float) -> Markup:
    ticks, interval, mean = (
        [_percent(value, low, high) for value in values]
        for values in (
            evenly_spaced(sorted(row.images), MAX_TICKS, ends=True),
            row.interval or (),
            () if row.mean is None else (row.mean,),
        )
    )
    return _draw("row", str(row), zero=low < 0, ticks=ticks, interval=interval, mean=mean[0] if mean else None)


def _percent(value: float, low: float, high: float) -> float:
    return round(100.0 * min(max((value - low) / ((high - low) or 1.0), 0.0), 1.0), 3)


def _path(points: Iterable[tuple[float, float]]) -> str:
    return " L".join(f"{x:.2f},{y:.2f}" for x, y in points)


def histogram(prediction: Sequence[float], target: Sequence[float], label: str) -> Markup:
    """Draw two densities over the same bins from 0 to 1: the target filled, the prediction as a line."""
    # Clipped black and white make peaks that would flatten all the rest; they may leave the image.
    top = 1.05 * max([*prediction[1:-1], *target[1:-1], 0.02 * sum(target), 1e-12])
    paths = {
        name: _path(
            (100.0 * side / len(heights), 100.0 - 100.0 * min(height / top, 1.0))
            for i, height in enumerate(heights)
            for side in (i, i + 1)
        )
        for name, heights in (("prediction", prediction), ("target", target))
    }
    return _draw("histogram", f"Histogram of {label}: prediction against target", **paths)


def curve(name: str, x: Sequence[float], y: Sequence[float], best: int | None = None) -> Plot:
    """Draw a quantity over training on its own scale, smallest to largest value; `best` is the index to mark."""
    low, high = min(y), max(y)
    start, length = x[0], (x[-1] - x[0]) or 1.0
    heights = [(value - low) / (high - low) if high > low else 0.5 for value in y]
    points = [(100 * (at - start) / length, 95 - 90 * height) for at, height in zip(x, heights, strict=True)]
    note = f"last {y[-1]:.4g}"
    if best is not None:
        note = f"best {y[best]:.4g} at epoch {x[best]:g}, {note}"
    svg = _draw(
        "curve",
        f"{name} over training",
        points=_path(evenly_spaced(points, MAX_POINTS, ends=True)),
        best=None if best is None else round(points[best][0], 2),
    )
    return Plot(name.replace("_", " "), svg, (f"{high:.3g}", f"{low:.3g}"), (f"{x[0]:g}", f"{x[-1]:g}"), "epoch", note)


def distribution(title: str, values: Sequence[float]) -> Plot:
    """Draw how many images have which value, in 24 bins from the smallest to the largest, with the median marked."""
    low, high, median = (float(value) for value in (np.min(values), np.max(values), np.median(values)))
    high = high if high > low else low + 1e-3
    counts, _ = np.histogram(values, bins=24, range=(low, high))
    top, width = max(1, int(counts.max())), 100 / len(counts)
    bars = [(round(i * width, 2), round(0.92 * width, 2), round(100 * n / top, 2)) for i, n in enumerate(counts)]
    svg = _draw("distribution", f"Histogram of {title}", bars=bars, middle=_percent(median, low, high))
    note = f"{len(values)} images, median {median:.3f}"
    return Plot(title, svg, (str(top), "0"), (f"{low:.3f}", f"{high:.3f}"), "images by score", note)


def scatter(title: str, spots: Sequence[Spot], unit: str) -> Plot:
    """Draw images as points of two numbers; a click opens one."""
    left, right = min(spot.x for spot in spots), max(spot.x for spot in spots)
    low, high = min(spot.y for spot in spots), max(spot.y for spot in spots)
    dots = [
        (2 + 0.96 * _percent(spot.x, left, right or 1.0), 98 - 0.96 * _percent(spot.y, low, high), spot)
        for spot in evenly_spaced(spots, MAX_SPOTS)
    ]
    ends = (f"{left:.2f}", f"{right:.2f}")
    return Plot(
        title, _draw("scatter", title, dots=dots), (f"{high:.3f}", f"{low:.3f}"), ends, unit, correlation(spots)
    )


def correlation(spots: Sequence[Spot]) -> str:
    """Say how two numbers go together: Spearman's rank correlation, where there are enough images."""
    table = pd.DataFrame([(spot.x, spot.y) for spot in spots])
    if len(table) < 8 or table.nunique().min() < 2:
        return f"{len(spots)} images"
    return f"{len(spots)} images, rank correlation {table.rank().corr().iloc[0, 1]:+.2f}"


# --- Maps: locations of one neighbourhood, north up.


@dataclass(frozen=True)
class Projection:
    """Where points lie in a drawing of `WIDTH` by `HEIGHT` units, how long a unit is, and where the middle lies."""

    points: Sequence[tuple[float, float]]
    kilometres: float
    where: str


def project(longitudes: Sequence[float], latitudes: Sequence[float]) -> Projection:
    """Return points in degrees as points in a drawing, both scales the same at their mean latitude."""
    squeeze = max(0.05, math.cos(math.radians(sum(latitudes) / len(latitudes))))
    (west, east), (south, north) = ((min(values), max(values)) for values in (longitudes, latitudes))
    x, y = (west + east) / 2, (south + north) / 2
    scale = FILLED / max((east - west) * squeeze / WIDTH, (north - south) / HEIGHT, 1e-5)
    points = [
        (round(WIDTH / 2 + (east - x) * squeeze * scale, 2), round(HEIGHT / 2 - 6 - (north - y) * scale, 2))
        for east, north in zip(longitudes, latitudes, strict=True)
    ]
    where = f"{abs(y):.2f}° {'N' if y >= 0 else 'S'}, {abs(x):.2f}° {'E' if x >= 0 else 'W'}"
    return Projection(points, KILOMETRES / scale, where)


def location_map(title: str, spots: Sequence[Spot]) -> Plot:
    """Draw locations, x and y in degrees east and north; the colour says in which fifth a value lies."""
    spots = sorted(spots, key=lambda spot: spot.value)
    placed = project([spot.x for spot in spots], [spot.y for spot in spots])
    edges = [spots[len(spots) * i // 5].value for i in range(1, 5)]
    levels = [sum(spot.value >= edge for edge in edges) if edges[0] < edges[-1] else 2 for spot in spots]
    note = f"{len(spots)} locations around {placed.where}; the map is {placed.kilometres * WIDTH:.3g} km wide"
    return Plot(title, _draw("map", title, dots=list(zip(levels, placed.points, spots, strict=True))), note=note)


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
