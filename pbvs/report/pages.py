"""The pages beside a run's own: runs compared, an ablation, and what the data hold."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pbvs.data.align import read_raster
from pbvs.data.catalog import Entry, natural_key
from pbvs.data.inspection import Archive, Inspection, group_reasons
from pbvs.data.intensity import group_of
from pbvs.data.manifest import Pair
from pbvs.data.statistics import Brightness
from pbvs.errors import PbvsError, of_data
from pbvs.evaluation.compare import Comparison
from pbvs.evaluation.results import Scores, read_scores
from pbvs.files import sweep, write_text
from pbvs.recipe import Recipe
from pbvs.report import charts, images
from pbvs.report.charts import render, task_title
from pbvs.report.images import Gallery, Item, Panes, Tile, tile
from pbvs.run import Run
from pbvs.seeds import evenly_spaced

if TYPE_CHECKING:  # it imports torch, for which a page of the data has no use
    from pbvs.experiments.ablation import Ablation, Made

SIDE = 176  # pixels of an ablation's thumbnails
IMAGES = 3  # of a task in an ablation, spread from the reference's best to its worst


def write_comparisons(
    path: Path, comparisons: Sequence[Comparison], root: Path | None, manifests: Path, **how: Any
) -> None:
    """Write the page of runs compared with the first, its images beside it; `how` are fields of `Gallery`.

    Raises PbvsError when it cannot be written.
    """
    if not comparisons:
        raise PbvsError("There is nothing to compare; name at least two runs.")
    sweep(path.parent, deep=False)
    runs = [comparisons[0].before.run, *(comparison.after.run for comparison in comparisons)]
    names = [run.name for run in runs]
    gallery = Gallery(
        path,
        ["Input", *names, "Target", *(f"Error of {name}" for name in names)],
        [*(f"change in {name}" for name in names[1:]), *names],
        key=[comparison.as_json() for comparison in comparisons],
        **how,
    )
    challenge = runs[0].challenge()
    for task in dict.fromkeys(row.label for comparison in comparisons for row in comparison.tasks):
        pairs = images.pairs_of(manifests, task, comparisons[0].after.split)
        gallery.show(task, task_title(challenge, task), _items(comparisons, runs, task, pairs, root))
    title = " and ".join(names) if len(names) == 2 else f"{names[0]} and {len(names) - 1} more runs"
    views = [comparison_view(comparison) for comparison in comparisons]
    write_text(path, render("compare.html", challenge, title=title, comparisons=views, explorer=gallery.view()))
    gallery.finish()


def _items(
    comparisons: Sequence[Comparison], runs: Sequence[Run], task: str, pairs: Mapping[str, Pair], root: Path | None
) -> list[Item]:
    """Return the images that every comparison has, with each run's score and each change."""
    found: dict[str, dict[str, float | None]] = {}
    locations: dict[str, str] = {}
    for comparison in comparisons:
        after = comparison.after.run.name
        for change in comparison.changes[comparison.changes["task"] == task].to_dict("records"):
            numbers = {f"change in {after}": change["difference"], after: change["after"]}
            name = str(change["name"])
            found.setdefault(name, {}).update({comparison.before.run.name: change["before"], **numbers})
            locations[name] = str(change["location"])
    made = [(run, run.recipe()) for run in runs]
    return [
        Item(name, locations[name], values, partial(_read, made, pairs.get(name), root))
        for name, values in found.items()
    ]


def _read(made: Sequence[tuple[Run, Recipe]], pair: Pair | None, root: Path | None) -> Panes:
    """Read an image as every run made it, with its input, its target and the errors."""
    if pair is None:
        return Panes((), "the manifests no longer list this image")
    opened = [images.open_images(run, recipe, pair, root) for run, recipe in made]
    shown = [opened[0].source, *(each.prediction for each in opened), opened[0].target]
    problem = " ".join(dict.fromkeys(each.problem for each in opened if each.problem))
    return Panes([*shown, *(each.error for each in opened)], problem)


def comparison_view(comparison: Comparison) -> dict[str, Any]:
    """Return what the template shows of one comparison; `-` stands where a recipe does not have a key."""
    changes, settings = comparison.changes, comparison.recipe
    images_of = {row.label: changes.loc[changes["task"] == row.label, "difference"].tolist() for row in comparison.rows}
    rows = [charts.ScoreRow(row.label, row.difference, row.interval, images_of[row.label]) for row in comparison.rows]
    return {
        "before": comparison.before.run.name,
        "after": comparison.after.run.name,
        "split": comparison.after.split,
        "protocol": comparison.after.protocol,
        "lpips": comparison.after.lpips,
        "is_lpips": comparison.after.is_lpips and comparison.before.is_lpips,
        "warnings": comparison.warnings,
        "rows": comparison.rows,
        "chart": charts.difference_rows(rows),
        "settings": [(key, *("-" if value is None else value for value in both)) for key, both in settings.items()],
        "identical": comparison.combined.identical,
    }


# --- The page of an ablation: its table, then the same images as each row makes them.


def render_ablation(table: Ablation, rows: Sequence[Made], root: Path | None, manifests: Path) -> str:
    """Return the HTML of a table."""
    results = {made.run.name: read_scores(made.run) for made in rows}
    tasks = [_ablation_task(task, rows, results, root, manifests) for task in table.tasks]
    return render(
        "ablation.html", rows[0].challenge, title=table.title, table=table, tasks=[task for task in tasks if task]
    )


def _ablation_task(
    task: str, rows: Sequence[Made], results: dict[str, Scores], root: Path | None, manifests: Path
) -> dict[str, Any] | None:
    taking = [made for made in rows if task in made.row.tasks]
    pairs = images.pairs_of(manifests, task, "val")
    scores = {made.run.name: results[made.run.name].scores(task) for made in taking}
    common = set(pairs).intersection(*scores.values()) if taking else set()
    if not common:
        return None
    ranked = sorted(common, key=lambda name: (scores[taking[0].run.name][name], name))
    shown = evenly_spaced(ranked, IMAGES, ends=True)
    return {"task": task, "strips": [_ablation_strip(pairs[name], taking, scores, root) for name in shown]}


def _ablation_strip(
    pair: Pair, taking: Sequence[Made], scores: dict[str, dict[str, float]], root: Path | None
) -> dict[str, Any]:
    first = images.open_images(taking[0].run, taking[0].recipe, pair, root)
    tiles = [tile("Input", first.source, images.NO_DATA, SIDE)]
    for made in taking:
        prediction = images.open_images(made.run, made.recipe, pair, None).prediction
        tiles.append(tile(f"{made.row.name} {scores[made.run.name][pair.name]:.3f}", prediction, side=SIDE))
    return images.strip(pair, [*tiles, tile("Target", first.target, images.NO_DATA, SIDE)], first.problem)


# --- The page of `pbvs check-data`: what is there, what is missing, what is wrong, and how it looks.

THUMBNAIL = 128  # pixels
SHOWN = 24  # locations with thumbnails
LISTED = 200  # files that cannot be used, of each kind of reason

MapPoint = tuple[str, float, float, bool]  # name, longitude, latitude, held out


def render_data(inspection: Inspection) -> str:
    """Return the page as HTML; everything that comes from the data is escaped."""
    return render(
        "data.html",
        inspection.catalog.challenge,
        title=f"Data in {inspection.catalog.root.resolve().name}",
        found=inspection,
        columns=list(inspection.catalog.challenge.modalities),
        titles={name: inspection.catalog.challenge.title_of(name) for name in inspection.catalog.challenge.modalities},
        counts=inspection.counts(),
        groups=[(it, plot(it.modality, {"": it.figures}) if it.figures.images else None) for it in inspection.groups],
        reasons=group_reasons(inspection.wrong),
        listed=LISTED,
        maps=[map_of(archive.name, cluster) for archive in inspection.archives for cluster in clusters(archive.points)],
        world=world_of(inspection.archives),
        histograms=[plot(name.upper(), splits) for name, splits in inspection.modalities.items()],
        input_histograms=[plot(name, splits) for name, splits in inspection.inputs.items()],
        strips=thumbnails(inspection),
    )


def clusters(points: Sequence[MapPoint]) -> list[list[MapPoint]]:
    """Return the points in groups that lie together, those of at least three."""
    return [group for group in charts.clusters(points, lambda point: point[1:3]) if len(group) >= 3]


def map_of(name: str, located: Sequence[MapPoint]) -> dict[str, Any]:
    """Return locations as points in a drawing, those held out on top, with a scale bar."""
    located = sorted(located, key=lambda point: point[3])
    placed = charts.project([point[1] for point in located], [point[2] for point in located])
    bar = _round_number(charts.WIDTH / 4 * placed.kilometres)
    return {
        "name": name,
        "points": [
            {"name": title, "x": x, "y": y, "held": held}
            for (title, _, _, held), (x, y) in zip(located, placed.points, strict=True)
        ],
        "bar": round(bar / placed.kilometres, 2),
        "length": f"{bar:g} km" if bar >= 1 else f"{bar * 1000:g} m",
        "where": placed.where,
        "held": sum(held for *_, held in located),
    }


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
    return {"title": title, "lines": lines, "means": {split: figure.mean for split, figure in splits.items()}}


def thumbnails(inspection: Inspection) -> list[dict[str, Any]]:
    """Return strips of thumbnails: some locations of every archive, some chips and some inputs."""
    groups: dict[str, dict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
    for entry in inspection.catalog.entries:
        info = entry.info
        folder = f"{info.split}/{info.task}" if info.role == "input" else info.split
        groups[info.source][info.location or f"{folder}/{entry.stem}"].append(entry)
    each = max(2, SHOWN // max(1, len(groups)))
    return [
        {"title": name, "archive": source, "tiles": tiles, "task": members[name][0].info.task}
        for source, members in sorted(groups.items())
        for name in evenly_spaced(sorted(members, key=natural_key), each)
        if (tiles := _tiles(inspection, members[name]))
    ]


def _tiles(inspection: Inspection, members: Sequence[Entry]) -> list[Tile]:
    """Return the first image of each modality of a location, no mosaic where there is another."""
    by_modality: dict[str, list[Entry]] = {name: [] for name in inspection.catalog.challenge.modalities}
    for entry in sorted(members, key=lambda entry: entry.info.role == "mosaic"):
        by_modality[entry.info.modality].append(entry)
    return [_tile(inspection, entries[0], len(entries)) for entries in by_modality.values() if entries]


def _tile(inspection: Inspection, entry: Entry, count: int) -> Tile:
    catalog, name = inspection.catalog, entry.info.modality
    said = f"{catalog.challenge.title_of(name)} {entry.info.date}".strip()
    caption = f"{said}, 1 of {count}" if count > 1 else said
    rule, modality = inspection.intensity[group_of(entry)], catalog.challenge.modalities[name]
    try:
        pixels = read_raster(catalog.root / entry.path, modality, rule, side=8 * THUMBNAIL).pixels
    except PbvsError as error:
        return Tile(caption, absent=of_data(error) and "cannot be read")
    return tile(caption, pixels, side=THUMBNAIL)


def _round_number(value: float) -> float:
    """Return the largest of 1, 2 and 5 times a power of ten that is not above `value`."""
    power: float = 10.0 ** math.floor(math.log10(value))
    return max(step * power for step in (1, 2, 5) if step * power <= value)
