"""The table that people read (100 columns), and the JSON beside it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Row, rounded

LAST = Path(__file__).with_name("last.json")
PAGE = Path(__file__).parents[2] / "docs" / "speed.md"  # has the figures between these two marks
MARKS = ("<!-- figures of tests/benchmarks/last.json -->\n", "<!-- end of figures -->\n")
HEAD = f"{'what':<42}{'ours':>8}{'plain':>8}{'ratio':>6}{'spread':>12}{'cpu':>6}{'bound':>8} {'held':<4}{'last':>5}"


def as_table(rows: Sequence[Row], last: Mapping[str, Any] | None) -> str:
    """Return the rows part by part, each with what it was the last time."""
    before = {(row["part"], row["what"]): row["ratio"] for row in (last or {}).get("rows", [])}
    lines = [HEAD, "-" * 100]
    part = ""
    for row in rows:
        if row.part != part:
            part = row.part
            lines.append(f"{part}:")
        lines.append(_line(row, before.get((row.part, row.what))))
        lines += [f"      {text}" for text in wrapped(row.note)]
    return "\n".join(lines)


def _line(row: Row, before: float | None) -> str:
    seconds = "".join(f"{'' if value is None else short(value):>8}" for value in (row.ours, row.plain))
    spread = f"{row.low:.2f}..{row.high:.2f}"
    cores = "" if row.cpu is None else f"{row.cpu:.2f}"
    last = "" if before is None else f"{before:.2f}"
    figures = f"{row.ratio:>6.2f}{spread:>12}{cores:>6}"
    return f"  {row.what:<40}{seconds}{figures}{row.bound:>8} {row.verdict:<4}{last:>5}"


def short(seconds: float) -> str:
    """Return seconds with three digits and a unit."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def wrapped(text: str, width: int = 92) -> list[str]:
    """Break a note into lines."""
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += " " + word
        else:
            lines.append(word)
    return lines


def machine() -> dict[str, Any]:
    """Return what the figures were taken on."""
    name = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), "")
    return {
        "processor": name or platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "load": load(),
    }


def version() -> str:
    """Return what was measured and when: the date, the commit, and torch."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    changed = subprocess.run(
        ["git", "status", "--porcelain", "pbvs"], capture_output=True, text=True, check=False
    ).stdout
    code = (commit.strip() or "no commit") + (" and changes" if changed else "")
    return f"{date.today().isoformat()}, {code}, torch {metadata.version('torch')}"


def load() -> float:
    """Return how many processes wanted to run in the last minute, ours among them."""
    return round(os.getloadavg()[0], 1)


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def as_json(rows: Sequence[Row], seconds: float, start: Mapping[str, Any], quick: bool) -> dict[str, Any]:
    """Return all of a measurement."""
    return {
        "taken": date.today().isoformat(),
        "quick": quick,
        "seconds": round(seconds),
        "parts": len({row.part for row in rows}),
        "machine": {**start, "load_at_the_end": load()},
        "rows": [{**row.as_json(), "version": version()} for row in rows],
    }


def merged(last: Mapping[str, Any] | None, new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the new measurement with the parts of the last one that were not measured again."""
    parts = {row["part"] for row in new["rows"]}
    kept = [row for row in (last or {}).get("rows", []) if row["part"] not in parts]
    return rounded({**new, "rows": [*kept, *new["rows"]]})


def read_last(path: Path = LAST) -> dict[str, Any] | None:
    """Return the measurement that the repository keeps, or None."""
    return json.loads(path.read_text()) if path.is_file() else None


def as_page(kept: Mapping[str, Any], order: Sequence[str]) -> str:
    """Return the figures that are kept as a table of the page, part by part in the order given."""
    machine = kept["machine"]
    whole = "" if kept.get("parts", 0) < len(order) else f" All parts took {kept['seconds']} seconds."
    lines = [
        f"{machine['cores']} cores ({machine['processor']}), {kept['taken']}; processes that wanted to run: "
        f"{machine['load']} at the start, {machine['load_at_the_end']} at the end.{whole}",
        "",
        "| part | what | figure | spread | cpu | bound | held | measured |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(kept["rows"], key=lambda row: order.index(row["part"])):
        cores = "" if row["cpu"] is None else f"{row['cpu']:.2f}"
        lines.append(
            f"| {row['part']} | {row['what']} | {row['ratio']:.2f} | {row['low']:.2f}..{row['high']:.2f} "
            f"| {cores} | {row['bound']} | {row.get('held', '')} | {row.get('version', '')} |"
        )
    return "\n".join(lines) + "\n"


def put_figures(text: str, figures: str) -> str:
    """Return the page's text with other figures between its marks."""
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    if not rest or not after:
        raise ValueError(f"The page has no marks {MARKS} around its figures.")
    return f"{before}{MARKS[0]}{figures}{MARKS[1]}{after}"
