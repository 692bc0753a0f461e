"""Pages of several runs: a comparison of each with the first, and an ablation's table, with the same images of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pbvs.data.manifest import Pair, manifest_path, read_manifest
from pbvs.errors import PbvsError
from pbvs.evaluation.compare import Comparison, Difference, recipe_differences
from pbvs.evaluation.results import Scores, read_scores
from pbvs.experiments.ablation import SPLIT, Made
from pbvs.experiments.ablation_table import Ablation
from pbvs.report import charts, images
from pbvs.report.gallery import Gallery, Item, Panes
from pbvs.report.page import render, task_title
from pbvs.run import Run

SIDE = 176  # pixels of an ablation's thumbnails
IMAGES = 3  # of a task in an ablation, spread from the reference's best to its worst


def write_comparisons(
    path: Path,
    comparisons: Sequence[Comparison],
    root: Path | None,
    manifests: Path,
    *,
    one_file: bool = False,
    all_images: bool = False,
    jobs: int = 1,
) -> None:
    """Write the page of runs compared with the first, its images beside it; raises PbvsError when it cannot."""
    from pbvs.files import sweep, write_text

    if not comparisons:
        raise PbvsError("There is nothing to compare; name at least two runs.")
    sweep(path.parent, deep=False)
    runs = [comparisons[0].before.run, *(comparison.after.run for comparison in comparisons)]
    panes = ["Input", *(run.name for run in runs), "Target", *(f"Error of {run.name}" for run in runs)]
    gallery = Gallery(
        path,
        panes,
        [*(f"change in {run.name}" for run in runs[1:]), *(run.name for run in runs)],
        key=[comparison.as_json() for comparison in comparisons],
        inline=one_file,
        all_images=all_images,
        jobs=jobs,
    )
    for task in dict.fromkeys(row.label for comparison in comparisons for row in comparison.tasks):
        pairs = {pair.name: pair for pair in _pairs(manifests, task, comparisons[0].after.split)}
        gallery.show(task, task_title(runs[0].challenge(), task), _items(comparisons, runs, task, pairs, root))
    write_text(path, render_comparisons(comparisons, gallery))
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
    return [Item(name, locations[name], values, _reader(runs, pairs.get(name), root)) for name, values in found.items()]


def _reader(runs: Sequence[Run], pair: Pair | None, root: Path | None) -> Callable[[], Panes]:
    recipes = [run.recipe() for run in runs]

    def read() -> Panes:
        if pair is None:
            return Panes((), "the manifests no longer list this image")
        opened = [images.open_images(run, recipe, pair, root) for run, recipe in zip(runs, recipes, strict=True)]
        shown = [opened[0].source, *(each.prediction for each in opened), opened[0].target]
        problem = " ".join(dict.fromkeys(each.problem for each in opened if each.problem))
        return Panes([*shown, *map(images.error_of_opened, opened)], problem)

    return read


def render_comparisons(comparisons: Sequence[Comparison], gallery: Gallery) -> str:
    """Return the HTML of one or several comparisons with the same first run."""
    names = [comparisons[0].before.run.name, *(comparison.after.run.name for comparison in comparisons)]
    title = " and ".join(names) if len(names) == 2 else f"{names[0]} and {len(names) - 1} more runs"
    views = [comparison_view(comparison) for comparison in comparisons]
    return render(
        "compare.html", comparisons[0].before.run.challenge(), title=title, comparisons=views, explorer=gallery.view()
    )


def comparison_view(comparison: Comparison) -> dict[str, Any]:
    """Return what the template shows of one comparison."""
    drawn, axis = charts.difference_rows([_chart_row(comparison, row) for row in comparison.rows])
    return {
        "before": comparison.before.run.name,
        "after": comparison.after.run.name,
        "split": comparison.after.split,
        "protocol": comparison.after.protocol,
        "lpips": comparison.after.lpips,
        "is_lpips": comparison.after.is_lpips and comparison.before.is_lpips,
        "warnings": comparison.warnings,
        "rows": comparison.rows,
        "chart": {"rows": drawn, "axis": axis},
        "settings": setting_differences(comparison.before.run, comparison.after.run),
        "identical": comparison.combined.identical,
    }


def setting_differences(before: Run, after: Run) -> list[tuple[str, str, str]]:
    """Return the keys in which two runs' recipes differ, with both values; `-` where a recipe has no such key."""
    found = recipe_differences(before, after)
    shown = {key: ["-" if value is None else str(value) for value in values] for key, values in found.items()}
    return [(key, old, new) for key, (old, new) in shown.items()]


def _chart_row(comparison: Comparison, row: Difference) -> charts.ScoreRow:
    images = comparison.changes.loc[comparison.changes["task"] == row.label, "difference"].tolist()
    return charts.ScoreRow(row.label, row.difference, row.interval, images)


def _pairs(manifests: Path, task: str, split: str) -> Sequence[Pair]:
    path = manifest_path(manifests, task, split)
    return read_manifest(path) if path.is_file() else ()


# --- The page of an ablation: its table, then the same images as each row makes them.


def render_ablation(table: Ablation, rows: Sequence[Made], root: Path | None, manifests: Path) -> str:
    """Return the HTML of a table."""
    results = {made.run.name: read_scores(made.run) for made in rows}
    tasks = [_ablation_task(task, rows, results, root, manifests) for task in table.tasks]
    return render(
        "ablation.html",
        rows[0].challenge,
        title=table.title,
        table=table,
        columns=table.columns,
        tasks=[t for t in tasks if t],
    )


def _ablation_task(
    task: str, rows: Sequence[Made], results: dict[str, Scores], root: Path | None, manifests: Path
) -> dict[str, Any] | None:
    taking = [made for made in rows if task in made.row.tasks]
    path = manifest_path(manifests, task, SPLIT)
    pairs = {pair.name: pair for pair in read_manifest(path)} if path.is_file() else {}
    scores = {made.run.name: results[made.run.name].scores(task) for made in taking}
    common = set(pairs).intersection(*(set(found) for found in scores.values())) if taking else set()
    if not common:
        return None
    ranked = sorted(common, key=lambda name: (scores[taking[0].run.name][name], name))
    places = sorted({round(i * (len(ranked) - 1) / (IMAGES - 1)) for i in range(IMAGES)})
    return {"task": task, "strips": [_ablation_strip(pairs[ranked[place]], taking, scores, root) for place in places]}


def _ablation_strip(
    pair: Pair, taking: Sequence[Made], scores: dict[str, dict[str, float]], root: Path | None
) -> dict[str, Any]:
    first = images.open_images(taking[0].run, taking[0].recipe, pair, root)
    tiles = [images.tile("Input", first.source, "no data folder given", SIDE)]
    for made in taking:
        opened = images.open_images(made.run, made.recipe, pair, None)
        tiles.append(
            images.tile(f"{made.row.name} {scores[made.run.name][pair.name]:.3f}", opened.prediction, side=SIDE)
        )
    tiles.append(images.tile("Target", first.target, "no data folder given", SIDE))
    return {
        "heading": "",
        "note": "",
        "location": pair.location,
        "name": pair.name,
        "problem": first.problem,
        "tiles": tiles,
    }
