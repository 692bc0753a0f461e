"""Score a run's predictions: per image, per location, per task and combined, and write it all down.

Threads read, others judge batches of one size, and every image keeps its own numbers. On a CPU each core judges a
batch of its own: two cores that share every convolution wait for each other at its end.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pandas import DataFrame

from pbvs.challenge import Challenge
from pbvs.data.align import open_source
from pbvs.data.build import find_root
from pbvs.data.manifest import Pair, check_content, manifest_path, read_manifest
from pbvs.devices import ahead, resolve_device
from pbvs.errors import PbvsError, damage_ignored, enough_memory, of_data
from pbvs.evaluation.reading import FeatureCache, Images, TaskToScore, file_state, target_key, unexpected_predictions
from pbvs.evaluation.results import SUMMARY, TABLE, Scores, TaskScores, table, write_scores
from pbvs.evaluation.summary import summarise
from pbvs.files import digest, inside, read_json, write_json
from pbvs.lineage import prediction_source, training_notes
from pbvs.logs import track
from pbvs.metrics import perceptual
from pbvs.metrics.judge import Judge, Measured
from pbvs.metrics.perceptual import NETS
from pbvs.metrics.protocol import BASELINES, Protocol, choose_protocol
from pbvs.recipe import Recipe, load_recipe
from pbvs.run import CACHE, MANIFESTS, SUBMISSIONS, Run, locked, read_metadata

BATCH_PIXELS = 16 * 256 * 256  # images of one batch have together at most so many, or there is one image
CORES_BATCH = 8  # images of one batch where each core has its own: more are no quicker
MOST_JUDGES = 8  # batches judged at once; each takes some 200 MB


def score(
    run: str | Run,
    split: str = "val",
    *,
    root: Path | None = None,
    manifests: Path = MANIFESTS,
    submissions: Path = SUBMISSIONS,
    protocol: str | Path | Protocol | None = None,
    weights: Path | None = None,
    lpips_net: str | None = None,
    jobs: int = 1,
    **options: Any,
) -> Scores:
    """Score what a run would submit against the held-out targets of `split`.

    `protocol` is a rule of scoring; without it the one of the run's challenge.
    Writes `<task>.csv` and `summary.json` into `scores/<split>/<protocol>/` of the run's folder. `lpips_net` replaces
    the protocol's trunk; `random` is no LPIPS and is labelled so. `options` go to `measure_tasks`.

    Returns the scores. Raises PbvsError when there is no run, data, manifest or trunk, when no image could be scored
    (earlier scores are kept), or when another command works on the run: predictions that change meanwhile would give
    scores of two models.

    >>> score("night1", lpips_net="alex").combined      # doctest: +SKIP
    0.3315
    """
    found = (run if isinstance(run, Run) else Run(run, submissions)).existing()
    challenge = found.challenge()
    usual = choose_protocol(challenge, protocol)
    rule = usual.settle(lpips_net, weights)
    where = find_root(root, manifests)
    with locked(found.folder):
        recipe = found.recipe()
        tasks = [
            task for name in challenge.tasks if (task := find_task(found, recipe, rule, manifests, where, split, name))
        ]
        if not tasks:
            raise PbvsError(f"No manifest of the split {split} is in {manifests}; make them with `pbvs build-pairs`.")
        summary, tables = measure_tasks(
            found.name, split, tasks, rule, recipe, challenge, weights=weights, jobs=jobs, **options
        )
        summary["made_from"] = {name: prediction_source(found, split, name) for name in tables}
        scored = [name for name in tables if summary["tasks"][name]["images"]]
        summary["notes"] += training_notes(found, split, scored)
        summary["notes"] += net_notes(found, split, usual, rule) if lpips_net is None else []
        try:
            pairs = [pair for task in tasks for pair in task.pairs]
            check_content(pairs, where, manifests, jobs, there=True)
        except PbvsError as error:  # the numbers are of the images as they are now
            summary["notes"].append(of_data(error))
        folder = found.score_folder(split, place_name(usual, rule))
        return write_scores(found, folder, summary, tables)


def measure_tasks(
    name: str,
    split: str,
    tasks: Sequence[TaskToScore],
    rule: Protocol,
    recipe: Recipe,
    challenge: Challenge,
    *,
    weights: Path | None = None,
    device: str = "cpu",
    jobs: int = 1,
    batch: int = 16,
    fid: bool = False,
    cache: Path | None = CACHE,
    baselines: bool = True,
) -> tuple[dict[str, Any], dict[str, DataFrame]]:
    """Return the summary of scores and each task's table of images; what `score` does with a run's predictions.

    `recipe` says which LPIPS nets the predictions were trained on, `challenge` which tasks there are. `fid` computes
    FID and KID also where the protocol's score does without. `baselines` scores the inputs as they are beside the
    predictions. `jobs` threads read files; neither they nor `batch` change a number. What is made of the targets is
    kept below `cache` for the next time, unless that is None. Raises PbvsError when no image could be scored.
    """
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(contextlib.closing(FeatureCache(cache / "features"))) if cache else None
        unseen = unseen_net(recipe, rule, weights)
        judge = Judge(
            rule, weights, resolve_device(device), extra=[f"lpips-{unseen}"] if unseen else (), fid=fid, cache=store
        )
        scored = partial(score_task, judge, jobs=jobs, batch=batch)
        measured = {task.name: scored(task) for task in tasks}
        check_scored(measured, split)
        wanted = baselines or any(isinstance(term.baseline, str) for term in rule.terms)
        compared = score_baselines(judge, tasks, cache, scored) if wanted else {}
        trained = trained_nets(recipe)
        summary = summarise(name, split, judge, measured, compared, trained, tuple(challenge.tasks))
        summary["notes"] += [note for task in tasks for note in _notes(task)]
        return summary, {task: scores.table for task, scores in measured.items()}


def net_notes(run: Run, split: str, usual: Protocol, rule: Protocol) -> list[str]:
    """Return what is to be said of an LPIPS net that nobody asked for: a second choice, or not the run's last one."""
    said = (table(read_metadata(folder / SUMMARY)) for folder in run.score_folders())
    mine = (
        found for found in said if found.get("split") == split and table(found.get("protocol")).get("name") == rule.name
    )
    last = table(next(mine, {}).get("lpips")).get("net", rule.net)
    again = f"The last scores by {rule.name} were of {last}: `--lpips-net {last}` makes such again."
    return [note for note in (usual.other_net(rule), again if last != rule.net else "") if note]


def place_name(usual: Protocol, rule: Protocol) -> str:
    """Return the folder's name for a protocol: its own, with the net where it leaves that open or another is taken."""
    return rule.name if rule.lpips_net == usual.lpips_net else f"{rule.name}-{rule.net}"


def find_task(
    run: Run, recipe: Recipe, protocol: Protocol, manifests: Path, root: Path, split: str, name: str
) -> TaskToScore | None:
    """Return what is to be scored of one task; None without a manifest."""
    path = manifest_path(manifests, name, split)
    if not path.is_file():
        return None
    predictions, size = run.prediction_folder(split, name), recipe.evaluation_size
    return TaskToScore(name, read_manifest(path), predictions, root, recipe.radiometry, protocol, size)


def check_scored(measured: dict[str, TaskScores], split: str) -> None:
    """Raise PbvsError, saying why, when not one image was scored."""
    tables = {name: scores.table for name, scores in measured.items()}
    if any((table["status"] == "ok").any() for table in tables.values()):
        return
    why = [f"{name}: {table['reason'].iloc[0]}" for name, table in tables.items() if len(table)]
    raise PbvsError(
        f"Not one image of the split {split} could be scored, and earlier scores were kept. "
        + (" ".join(why) or "The manifests have no targets; make them again with `pbvs build-pairs`.")
    )


def _notes(task: TaskToScore) -> list[str]:
    return [
        f"{task.name}: {len(names)} files {what} and were not scored ({', '.join(names[:3])})."
        for what, names in unexpected_predictions(task).items()
        if names
    ]


# --- The loop over images.


@enough_memory("take a smaller --batch and fewer --jobs")
def score_task(judge: Judge, task: TaskToScore, *, jobs: int = 1, batch: int = 16) -> TaskScores:
    """Return the numbers of each of the task's pairs, and those of the whole set."""
    numbers = np.full((len(task.pairs), len(judge.columns)), np.nan)
    said = [("missing", "")] * len(task.pairs)
    features: dict[str, Measured] = {}
    judges = min(MOST_JUDGES, torch.get_num_threads()) if judge.device == "cpu" else 1
    size = batch if judges == 1 else min(batch, CORES_BATCH)
    with cores_of_their_own(judges), ThreadPoolExecutor(judges) as pool:
        groups = _groups(_read(judge, task, jobs, batch), size)
        for group in ahead(pool, lambda found: _judge(judge, found), groups, 2 * judges):
            for item, measured in group:
                said[item.index] = item.status, item.reason
                if measured:
                    numbers[item.index] = [measured.numbers[name] for name in judge.columns]
                if measured and measured.features:
                    features[item.pair.name] = measured
    table = table_of_images(task.pairs, said, DataFrame(numbers, columns=judge.columns))
    return TaskScores(table, judge.set_numbers([features[name] for name in sorted(features)]))


def table_of_images(pairs: Sequence[Pair], said: Sequence[tuple[str, str]], numbers: DataFrame) -> DataFrame:
    """Return a row for each pair: the columns of results.TABLE, the metrics, the reason; `said`: status and reason."""
    texts = [
        # interned: the tables of the inputs' own scores hold the same names
        (pair.task, pair.name, pair.location, pair.source, pair.target, sys.intern(f"{pair.name}.png"), status)
        for pair, (status, _) in zip(pairs, said, strict=True)
    ]
    table = DataFrame(texts, columns=[*TABLE], dtype=object).join(numbers)
    return table.assign(reason=np.array([reason for _, reason in said], dtype=object))


def _judge(judge: Judge, group: list[Images]) -> list[tuple[Images, Measured | None]]:
    """Return a group's numbers; an image that cannot be measured gets a status, and the others theirs."""
    try:
        whole = [
            (judge.pair(item.prediction, item.target, item.valid), item.key)
            for item in group
            if item.prediction is not None and item.target is not None
        ]
        found = iter(judge.measure([pair for pair, _ in whole], [key for _, key in whole]))
    except PbvsError as error:
        if len(group) > 1:
            return [result for item in group for result in _judge(judge, [item])]
        group[0].status, group[0].reason = "not-measurable", of_data(error)
        return [(group[0], None)]
    return [(item, next(found) if item.target is not None else None) for item in group]


def _read(judge: Judge, task: TaskToScore, jobs: int, batch: int) -> Iterator[Images]:
    """Read pairs ahead in threads."""
    work = partial(_read_one, judge, task)
    with (
        ThreadPoolExecutor(jobs) as pool,
        contextlib.closing(ahead(pool, work, enumerate(task.pairs), batch + jobs, lambda item: item.size)) as stream,
    ):
        yield from track(stream, f"{task.name}: scoring", total=len(task.pairs), unit="image")


def _read_one(judge: Judge, task: TaskToScore, numbered: tuple[int, Pair]) -> Images:
    """Read a pair, with its place and the key under which its target's features are kept.

    The key is made first: a target that changes meanwhile is then kept under a key that nobody asks for again.
    """
    index, pair = numbered
    key = ""
    if judge.cache is not None:
        with damage_ignored():  # a target that is gone: told by who reads it
            key = target_key(pair, task.root, task.radiometry, task.size)
    item = task.read(pair)
    item.index = index
    if item.target is not None and key:
        item.key = digest([key, judge.protocol.border, judge.protocol.channels])
    return item


def _groups(stream: Iterable[Images], size: int) -> Iterator[list[Images]]:
    """Gather images of one shape into batches; what could not be read goes through alone."""
    waiting: dict[tuple[int, ...], list[Images]] = {}
    for item in stream:
        if item.target is None:
            yield [item]
            continue
        height, width, _ = item.target.shape
        group = waiting.setdefault(item.target.shape, [])
        group.append(item)
        if len(group) >= max(1, min(size, BATCH_PIXELS // (height * width))):
            yield waiting.pop(item.target.shape)
    yield from waiting.values()


@contextlib.contextmanager
def cores_of_their_own(count: int) -> Iterator[None]:
    """Let each of `count` threads that start inside compute on an equal share of the cores that PyTorch may use."""
    before = torch.get_num_threads()
    if count > 1:
        torch.set_num_threads(max(1, before // count))
    try:
        yield
    finally:
        if count > 1:
            torch.set_num_threads(before)


# --- What doing nothing scores: the input as it is and its gray, by the same protocol on the same images.

BASELINE_FORMAT = 1


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
    images = [digest(_state(pair, task)) for pair in task.pairs]
    rule = judge.protocol.model_dump(mode="json", exclude={"name", "description", "source", "missing_counts"})
    how = [BASELINE_FORMAT, kind, paper_factor(task.name), sorted(judge.metrics), networks, rule, task.dtype]
    return digest([*how, images])


def _state(pair: Pair, task: TaskToScore) -> list[Any]:
    target = target_key(pair, task.root, task.radiometry, task.size)
    paths = (pair.source, *(image.path for image in pair.more))  # whose pixels without data count too
    return [pair.name, pair.shift, target, *(file_state(inside(task.root, path)) for path in paths)]


# --- Nets that a stage was trained on, and one that none was.


def trained_nets(recipe: Recipe) -> dict[str, set[str]]:
    """Return the LPIPS nets that each task's stage was trained on; a cascade has those of its first model."""
    stages = recipe.stages
    own = {name: {term.net for term in getattr(stage, "perceptual_terms", ())} for name, stage in stages.items()}
    return {
        name: own[name].union(*(own.get(first, ()) for first in stage.requires)) & {*NETS}
        for name, stage in stages.items()
    }


def unseen_net(recipe: Recipe, protocol: Protocol, weights: Path | None) -> str | None:
    """Return a net to watch beside the protocol's, which a stage was trained on: one that none was, and that is here.

    None where the protocol's own net was not trained on, or no other net's weights are on this machine.
    """
    trained = set().union(*trained_nets(recipe).values()) if recipe.stages else set()
    if protocol.net not in trained:
        return None
    return perceptual.unseen_net(trained, weights) or None
