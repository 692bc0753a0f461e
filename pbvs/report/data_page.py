"""The page of `pbvs check-data`: what is there, what is missing, what is wrong, and how it looks."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pbvs.data.align import read_raster
from pbvs.data.catalog import Entry
from pbvs.data.inspection import Archive, GroupFigures, Inspection, group_reasons
from pbvs.data.layout import natural_key
from pbvs.data.statistics import Brightness
from pbvs.errors import PbvsError
from pbvs.files import write_text
from pbvs.report.images import Tile, tile
from pbvs.report.page import render
from pbvs.seeds import evenly_spaced

THUMBNAIL = 128  # pixels
SHOWN = 24  # locations with thumbnails
LISTED = 200  # files that cannot be used, of each kind of reason
WIDTH, HEIGHT = 320, 200  # of a map, in units of its drawing
CELL = 2.0  # degrees
KILOMETRES = 111.32  # in a degree of latitude

MapPoint = tuple[str, float, float, bool]  # name, longitude, latitude, held out


def write_data_page(inspection: Inspection, path: Path) -> Path:
    """Write the page, one file that loads nothing, and return its path."""
    write_text(path, render_data(inspection))
    return path


def render_data(inspection: Inspection) -> str:
    """Return the page as HTML; everything that comes from the data is escaped."""
    return render(
        "data.html", inspection.catalog.challenge, title=f"Data in {inspection.catalog.root.resolve().name}",
        found=inspection, columns=list(inspection.catalog.challenge.modalities),
        titles={name: inspection.catalog.challenge.title_of(name) for name in inspection.catalog.challenge.modalities},
        counts=inspection.counts(), groups=[(group, _drawn(group)) for group in inspection.groups],
        reasons=group_reasons(inspection.wrong), listed=LISTED,
        maps=[map_of(archive.name, cluster) for archive in inspection.archives for cluster in clusters(archive.points)],
        world=world_of(inspection.archives),
        histograms=[plot(name.upper(), splits) for name, splits in inspection.modalities.items()],
        input_histograms=[plot(name, splits) for name, splits in inspection.inputs.items()],
        strips=thumbnails(inspection),
    )  # fmt: skip


def clusters(points: Sequence[MapPoint]) -> list[list[MapPoint]]:
    """Return the points in groups that lie together, those of at least three: cells of two degrees that touch."""
    cells: dict[tuple[int, int], list[MapPoint]] = defaultdict(list)
    for point in points:
        cells[math.floor(point[1] / CELL), math.floor(point[2] / CELL)].append(point)
    groups = []
    while cells:
        waiting, group = [next(iter(cells))], []
        while waiting:
            x, y = waiting.pop()
            group += cells.pop((x, y), [])
            waiting += [(x + i, y + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (x + i, y + j) in cells]
        if len(group) >= 3:
            groups.append(group)
    return groups


def map_of(name: str, located: Sequence[MapPoint]) -> dict[str, Any]:
    """Return locations as points in a drawing, north up, those held out on top, with a scale bar."""
    longitudes, latitudes = [point[1] for point in located], [point[2] for point in located]
    squeeze = max(0.05, math.cos(math.radians(sum(latitudes) / len(latitudes))))
    middle = ((min(longitudes) + max(longitudes)) / 2, (min(latitudes) + max(latitudes)) / 2)
    reach = max((max(longitudes) - min(longitudes)) * squeeze / WIDTH, (max(latitudes) - min(latitudes)) / HEIGHT, 1e-5)
    scale = 0.78 / reach
    points = [
        {
            "name": title,
            "x": round(WIDTH / 2 + (x - middle[0]) * squeeze * scale, 2),
            "y": round(HEIGHT / 2 - 6 - (y - middle[1]) * scale, 2),
            "held": held,
        }
        for title, x, y, held in sorted(located, key=lambda point: point[3])
    ]
    bar = _round_number(WIDTH / 4 / scale * KILOMETRES)
    return {
        "name": name, "points": points, "bar": round(bar / KILOMETRES * scale, 2),
        "length": f"{bar:g} km" if bar >= 1 else f"{bar * 1000:g} m",
        "where": f"{_degrees(middle[1], 'N', 'S')}, {_degrees(middle[0], 'E', 'W')}",
        "held": sum(held for *_, held in located),
    }  # fmt: skip


def world_of(archives: Sequence[Archive]) -> list[dict[str, Any]]:
    """Return where on Earth each archive lies, in a drawing of 360 by 180 units."""
    dots: Counter[tuple[str, int, int]] = Counter()
    for archive in archives:
        dots.update((archive.name, round(x), round(y)) for _, x, y, _ in archive.points)
    return [
        {"name": name, "x": x + 180, "y": 90 - y, "count": count, "radius": round(1.6 + math.log10(count), 2)}
        for (name, x, y), count in sorted(dots.items())
    ]


def plot(title: str, splits: dict[str, Brightness]) -> dict[str, Any]:
    """Return a histogram for each split as the path of a line in a drawing of 64 by 40 units, all to one scale."""
    shares = {split: figure.counts / max(figure.counts.sum(), 1e-12) for split, figure in splits.items()}
    top = max(float(np.quantile(share, 0.985)) for share in shares.values()) or 1.0
    lines = {
        split: "M"
        + " L".join(f"{index + 0.5:.1f},{40 - 38 * min(share / top, 1.0):.2f}" for index, share in enumerate(row))
        for split, row in shares.items()
    }
    means = {split: figure.mean for split, figure in splits.items()}
    return {"title": title, "lines": lines, "means": means, "images": {s: f.images for s, f in splits.items()}}


def _drawn(group: GroupFigures) -> dict[str, Any] | None:
    return plot(group.modality, {"": group.figures}) if group.figures.images else None


def thumbnails(inspection: Inspection) -> list[dict[str, Any]]:
    """Return strips of thumbnails: some locations of every archive, some chips and some inputs."""
    chosen: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in inspection.catalog.entries:
        info = entry.info
        chosen[info.source, info.location or _stem_group(entry)].append(entry)
    by_source: dict[str, list[tuple[str, list[Entry]]]] = defaultdict(list)
    for (source, name), members in chosen.items():
        by_source[source].append((name, members))
    each = max(2, SHOWN // max(1, len(by_source)))
    return [
        {"title": name, "archive": source, "tiles": tiles, "task": members[0].info.task}
        for source, groups in sorted(by_source.items())
        for name, members in evenly_spaced(sorted(groups, key=lambda group: natural_key(group[0])), each)
        if (tiles := _tiles(inspection, members))
    ]


def _stem_group(entry: Entry) -> str:
    info = entry.info
    return f"{info.split}/{info.task}/{entry.stem}" if info.role == "input" else f"{info.split}/{entry.stem}"


def _tiles(inspection: Inspection, members: Sequence[Entry]) -> list[Tile]:
    """Return the first image of each modality of a location, and how many more there are."""
    by_modality: dict[str, list[Entry]] = defaultdict(list)
    for entry in sorted(members, key=lambda entry: entry.info.role == "mosaic"):
        by_modality[entry.info.modality].append(entry)
    return [
        _tile(inspection, by_modality[modality])
        for modality in inspection.catalog.challenge.modalities
        if modality in by_modality
    ]


def _tile(inspection: Inspection, entries: Sequence[Entry]) -> Tile:
    first = entries[0]
    more = f"1 of {len(entries)}" if len(entries) > 1 else ""
    caption = ", ".join(
        filter(None, (f"{inspection.catalog.challenge.title_of(first.info.modality)} {first.info.date}".strip(), more))
    )
    try:
        modality = inspection.catalog.challenge.modalities[first.info.modality]
        raster = read_raster(
            inspection.catalog.root / first.path, modality, inspection.intensity.rule(first), side=8 * THUMBNAIL
        )
    except PbvsError:
        return Tile(caption, absent="cannot be read")
    return tile(caption, raster.pixels, side=THUMBNAIL)


def _round_number(value: float) -> float:
    """Return the largest of 1, 2 and 5 times a power of ten that is not above `value`."""
    power: float = 10.0 ** math.floor(math.log10(value))
    return max(step * power for step in (1, 2, 5) if step * power <= value)


def _degrees(value: float, positive: str, negative: str) -> str:
    return f"{abs(value):.2f}° {positive if value >= 0 else negative}"
