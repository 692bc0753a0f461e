"""Score a run's predictions: per picture, per location, per task and combined, and write it all down."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pbvs.data.build import find_root
from pbvs.data.manifest import Pair, manifest_path, read_manifest
from pbvs.data.pairs import open_target
from pbvs.devices import resolve_device
from pbvs.errors import PbvsError
from pbvs.files import write_json
from pbvs.recipe import Recipe
from pbvs.runs import MANIFESTS, SUBMISSIONS, Run
from pbvs.scoring.engine import Engine, Row
from pbvs.scoring.material import Pixels, Task, list_predictions, target_pixels
from pbvs.scoring.protocol import DEFAULT, Protocol, load_protocol
from pbvs.scoring.summary import summarise, write_rows
from pbvs.tasks import TASKS, get_task


def score(
    run: str | Run,
    split: str = "val",
    *,
    root: Path | None = None,
    manifests: Path = MANIFESTS,
    submissions: Path = SUBMISSIONS,
    protocol: str | Path | Protocol = DEFAULT,
    weights: Path | None = None,
    lpips_net: str | None = None,
    device: str = "cpu",
    jobs: int = 1,
    batch: int = 16,
    report: bool = True,
) -> dict[str, Any]:
    """Score what a run would submit against the held-out targets of `split`.

    Writes `scores/<task>.csv` and `scores/summary.json` into the run's folder and, unless told not to, its report.
    `lpips_net` replaces the protocol's trunk; `random` is no LPIPS and is labelled so. `jobs` threads read files;
    neither they nor `batch` change a number.

    Returns the summary. Raises PbvsError when there is no run, data, manifest or trunk.
    """
    place = run if isinstance(run, Run) else Run(run, submissions)
    recipe = place.recipe()
    rule = load_protocol(protocol, lpips_net=lpips_net)
    where = find_root(root, manifests)
    engine = Engine(rule, weights, resolve_device(device), jobs, batch)
    rows: dict[str, list[Row]] = {}
    notes: list[str] = []
    for name in TASKS:
        task, known = _task(place, recipe, rule, manifests, split, name)
        if task is None:
            continue
        rows[name] = engine.score(task, reader(task, where, recipe))
        notes += _notes(task, known)
    if not rows:
        raise PbvsError(f"No manifest of the split {split} is in {manifests}; make them with `pbvs build-pairs`.")
    summary = summarise(place.name, split, rule, engine, rows, notes)
    for name, found in rows.items():
        write_rows(place.scores / f"{name}.csv", found)
    write_json(place.scores / "summary.json", summary)
    if report:
        _report(place, where, manifests)
    return summary


def _task(
    run: Run, recipe: Recipe, protocol: Protocol, manifests: Path, split: str, name: str
) -> tuple[Task | None, set[str]]:
    """Return what is to be scored of one task, and every name its folder may hold; None without a manifest."""
    path = manifest_path(manifests, name, split)
    if not path.is_file():
        return None, set()
    pairs = read_manifest(path)
    rule = recipe.evaluation_size if protocol.evaluation_size == "recipe" else protocol.evaluation_size
    size = get_task(name).challenge_size if rule == "challenge" else None
    task = Task(name, [pair for pair in pairs if pair.target], run.predictions(split, name), size)
    return task, {pair.name for pair in pairs}


def reader(task: Task, root: Path, recipe: Recipe) -> Callable[[Pair], Pixels]:
    """Return the function that reads a pair's target at the evaluation size in 8 bits."""
    return lambda pair: target_pixels(open_target(pair, root, recipe.radiometry), task.size)


def _notes(task: Task, known: set[str]) -> list[str]:
    listing = list_predictions(task, known)
    kinds = {"extra": "belong to no input", "duplicate": "have the name of another prediction"}
    return [
        f"{task.name}: {len(names)} files {what} and were not scored ({', '.join(names[:3])})."
        for kind, what in kinds.items()
        if (names := getattr(listing, kind))
    ]


def _report(run: Run, root: Path, manifests: Path) -> None:
    try:
        from pbvs.report import write_report
    except ImportError:
        return
    write_report(run, root=root, manifests=manifests)
