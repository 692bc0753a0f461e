"""From rows to numbers one can reason with: a task's components and score, the combined score, and what is missing."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pbvs.challenge import TASKS
from pbvs.evaluation.bootstrap import combined_interval, interval
from pbvs.evaluation.engine import COMPONENTS, Engine, TaskScores
from pbvs.evaluation.protocol import Protocol, sensitivity
from pbvs.metrics.fid import ENOUGH, fid, kid
from pbvs.metrics.inception import LAYERS
from pbvs.metrics.lpips import VERSION
from pbvs.tables import table_of, write_table

SEED = 2024  # of the bootstrap: the same images have the same interval in every run
COLUMNS = ("name", "location", "source", "target", "prediction", "status", *COMPONENTS, "reason")
Numbers = NDArray[np.float64]


def mean(values: Numbers) -> float | None:
    """Return the mean of (N,) values, the same bits in any order of them; None when there are none."""
    return math.fsum(values) / len(values) if len(values) else None


def components(numbers: Numbers) -> dict[str, float | None]:
    """Return the means of (N, 4) raw components, a row for each of some images."""
    return {name: mean(numbers[:, column]) for column, name in enumerate(COMPONENTS)}


def write_scores(path: Path, scores: TaskScores) -> None:
    """Write a task's images as CSV; numbers are empty unless the status is ok."""
    write_table(path, table_of(COLUMNS, _rows(scores)))


def _rows(scores: TaskScores) -> Iterator[tuple[str, ...]]:
    for place, pair in enumerate(scores.pairs):
        status, reason = scores.faults.get(place, ("ok", ""))
        numbers = [repr(value) for value in scores.numbers[place].tolist()] if status == "ok" else [""] * 4
        head = (pair.name, pair.location, pair.source, pair.target, f"{pair.name}.png", status)
        yield (*head, *numbers, reason)


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
    good, expected = (len(scores.scored), len(scores.pairs)) if scores else (0, 0)
    found: dict[str, Any] = {"status": "missing", "reason": "", "images": good, "expected": expected}
    numbers = scores.numbers[scores.scored] if scores else np.empty((0, len(COMPONENTS)))
    found |= {"score": None, "interval": None, **components(numbers), **_set_distances(protocol, scores)}
    found["locations"] = {}
    if scores is None or not good:
        found["reason"] = _reason(scores) if expected and scores else "the split has no target images for this task"
        return found
    found["score"] = protocol.task_score(found)
    if found["score"] is None:
        found["reason"] = f"FID needs two images or more, and there is {good}"
        return found
    found["interval"] = _pair(interval(_values(protocol, scores), SEED))
    found["locations"] = _locations(protocol, scores)
    found["status"] = "scored" if good == expected else "partial"
    found["reason"] = _reason(scores)
    return found


def _set_distances(protocol: Protocol, scores: TaskScores | None) -> dict[str, Any]:
    """Return FID at each layer, and FID and KID at the protocol's layer; None without features of two images."""
    fids: dict[str, float] = {}
    kids: dict[int, float] = {}
    for layer in LAYERS:
        sets = scores.sets(layer) if scores else None
        if sets is not None:
            fids[str(layer)] = fid(*sets)
            if layer == protocol.fid_layer:
                kids[layer] = kid(*sets)
    return {"fid": fids.get(str(protocol.fid_layer)), "kid": kids.get(protocol.fid_layer), "fids": fids}


def _values(protocol: Protocol, scores: TaskScores) -> dict[str, Sequence[float]]:
    """Return each image's score by location; nothing where the score is of sets of images."""
    values: dict[str, array[float]] = {}
    for place in scores.scored:
        numbers = dict(zip(COMPONENTS, scores.numbers[place].tolist(), strict=True))
        score = protocol.task_score(numbers)
        if score is not None:
            values.setdefault(scores.locations[place], array("d")).append(score)
    return {**values}


def _combined_interval(
    protocol: Protocol, found: Mapping[str, TaskScores], scores: Mapping[str, float | None]
) -> list[float] | None:
    """Return the interval of the combined score; a missing task adds what it adds, without doubt."""
    there = [name for name in found if scores[name] is not None]
    values = {name: _values(protocol, found[name]) for name in there}
    if not there or not all(values.values()):
        return None
    bounds = combined_interval(values, SEED)
    constant = protocol.combined(dict.fromkeys(there, 0.0))
    share = len(there) / len(TASKS)
    return _pair(bounds and (bounds[0] * share + constant, bounds[1] * share + constant))


def _pair(bounds: tuple[float, float] | None) -> list[float] | None:
    return list(bounds) if bounds else None


def _locations(protocol: Protocol, scores: TaskScores) -> dict[str, dict[str, Any]]:
    by_place: dict[str, array[int]] = {}
    for place in scores.scored:
        by_place.setdefault(scores.locations[place], array("q")).append(place)
    found = {name: (len(places), components(scores.numbers[places])) for name, places in sorted(by_place.items())}
    return {
        name: {"images": count, **means, "score": protocol.task_score(means)} for name, (count, means) in found.items()
    }


def _reason(scores: TaskScores) -> str:
    """Say what went wrong with how many images, and name the first of each kind."""
    counts = Counter(status for status, _ in scores.faults.values())
    first: dict[str, str] = {}
    for place in sorted(scores.faults):
        first.setdefault(scores.faults[place][0], scores.pairs[place].name)
    return "; ".join(f"{counts[status]} {status} (first: {name})" for status, name in first.items())


def _shortfalls(protocol: Protocol, tasks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    notes = []
    for name, facts in tasks.items():
        if facts["status"] == "missing":
            adds = f" and adds {protocol.missing_adds:g}" if protocol.missing_adds else ""
            notes.append(f"{name} is missing ({facts['reason']}): it counts {protocol.missing_counts:g}{adds}.")
        elif facts["status"] == "partial":
            share = f"{facts['images']} of {facts['expected']} images"
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
            f"FID is of few images ({counts}; under {ENOUGH:,} it is singular at 2048 dimensions and too high): "
            "compare it only at equal counts, and look at KID, which has no such bias."
        )
    if protocol.needs_fid:
        notes.append("There is no interval, because FID belongs to a set of images and not to one.")
    return notes
