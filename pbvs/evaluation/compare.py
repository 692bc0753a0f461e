"""Two runs on the same images: the difference of each image, of each task and combined, and how sure it is.

The difference is paired: an image's score in one run minus its score in the other, so that what makes an image hard
for both drops out. Its interval counts locations, not images (pbvs.evaluation.bootstrap).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd

from pbvs.errors import PbvsError
from pbvs.evaluation.bootstrap import combined_interval
from pbvs.evaluation.results import WIDTH, Scores, find_scores, read_scores
from pbvs.lineage import recipe_differences, unlike
from pbvs.metrics.protocol import IGNORED
from pbvs.run import Run
from pbvs.text import aligned, folded

SAME = 5e-4  # a smaller change is none in three digits
EQUAL = 1e-6  # a smaller change is none at all: what rounding in a network leaves
SEED = 2024
TOO_FEW = "too few locations"
EXAMPLES = 3  # images that got better, or worse, the most


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
    identical: bool = False  # not one image moved
    higher_is_better: bool = False

    @property
    def difference(self) -> float:
        """After minus before; exactly 0 where nothing moved."""
        return 0.0 if self.identical else self.after - self.before

    @property
    def verdict(self) -> str:
        """`identical`; `better` or `worse` where the interval leaves no doubt of the sign; else `open`."""
        if self.identical:
            return "identical"
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return "open"
        return "better" if (self.difference > 0) == self.higher_is_better else "worse"


@dataclass(frozen=True, eq=False)
class Comparison:
    """`after` against `before` on the images that both have a score for.

    `changes` has a row per image: task, name, location, before, after, difference; the largest improvement first.
    """

    before: Scores
    after: Scores
    tasks: Sequence[Difference]
    combined: Difference
    changes: pd.DataFrame
    recipe: Mapping[str, tuple[Any, ...]]  # keys of the two recipes that differ, with both values
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
            "recipe": {key: list(values) for key, values in self.recipe.items()},
            "warnings": list(self.warnings),
            "combined": _as_json(self.combined),
            "tasks": {task.label: _as_json(task) for task in self.tasks},
            "images": self.changes.to_dict("records"),
        }


def _as_json(difference: Difference) -> dict[str, Any]:
    return asdict(difference) | {"difference": difference.difference, "verdict": difference.verdict}


def compare(
    before: Run, after: Run, *, anyway: bool = False, split: str | None = None, protocol: str | None = None
) -> Comparison:
    """Compare two scored runs image by image.

    Without `split` and `protocol` the newest scores that both runs have of the same are taken. Raises PbvsError when a
    run has no scores, when they were scored by different rules, nets, splits or images (unless `anyway`, which turns
    that into warnings), or when no image is scored in both.
    """
    old, new = (read_scores(run, folder) for run, folder in _folders(before, after, split, protocol))
    obstacles = mismatches(old, new)
    if obstacles and not anyway:
        raise PbvsError(
            f"The runs {before.name} and {after.name} cannot be compared: {'; '.join(obstacles)}. "
            "Score both in the same way, or add --anyway to compare what they share."
        )
    changes = image_changes(old, new)
    if not len(changes):
        raise PbvsError(f"The runs {before.name} and {after.name} have no scored image in common; score both again.")
    rises = bool(new.rule and new.rule.higher_is_better)
    changes = changes.sort_values(["difference", "task", "name"], ascending=[not rises, True, True], ignore_index=True)
    tasks = [_difference(task, changes[changes["task"] == task], rises) for task in dict.fromkeys(changes["task"])]
    combined = _difference("combined", changes, rises)
    return Comparison(
        old,
        new,
        tasks,
        combined,
        changes,
        recipe_differences(before, after),
        [*obstacles, *shortfalls(old, new, changes)],
    )


def _folders(before: Run, after: Run, split: str | None, protocol: str | None) -> list[tuple[Run, Any]]:
    """Return where each run's scores lie: of what was asked for, or of the newest split and protocol in common."""
    if split is None and protocol is None:
        old = {folder.relative_to(before.scores): folder for folder in before.score_folders()}
        for folder in after.score_folders():
            if folder.relative_to(after.scores) in old:
                return [(before, old[folder.relative_to(after.scores)]), (after, folder)]
    return [(run, find_scores(run, split, protocol)) for run in (before, after)]


def mismatches(old: Scores, new: Scores) -> list[str]:
    """Return what makes the numbers of two runs different things, as clauses."""
    found = [_unlike("the split", old.split, new.split)]
    rules = [scores.rule.model_dump(mode="json") if scores.rule else scores.protocol for scores in (old, new)]
    for key in sorted({*rules[0], *rules[1]} - IGNORED):
        values = [_terms(rule) if key == "terms" else rule.get(key) for rule in rules]
        found.append(_unlike(f"the protocol's {key}", *values))
    keys = ("net", "version", "is_lpips", "digest")
    found += [_unlike(f"LPIPS' {key}", old.lpips.get(key), new.lpips.get(key)) for key in keys]
    # What recipes say of targets: at which size and how bright they are.
    about = {"evaluation_size", "radiometry"}
    recipes = (scores.run.recipe().model_dump(mode="json", include=about) for scores in (old, new))
    found += [_unlike(f"the recipe's {key}", *both) for key, both in unlike(*recipes).items()]
    for task in dict.fromkeys([*old.names, *new.names]):
        names = [set(scores.table(task, scored=False)["name"]) for scores in (old, new)]
        if all(names) and names[0] != names[1]:
            found.append(f"{task} was scored on other images ({len(names[0] & names[1])} of them the same)")
    return [clause for clause in found if clause]


def _terms(rule: Mapping[str, Any]) -> str:
    """Return a rule's terms in short; what is beside a metric's name is told only where it is not the usual."""
    texts = []
    for term in rule.get("terms") or ():
        rest = {
            key: value for key, value in term.items() if key != "metric" and value not in ("identity", 1.0, 10.0, None)
        }
        texts.append(f"{term['metric']}{f' {rest}' if rest else ''}")
    return ", ".join(texts)


def _unlike(what: str, old: Any, new: Any) -> str:
    return "" if old == new else f"{what} is {old} in the one and {new} in the other"


def image_changes(old: Scores, new: Scores) -> pd.DataFrame:
    """Return a row for each image that has a score in both runs: task, name, location, before, after, difference."""
    keys = ["task", "name"]
    before = old.images.loc[old.images["score"].notna(), [*keys, "score"]].rename(columns={"score": "before"})
    after = new.images.loc[new.images["score"].notna(), [*keys, "location", "score"]].rename(columns={"score": "after"})
    both = after.merge(before, on=keys)[[*keys, "location", "before", "after"]]
    difference = both["after"] - both["before"]
    return both.assign(difference=difference.mask(difference.abs() <= EQUAL, 0.0))


def shortfalls(old: Scores, new: Scores, changes: pd.DataFrame) -> list[str]:
    """Return which images the comparison leaves out because one of the runs has no score for them."""
    said = []
    for task in dict.fromkeys([*old.names, *new.names]):
        names = {name for scores in (old, new) for name in scores.table(task, scored=False)["name"]}
        left = len(names) - int((changes["task"] == task).sum())
        if left:
            said.append(f"{task}: {left} of {len(names)} images have no score in one of the runs and are left out")
    if any(scores.rule and scores.rule.set_terms for scores in (old, new)):
        said.append("the protocol's FID term is a property of the whole set and is not part of these differences")
    return said


def _difference(label: str, changes: pd.DataFrame, rises: bool) -> Difference:
    values = {
        str(task): {str(location): found.tolist() for location, found in rows.groupby("location")["difference"]}
        for task, rows in changes.groupby("task")
    }
    means = changes.groupby("task")[["before", "after"]].mean().mean()
    better, worse = (int((sign * changes["difference"] > SAME).sum()) for sign in ((1, -1) if rises else (-1, 1)))
    identical = bool((changes["difference"] == 0).all())
    span = combined_interval(values, SEED)
    return Difference(
        label, len(changes), float(means["before"]), float(means["after"]), span, better, worse, identical, rises
    )


def largest(changes: pd.DataFrame, rises: bool, count: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the `count` images that got better the most, and those that got worse the most."""
    gain = changes["difference"] * (1 if rises else -1)
    return changes[gain > SAME].head(count), changes[gain < -SAME].iloc[::-1].head(count)


# --- Several runs that differ in their seed alone.


def seeds_table(runs: Sequence[Run], split: str | None = None, protocol: str | None = None) -> pd.DataFrame:
    """Return the scores of runs of one recipe with different seeds: a row per task and one for combined.

    Columns: each run's score, their mean, their standard deviation (of a sample), lowest and highest. Raises PbvsError
    when the runs differ in more than the seed, or were scored by different rules.
    """
    first, *others = runs
    for other in others:
        compare(first, other, split=split, protocol=protocol)
        found = [key for key in recipe_differences(first, other) if key != "seed"]
        if found:
            raise PbvsError(
                f"The runs {first.name} and {other.name} differ in more than the seed ({', '.join(found[:4])}); "
                f"see `pbvs compare {first.name} {other.name}`."
            )
    read = [read_scores(run, find_scores(run, split, protocol)) for run in runs]
    rows = {task: [scores.task(task).get("score") for scores in read] for task in read[0].names}
    rows["combined"] = [scores.combined for scores in read]
    table = pd.DataFrame(rows, index=[run.name for run in runs], dtype=float).T.dropna(how="all")
    spread = table.agg(["mean", "std", "min", "max"], axis=1)
    return table.join(spread.set_axis(["mean", "deviation", "low", "high"], axis=1))


def seeds_text(table: pd.DataFrame, width: int = WIDTH) -> str:
    """Return a table of seeds as text of at most `width` columns."""
    *runs, mean, deviation, low, high = map(str, table.columns)
    rows = [["task", mean, deviation, low, high]]
    rows += [[str(task), *(f"{value:.4f}" for value in row.iloc[len(runs) :])] for task, row in table.iterrows()]
    about = f"{len(runs)} runs of one recipe with different seeds: {', '.join(runs)}"
    return "\n".join([*folded(about, width, 2), "", *aligned(rows, width)])


# --- A comparison as text.


def comparison_table(comparison: Comparison, width: int = WIDTH) -> str:
    """Return the comparison as text of at most `width` columns."""
    before, after = comparison.before, comparison.after
    rises = comparison.combined.higher_is_better
    rule = f"{after.protocol.get('name', 'no protocol')}, {after.lpips_label}"
    head = ["task", "images", "before", "after", "change", "95 % interval", "better/worse"]
    lines = [
        *folded(f"{after.run.name} against {before.run.name}", width, 2),
        *folded(f"split {after.split}, {rule}; per image, {'positive' if rises else 'negative'} is better", width, 2),
        *_recipe_lines(comparison.recipe, width),
        "",
        *aligned([head, *map(_row, comparison.rows)], width),
    ]
    better, worse = largest(comparison.changes, rises, EXAMPLES)
    for heading, changes in (("Got better the most:", better), ("Got worse the most:", worse)):
        lines += ["", heading] if len(changes) else []
        for row in changes.to_dict("records"):
            lines += folded(f"  {row['difference']:+.3f}  {row['task']:<8} {row['name']}", width)
    lines += [""] if comparison.warnings else []
    lines += [line for warning in comparison.warnings for line in folded(f"Note: {warning}.", width, 2)]
    return "\n".join(lines)


def _recipe_lines(recipe: Mapping[str, tuple[Any, ...]], width: int, most: int = 8) -> list[str]:
    if not recipe:
        return ["The recipes are the same."]
    lines = [f"recipe: {key} = {old} -> {new}" for key, (old, new) in list(recipe.items())[:most]]
    more = [f"  and {len(recipe) - most} more keys of the recipes"] if len(recipe) > most else []
    return [part for line in lines for part in folded(line, width, 2)] + more


def _row(row: Difference) -> list[str]:
    span = f"{row.interval[0]:+.3f} to {row.interval[1]:+.3f}" if row.interval else TOO_FEW
    numbers = (f"{row.before:.4f}", f"{row.after:.4f}", f"{row.difference:+.4f}")
    return [row.label, str(row.images), *numbers, "identical" if row.identical else span, f"{row.better}/{row.worse}"]
