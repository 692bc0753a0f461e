"""An ablation: rows of a table as runs, each made once like any other run, then compared with the reference row."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from pbvs import devices, pipeline
from pbvs.challenge import Challenge, load_challenge
from pbvs.data.build import find_root
from pbvs.data.manifest import manifest_path
from pbvs.errors import PbvsError, UsageError, damage_ignored
from pbvs.evaluation.compare import Difference, compare
from pbvs.evaluation.evaluate import score
from pbvs.evaluation.results import WIDTH, number, read_scores
from pbvs.files import copy_files, digest, remove_folder, replace_folder, sha256
from pbvs.logs import say
from pbvs.metrics.protocol import choose_protocol
from pbvs.preflight import tasks_with_parts, with_settings
from pbvs.recipe import Recipe, TaskName, load_recipe, parse_recipe
from pbvs.run import DONE, MANIFESTS, SUBMISSIONS, Run, is_done, mark_done, read_metadata
from pbvs.settings import Library, Settings, merged
from pbvs.text import aligned, folded, table_of

if TYPE_CHECKING:
    from pandas import DataFrame

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
    def metadata_file(self) -> Path:
        """The file that says that the row is done."""
        return self.run.folder / "ablation.json"

    @property
    def seconds(self) -> float | None:
        """How long training, predicting and scoring took, as far as it was done for this row."""
        return read_metadata(self.metadata_file).get("seconds")


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
    return [made for made in rows if is_done(made.metadata_file, made_from(made, bench))]


def planned(plan: AblationPlan, recipe: str | Path | Recipe, prefix: str, bench: Bench) -> list[Made]:
    """Return every row with its run and recipe; raise PbvsError when one of the recipes cannot be."""
    base = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if bench.lpips_net:
        base = with_settings(base, {"lpips_net": bench.lpips_net})
    return [Made(row, Run(f"{prefix}-{row.slug}", bench.submissions), made) for row, made in row_recipes(plan, base)]


def made_from(made: Made, bench: Bench) -> str:
    """Return the digest of all that a row's numbers depend on."""
    protocol = choose_protocol(made.challenge, bench.protocol).settle(bench.lpips_net, bench.weights)
    paths = [manifest_path(bench.manifests, task, split) for task in made.challenge.tasks for split in ("train", SPLIT)]
    return digest(
        {
            "recipe": [made.recipe.digest(), made.row.name],
            "tasks": list(made.row.tasks),
            "manifests": [sha256(path) if path.is_file() else "" for path in paths],
            "protocol": protocol.model_dump(mode="json"),
        }
    )


def make_row(made: Made, rows: Sequence[Made], bench: Bench) -> None:
    """Train, predict and score one row unless it is done."""
    origin = made_from(made, bench)
    if is_done(made.metadata_file, origin) and not bench.retrain:
        say(f"{made.row.name}: done before, see {made.run.folder}")
        return
    say(f"{made.row.name}: {made.row.about or 'begins'}")
    start = time.perf_counter()
    copied = [] if bench.retrain else share_models(made, rows, bench)
    how: dict[str, Any] = {key: getattr(bench, key) for key in ("root", "manifests", "weights", "device", "jobs")}
    pipeline.predict(
        pipeline.Request(
            made.recipe,
            run=made.run.name,
            tasks=made.row.tasks,
            splits=(SPLIT,),
            submissions=bench.submissions,
            retrain=bench.retrain,
            change_recipe=True,  # the rows say what a run's recipe is
            **how,
        )
    )
    score(made.run, SPLIT, protocol=bench.protocol, lpips_net=bench.lpips_net, **how)
    mark_done(made.metadata_file, origin, seconds=round(time.perf_counter() - start, 1), copied=copied)


def share_models(made: Made, rows: Sequence[Made], bench: Bench) -> list[str]:
    """Copy the models that other rows and runs have made from the very same settings and pairs; return their tasks."""
    everything = frozenset(made.recipe.stages)
    job = pipeline.Job(
        made.recipe, made.run, bench.root, bench.manifests, bench.weights, bench.device, bench.jobs, everything, False
    )
    copied: list[str] = []
    for task in made.recipe.order():
        wanted = job.lineage.model(task)
        if is_done(made.run.model_metadata_file(task), wanted):
            continue
        runs = [Run(name, bench.submissions) for name in bench.share] + [other.run for other in rows]
        others = [run.model(task) for run in runs if run != made.run]
        found = next((folder for folder in others if is_done(folder / DONE, wanted)), None)
        if found:
            copy_model(found, made.run.model(task))
            copied.append(task)
    return copied


def copy_model(source: Path, target: Path) -> None:
    """Copy a finished model's folder; the copy appears whole or not at all."""
    part = target.with_name(f".{target.name}.copy.next")
    remove_folder(part)
    copy_files(source, part)
    replace_folder(part, target)


# --- The rows of an ablation as data: what each changes of a base recipe.


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
    recipe: str = ""  # that the rows are for; empty: any
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


ABLATIONS = Library("ablation", AblationPlan, "experiments/ablations")


def row_recipes(plan: AblationPlan, base: Recipe) -> list[tuple[Row, Recipe]]:
    """Return each row, with the tasks that it is about, and its recipe.

    Raises PbvsError when one cannot be; it says which recipe the rows are for where `base` is another.
    """
    ordered = load_challenge(base.challenge).ordered
    rows = [row if row.tasks else row.model_copy(update={"tasks": ordered}) for row in plan.rows]
    try:
        return [(row, row_recipe(row, base)) for row in rows]
    except PbvsError as error:
        if plan.recipe in ("", base.name):
            raise
        raise PbvsError(f"{error} The rows are for `--recipe {plan.recipe}`.") from None


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
    if absent := [task for task in row.tasks if task not in whole.stages]:
        raise PbvsError(f"The row {row.name!r} is about {absent[0]}, for which the recipe has no stage.")
    needed = tasks_with_parts(whole, row.tasks or load_challenge(whole.challenge).ordered)
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


# --- The table: scores, and the change against the reference row with its interval.


@dataclass(frozen=True)
class Line:
    """One row's numbers; a column that the row is not about is absent ("/" in print)."""

    name: str
    about: str
    run: str
    scores: Mapping[str, float]
    changes: Mapping[str, Difference] = field(default_factory=dict)  # against the reference; negative is better
    seconds: float | None = None


@dataclass(frozen=True)
class Ablation:
    """The whole table, with what its numbers are."""

    title: str
    recipe: str
    reference: str
    rule: str
    lines: Sequence[Line]
    tasks: Sequence[str]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of numbers."""
        return ("combined", *self.tasks)


def tabulate(plan: AblationPlan, recipe: str, rows: Sequence[Made]) -> Ablation:
    """Return the table of the rows that are done; raises PbvsError when none is."""
    if not rows:
        raise PbvsError("No row of the table is done yet; start `pbvs ablate` without --only.")
    reference = next((made for made in rows if made.row.name == plan.reference_row.name), None)
    results, lines = read_scores(rows[0].run), [_line(made, reference) for made in rows]
    return Ablation(
        plan.title,
        recipe,
        reference.row.name if reference else "",
        f"split {results.split}, {results.protocol.get('name', 'no protocol')}, {results.lpips_label}",
        lines,
        rows[0].challenge.ordered,
    )


def _line(made: Made, reference: Made | None) -> Line:
    results = read_scores(made.run)
    scores = {
        task: number(results.task(task).get("score")) for task in made.challenge.ordered if task in made.row.tasks
    }
    if len(scores) == len(made.challenge.tasks) and None not in scores.values():
        scores = {"combined": results.combined, **scores}
    changes = _changes(reference, made) if reference and made.run != reference.run else {}
    known = {column: value for column, value in scores.items() if value is not None}
    return Line(made.row.name, made.row.about, made.run.name, known, changes, made.seconds)


def _changes(reference: Made, made: Made) -> dict[str, Difference]:
    shared = [task for task in made.challenge.ordered if task in made.row.tasks and task in reference.row.tasks]
    with damage_ignored():  # where they have nothing in common there is no change to name
        found = compare(reference.run, made.run)
        changes = {row.label: row for row in found.tasks if row.label in shared}
        return changes | ({"combined": found.combined} if len(changes) == len(made.challenge.tasks) else {})
    return {}


def ablation_text(table: Ablation, width: int = WIDTH) -> str:
    """Return the table as text of at most `width` columns: scores, then changes against the reference."""
    scores, changes = [["", *table.columns]], [["", *table.columns]]
    for line in table.lines:
        scores.append([line.name, *(f"{line.scores[key]:.4f}" if key in line.scores else "/" for key in table.columns)])
        if line.changes:
            changes.append([line.name, *(_change(line.changes.get(column)) for column in table.columns)])
    lines = [
        *folded(f"{table.title}, recipe {table.recipe}", width, 2),
        *folded(f"{table.rule}; lower is better", width, 2),
        "",
        *aligned(scores, width),
    ]
    if changes[1:]:
        lines += ["", *folded(f"Change against {table.reference} (* the 95 % interval excludes 0):", width, 2)]
        lines += aligned(changes, width)
    return "\n".join(lines)


def _change(change: Difference | None) -> str:
    return "/" if change is None else f"{change.difference:+.4f}{'*' if change.verdict in ('better', 'worse') else ' '}"


def ablation_frame(table: Ablation) -> DataFrame:
    """Return one row for each line and column that has a score; None where there is no change or interval."""
    rows: list[list[Any]] = []
    for line in table.lines:
        for column, value in line.scores.items():
            change = line.changes.get(column)
            low, high = change.interval if change and change.interval else (None, None)
            known = [change.difference, low, high, change.verdict] if change else [None] * 4
            rows.append([line.name, line.run, column, value, *known, line.seconds])
    return table_of(("row", "run", "column", "score", "change", "low", "high", "verdict", "seconds"), rows)


def ablation_json(table: Ablation) -> dict[str, Any]:
    """Return the table as JSON values."""
    about = {line.name: line.about for line in table.lines}
    metadata = {"title": table.title, "recipe": table.recipe, "reference": table.reference, "rule": table.rule}
    return metadata | {"about": about, "rows": ablation_frame(table).to_dict("records")}
