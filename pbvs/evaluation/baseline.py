"""What doing nothing scores: the input as it is and its gray, by the same protocol on the same images.

A score means little without them. They are computed once and kept, since they follow from the data alone. Here is also
which LPIPS net no stage was trained on: a model can learn a net's likings rather than the images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pbvs.data.align import open_source
from pbvs.data.manifest import Pair
from pbvs.errors import PbvsError
from pbvs.evaluation.reading import TaskToScore, file_state, target_key
from pbvs.evaluation.results import TaskScores
from pbvs.files import digest, inside, read_json, write_json
from pbvs.metrics.judge import Judge
from pbvs.metrics.perceptual import NETS
from pbvs.metrics.protocol import BASELINES, Protocol
from pbvs.metrics.weights import look
from pbvs.recipe import Recipe, load_recipe

FORMAT = 1
CHEAPEST_FIRST = ("squeeze", "alex", "vgg")


def score_baselines(
    judge: Judge, tasks: Sequence[TaskToScore], cache: Path | None, score: Callable[[TaskToScore], TaskScores]
) -> dict[str, dict[str, TaskScores]]:
    """Return the scores of each task's inputs by kind ("input", "gray") and task; "gray" only where it is another."""
    found: dict[str, dict[str, TaskScores]] = {kind: {} for kind in BASELINES}
    for task in tasks:
        for kind in BASELINES:
            gray = paper_factor(task.name) != 1.0 or task.task.target_channels > 1 < task.task.first_channels
            same = kind != "input" and not gray  # the paper's gray is then the input as it is
            found[kind][task.name] = found["input"][task.name] if same else _one(judge, task, kind, cache, score)
    return found


def paper_factor(task: str) -> float:
    """Return the factor by which the paper brightens the gray of a task's input, 1 where it does not."""
    stage: Any = load_recipe("paper").stages.get(task)
    return float(stage.intensity) if stage is not None and stage.method == "grayscale" else 1.0


def _one(
    judge: Judge, task: TaskToScore, kind: str, cache: Path | None, score: Callable[[TaskToScore], TaskScores]
) -> TaskScores:
    path = cache / "baselines" / f"{_key(judge, task, kind)}.json" if cache else None
    if path and path.is_file():
        try:
            kept = read_json(path)
            return TaskScores(pd.DataFrame(kept["images"]), kept["sets"])
        except (PbvsError, KeyError, TypeError, ValueError):
            pass  # damaged: made again
    made = score(replace(task, predict=lambda pair: baseline_image(pair, task, kind)))
    if path:
        images = made.table.astype(object).where(made.table.notna(), None)
        write_json(path, {"images": images.to_dict("list"), "sets": made.sets})
    return made


def baseline_image(pair: Pair, task: TaskToScore, kind: str) -> NDArray[np.float32]:
    """Return a pair's input on the target's grid, (H, W, C) in [0, 1] with the target's channels.

    Of several sources it is the first. Where the target has one band, or `kind` is "gray", the bands' mean; "gray" also
    has the paper's factor.
    """
    source = open_source(pair, task.root, task.radiometry)[:, :, : task.task.first_channels]
    channels = task.task.target_channels
    if kind == "gray" or source.shape[2] != channels:
        factor = paper_factor(task.name) if kind == "gray" else 1.0
        gray = (source.mean(axis=2, keepdims=True, dtype=np.float32) * np.float32(factor)).clip(0, 1)
        source = np.repeat(gray, channels, axis=2)
    return source


def _key(judge: Judge, task: TaskToScore, kind: str) -> str:
    networks = sorted({network.digest for network in judge.networks})
    images = [_state(pair, task) for pair in task.pairs]
    rule = judge.protocol.model_dump(mode="json", exclude={"name", "description", "source", "missing_counts"})
    how = [FORMAT, kind, paper_factor(task.name), sorted(judge.metrics), networks, rule, task.dtype]
    return digest([*how, images])


def _state(pair: Pair, task: TaskToScore) -> list[Any]:
    target = target_key(pair, task.root, task.radiometry, task.size)
    paths = (pair.source, *(image.path for image in pair.more))  # whose pixels without data count too
    return [pair.name, pair.shift, target, *(file_state(inside(task.root, path)) for path in paths)]


# --- Nets that a stage was trained on, and one that none was.


def trained_nets(recipe: Recipe) -> dict[str, set[str]]:
    """Return the LPIPS nets that each task's stage was trained on; a cascade has those of its first model."""
    own = {task: _nets(stage.model_dump()) for task, stage in recipe.stages.items()}
    return {
        task: set().union(own[task], *(own.get(first, set()) for first in stage.requires))
        for task, stage in recipe.stages.items()
    }


def _nets(stage: dict[str, Any]) -> set[str]:
    if not stage.get("lpips_weight"):
        return set()
    if stage.get("perceptual"):  # which stand for lpips_net
        return {str(term["net"]) for term in stage["perceptual"]} & set(NETS)
    found: set[str] = set()
    for key, value in stage.items():
        if key.startswith("lpips_net"):
            found |= {value} if isinstance(value, str) else set(value)
    return found & set(NETS)


def unseen_net(recipe: Recipe, protocol: Protocol, weights: Path | None) -> str | None:
    """Return a net to watch beside the protocol's, which a stage was trained on: one that none was, and that is here.

    None where the protocol's own net was not trained on, or no other net's weights are on this machine.
    """
    trained = set().union(*trained_nets(recipe).values()) if recipe.stages else set()
    if protocol.lpips_net not in trained:
        return None
    return next((net for net in CHEAPEST_FIRST if net not in trained and look(net, weights)), None)
