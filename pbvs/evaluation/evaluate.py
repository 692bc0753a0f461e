"""Score a run's predictions: per image, per location, per task and combined, and write it all down."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from pbvs.challenge import TASKS, get_task
from pbvs.data.build import find_root
from pbvs.data.manifest import manifest_path, read_manifest
from pbvs.devices import resolve_device
from pbvs.errors import PbvsError
from pbvs.evaluation.engine import Engine, make_engine
from pbvs.evaluation.material import Task, unexpected_predictions
from pbvs.evaluation.protocol import DEFAULT, Protocol, load_protocol
from pbvs.evaluation.summary import summarise, write_scores
from pbvs.evaluation.targets import Targets
from pbvs.files import write_json
from pbvs.locks import locked
from pbvs.recipe import Recipe
from pbvs.run import CACHE, MANIFESTS, SUBMISSIONS, Run


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
    fid: bool = False,
    cache: Path | None = CACHE,
    report: bool = True,
) -> dict[str, Any]:
    """Score what a run would submit against the held-out targets of `split`.

    Writes `scores/<task>.csv` and `scores/summary.json` into the run's folder and, unless told not to, its report.
    `lpips_net` replaces the protocol's trunk; `random` is no LPIPS and is labelled so. `fid` computes FID
    and KID also where the protocol's score does without. `jobs` threads read files; neither they nor `batch` change a
    number. What is made of the targets is kept below `cache` for the next time, unless that is None.

    Returns the summary. Raises PbvsError when there is no run, data, manifest or trunk, or when another command works
    on the run: predictions that change meanwhile would give scores of two models.
    """
    place = (run if isinstance(run, Run) else Run(run, submissions)).existing()
    rule = load_protocol(protocol, lpips_net=lpips_net)
    where = find_root(root, manifests)
    with locked(place.folder):
        recipe = place.recipe()
        tasks = [task for name in TASKS if (task := find_task(place, recipe, rule, manifests, split, name))]
        if not tasks:
            raise PbvsError(f"No manifest of the split {split} is in {manifests}; make them with `pbvs build-pairs`.")
        engine = make_engine(
            rule, weights, with_fid=fid, cache=cache, device=resolve_device(device), jobs=jobs, batch=batch
        )
        summary = _score(place, split, recipe, tasks, where, engine)
        if report:
            _report(place, where, manifests)
    return summary


def _score(run: Run, split: str, recipe: Recipe, tasks: list[Task], root: Path, engine: Engine) -> dict[str, Any]:
    """Score the tasks and write the tables and the summary."""
    with contextlib.closing(engine.store):
        found = {
            task.name: engine.score(task, Targets(root, recipe.radiometry, task.size, engine.store)) for task in tasks
        }
    summary = summarise(run.name, split, engine, found, [note for task in tasks for note in _notes(task)])
    for name, scores in found.items():
        write_scores(run.scores / f"{name}.csv", scores)
    write_json(run.scores / "summary.json", summary)
    return summary


def find_task(run: Run, recipe: Recipe, protocol: Protocol, manifests: Path, split: str, name: str) -> Task | None:
    """Return what is to be scored of one task; None without a manifest."""
    path = manifest_path(manifests, name, split)
    if not path.is_file():
        return None
    pairs = read_manifest(path)
    rule = recipe.evaluation_size if protocol.evaluation_size == "recipe" else protocol.evaluation_size
    size = get_task(name).challenge_size if rule == "challenge" else None
    with_target = [pair for pair in pairs if pair.target]
    return Task(name, with_target, run.prediction_folder(split, name), size, frozenset(pair.name for pair in pairs))


def _notes(task: Task) -> list[str]:
    found = unexpected_predictions(task)
    kinds = {"extra": "belong to no input", "duplicate": "have the name of another prediction"}
    return [
        f"{task.name}: {len(names)} files {what} and were not scored ({', '.join(names[:3])})."
        for kind, what in kinds.items()
        if (names := getattr(found, kind))
    ]


def _report(run: Run, root: Path, manifests: Path) -> None:
    try:
        from pbvs.report import write_report
    except ImportError:
        return
    write_report(run, root=root, manifests=manifests)
