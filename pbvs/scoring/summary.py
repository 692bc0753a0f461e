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
from pbvs.networks.inception import LAYERS
from pbvs.networks.lpips import VERSION
from pbvs.scoring.bootstrap import combined_interval, interval
from pbvs.scoring.engine import Engine, Row, TaskScores
from pbvs.scoring.frechet import ENOUGH, fid, kid
from pbvs.scoring.protocol import Protocol
from pbvs.scoring.sensitivity import sensitivity
from pbvs.tasks import TASKS

SEED = 2024  # of the bootstrap: the same pictures have the same interval in every run
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
    run: str, split: str, engine: Engine, found: Mapping[str, TaskScores], notes: Sequence[str]
) -> dict[str, Any]:
    """Return what `scores/summary.json` holds."""
    protocol = engine.protocol
    tasks = {name: task_summary(protocol, found.get(name)) for name in TASKS}
    scores = {name: facts["score"] for name, facts in tasks.items()}
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
        "partial": any(facts["status"] != "scored" for facts in tasks.values()),
        "interval": _combined_interval(protocol, found, scores),
        "tasks": tasks,
        "sensitivity": sensitivity(protocol, tasks),
        "notes": [*_shortfalls(protocol, tasks), *_caveats(protocol, engine, tasks), *notes],
    }


def task_summary(protocol: Protocol, scores: TaskScores | None) -> dict[str, Any]:
    """Return one task's part of the summary; `scores` is None where there is nothing to score against."""
    rows = scores.rows if scores else []
    good = [row for row in rows if row.status == "ok"]
    found: dict[str, Any] = {"status": "missing", "reason": "", "images": len(good), "expected": len(rows)}
    found |= {"score": None, "interval": None, **components(good), **_set_distances(protocol, scores), "locations": {}}
    if not good:
        found["reason"] = _reason(rows) if rows else "the split has no target pictures for this task"
        return found
    found["score"] = protocol.task_score(found)
    if found["score"] is None:
        found["reason"] = f"FID needs two pictures or more, and there is {len(good)}"
        return found
    found["interval"] = _pair(interval(_values(protocol, good), SEED))
    found["locations"] = _locations(protocol, good)
    found["status"] = "scored" if len(good) == len(rows) else "partial"
    found["reason"] = _reason(rows)
    return found


def _set_distances(protocol: Protocol, scores: TaskScores | None) -> dict[str, Any]:
    """Return FID at each layer, and FID and KID at the protocol's layer; None without features of two pictures."""
    fids: dict[str, float] = {}
    kids: dict[int, float] = {}
    for layer in LAYERS:
        sets = scores.sets(layer) if scores else None
        if sets is not None:
            fids[str(layer)] = fid(*sets)
            if layer == protocol.fid_layer:
                kids[layer] = kid(*sets)
    return {"fid": fids.get(str(protocol.fid_layer)), "kid": kids.get(protocol.fid_layer), "fids": fids}


def _values(protocol: Protocol, good: Sequence[Row]) -> dict[str, list[float]]:
    """Return each picture's score by location; nothing where the score is of sets of pictures."""
    values: dict[str, list[float]] = {}
    for row in good:
        score = protocol.task_score({name: getattr(row, name) for name in COMPONENTS})
        if score is not None:
            values.setdefault(row.pair.location, []).append(score)
    return values


def _combined_interval(
    protocol: Protocol, found: Mapping[str, TaskScores], scores: Mapping[str, float | None]
) -> list[float] | None:
    """Return the interval of the combined score; a missing task adds what it adds, without doubt."""
    there = [name for name in found if scores[name] is not None]
    values = {name: _values(protocol, [row for row in found[name].rows if row.status == "ok"]) for name in there}
    if not there or not all(values.values()):
        return None
    bounds = combined_interval(values, SEED)
    constant = protocol.combined(dict.fromkeys(there, 0.0))
    share = len(there) / len(TASKS)
    return _pair(bounds and (bounds[0] * share + constant, bounds[1] * share + constant))


def _pair(bounds: tuple[float, float] | None) -> list[float] | None:
    return list(bounds) if bounds else None


def _locations(protocol: Protocol, good: Sequence[Row]) -> dict[str, dict[str, Any]]:
    by_place: dict[str, list[Row]] = {}
    for row in good:
        by_place.setdefault(row.pair.location, []).append(row)
    return {
        place: {"images": len(found), **components(found), "score": protocol.task_score(components(found))}
        for place, found in sorted(by_place.items())
    }


def _reason(rows: Sequence[Row]) -> str:
    """Say what went wrong with how many pictures, and name the first of each kind."""
    bad = [row for row in rows if row.status != "ok"]
    counts = Counter(row.status for row in bad)
    first = {status: next(row for row in bad if row.status == status) for status in counts}
    return "; ".join(f"{count} {status} (first: {first[status].pair.name})" for status, count in counts.items())


def _shortfalls(protocol: Protocol, tasks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    notes = []
    for name, facts in tasks.items():
        if facts["status"] == "missing":
            adds = f" and adds {protocol.missing_adds:g}" if protocol.missing_adds else ""
            notes.append(f"{name} is missing ({facts['reason']}): it counts {protocol.missing_counts:g}{adds}.")
        elif facts["status"] == "partial":
            share = f"{facts['images']} of {facts['expected']} pictures"
            notes.append(f"{name} is partial: its score is of {share} ({facts['reason']}).")
    return notes


def _caveats(protocol: Protocol, engine: Engine, tasks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    notes = []
    if not engine.lpips.is_lpips:
        notes.append("The perceptual number is not LPIPS: its network has random weights; it only shows that all runs.")
    few = {name: facts["images"] for name, facts in tasks.items() if facts["fid"] is not None}
    few = {name: count for name, count in few.items() if count < ENOUGH}
    if few:
        counts = ", ".join(f"{name} {count}" for name, count in few.items())
        notes.append(
            f"FID is of few pictures ({counts}; under {ENOUGH:,} it is singular at 2048 dimensions and too high): "
            "compare it only at equal counts, and look at KID, which has no such bias."
        )
    if protocol.needs_fid:
        notes.append("There is no interval, because FID belongs to a set of pictures and not to one.")
    return notes
