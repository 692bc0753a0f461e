"""Where images lie on Earth, and how much of one another covers: corners, overlap and the common grid."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from pbvs.data.georeference import Point, Transform, corners, is_geographic, project
from pbvs.data.headers import Header

Key = tuple[str, tuple[float, ...], int, int]  # CRS, transform, width, height
SMALL = 1.0  # degrees: within so much, longitude and latitude may be taken as a plane
STEPS = np.linspace(0, 1, 17)  # along a window's sides, where points are projected


class Window(NamedTuple):
    """A part of a grid, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Its rows and columns of an array."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def _outline(header: Header, crs: str, longitude: float | None = None) -> list[Point]:
    """Return an image's corners in a CRS, around it; degrees without a jump at 180, and near `longitude` if given."""
    points = project(corners(header.transform, header.width, header.height), header.crs, crs)
    if not is_geographic(crs):
        return points
    points = _together(points, header.crs)
    return points if longitude is None else _near_to(points, [(longitude, 0.0)])


def _together(points: list[Point], crs: str) -> list[Point]:
    """Return longitudes and latitudes without a jump at 180 degrees; those of a grid in degrees have none."""
    if is_geographic(crs) or not all(math.isfinite(x) for x, _ in points):
        return points
    return [(x - 360 * round((x - points[0][0]) / 360), y) for x, y in points]


def _near_to(points: list[Point], others: Sequence[Point]) -> list[Point]:
    """Return longitudes and latitudes on the same turn around the globe as others."""
    away = middle(others)[0] - middle(points)[0]
    if not math.isfinite(away) or abs(away) < 180:
        return points
    return [(x + 360 * round(away / 360), y) for x, y in points]


def middle(points: Sequence[Point]) -> Point:
    """Return the mean of points."""
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)


def turns(source: Header, target: Header) -> int:
    """Return how many times 360 degrees are to be added to the source's longitudes so that they are the target's."""
    if not (source.georeferenced and is_geographic(source.crs)):
        return 0
    there, here = (middle(_outline(header, source.crs))[0] for header in (target, source))
    return round((there - here) / 360) if math.isfinite(there) else 0


def pixel_corners(source: Header, target: Header) -> list[Point]:
    """Return the corners of `source` as (column, row) on the grid of `target`."""
    return _on_grid(_outline(source, target.crs, middle(_outline(target, target.crs))[0]), target.transform)


def _on_grid(points: Iterable[Point], transform: Transform) -> list[Point]:
    """Return points (x, y) as (column, row) of a grid."""
    a, b, c, d, e, f = transform
    determinant = a * e - b * d
    away = ((x - c, y - f) for x, y in points)
    return [((e * x - b * y) / determinant, (a * y - d * x) / determinant) for x, y in away]


def clip(polygon: Iterable[Point], width: float, height: float) -> list[Point]:
    """Cut a convex polygon to the rectangle (0, 0)..(width, height): Sutherland and Hodgman's four cuts."""
    points = list(polygon)
    if not all(math.isfinite(value) for point in points for value in point):
        return []
    for axis, limit, sign in ((0, 0.0, 1), (0, width, -1), (1, 0.0, 1), (1, height, -1)):
        points = _cut(points, axis, limit, sign)
    return points


def _cut(points: list[Point], axis: int, limit: float, sign: int) -> list[Point]:
    kept: list[Point] = []
    for index, end in enumerate(points):
        start = points[index - 1]
        before, after = sign * (start[axis] - limit), sign * (end[axis] - limit)
        if before * after < 0:
            share = before / (before - after)
            kept.append((start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])))
        if after >= 0:
            kept.append(end)
    return kept


def area(points: Sequence[Point]) -> float:
    """Return the area of a simple polygon (the shoelace formula)."""
    pairs = zip(points, [*points[1:], *points[:1]], strict=True)
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairs)) / 2


def overlap(source: Header, target: Header) -> float:
    """Return the share of the target's area that the source's footprint covers, 0 to 1."""
    shared = clip(pixel_corners(source, target), target.width, target.height)
    return min(1.0, area(shared) / (target.width * target.height))


def overlap_window(source: Header, target: Header) -> Window:
    """Return the part of the target's grid that holds all of the overlap; the whole grid when they do not meet."""
    shared = clip(pixel_corners(source, target), target.width, target.height)
    if not shared:
        return Window(0, 0, target.height, target.width)
    xs, ys = zip(*shared, strict=True)
    left, top = math.floor(min(xs) + 1e-6), math.floor(min(ys) + 1e-6)
    right, bottom = math.ceil(max(xs) - 1e-6), math.ceil(max(ys) - 1e-6)
    return Window(top, left, max(1, bottom - top), max(1, right - left))


def source_window(source: Header, target: Header, window: Window, shift: Point = (0.0, 0.0)) -> Window | None:
    """Return the part of the source's grid that fills a window of the target's, moved by `shift` (down, across).

    It reaches as far as the filter does. None is all of the source, also where the part cannot be told.
    """
    rows = window.top + shift[0] + window.height * STEPS
    columns = window.left + shift[1] + window.width * STEPS
    a, b, c, d, e, f = target.transform
    points = [(a * x + b * y + c, d * x + e * y + f) for y in rows for x in columns]
    pixels = np.array(_pixels_of(project(points, target.crs, source.crs), source))
    if not np.isfinite(pixels).all():
        return None
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    shrink = (high - low) / (window.width, window.height)
    margin = 4 + 2 * np.ceil(np.maximum(1, shrink)) + 0.02 * (high - low)
    left, top = np.floor(np.clip(low - margin, 0, None)).astype(int).tolist()
    right, bottom = np.ceil(np.clip(high + margin, None, (source.width, source.height))).astype(int).tolist()
    return Window(top, left, bottom - top, right - left) if bottom > top and right > left else None


def _pixels_of(points: list[Point], source: Header) -> list[Point]:
    """Return points of an image's CRS as its (column, row); infinite where that cannot be told."""
    ends = corners(source.transform, source.width, source.height)
    wide = is_geographic(source.crs) and max(ends)[0] - min(ends)[0] > 180  # it may show them on several turns
    if wide or not all(math.isfinite(value) for point in points for value in point):
        return [(math.inf, math.inf)]
    if is_geographic(source.crs):
        points = [(x - 360 * round((x - middle(ends)[0]) / 360), y) for x, y in points]
    if not source.gcps:
        return _on_grid(points, source.transform)
    from rasterio.transform import GCPTransformer

    rows, columns = GCPTransformer(control_points(source)).rowcol(*zip(*points, strict=True), op=float)
    return list(zip(columns, rows, strict=True))


def control_points(header: Header, turn: float = 0.0) -> list[Any]:
    """Return an image's control points in rasterio's words, `turn` added to their x."""
    from rasterio.control import GroundControlPoint

    told = (header.gcps[index : index + 4] for index in range(0, len(header.gcps), 4))
    return [GroundControlPoint(row, column, x + turn, y) for column, row, x, y in told]


class Footprints:
    """The corners of many images in longitude and latitude, projected once, for fast overlaps of small images."""

    def __init__(self, headers: Iterable[Header]) -> None:
        """Project the corners of every georeferenced image, all of one coordinate system at a time."""
        by_crs: dict[str, list[Header]] = defaultdict(list)
        for header in headers:
            if header.georeferenced:
                by_crs[header.crs].append(header)
        self._corners: dict[Key, list[Point]] = {}
        self._overlaps: dict[tuple[Key, Key], float] = {}
        for crs, members in by_crs.items():
            ends = [point for header in members for point in corners(header.transform, header.width, header.height)]
            points = project(ends, crs, "EPSG:4326")
            for index, header in enumerate(members):
                self._corners[_key(header)] = _together(points[4 * index : 4 * index + 4], crs)

    def corners_of(self, header: Header) -> list[Point]:
        """Return the image's corners as (longitude, latitude)."""
        return self._corners[_key(header)]

    def overlap(self, source: Header, target: Header) -> float:
        """Return the share of the target's area that the source covers, as `overlap` does."""
        key = (_key(source), _key(target))
        if key not in self._overlaps:
            self._overlaps[key] = self._overlap(source, target)
        return self._overlaps[key]

    def _overlap(self, source: Header, target: Header) -> float:
        under = self.corners_of(target)
        over = _near_to(self.corners_of(source), under)
        if not all(max(axis) - min(axis) < SMALL for axis in zip(*over, *under, strict=True)):
            return overlap(source, target) if _near(over, under) else 0.0
        (x0, y0), (x1, y1), _, (x3, y3) = under
        a, d, b, e = x1 - x0, y1 - y0, x3 - x0, y3 - y0
        if a * e == b * d:
            return 0.0
        return min(1.0, round(area(clip(_on_grid(over, (a, b, x0, d, e, y0)), 1.0, 1.0)), 6))


def _near(first: Sequence[Point], second: Sequence[Point]) -> bool:
    """Return whether two quadrilaterals could meet; those of which a corner is nowhere could not."""
    if not all(math.isfinite(value) for point in (*first, *second) for value in point):
        return False
    boxes = [[(min(axis), max(axis)) for axis in zip(*points, strict=True)] for points in (first, second)]
    return all(a[0] <= b[1] and b[0] <= a[1] for a, b in zip(*boxes, strict=True))


def _key(header: Header) -> Key:
    return header.crs, header.transform, header.width, header.height
