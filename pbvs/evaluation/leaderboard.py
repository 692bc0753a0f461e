"""This team's runs beside the tables that others have published, each table by itself.

The challenge scores images that nobody else has, by a rule with FID in it; a score measured here is another number.
So the tables stand one below the other and are never sorted into one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from pbvs.challenge import DEFAULT, load_challenge
from pbvs.errors import PbvsError, damage_ignored, of_data
from pbvs.evaluation.results import BASELINE_NAMES, WIDTH, Scores, number, read_scores, table
from pbvs.files import digest, read_toml
from pbvs.lineage import Stale, doubts_of_scores
from pbvs.logs import say
from pbvs.metrics.protocol import IGNORED
from pbvs.run import MANIFESTS, SUBMISSIONS, all_runs
from pbvs.text import aligned, folded, for_people, read_table, table_text

PUBLISHED = Path(__file__).parent / "published"
PLAIN = ("name", "combined", "note")  # columns of a board beside its tasks
BASELINE = "baseline"  # the note of a line that is no run
PARTIAL, STALE = "partial", "stale"
MARKS = {PARTIAL: "*", STALE: "!"}


@dataclass(frozen=True, eq=False)
class Board:
    """A table whose lines can be compared with one another, best first.

    `entries` has one row per team or run: name, combined, a column for each task, note; NaN where there is no score.
    A note is "" or says, separated by commas, that a line is a baseline, partial or stale;
    `stale` has the reasons by run.
    """

    title: str
    source: str
    about: str
    ours: bool
    entries: pd.DataFrame
    higher_is_better: bool = False
    stale: Mapping[str, Sequence[Stale]] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        """The columns that are tasks, in their order."""
        return [str(name) for name in self.entries.columns if name not in PLAIN]


def leaderboard(submissions: Path = SUBMISSIONS, manifests: Path = MANIFESTS) -> list[Board]:
    """Return our runs, a board for each rule that they were scored by, then the published tables.

    A run whose recipe or scores are damaged is left out with a warning.
    """
    return [*our_boards(submissions, manifests), *published_boards()]


def our_boards(submissions: Path = SUBMISSIONS, manifests: Path = MANIFESTS) -> list[Board]:
    """Return the scored runs, grouped by all that makes their numbers comparable, with the baselines below them."""
    groups: dict[tuple[str, ...], list[Scores]] = {}
    for run in all_runs(submissions):
        for folder in run.score_folders():
            try:
                scores = read_scores(run, folder)
                group = groups.setdefault((*rule_key(scores), rule_digest(scores)), [])
            except PbvsError as error:
                say(f"Warning: the run {run.name} is left out. {of_data(error)}")
                continue
            if all(other.run != run for other in group):
                group.append(scores)
    shown = Counter(key[:-1] for key in groups)  # rules of one name that differ are told apart
    titles = {key: [*key[:-1], f"rule {key[-1]}"] if shown[key[:-1]] > 1 else [*key[:-1]] for key in groups}
    return [_our_board(titles[key], groups[key], manifests) for key in sorted(groups)]


def rule_digest(scores: Scores) -> str:
    """Return the first digits of the digest of all in a protocol that a number depends on."""
    tables = scores.rule.model_dump(mode="json") if scores.rule else dict(scores.protocol)
    return digest({key: value for key, value in tables.items() if key not in IGNORED})[:6]


def rule_key(scores: Scores) -> tuple[str, ...]:
    """Return split, protocol, LPIPS net, images and size: only runs that have them in common stand in one table."""
    protocol = str(scores.protocol.get("name", "no protocol"))
    recipe = scores.run.recipe()
    size = f"{recipe.evaluation_size} size"
    if recipe.challenge != DEFAULT:
        size += f", {recipe.radiometry.challenge.name}"
    return scores.split, protocol, scores.lpips_label, f"{len(scores.images)} images", size


def _our_board(key: Sequence[str], group: Sequence[Scores], manifests: Path) -> Board:
    challenge = group[0].run.challenge()
    tasks = challenge.ordered
    stale = {found.run.name: doubts for found in group if (doubts := _doubts(found, manifests))}
    rows = []
    for found in group:
        notes = [PARTIAL] * bool(found.summary.get("partial")) + [STALE] * (found.run.name in stale)
        rows.append(_entry(tasks, found.run.name, found.summary, ", ".join(notes)))
    baselines = {name: said for found in group for name, said in table(found.summary.get("baselines")).items()}
    rows += [_entry(tasks, BASELINE_NAMES.get(name, name), said, BASELINE) for name, said in baselines.items()]
    rule = group[0].rule
    rises = bool(rule and rule.higher_is_better)
    entries = pd.DataFrame(rows)
    if rule and rule.tasks == "ranks":
        entries, rises = ranked(entries, tasks, rises), False
    title, about = f"Your runs: split {', '.join(key)}", "held-out locations of your own data"
    ordered = entries.sort_values(["combined", "name"], ascending=[not rises, True], ignore_index=True)
    return Board(title, "measured here", about, True, ordered, rises, stale)


def _doubts(scores: Scores, manifests: Path) -> list[Stale]:
    """Return why scores are stale; nothing for a run with a damaged record, of which `pbvs runs` tells."""
    with damage_ignored():
        return doubts_of_scores(scores.run, scores.folder, manifests)
    return []


def _entry(columns: Sequence[str], name: str, said: Any, note: str) -> dict[str, Any]:
    tasks = table(said.get("tasks"))
    return {
        "name": name,
        "combined": number(said.get("combined")),
        **{task: number(table(tasks.get(task)).get("score")) for task in columns},
        "note": note,
    }


def ranked(entries: pd.DataFrame, tasks: Sequence[str], rises: bool) -> pd.DataFrame:
    """Return the entries with their mean rank over the tasks as combined score; a missing task ranks last."""
    ranks = entries[list(tasks)].astype(float).rank(ascending=not rises, na_option="bottom")
    return entries.assign(combined=ranks.mean(axis=1))


def published_boards() -> list[Board]:
    """Return the tables that come with the package."""
    index = read_toml(PUBLISHED / "index.toml")
    entries = {name: read_entries(PUBLISHED / f"{name}.csv", said["challenge"]) for name, said in index.items()}
    return [Board(said["title"], said["source"], said["about"], False, entries[name]) for name, said in index.items()]


def read_entries(path: Path, challenge: str = DEFAULT) -> pd.DataFrame:
    """Read a published table of a challenge; an empty cell is a score that was not given."""
    entries = read_table(path)
    tasks = load_challenge(challenge).ordered
    wanted = ("name", "combined", *tasks)
    if missing := [column for column in wanted if column not in entries]:
        raise PbvsError(f"{path} has no column {missing[0]!r}; it needs {', '.join(wanted)}.")
    entries = entries.reindex(columns=[*wanted, "note"], fill_value="")
    return entries.assign(**{name: entries[name].map(number).astype(float) for name in ("combined", *tasks)})


def board_text(boards: Sequence[Board], width: int = WIDTH) -> str:
    """Return the boards as text of at most `width` columns."""
    blocks = []
    if not any(board.ours for board in boards):
        blocks += folded("No run of yours is scored yet; `pbvs score` makes its numbers.", width, 2)
    for board in boards:
        mark = "" if board.ours else f"  [OTHER DATA: {board.about}]"
        better = "higher" if board.higher_is_better else "lower"
        lines = folded(f"{board.title}{mark}", width, 2)
        lines += folded(f"Source: {board.source}; {better} is better.", width, 2)
        rows = [["", "combined", *board.tasks], *(_row(row, board) for _, row in board.entries.iterrows())]
        lines += [f"  {line}".rstrip() for line in aligned(rows, width - 2)]
        if board.entries["note"].str.contains(PARTIAL).any():
            lines += folded("  * partial: an image or a task is missing", width, 2)
        if board.stale:
            lines += folded("  ! stale: made from what is not so any more, or of earlier predictions", width, 2)
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _row(row: Any, board: Board) -> list[str]:
    digits = 4 if board.ours else 2  # published tables have two
    marks = "".join(mark for note, mark in MARKS.items() if board.ours and note in row["note"])
    name = f"({row['name']})" if row["note"] == BASELINE else f"{row['name']} {marks}".rstrip()
    values = [row[column] for column in ("combined", *board.tasks)]
    return [name, *("/" if number(value) is None else f"{value:.{digits}f}" for value in values)]


def board_frame(boards: Sequence[Board]) -> pd.DataFrame:
    """Return one row per entry of all boards: table, ours, name, combined, a column for each task, note, source."""
    tasks = list(dict.fromkeys(task for board in boards for task in board.tasks))
    columns = ["table", "ours", "name", "combined", *tasks, "note", "source"]
    parts = [board.entries.assign(table=board.title, ours=board.ours, source=board.source) for board in boards]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def board_csv(boards: Sequence[Board]) -> str:
    """Return the boards as CSV with a header; a score that is not there is empty."""
    return table_text(for_people(board_frame(boards)))


def board_json(boards: Sequence[Board]) -> list[dict[str, Any]]:
    """Return the boards as JSON values."""
    found = []
    for board in boards:
        rows = board.entries.to_dict("records")
        numbers = [{task: number(row[task]) for task in board.tasks} for row in rows]
        entries = [
            {"name": row["name"], "combined": number(row["combined"]), "note": row["note"], "tasks": tasks}
            for row, tasks in zip(rows, numbers, strict=True)
        ]
        found.append({key: getattr(board, key) for key in ("title", "source", "about", "ours")} | {"entries": entries})
    return found
