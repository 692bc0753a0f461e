"""From rows to numbers one can reason with: a task's components and score, the combined score, and what is missing."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pbvs.files import write_text
from pbvs.networks.lpips import VERSION
from pbvs.scoring.engine import Engine, Row
from pbvs.scoring.protocol import Protocol
from pbvs.tasks import TASKS

COMPONENTS = ("l1", "mse", "rmse", "lpips")
COLUMNS = ("name", "location", "source", "target", "prediction", "status", *COMPONENTS, "reason")


def mean(values: Sequence[float]) -> float | None:
    """Return the mean, the same bits in any order of the values; None when there are none."""
    return math.fsum(values) / len(values) if values else None


def components(rows: Sequence[Row]) -> dict[str, float | None]:
    """Return the means of the pictures' raw components."""
    good = [row for row in rows if row.status == "ok"]
    return {name: mean([getattr(row, name) for row in good]) for name in COMPONENTS}


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write a task's pictures as CSV; numbers are empty unless the status is ok."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        pair = row.pair
        numbers = ["" if (value := getattr(row, name)) is None else repr(value) for name in COMPONENTS]
        head = (pair.name, pair.location, pair.source, pair.target, row.prediction, row.status)
        writer.writerow([*head, *numbers, row.reason])
    write_text(path, buffer.getvalue())


def summarise(
    run: str, split: str, protocol: Protocol, engine: Engine, rows: Mapping[str, Sequence[Row]], notes: Sequence[str]
) -> dict[str, Any]:
    """Return what `scores/summary.json` holds."""
    tasks = {name: task_summary(protocol, rows.get(name)) for name in TASKS}
    scores = {name: facts["score"] for name, facts in tasks.items()}
    missing = [name for name, value in scores.items() if value is None]
    partial = [name for name, facts in tasks.items() if facts["status"] == "partial"]
    return {
        "run": run,
        "split": split,
        "protocol": protocol.model_dump(mode="json"),
        "lpips": {
            "net": engine.lpips.net,
            "version": VERSION,
            "is_lpips": engine.lpips.is_lpips,
            "label": engine.lpips.label,
            "digest": engine.lpips.trunk.digest,
        },
        "combined": protocol.combined(scores),
        "partial": bool(missing or partial),
        "interval": None,
        "tasks": tasks,
        "sensitivity": [],
        "notes": [*_shortfalls(protocol, missing, partial, tasks), *notes],
    }


def task_summary(protocol: Protocol, rows: Sequence[Row] | None) -> dict[str, Any]:
    """Return one task's part of the summary; `rows` is None where there is nothing to score against."""
    good = [row for row in rows or () if row.status == "ok"]
    found: dict[str, Any] = {"status": "missing", "reason": "", "images": len(good), "expected": len(rows or ())}
    found |= {"score": None, "interval": None, **components(good), "fid": None, "kid": None, "locations": {}}
    if not good:
        found["reason"] = _reason(rows) if rows else "the split has no target pictures for this task"
        return found
    found["score"] = protocol.task_score(found)
    found["locations"] = _locations(protocol, good)
    found["status"] = "scored" if rows is not None and len(good) == len(rows) else "partial"
    found["reason"] = "" if found["status"] == "scored" else _reason(rows)
    return found


def _locations(protocol: Protocol, good: Sequence[Row]) -> dict[str, dict[str, Any]]:
    by_place: dict[str, list[Row]] = {}
    for row in good:
        by_place.setdefault(row.pair.location, []).append(row)
    return {
        place: {"images": len(found), **components(found), "score": protocol.task_score(components(found))}
        for place, found in sorted(by_place.items())
    }


def _reason(rows: Sequence[Row] | None) -> str:
    """Say what went wrong with how many pictures, and show the first of each kind."""
    bad = [row for row in rows or () if row.status != "ok"]
    counts = Counter(row.status for row in bad)
    first = {status: next(row for row in bad if row.status == status) for status in counts}
    return "; ".join(f"{count} {status} (first: {first[status].pair.name})" for status, count in counts.items())


def _shortfalls(
    protocol: Protocol, missing: Sequence[str], partial: Sequence[str], tasks: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    notes = []
    for name in missing:
        adds = f" and adds {protocol.missing_adds:g}" if protocol.missing_adds else ""
        notes.append(f"{name} is missing ({tasks[name]['reason']}): it counts {protocol.missing_counts:g}{adds}.")
    for name in partial:
        facts = tasks[name]
        notes.append(
            f"{name} is partial: its score is of {facts['images']} of {facts['expected']} pictures ({facts['reason']})."
        )
    return notes
