"""The page of an ablation: its table, then the same images as each row makes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pbvs.data.manifest import Pair, manifest_path, read_manifest
from pbvs.evaluation.leaderboard import ORDER
from pbvs.evaluation.results import Results, read_results
from pbvs.experiments.ablation import SPLIT, Made
from pbvs.experiments.ablation_table import COLUMNS, Ablation
from pbvs.report import images
from pbvs.report.page import render

SIDE = 176
IMAGES = 3  # of a task, spread from the reference's best to its worst


def render_ablation(table: Ablation, rows: Sequence[Made], root: Path | None, manifests: Path) -> str:
    """Return the HTML of a table."""
    results = {made.run.name: read_results(made.run) for made in rows}
    tasks = [_task_view(task, rows, results, root, manifests) for task in ORDER]
    return render("ablation.html", title=table.title, table=table, columns=COLUMNS, tasks=[t for t in tasks if t])


def _task_view(
    task: str, rows: Sequence[Made], results: dict[str, Results], root: Path | None, manifests: Path
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
    return {"task": task, "strips": [_strip(pairs[ranked[place]], taking, scores, root) for place in places]}


def _strip(
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
