"""The rows of an ablation as data: what each changes of a base recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from pbvs.errors import PbvsError, UsageError
from pbvs.recipe import Recipe, explain, load_recipe, parse_recipe
from pbvs.stages import Settings, TaskName
from pbvs.tasks import TASKS
from pbvs.toml import read_toml

BUILT_IN = Path(__file__).parent


class Row(Settings):
    """One line of the table: a name, the tasks that it is about, and what it changes.

    `stages.<task>` with a `method` replaces the base recipe's stage; without, it changes the stage, or the one of the
    task that it is `like`, after taking away the keys in `without`. `every` changes those stages that know all of its
    keys; `recipe` changes what the stages share.
    """

    name: str = Field(min_length=1, max_length=40)
    about: str = ""
    base: str = ""  # another recipe than the ablation's
    tasks: tuple[TaskName, ...] = Field(("sar2eo", "sar2rgb", "rgb2ir", "sar2ir"), min_length=1)
    stages: dict[TaskName, dict[str, Any]] = Field(default_factory=dict)
    every: dict[str, Any] = Field(default_factory=dict)
    recipe: dict[str, Any] = Field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The name as part of a file name."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-") or "row"


class Plan(Settings):
    """A whole table; changes are measured against the row `reference`, else against the first."""

    title: str
    reference: str = ""
    rows: tuple[Row, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Plan:
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


def load_plan(name_or_path: str | Path) -> Plan:
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
        return Plan.model_validate(read_toml(path))
    except ValidationError as error:
        raise PbvsError(f"The rows of {path} cannot be used: {explain(error)}.") from None


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
    needed = set(row.tasks)
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
    return {task: made[task] for task in TASKS if task in made}


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
