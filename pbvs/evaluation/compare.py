"""Two runs on the same images: the difference of each image, of each task and combined, and how sure it is.

The difference is paired: an image's score in one run minus its score in the other, so that what makes an image hard
for both drops out. Its interval comes from resampling locations (pbvs.evaluation.bootstrap).
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pbvs.challenge import TASKS
from pbvs.errors import PbvsError
from pbvs.evaluation.bootstrap import combined_interval
from pbvs.evaluation.results import Results, read_results
from pbvs.run import Run

SAME = 5e-4  # a smaller change is none in three digits
SEED = 2024
# What two runs must have in common for their numbers to mean the same; a description may differ.
PROTOCOL_FIELDS_IGNORED = frozenset({"description", "source"})


@dataclass(frozen=True)
class Change:
    """One image's score in both runs; a negative difference is an improvement."""

    task: str
    name: str
    location: str
    before: float
    after: float

    @property
    def difference(self) -> float:
        """After minus before."""
        return self.after - self.before


@dataclass(frozen=True)
class Difference:
    """The mean difference over images (a task) or over tasks (combined), with its 95 % interval."""

    label: str
    images: int
    before: float
    after: float
    interval: tuple[float, float] | None
    better: int
    worse: int

    @property
    def difference(self) -> float:
        """After minus before; negative is better."""
        return self.after - self.before

    @property
    def verdict(self) -> str:
        """`better` or `worse` where the interval leaves no doubt of the sign, else `open`."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return "open"
        return "better" if self.difference < 0 else "worse"


@dataclass(frozen=True)
class Comparison:
    """`after` against `before` on the images that both have a score for."""

    before: Results
    after: Results
    tasks: Sequence[Difference]
    combined: Difference
    changes: Sequence[Change]  # of all tasks, the largest improvement first
    warnings: Sequence[str] = field(default_factory=tuple)

    @property
    def rows(self) -> list[Difference]:
        """The tasks, then all of them together."""
        return [*self.tasks, self.combined]

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        return {
            "before": self.before.run.name,
            "after": self.after.run.name,
            "split": self.after.split,
            "protocol": dict(self.after.protocol),
            "lpips": dict(self.after.lpips),
            "warnings": list(self.warnings),
            "combined": _as_json(self.combined),
            "tasks": {task.label: _as_json(task) for task in self.tasks},
            "images": [asdict(change) | {"difference": change.difference} for change in self.changes],
        }


def _as_json(difference: Difference) -> dict[str, Any]:
    return asdict(difference) | {"difference": difference.difference, "verdict": difference.verdict}


def compare(before: Run, after: Run, *, anyway: bool = False, seed: int = SEED) -> Comparison:
    """Compare two scored runs image by image; lower scores are better.

    Raises PbvsError when a run has no scores, when they were scored by different rules, nets, splits or images
    (unless `anyway`, which turns that into warnings), or when no image is scored in both.
    """
    old, new = read_results(before), read_results(after)
    obstacles = mismatches(old, new)
    if obstacles and not anyway:
        raise PbvsError(
            f"The runs {before.name} and {after.name} cannot be compared: {'; '.join(obstacles)}. "
            "Score both in the same way, or add --anyway to compare what they share."
        )
    changes = [change for task in TASKS for change in task_changes(old, new, task)]
    if not changes:
        raise PbvsError(f"The runs {before.name} and {after.name} have no scored image in common; score both again.")
    by_task = {task: [change for change in changes if change.task == task] for task in TASKS}
    by_task = {task: found for task, found in by_task.items() if found}
    ordered = sorted(changes, key=lambda change: (change.difference, change.task, change.name))
    tasks = [_difference(task, {task: found}, seed) for task, found in by_task.items()]
    combined = _difference("combined", by_task, seed)
    warnings = [*obstacles, *shortfalls(old, new, by_task)]
    old, new = (replace(results, images={}) for results in (old, new))  # images keep their files open
    return Comparison(old, new, tasks, combined, ordered, warnings)


def mismatches(old: Results, new: Results) -> list[str]:
    """Return what makes the numbers of two runs different things, as clauses."""
    found = [_unlike("the split", old.split, new.split)]
    keys = sorted(({*old.protocol, *new.protocol}) - PROTOCOL_FIELDS_IGNORED)
    found += [_unlike(f"the protocol's {key}", old.protocol.get(key), new.protocol.get(key)) for key in keys]
    for key in ("net", "version", "is_lpips", "digest"):
        found.append(_unlike(f"LPIPS' {key}", old.lpips.get(key), new.lpips.get(key)))
    found += _recipe_mismatches(old.run, new.run)
    for task in TASKS:
        names = [{image.name for image in results.images.get(task, ())} for results in (old, new)]
        if all(names) and names[0] != names[1]:
            found.append(f"{task} was scored on other images ({len(names[0] & names[1])} of them the same)")
    return [clause for clause in found if clause]


def _recipe_mismatches(old: Run, new: Run) -> list[str]:
    """Return what the recipes say of targets: at which size and how bright they are."""
    recipes = [run.recipe().model_dump(mode="json") for run in (old, new)]
    return [
        _unlike(f"the recipe's {key}", *(recipe.get(key) for recipe in recipes))
        for key in ("evaluation_size", "radiometry")
    ]


def _unlike(what: str, old: Any, new: Any) -> str:
    return "" if old == new else f"{what} is {old} in the one and {new} in the other"


def task_changes(old: Results, new: Results, task: str) -> list[Change]:
    """Return the images of a task that have a score in both runs."""
    before, after = old.scores(task), new.scores(task)
    places = {image.name: image.location for image in new.images.get(task, ())}
    return [Change(task, name, places[name], before[name], after[name]) for name in after if name in before]


def shortfalls(old: Results, new: Results, by_task: Mapping[str, Sequence[Change]]) -> list[str]:
    """Return which images the comparison leaves out because one of the runs has no score for them."""
    said = []
    for task in TASKS:
        names = {image.name for results in (old, new) for image in results.images.get(task, ())}
        left = len(names) - len(by_task.get(task, ()))
        if left:
            said.append(f"{task}: {left} of {len(names)} images have no score in one of the runs and are left out")
    if any("fid" in (results.protocol.get("terms") or ()) for results in (old, new)):
        said.append("the protocol's FID term is a property of the whole set and is not part of these differences")
    return said


def _difference(label: str, by_task: Mapping[str, Sequence[Change]], seed: int) -> Difference:
    """Sum up one task, or several with equal weight."""
    changes = [change for found in by_task.values() for change in found]
    deltas: dict[str, dict[str, list[float]]] = {}
    for change in changes:
        deltas.setdefault(change.task, {}).setdefault(change.location, []).append(change.difference)
    return Difference(
        label=label,
        images=len(changes),
        before=_mean([_mean([change.before for change in found]) for found in by_task.values()]),
        after=_mean([_mean([change.after for change in found]) for found in by_task.values()]),
        interval=combined_interval(deltas, seed),
        better=sum(change.difference < -SAME for change in changes),
        worse=sum(change.difference > SAME for change in changes),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def largest(comparison: Comparison, task: str, count: int) -> tuple[list[Change], list[Change]]:
    """Return the `count` images of a task that got better the most, and those that got worse the most."""
    found = [change for change in comparison.changes if change.task == task]
    better = [change for change in found if change.difference < -SAME][:count]
    worse = [change for change in reversed(found) if change.difference > SAME][:count]
    return better, worse


def comparison_table(comparison: Comparison, examples: int = 3) -> str:
    """Return the comparison as text of at most 80 columns."""
    before, after = comparison.before, comparison.after
    rule = f"{after.protocol.get('name', 'no protocol')}, {_net(after)}"
    lines = [
        f"{after.run.name} against {before.run.name}",
        f"split {after.split}, {rule}; per image, negative is better",
        "",
        f"{'task':<9}{'images':>7}{'before':>9}{'after':>9}{'change':>9}   {'95 % interval':<19}{'better/worse':>13}",
    ]
    lines += [_row(row) for row in comparison.rows]
    better = [change for change in comparison.changes if change.difference < -SAME][:examples]
    worse = [change for change in reversed(comparison.changes) if change.difference > SAME][:examples]
    for heading, changes in (("Got better the most:", better), ("Got worse the most:", worse)):
        if changes:
            lines += ["", heading]
            lines += [f"  {change.difference:+.3f}  {change.task:<8} {change.name[:60]}" for change in changes]
    if comparison.warnings:
        lines += ["", *(line for warning in comparison.warnings for line in wrapped(f"Note: {warning}."))]
    return "\n".join(lines)


def wrapped(text: str) -> list[str]:
    """Break a sentence into lines of at most 80 characters."""
    return textwrap.wrap(text, 80, subsequent_indent="  ", break_long_words=False)


def _net(results: Results) -> str:
    net = results.lpips.get("net", "?")
    return f"LPIPS {net}" if results.is_lpips else f"NOT LPIPS ({net})"


def _row(row: Difference) -> str:
    span = f"{row.interval[0]:+.3f} to {row.interval[1]:+.3f}" if row.interval else "one location only"
    counts = f"{row.better}/{row.worse}"
    numbers = f"{row.before:>9.4f}{row.after:>9.4f}{row.difference:>+9.4f}"
    return f"{row.label:<9}{row.images:>7}{numbers}   {span:<19}{counts:>13}"
