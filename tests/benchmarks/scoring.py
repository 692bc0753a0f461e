"""Scoring beside the plain way: one pair at a time through the package `lpips`, and NumPy for L2.

Each way runs in a process of its own and uses all cores as it does by itself: the plain way inside each
convolution. All read the same PNG files; networks are loaded before the clock starts.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pbvs.data.images import write_png
from pbvs.data.manifest import Pair
from tests.benchmarks.harness import Cost, Row, row_of
from tests.benchmarks.worker import Worker

if TYPE_CHECKING:
    from pbvs.evaluation.reading import TaskToScore
    from pbvs.metrics.judge import Judge

PART = "scoring"
SIDE = 256
WAYS = {"first time": ">= 1.3", "targets seen before": ">= 2"}


def make_images(folder: Path, count: int) -> None:
    """Write pairs of one-channel PNG with structure at several scales, as SAR2EO has them."""
    for n in range(count):
        rng = np.random.default_rng(n)
        layers = [np.kron(rng.random((SIDE // s, SIDE // s)), np.ones((s, s))) for s in (1, 4, 16, 64)]
        image = np.mean(layers, axis=0)
        for kind, noise in (("out", 0.0), ("predicted", 0.1)):
            values = (image + noise * rng.standard_normal(image.shape)).clip(0, 1) * 255
            write_png(folder / kind / f"{n}.png", values.round().astype(np.uint8)[:, :, None])


def task_of(folder: Path, count: int) -> TaskToScore:
    """Return the task that `make_images` has written."""
    from pbvs.evaluation.reading import TaskToScore
    from pbvs.recipe import Radiometry

    pairs = [Pair(f"{n}", "sar2eo", "val", "", f"out/{n}.png", f"out/{n}.png") for n in range(count)]
    return TaskToScore("sar2eo", pairs, folder / "predicted", folder, Radiometry())


def plain_lpips(net: str) -> Callable[..., Any]:
    """Return the package's module with the weights that are here; our random one where there are none."""
    import lpips

    from pbvs.metrics.perceptual import Lpips
    from pbvs.metrics.weights import find, read_tensors

    if net == "random":
        return Lpips(net)
    module = lpips.LPIPS(net=net, pnet_rand=True, verbose=False).eval()
    trunk = read_tensors(find(net))
    names = module.net.state_dict()
    module.net.load_state_dict({name: trunk[f"features.{name.split('.', 1)[1]}"] for name in names})
    return module


def plain(folder: str, count: int, net: str) -> Callable[[], tuple[str, list[float]]]:
    """Return the scoring that one would write by hand, a pair at a time."""
    import torch
    from PIL import Image

    module, what = plain_lpips(net), "the package lpips"
    task = task_of(Path(folder), count)

    def once() -> tuple[str, list[float]]:
        found = []
        for pair in task.pairs:
            images = [np.asarray(Image.open(path)) for path in (task.prediction(pair), Path(folder) / pair.target)]
            l2 = float(np.sqrt(np.mean((images[0] / 255.0 - images[1] / 255.0) ** 2)))
            tensors = [
                torch.from_numpy(p.copy()).float().div(127.5).sub(1)[None, None].repeat(1, 3, 1, 1) for p in images
            ]
            with torch.no_grad():
                found += [l2, float(module(*tensors))]
        return what, found

    return once


def ours(folder: str, count: int, net: str, cache: str) -> Callable[[], tuple[str, list[float]]]:
    """Return our scoring, files and cache included, as `pbvs score` does it, of the same two numbers."""
    from pbvs.devices import resolve_device

    resolve_device("cpu")
    from pbvs.evaluation.reading import FeatureCache

    judge, task = make_judge(net), task_of(Path(folder), count)

    def once() -> tuple[str, list[float]]:
        judge.cache = FeatureCache(Path(cache))
        return "", score_once(judge, task)

    return once


def make_judge(net: str) -> Judge:
    """Return the default protocol's judge, which measures RMSE and LPIPS alone; without a cache."""
    from pbvs.metrics.judge import Judge
    from pbvs.metrics.protocol import load_protocol

    return Judge(load_protocol(lpips_net=net, shown=("rmse", "lpips")))


def score_once(judge: Judge, task: TaskToScore) -> list[float]:
    """Score a task and wait until the cache is written; return each pair's RMSE and LPIPS."""
    import torch

    from pbvs.evaluation.evaluate import score_task

    scores = score_task(judge, task, jobs=torch.get_num_threads())
    if judge.cache:
        judge.cache.close()
    return [float(value) for value in scores.table[["rmse", "lpips"]].to_numpy().flat]


def run(quick: bool) -> list[Row]:
    from pbvs.metrics.weights import look

    count, repeats = (24, 3) if quick else (96, 7)
    net = next((net for net in ("alex", "squeeze") if look(net)), "random")
    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder), count)
        costs, what = measure(Path(folder), repeats, count=count, net=net)
    note = f"{what}, {net}, {count} images of {SIDE} px"
    own = [costs[way] for way in WAYS]
    return [
        row_of(PART, f"score, {way}", taken, costs["plain"], bound=bound, note=note)
        for taken, (way, bound) in zip(own, WAYS.items(), strict=True)
    ]


def measure(folder: Path, repeats: int, **size: Any) -> tuple[dict[str, list[Cost]], str]:
    """Measure the three ways in turns, the first turn of each thrown away; all must give the same numbers."""
    costs: dict[str, list[Cost]] = {"plain": [], **{way: [] for way in WAYS}}
    places = {way: folder / f"cache{number}" for number, way in enumerate(WAYS)}
    with (
        Worker(f"{__name__}:plain", folder=str(folder), **size) as book,
        Worker(f"{__name__}:ours", folder=str(folder), cache=str(places["first time"]), **size) as first,
        Worker(f"{__name__}:ours", folder=str(folder), cache=str(places["targets seen before"]), **size) as again,
    ):
        for turn in range(repeats + 1):
            shutil.rmtree(places["first time"], ignore_errors=True)
            for taken, worker in zip(costs.values(), (book, first, again), strict=True):
                taken += [worker.turn()][turn == 0 :]
        what, expected = book.value
        for worker in (first, again):
            agree(worker.value[1], expected)
    return costs, what


def agree(found: list[float], expected: list[float]) -> None:
    """Raise AssertionError where two ways of scoring do not give the same numbers."""
    worst = max(abs(a - b) for a, b in zip(found, expected, strict=True))
    if worst > 1e-5:
        raise AssertionError(f"The two ways differ by {worst}.")
