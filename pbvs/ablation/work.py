"""Make every row of a table: a run each, trained, predicted and scored like any other, and kept when it is done."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pbvs import devices, runner
from pbvs.ablation.plan import Plan, Row, row_recipe
from pbvs.data.build import find_root
from pbvs.data.manifest import manifest_path
from pbvs.errors import UsageError
from pbvs.files import digest, read_json, sha256
from pbvs.progress import say
from pbvs.recipe import Recipe, load_recipe
from pbvs.runs import MANIFESTS, SUBMISSIONS, Run, is_done, mark_done
from pbvs.scoring.protocol import DEFAULT, load_protocol
from pbvs.scoring.scorer import score
from pbvs.tasks import TASKS

SPLIT = "val"


@dataclass(frozen=True)
class Bench:
    """Where and how all rows of one table are made, so that only what the rows say differs."""

    root: Path
    manifests: Path = MANIFESTS
    submissions: Path = SUBMISSIONS
    protocol: str | Path = DEFAULT
    weights: Path | None = None
    lpips_net: str | None = None  # of training and scoring, instead of the recipe's and the protocol's
    device: str = "auto"
    jobs: int = 1
    retrain: bool = False
    share: tuple[str, ...] = ()  # runs beside the rows' own whose models are copied where they are the same


@dataclass(frozen=True)
class Made:
    """A row and its run."""

    row: Row
    run: Run
    recipe: Recipe

    @property
    def record(self) -> Path:
        """The file that says that the row is done."""
        return self.run.folder / "ablation.json"

    @property
    def seconds(self) -> float | None:
        """How long training, predicting and scoring took, as far as it was done for this row."""
        return read_json(self.record).get("seconds") if self.record.is_file() else None


def ablate(
    plan: Plan,
    recipe: str | Path | Recipe = "demo",
    *,
    prefix: str = "ablation",
    root: Path | None = None,
    manifests: Path = MANIFESTS,
    only: Sequence[str] = (),
    **how: Any,
) -> list[Made]:
    """Make the rows of `plan` that are not done yet and return all rows that are, in the order of the table.

    `recipe` is what the rows change; a row's run is called `<prefix>-<row>`. A model that another row has trained from
    the same settings and pairs is copied, not trained again. `only` limits the work to rows of these names; `how` are
    further fields of `Bench`. Raises PbvsError when a row cannot be made; what is done by then stays.
    """
    if devices.world_size() > 1:
        raise UsageError("pbvs ablate runs as one process; start it without torchrun.")
    bench = Bench(root=find_root(root, manifests), manifests=manifests, **how)
    rows = planned(plan, recipe, prefix, bench)
    for made in rows:
        if not only or made.row.name in only:
            make_row(made, rows, bench)
    return [made for made in rows if is_done(made.record, made_from(made, bench))]


def planned(plan: Plan, recipe: str | Path | Recipe, prefix: str, bench: Bench) -> list[Made]:
    """Return every row with its run and recipe; raise PbvsError when one of the recipes cannot be."""
    base = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if bench.lpips_net:
        base = runner.with_lpips_net(base, bench.lpips_net)
    return [Made(row, Run(f"{prefix}-{row.slug}", bench.submissions), row_recipe(row, base)) for row in plan.rows]


def made_from(made: Made, bench: Bench) -> str:
    """Return the digest of all that a row's numbers depend on."""
    paths = [manifest_path(bench.manifests, task, split) for task in TASKS for split in ("train", SPLIT)]
    return digest(
        {
            "recipe": made.recipe.model_dump(mode="json", exclude={"description"}),
            "tasks": list(made.row.tasks),
            "manifests": [sha256(path) if path.is_file() else "" for path in paths],
            "protocol": load_protocol(bench.protocol, lpips_net=bench.lpips_net).model_dump(mode="json"),
        }
    )


def make_row(made: Made, rows: Sequence[Made], bench: Bench) -> None:
    """Train, predict and score one row unless it is done."""
    origin = made_from(made, bench)
    if is_done(made.record, origin) and not bench.retrain:
        say(f"{made.row.name}: done before, see {made.run.folder}")
        return
    say(f"{made.row.name}: {made.row.about or 'begins'}")
    start = time.perf_counter()
    copied = [] if bench.retrain else share_models(made, rows, bench)
    runner.predict(
        made.recipe,
        run=made.run.name,
        tasks=made.row.tasks,
        splits=(SPLIT,),
        root=bench.root,
        manifests=bench.manifests,
        submissions=bench.submissions,
        weights=bench.weights,
        device=bench.device,
        jobs=bench.jobs,
        retrain=bench.retrain,
    )
    score(
        made.run,
        SPLIT,
        root=bench.root,
        manifests=bench.manifests,
        protocol=bench.protocol,
        weights=bench.weights,
        lpips_net=bench.lpips_net,
        device=bench.device,
        jobs=bench.jobs,
    )
    mark_done(made.record, origin, seconds=round(time.perf_counter() - start, 1), copied=copied)


def share_models(made: Made, rows: Sequence[Made], bench: Bench) -> list[str]:
    """Copy the models that other rows and runs have made from the very same settings and pairs; return their tasks."""
    everything = frozenset(made.recipe.stages)
    job = runner.Job(
        made.recipe, made.run, bench.root, bench.manifests, bench.weights, bench.device, bench.jobs, everything, False
    )
    copied: list[str] = []
    for task in made.recipe.order():
        wanted = job.stage_digest(task)
        if is_done(made.run.model(task) / "done.json", wanted):
            continue
        runs = [Run(name, bench.submissions) for name in bench.share] + [other.run for other in rows]
        others = [run.model(task) for run in runs if run != made.run]
        found = next((folder for folder in others if is_done(folder / "done.json", wanted)), None)
        if found:
            copy_model(found, made.run.model(task))
            copied.append(task)
    return copied


def copy_model(source: Path, target: Path) -> None:
    """Copy a finished model's folder; the copy appears whole or not at all."""
    part = target.with_name(f".{target.name}.{os.getpid()}.copy")
    shutil.rmtree(part, ignore_errors=True)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, part)
        shutil.rmtree(target, ignore_errors=True)
        part.replace(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
