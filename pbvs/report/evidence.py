"""Gather what a run has so far: each part is there, or absent, or named as unreadable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pbvs.challenge import TASKS
from pbvs.data.manifest import Pair, manifest_path, read_manifest
from pbvs.errors import PbvsError
from pbvs.evaluation.results import Results, is_scored, number, read_csv, read_results, table
from pbvs.files import read_json
from pbvs.recipe import Recipe
from pbvs.run import Run

T = TypeVar("T")
AXES = ("epoch", "step", "seconds")  # columns of a training log that count, and say nothing of how well it goes


@dataclass(frozen=True)
class Evidence:
    """The parts of a run; `problems` are sentences about what is there and cannot be read."""

    run: Run
    recipe: Recipe
    results: Results | None
    pairs: Mapping[tuple[str, str], list[Pair]]  # by (split, task), where there is a manifest
    logs: Mapping[str, Mapping[str, Sequence[float | None]]]  # by task, then by column
    models: Mapping[str, Mapping[str, Any]]  # models/<task>/done.json
    batches: Mapping[tuple[str, str], Mapping[str, Any]]  # predictions/<split>/<task>.json
    provenance: Mapping[str, Any]
    problems: list[str] = field(default_factory=list)


def gather(run: Run, manifests: Path) -> Evidence:
    """Read everything but the images; raise PbvsError only when there is no such run."""
    recipe = run.recipe()
    problems: list[str] = []

    def attempt(exists: bool, read: Callable[[], T], otherwise: T) -> T:
        """Read a part, or note why it cannot be read."""
        if not exists:
            return otherwise
        try:
            return read()
        except PbvsError as error:
            problems.append(str(error))
            return otherwise

    def read_table(path: Path) -> Mapping[str, Any]:
        return attempt(path.is_file(), lambda: table(read_json(path)), {})

    def read_pairs(split: str, task: str) -> list[Pair] | None:
        path = manifest_path(manifests, task, split)
        return attempt(path.is_file(), lambda: read_manifest(path), None)

    keys = [(split, task) for split in ("val", "test") for task in TASKS]
    logs: dict[str, Path] = {task: run.model(task) / "log.csv" for task in TASKS}
    return Evidence(
        run=run,
        recipe=recipe,
        results=attempt(is_scored(run), lambda: read_results(run), None),
        pairs={key: pairs for key in keys if (pairs := read_pairs(*key))},
        logs={task: attempt(path.is_file(), partial(read_log, path), {}) for task, path in logs.items()},
        models={task: read_table(run.model(task) / "done.json") for task in TASKS},
        batches={key: read_table(run.prediction_folder(*key).with_suffix(".json")) for key in keys},
        provenance=read_table(run.provenance_file),
        problems=problems,
    )


def read_log(path: Path) -> dict[str, list[float | None]]:
    """Read a training log: for each column its numbers, None where a cell is empty or not finite.

    Columns without a single number are left out.
    """
    names, rows = read_csv(path)
    columns = {name: [number(row.get(name)) for row in rows] for name in names}
    return {name: values for name, values in columns.items() if any(value is not None for value in values)}
