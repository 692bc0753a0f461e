"""This team's runs beside the tables that others have published, each table by itself.

The challenge scores images that nobody else has, by a rule with FID in it; a score measured here is another number.
So the tables stand one below the other and are never sorted into one.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pbvs.errors import PbvsError
from pbvs.evaluation.compare import wrapped
from pbvs.evaluation.results import Results, is_scored, number, read_csv, read_results
from pbvs.files import read_toml
from pbvs.run import SUBMISSIONS, all_runs

PUBLISHED = Path(__file__).parent / "published"
# The order of columns in the published tables.
NAME = 32  # columns of a name
ORDER = ("sar2eo", "sar2rgb", "rgb2ir", "sar2ir")
COLUMNS = ("table", "ours", "name", "combined", *ORDER, "note", "source")


@dataclass(frozen=True)
class Entry:
    """One line: a team or a run; None where there is no score."""

    name: str
    combined: float | None
    tasks: Mapping[str, float | None]
    note: str = ""


@dataclass(frozen=True)
class Board:
    """A table whose lines can be compared with one another, best first."""

    title: str
    source: str
    about: str
    ours: bool
    entries: Sequence[Entry] = field(default_factory=tuple)


def leaderboard(submissions: Path = SUBMISSIONS) -> list[Board]:
    """Return our runs, a board for each rule that they were scored by, then the published tables.

    Raises PbvsError when a run's scores are damaged.
    """
    return [*our_boards(submissions), *published_boards()]


def our_boards(submissions: Path = SUBMISSIONS) -> list[Board]:
    """Return the scored runs, grouped by all that makes their numbers comparable."""
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for run in all_runs(submissions):
        if is_scored(run):
            results = read_results(run)
            groups.setdefault(rule_of(results), []).append(_our_entry(results))
    return [_our_board(rule, groups[rule]) for rule in sorted(groups)]


def rule_of(results: Results) -> tuple[str, ...]:
    """Return split, protocol, LPIPS net, images and size: only runs that have them in common stand in one table."""
    net = f"{results.lpips.get('net', '?')}"
    protocol = str(results.protocol.get("name", "no protocol"))
    images = sum(len(found) for found in results.images.values())
    lpips = f"LPIPS {net}" if results.is_lpips else f"NOT LPIPS ({net})"
    return results.split, protocol, lpips, f"{images} images", f"{results.run.recipe().evaluation_size} size"


def _our_entry(results: Results) -> Entry:
    return Entry(
        results.run.name,
        number(results.summary.get("combined")),
        {task: number(results.task(task).get("score")) for task in ORDER},
        "partial" if results.summary.get("partial") else "",
    )


def _our_board(rule: tuple[str, ...], entries: Sequence[Entry]) -> Board:
    title = f"Your runs: split {', '.join(rule)}"
    return Board(title, "measured here", "held-out locations of your own data", True, _sorted(entries))


def published_boards() -> list[Board]:
    """Return the tables that come with the package."""
    index = read_toml(PUBLISHED / "index.toml")
    return [
        Board(facts["title"], facts["source"], facts["about"], False, read_entries(PUBLISHED / f"{name}.csv"))
        for name, facts in index.items()
    ]


def read_entries(path: Path) -> list[Entry]:
    """Read a published table; an empty cell is a score that was not given."""
    columns, rows = read_csv(path)
    wanted = ("name", "combined", *ORDER)
    if missing := [column for column in wanted if column not in columns]:
        raise PbvsError(f"{path} has no column {missing[0]!r}; it needs {', '.join(wanted)}.")
    return [
        Entry(
            row["name"] or "",
            number(row["combined"]),
            {task: number(row[task]) for task in ORDER},
            (row.get("note") or ""),
        )
        for row in rows
    ]


def _sorted(entries: Sequence[Entry]) -> list[Entry]:
    def place(entry: Entry) -> tuple[bool, float, str]:
        return entry.combined is None, entry.combined or 0.0, entry.name

    return sorted(entries, key=place)


def board_text(boards: Sequence[Board]) -> str:
    """Return the boards as text of at most 80 columns."""
    head = f"  {'':<{NAME}}{'combined':>9}" + "".join(f"{task:>9}" for task in ORDER)
    blocks = []
    if not any(board.ours for board in boards):
        blocks.append("No run of yours is scored yet; `pbvs score` makes its numbers.")
    for board in boards:
        mark = "" if board.ours else f"  [OTHER DATA: {board.about}]"
        heading = wrapped(f"{board.title}{mark}") + wrapped(f"Source: {board.source}; lower is better.")
        lines = [_line(entry, board.ours) for entry in board.entries]
        partial = ["  * partial: an image or a task is missing"] * any(line.note == "partial" for line in board.entries)
        blocks.append("\n".join([*heading, head, *lines, *partial]))
    return "\n\n".join(blocks)


def _line(entry: Entry, ours: bool) -> str:
    digits = 4 if ours else 2  # published tables have two
    name = f"{shortened(entry.name, NAME - 3)}{' *' if entry.note == 'partial' else ''}"
    cells = [f"{_cell(entry.combined, digits):>9}", *(f"{_cell(entry.tasks[task], digits):>9}" for task in ORDER)]
    return f"  {name:<{NAME}}{''.join(cells)}"


def shortened(name: str, width: int) -> str:
    """Return a name in at most `width` characters, its end kept: that is where runs of one family differ."""
    return name if len(name) <= width else f"{name[: width // 2 - 1]}..{name[-(width - width // 2 - 1) :]}"


def _cell(value: float | None, digits: int) -> str:
    return "/" if value is None else f"{value:.{digits}f}"


def board_rows(boards: Sequence[Board]) -> list[dict[str, Any]]:
    """Return one flat row an entry, for CSV; the columns are COLUMNS."""
    return [
        {"table": board.title, "ours": board.ours, "name": entry.name, "combined": entry.combined}
        | {task: entry.tasks[task] for task in ORDER}
        | {"note": entry.note, "source": board.source}
        for board in boards
        for entry in board.entries
    ]


def board_csv(boards: Sequence[Board]) -> str:
    """Return the boards as CSV with a header; a score that is not there is empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(board_rows(boards))
    return buffer.getvalue()


def board_json(boards: Sequence[Board]) -> list[dict[str, Any]]:
    """Return the boards as JSON values."""
    return [asdict(board) for board in boards]
