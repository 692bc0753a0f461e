"""Make every row of a table: a run each, trained, predicted and scored like any other, and kept when it is done."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from pbvs import devices, pipeline
from pbvs.challenge import Challenge, load_challenge
from pbvs.data.build import find_root
from pbvs.data.manifest import manifest_path
from pbvs.errors import PbvsError, UsageError
from pbvs.evaluation.evaluate import score
from pbvs.files import copy_files, digest, read_json, read_toml, remove_folder, replace_folder, sha256
from pbvs.logs import say
from pbvs.metrics.protocol import choose_protocol, load_protocol
from pbvs.preflight import with_settings
from pbvs.recipe import Recipe, TaskName, load_recipe, parse_recipe
from pbvs.run import DONE, MANIFESTS, SUBMISSIONS, Run, is_done, mark_done
from pbvs.settings import Settings, explain

SPLIT = "val"


@dataclass(frozen=True)
class Bench:
    """Where and how all rows of one table are made, so that only what the rows say differs."""

    root: Path
    manifests: Path = MANIFESTS
    submissions: Path = SUBMISSIONS
    protocol: str | Path | None = None  # None: the challenge's
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
    def challenge(self) -> Challenge:
        """The challenge of the row's recipe."""
        return load_challenge(self.recipe.challenge)

    @property
    def record(self) -> Path:
        """The file that says that the row is done."""
        return self.run.folder / "ablation.json"

    @property
    def seconds(self) -> float | None:
        """How long training, predicting and scoring took, as far as it was done for this row."""
        return read_json(self.record).get("seconds") if self.record.is_file() else None


def ablate(
    plan: AblationPlan,
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


def planned(plan: AblationPlan, recipe: str | Path | Recipe, prefix: str, bench: Bench) -> list[Made]:
    """Return every row with its run and recipe; raise PbvsError when one of the recipes cannot be."""
    base = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    ordered = load_challenge(base.challenge).ordered
    plan_rows = [row if row.tasks else row.model_copy(update={"tasks": ordered}) for row in plan.rows]
    if bench.lpips_net:
        base = with_settings(base, {"lpips_net": bench.lpips_net})
    return [Made(row, Run(f"{prefix}-{row.slug}", bench.submissions), row_recipe(row, base)) for row in plan_rows]


def made_from(made: Made, bench: Bench) -> str:
    """Return the digest of all that a row's numbers depend on."""
    paths = [manifest_path(bench.manifests, task, split) for task in made.challenge.tasks for split in ("train", SPLIT)]
    return digest(
        {
            "recipe": [made.recipe.digest(), made.row.name],
            "tasks": list(made.row.tasks),
            "manifests": [sha256(path) if path.is_file() else "" for path in paths],
            "protocol": load_protocol(
                choose_protocol(made.challenge, bench.protocol), lpips_net=bench.lpips_net
            ).model_dump(mode="json"),
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
    pipeline.predict(
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
        change_recipe=True,  # the rows say what a run's recipe is
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
    job = pipeline.Job(
        made.recipe, made.run, bench.root, bench.manifests, bench.weights, bench.device, bench.jobs, everything, False
    )
    copied: list[str] = []
    for task in made.recipe.order():
        wanted = job.lineage.model(task)
        if is_done(made.run.model_record(task), wanted):
            continue
        runs = [Run(name, bench.submissions) for name in bench.share] + [other.run for other in rows]
        others = [run.model(task) for run in runs if run != made.run]
        found = next((folder for folder in others if is_done(folder / DONE, wanted)), None)
        if found:
            target = made.run.model(task)
            part = target.with_name(f".{task}.copy.next")
            remove_folder(part)
            copy_files(found, part)
            replace_folder(part, target)
            copied.append(task)
    return copied


# --- The rows of an ablation as data: what each changes of a base recipe.

BUILT_IN = Path(__file__).parent / "ablations"


class Row(Settings):
    """One line of the table: a name, the tasks that it is about, and what it changes.

    `stages.<task>` with a `method` replaces the base recipe's stage; without, it changes the stage, or the one of the
    task that it is `like`, after taking away the keys in `without`. `every` changes those stages that know all of its
    keys; `recipe` changes what the stages share.
    """

    name: str = Field(min_length=1, max_length=40)
    about: str = ""
    base: str = ""  # another recipe than the ablation's
    tasks: tuple[TaskName, ...] = ()  # that the row is about; empty: all of the challenge
    stages: dict[TaskName, dict[str, Any]] = Field(default_factory=dict)
    every: dict[str, Any] = Field(default_factory=dict)
    recipe: dict[str, Any] = Field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The name as part of a file name."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-") or "row"


class AblationPlan(Settings):
    """A whole table; changes are measured against the row `reference`, else against the first."""

    title: str
    reference: str = ""
    rows: tuple[Row, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> AblationPlan:
        slugs = [row.slug for row in self.rows]
        if double := next((slug for slug in slugs if slugs.count(slug) > 1), None):
            raise ValueError(f"two rows are called {double!r}")
        if self.reference and self.reference not in [row.name for row in self.rows]:
            raise ValueError(f"the reference {self.reference!r} is none of the rows")
        return self

    @property
    def reference_row(self) -> Row:
        """The row that the others are compared with."""
        return next((row for row in self.rows if row.name == self.reference), self.rows[0])


def built_in_plans() -> list[str]:
    """Return the names of the tables that come with the package."""
    return sorted(path.stem for path in BUILT_IN.glob("*.toml"))


def load_plan(name_or_path: str | Path) -> AblationPlan:
    """Read a table's rows by a built-in name or a path; raise UsageError or PbvsError saying what is wrong."""
    path = Path(name_or_path)
    if str(name_or_path) in built_in_plans():
        path = BUILT_IN / f"{name_or_path}.toml"
    if not path.is_file():
        raise UsageError(
            f"There are no rows {str(name_or_path)!r}; give the path of a .toml file or one of "
            f"{', '.join(built_in_plans())}."
        )
    try:
        return AblationPlan.model_validate(read_toml(path))
    except ValidationError as error:
        raise PbvsError(f"The rows of {path} cannot be used: {explain(error, model=AblationPlan)}.") from None


def row_recipe(row: Row, base: Recipe) -> Recipe:
    """Return the base recipe as the row changes it, with the row's tasks and the stages that they require.

    Raises PbvsError naming the row when the result is no recipe.
    """
    if row.base:
        base = load_recipe(row.base)
    tables = merged(base.model_dump(mode="json", exclude_none=True), row.recipe)
    tables["stages"] = row_stages(row, tables["stages"])
    tables["name"], tables["description"] = row.slug, f"{row.name}: {row.about}" if row.about else row.name
    whole = parse_recipe(tables, f"of the row {row.name!r}")
    needed = set(row.tasks or load_challenge(whole.challenge).ordered)
    for task in reversed(whole.order()):
        if task in needed:
            needed.update(whole.stages[task].requires)
    if absent := [task for task in row.tasks if task not in whole.stages]:
        raise PbvsError(f"The row {row.name!r} is about {absent[0]}, for which the recipe has no stage.")
    return whole.model_copy(update={"stages": {t: s for t, s in whole.stages.items() if t in needed}})


def row_stages(row: Row, base: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return all stages after the row's changes, as tables."""
    made = {str(task): {**stage} for task, stage in base.items()}
    for task, changes in row.stages.items():
        made[task] = _changed(row, task, changes, base)
    for stage in made.values():
        if row.every and all(key in stage for key in row.every):
            stage.update(row.every)
    return made


def _changed(row: Row, task: str, changes: Mapping[str, Any], base: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    changes = dict(changes)
    like, without = changes.pop("like", task), changes.pop("without", [])
    if "method" in changes:
        return changes
    if like not in base:
        raise PbvsError(f"The row {row.name!r} wants a stage for {task} like {like}, which the recipe does not have.")
    return merged({key: value for key, value in base[like].items() if key not in without}, changes)


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return `old` with the values of `new`, table by table."""
    result = dict(old)
    for key, value in new.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result
