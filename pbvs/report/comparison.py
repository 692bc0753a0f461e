"""The page of a comparison: the differences with their intervals, then images of the largest changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pbvs.data.manifest import Pair, manifest_path, read_manifest
from pbvs.errors import PbvsError
from pbvs.evaluation.compare import Change, Comparison, Difference, largest
from pbvs.report import charts, images
from pbvs.report.page import render
from pbvs.report.sections import find_pairs

SIDE = 224
EXAMPLES = 2  # images a task and direction


def render_comparisons(comparisons: Sequence[Comparison], root: Path | None, manifests: Path) -> str:
    """Return the HTML of one or several comparisons with the same first run."""
    names = [comparisons[0].before.run.name, *(comparison.after.run.name for comparison in comparisons)]
    views = [comparison_view(comparison, root, manifests) for comparison in comparisons]
    title = " and ".join(names) if len(names) == 2 else f"{names[0]} and {len(names) - 1} more runs"
    return render("compare.html", title=title, comparisons=views)


def comparison_view(comparison: Comparison, root: Path | None, manifests: Path) -> dict[str, Any]:
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
        "tasks": [_task_view(comparison, row.label, root, manifests) for row in comparison.tasks],
    }


def _chart_row(comparison: Comparison, row: Difference) -> charts.ScoreRow:
    images = [change.difference for change in comparison.changes if change.task == row.label]
    return charts.ScoreRow(row.label, row.difference, row.interval, images)


def _task_view(comparison: Comparison, task: str, root: Path | None, manifests: Path) -> dict[str, Any]:
    better, worse = largest(comparison, task, EXAMPLES)
    names = [change.name for change in (*better, *worse)]
    pairs = find_pairs(_pairs(manifests, task, comparison.after.split), names)
    strips = [
        _strip(comparison, change, pairs[change.name], heading, root)
        for heading, changes in (("Better", better), ("Worse", worse))
        for change in changes
        if change.name in pairs
    ]
    return {"task": task, "strips": strips}


def _pairs(manifests: Path, task: str, split: str) -> Sequence[Pair]:
    path = manifest_path(manifests, task, split)
    return read_manifest(path) if path.is_file() else ()


def _strip(comparison: Comparison, change: Change, pair: Pair, heading: str, root: Path | None) -> dict[str, Any]:
    old_run, new_run = comparison.before.run, comparison.after.run
    old = images.open_images(old_run, old_run.recipe(), pair, root)
    new = images.open_images(new_run, new_run.recipe(), pair, root)
    tiles = [
        images.tile("Input", old.source, "no data folder given", SIDE),
        images.tile(old_run.name, old.prediction, side=SIDE),
        images.tile(new_run.name, new.prediction, side=SIDE),
        images.tile("Target", old.target, "no data folder given", SIDE),
        images.tile(f"Error of {old_run.name}", _error(old), side=SIDE),
        images.tile(f"Error of {new_run.name}", _error(new), side=SIDE),
    ]
    return {
        "heading": f"{heading} by {abs(change.difference):.3f}",
        "note": f"from {change.before:.3f} to {change.after:.3f}",
        "location": change.location,
        "name": change.name,
        "problem": " ".join(dict.fromkeys(text for text in (old.problem, new.problem) if text)),
        "tiles": tiles,
    }


def _error(opened: images.Opened) -> images.ImageArray | None:
    if opened.prediction is None or opened.target is None:
        return None
    return images.error_map(images.error_of(opened.prediction, opened.target))


def write_comparisons(path: Path, comparisons: Sequence[Comparison], root: Path | None, manifests: Path) -> None:
    """Write the page; raises PbvsError when it cannot be written."""
    from pbvs.files import sweep, write_text

    if not comparisons:
        raise PbvsError("There is nothing to compare; name at least two runs.")
    sweep(path.parent, deep=False)
    write_text(path, render_comparisons(comparisons, root, manifests))
