"""The table of an ablation: scores, and the change against the reference row with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pbvs.errors import PbvsError
from pbvs.evaluation.compare import Difference, compare
from pbvs.evaluation.results import WIDTH, Scores, number, read_scores
from pbvs.experiments.ablation import AblationPlan, Made
from pbvs.tables import table_of, table_text
from pbvs.text import aligned, folded


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
    lines = [_line(made, reference) for made in rows]
    return Ablation(
        plan.title,
        recipe,
        reference.row.name if reference else "",
        _rule(read_scores(rows[0].run)),
        lines,
        rows[0].challenge.ordered,
    )


def _rule(results: Scores) -> str:
    net = results.lpips.get("net", "?")
    label = f"LPIPS {net}" if results.is_lpips else f"NOT LPIPS ({net})"
    return f"split {results.split}, {results.protocol.get('name', 'no protocol')}, {label}"


def _line(made: Made, reference: Made | None) -> Line:
    results = read_scores(made.run)
    scores: dict[str, float | None] = {task: number(results.task(task).get("score")) for task in made.row.tasks}
    known = {task: scores[task] for task in made.challenge.ordered if scores.get(task) is not None}
    if len(known) == len(made.challenge.tasks):
        known = {"combined": number(results.summary.get("combined")), **known}
    changes: dict[str, Difference] = {}
    if reference and made.run != reference.run:
        changes = _changes(reference, made)
    numbers = {column: value for column, value in known.items() if value is not None}
    return Line(made.row.name, made.row.about, made.run.name, numbers, changes, made.seconds)


def _changes(reference: Made, made: Made) -> dict[str, Difference]:
    shared = [task for task in made.challenge.ordered if task in made.row.tasks and task in reference.row.tasks]
    try:
        found = compare(reference.run, made.run)
    except PbvsError:  # nothing in common: there is no change to name
        return {}
    changes = {row.label: row for row in found.tasks if row.label in shared}
    return changes | ({"combined": found.combined} if len(changes) == len(made.challenge.tasks) else {})


def ablation_text(table: Ablation, width: int = WIDTH) -> str:
    """Return the table as text of at most `width` columns: scores, then changes against the reference."""
    head = ["", *table.columns]
    scores = [[line.name, *(_score(line, column) for column in table.columns)] for line in table.lines]
    changes = [
        [line.name, *(_change(line, column) for column in table.columns)] for line in table.lines if line.changes
    ]
    lines = [
        *folded(f"{table.title}, recipe {table.recipe}", width, 2),
        *folded(f"{table.rule}; lower is better", width, 2),
        "",
        *aligned([head, *scores], width),
    ]
    if changes:
        lines += ["", *folded(f"Change against {table.reference} (* the 95 % interval excludes 0):", width, 2)]
        lines += aligned([head, *changes], width)
    return "\n".join(lines)


def _score(line: Line, column: str) -> str:
    return f"{line.scores[column]:.4f}" if column in line.scores else "/"


def _change(line: Line, column: str) -> str:
    change = line.changes.get(column)
    return "/" if change is None else f"{change.difference:+.4f}{' ' if change.verdict == 'open' else '*'}"


def ablation_rows(table: Ablation) -> list[dict[str, Any]]:
    """Return one flat row a line and column that has a score: for CSV and JSON."""
    rows = []
    for line in table.lines:
        for column, score in line.scores.items():
            change = line.changes.get(column)
            low, high = change.interval if change and change.interval else (None, None)
            rows.append(
                {"row": line.name, "run": line.run, "column": column, "score": score}
                | {"change": change.difference if change else None, "low": low, "high": high}
                | {"verdict": change.verdict if change else None, "seconds": line.seconds}
            )
    return rows


def ablation_csv(table: Ablation) -> str:
    """Return the rows as CSV with a header."""
    columns = ("row", "run", "column", "score", "change", "low", "high", "verdict", "seconds")
    return table_text(table_of(columns, ([row[name] for name in columns] for row in ablation_rows(table))))


def ablation_json(table: Ablation) -> dict[str, Any]:
    """Return the table as JSON values."""
    about = {line.name: line.about for line in table.lines}
    metadata = {"title": table.title, "recipe": table.recipe, "reference": table.reference, "rule": table.rule}
    return metadata | {"about": about, "rows": ablation_rows(table)}
