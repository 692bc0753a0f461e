"""Where pictures lie on Earth, and how much of one another covers: corners, overlap and the common grid."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pbvs.data.headers import Header

Point = tuple[float, float]
EARTH = 111_320.0  # metres in a degree of latitude


@dataclass(frozen=True)
class Window:
    """A part of a grid, in pixels."""

    top: int
    left: int
    height: int
    width: int


def corners(header: Header) -> list[Point]:
    """Return the picture's corners in its own CRS, in order around it."""
    a, b, c, d, e, f = header.transform
    ends = ((0, 0), (header.width, 0), (header.width, header.height), (0, header.height))
    return [(a * x + b * y + c, d * x + e * y + f) for x, y in ends]


def project(points: Sequence[Point], source: str, target: str) -> list[Point]:
    """Return points in another CRS; points that have no place there become infinite."""
    if source == target:
        return list(points)
    from rasterio.crs import CRS
    from rasterio.warp import transform

    x, y = zip(*points, strict=True)
    return list(zip(*transform(CRS.from_user_input(source), CRS.from_user_input(target), x, y), strict=True))


def pixel_corners(source: Header, target: Header) -> list[Point]:
    """Return the corners of `source` as (column, row) on the grid of `target`."""
    a, b, c, d, e, f = target.transform
    determinant = a * e - b * d
    result = []
    for x, y in project(corners(source), source.crs, target.crs):
        dx, dy = x - c, y - f
        result.append(((e * dx - b * dy) / determinant, (a * dy - d * dx) / determinant))
    return result


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
