"""From rows to numbers one can reason with: a task's metrics and score, the combined score, and what is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from pbvs.evaluation.bootstrap import combined_interval
from pbvs.evaluation.results import image_scores
from pbvs.metrics.fid import ENOUGH
from pbvs.metrics.judge import FIDS, Judge
from pbvs.metrics.perceptual import VERSION
from pbvs.metrics.protocol import Protocol, sensitivity

if TYPE_CHECKING:
    from pbvs.evaluation.results import TaskScores

SEED = 2024  # of the bootstrap: the same images have the same interval in every run
NOTABLE = 0.005  # an LPIPS that moves less is called unmoved


def summarise(
    run: str,
    split: str,
    judge: Judge,
    found: Mapping[str, TaskScores],
    baselines: Mapping[str, Mapping[str, TaskScores]],
    trained: Mapping[str, set[str]],
    names: Sequence[str],
) -> dict[str, Any]:
    """Return what `summary.json` holds; `names` are the challenge's tasks."""
    protocol = judge.protocol
    references = reference_numbers(protocol, baselines)
    for name, measured in found.items():
        if name in references:
            measured.table = measured.table.join(references[name])
    tasks = {name: task_summary(judge, found.get(name)) for name in names}
    compared = {
        kind: baseline_summary(judge, {name: task_summary(judge, ofkind.get(name), False) for name in names})
        for kind, ofkind in baselines.items()
    }
    scores = {name: task["score"] for name, task in tasks.items()}
    return {
        "run": run,
        "split": split,
        "protocol": protocol.model_dump(mode="json"),
        "higher_is_better": protocol.higher_is_better,
        "lpips": _lpips(judge),
        "combined": protocol.combined(scores),
        "partial": any(task["status"] != "scored" for task in tasks.values()),
        "interval": _combined_interval(protocol, found, scores),
        "tasks": tasks,
        "baselines": compared,
        "sensitivity": sensitivity(protocol, tasks),
        "notes": [
            *_shortfalls(protocol, tasks),
            *_caveats(protocol, judge, tasks),
            *_below_baseline(protocol, tasks, compared),
            *_learnt_nets(protocol, tasks, compared.get("input"), trained),
        ],
    }


def reference_numbers(protocol: Protocol, baselines: Mapping[str, Mapping[str, TaskScores]]) -> dict[str, pd.DataFrame]:
    """Return, by task, the columns `baseline:<metric>` that terms of the transform ratio refer to."""
    found: dict[str, dict[str, Any]] = {}
    for term in protocol.terms:
        for name, scores in baselines.get(str(term.baseline), {}).items():
            found.setdefault(name, {})[f"baseline:{term.metric}"] = scores.table[term.metric]
    return {name: pd.DataFrame(columns) for name, columns in found.items()}


def _lpips(judge: Judge) -> dict[str, Any]:
    lpips = judge.lpips
    if lpips is None:
        return {"net": "", "version": VERSION, "is_lpips": True, "label": "", "digest": ""}
    said = {"net": lpips.net, "version": VERSION, "is_lpips": lpips.is_lpips}
    return said | {"label": lpips.label, "digest": lpips.trunk_digest}


def mean(values: pd.Series[float]) -> float | None:
    """Return the mean of finite values, the same bits in any order of them; None when there are none."""
    known = values.dropna()
    return math.fsum(known) / len(known) if len(known) else None


def task_summary(judge: Judge, scores: TaskScores | None, whole: bool = True) -> dict[str, Any]:
    """Return one task's part of the summary; `scores` is None where there is nothing to score against.

    Without `whole` locations and intervals are left out, as baselines have none.
    """
    protocol = judge.protocol
    table = scores.table if scores else pd.DataFrame(columns=["status", "location", "name"])
    good = table[table["status"] == "ok"]
    found: dict[str, Any] = {"status": "missing", "reason": "", "images": len(good), "expected": len(table)}
    found |= {"score": None, "interval": None, **means(judge, good), "fid": None, "kid": None, "fids": {}}
    sets = scores.sets if scores else {}
    found |= {name: value for name, value in sets.items() if not name.startswith("fid-")}
    found |= {"fids": fids} if (fids := {n: sets[f"fid-{n}"] for n in FIDS if f"fid-{n}" in sets}) else {}
    found |= {"locations": {}} if whole else {}
    if not len(good):
        found["reason"] = _reason(table) if len(table) else "the split has no target images for this task"
        return found
    found["score"] = task_score(protocol, good, found)
    if found["score"] is None:
        names = ", ".join(term.metric for term in protocol.terms if found.get(term.metric) is None)
        found["reason"] = f"{names.upper()} needs two images or more, and there is {len(good)}" if names else ""
        return found
    if whole:
        bounds = combined_interval({"": _values(protocol, good)}, SEED)
        found["interval"] = list(bounds) if bounds else None
        found["locations"] = {
            str(location): {
                "images": len(rows),
                **(own := means(judge, rows)),
                "score": task_score(protocol, rows, own),
            }
            for location, rows in good.groupby("location")
        }
    found["status"] = "scored" if len(good) == len(table) else "partial"
    found["reason"] = _reason(table)
    return found


def means(judge: Judge, rows: pd.DataFrame) -> dict[str, float | None]:
    """Return the mean of each metric over some images."""
    return {name: mean(rows[name]) if name in rows else None for name in judge.columns}


def task_score(protocol: Protocol, rows: pd.DataFrame, numbers: Mapping[str, Any]) -> float | None:
    """Return a task's score: of its metrics' means, or the mean of its images' scores where a term divides by theirs.

    The two are the same for terms that are linear in their metric; others (log, ratio) are said image by image.
    """
    if protocol.set_terms or all(term.transform in ("identity", "complement") for term in protocol.terms):
        return protocol.task_score(numbers)
    return mean(image_scores(rows, protocol))


def _values(protocol: Protocol, rows: pd.DataFrame) -> dict[str, list[float]]:
    """Return each image's score by location; nothing where a term is of sets of images."""
    if protocol.set_terms:
        return {}
    scored = rows.assign(score=image_scores(rows, protocol)).dropna(subset="score")
    return {str(location): found.tolist() for location, found in scored.groupby("location")["score"]}


def _combined_interval(
    protocol: Protocol, found: Mapping[str, TaskScores], scores: Mapping[str, float | None]
) -> list[float] | None:
    """Return the interval of the combined score; a missing task adds what it adds, without doubt."""
    there = [name for name in found if scores[name] is not None]
    values = {name: _values(protocol, found[name].table.query("status == 'ok'")) for name in there}
    if not there or not all(values.values()):
        return None
    bounds = combined_interval(values, SEED)
    constant = protocol.combined({name: 0.0 if name in there else None for name in scores})
    share = len(there) / len(scores)
    return [bound * share + constant for bound in bounds] if bounds else None


def baseline_summary(judge: Judge, tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return a baseline's combined score, and each task's metrics and score."""
    left_out = ("status", "reason", "interval", "expected", "fids")
    return {
        "combined": judge.protocol.combined({name: task["score"] for name, task in tasks.items()}),
        "tasks": {name: {k: v for k, v in task.items() if k not in left_out} for name, task in tasks.items()},
    }


def _reason(table: pd.DataFrame) -> str:
    """Say what went wrong with how many images, and name the first of each kind."""
    bad = table[table["status"] != "ok"]
    first = bad.groupby("status", sort=False)["name"].agg(["size", "first"])
    return "; ".join(f"{row['size']} {status} (first: {row['first']})" for status, row in first.iterrows())


def _shortfalls(protocol: Protocol, tasks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    notes = []
    for name, task in tasks.items():
        if task["status"] == "missing":
            adds = f" and adds {protocol.missing_adds:g}" if protocol.missing_adds else ""
            notes.append(f"{name} is missing ({task['reason']}): it counts {protocol.missing_counts:g}{adds}.")
        elif task["status"] == "partial":
            share = f"{task['images']} of {task['expected']} images"
            notes.append(f"{name} is partial: its score is of {share} ({task['reason']}).")
    return notes


def _caveats(protocol: Protocol, judge: Judge, tasks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    notes = [f"{name} was not measured, as its network is not here: {why}" for name, why in judge.left_out.items()]
    if protocol.net == "random" and "lpips" in judge.feature_metrics:
        notes.append("The perceptual number is not LPIPS: its network has random weights; it only shows that all runs.")
    few = [f"{name} {task['images']}" for name, task in tasks.items() if task["fid"] is not None]
    if few and any(task["images"] < ENOUGH for task in tasks.values() if task["fid"] is not None):
        notes.append(
            f"FID is of few images ({', '.join(few)}; under {ENOUGH:,} it is singular at 2048 dimensions and too "
            "high): compare it only at equal counts, and look at KID, which has no such bias."
        )
    if protocol.set_terms:
        names = ", ".join(term.metric.upper() for term in protocol.set_terms)
        notes.append(f"There is no interval, because {names} belongs to a set of images and not to one.")
    return notes


def _below_baseline(
    protocol: Protocol, tasks: Mapping[str, Mapping[str, Any]], compared: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Say which tasks score worse than their untouched input."""
    notes = []
    for name, found in compared.get("input", {}).get("tasks", {}).items():
        score, other = tasks[name]["score"], found["score"]
        if score is not None and other is not None and (score < other if protocol.higher_is_better else score > other):
            notes.append(f"{name} scores {score:.4f}, worse than its input as it is ({other:.4f}).")
    return notes


def _learnt_nets(
    protocol: Protocol,
    tasks: Mapping[str, Mapping[str, Any]],
    inputs: Mapping[str, Any] | None,
    trained: Mapping[str, set[str]],
) -> list[str]:
    """Say where the LPIPS net that a stage was trained on improves on the input, and one that it was not does not."""
    notes = []
    for name, task in tasks.items():
        before = (inputs or {"tasks": {}})["tasks"].get(name, {})
        gains: dict[str, tuple[float, float]] = {}
        for column, value in task.items():
            net = protocol.net if column == "lpips" else column.removeprefix("lpips-")
            if column.startswith("lpips") and value is not None and before.get(column) is not None:
                gains[net] = (before[column], value)
        learnt = [net for net, (old, new) in gains.items() if net in trained.get(name, ()) and new < old - NOTABLE]
        others = [net for net, (old, new) in gains.items() if net not in trained.get(name, ()) and new >= old]
        if learnt and others:
            moved = {net: f"{gains[net][0]:.3f} to {gains[net][1]:.3f}" for net in (learnt[0], others[0])}
            notes.append(
                f"{name}: LPIPS {learnt[0]}, on which it was trained, improves on the input ({moved[learnt[0]]}), and "
                f"LPIPS {others[0]} does not ({moved[others[0]]}): it may have learnt the net and not the images."
            )
    return notes
