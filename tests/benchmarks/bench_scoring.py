"""Scoring beside the plain way: one picture at a time through LPIPS' own steps, and NumPy for L2.

Where the package `lpips` imports, it is measured itself; elsewhere a loop that does what its forward does, layer by
layer, on the same weights. Both read the same PNG files. Networks are loaded before the clock starts.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pbvs.data.images import write_png
from pbvs.data.manifest import Pair
from pbvs.data.settings import Radiometry
from pbvs.networks.lpips import Lpips
from pbvs.scoring.engine import Engine
from pbvs.scoring.material import Task
from pbvs.scoring.protocol import load_protocol
from pbvs.scoring.targets import Targets, TargetStore
from pbvs.weights import look

COUNT = 24
SIDE = 256


def make_pictures(folder: Path, count: int) -> Task:
    """Write pairs of one-channel PNG with structure at several scales, as SAR2EO has them."""
    pairs = []
    for n in range(count):
        rng = np.random.default_rng(n)
        layers = [np.kron(rng.random((SIDE // s, SIDE // s)), np.ones((s, s))) for s in (1, 4, 16, 64)]
        picture = np.mean(layers, axis=0)
        for kind, noise in (("out", 0.0), ("predicted", 0.1)):
            values = (picture + noise * rng.standard_normal(picture.shape)).clip(0, 1) * 255
            write_png(folder / kind / f"{n}.png", values.round().astype(np.uint8)[:, :, None])
        pairs.append(Pair(f"{n}", "sar2eo", "val", "", f"out/{n}.png", f"out/{n}.png"))
    return Task("sar2eo", pairs, folder / "predicted", None)


def plain_lpips(metric: Lpips, weights: Path | None) -> tuple[Callable[[torch.Tensor, torch.Tensor], Any], str]:
    """Return the package's module with the metric's weights, or the same steps written plainly."""
    if metric.net in ("alex", "squeeze", "vgg"):
        try:
            import lpips
        except Exception:
            lpips = None
        if lpips is not None:
            module = lpips.LPIPS(net=metric.net, pnet_rand=True, verbose=False).eval()
            trunk = metric.trunk.state_dict()
            names = module.net.state_dict()
            module.net.load_state_dict({name: trunk[f"features.{name.split('.', 1)[1]}"].clone() for name in names})
            return module, "the package lpips"
    return PlainLpips(Lpips(metric.net, weights)), "the package's steps written plainly"


class PlainLpips(torch.nn.Module):
    """What the package's forward does: scale, trunks, norm, difference, dropout (off), 1x1 head, mean, sum."""

    def __init__(self, metric: Lpips):
        super().__init__()
        self.metric = metric
        self.eval()

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        shift, scale = self.metric.get_buffer("shift"), self.metric.get_buffer("scale")
        total = torch.zeros(1)
        taps = [self.metric.trunk((picture - shift) / scale) for picture in (x, y)]
        for first, second, head in zip(*taps, self.metric.heads, strict=True):
            first, second = (tap / (torch.sqrt(torch.sum(tap**2, 1, keepdim=True)) + 1e-10) for tap in (first, second))
            weighed = torch.nn.functional.conv2d(torch.nn.functional.dropout((first - second) ** 2, 0.5, False), head)
            total = total + weighed.mean([2, 3], keepdim=True)
        return total


def plain_loop(
    task: Task, root: Path, module: Callable[[torch.Tensor, torch.Tensor], Any]
) -> list[tuple[float, float]]:
    """Score as one would by hand, a picture at a time."""
    found = []
    for pair in task.pairs:
        pictures = [np.asarray(Image.open(path)) for path in (task.prediction(pair), root / pair.target)]
        l2 = float(np.sqrt(np.mean((pictures[0] / 255.0 - pictures[1] / 255.0) ** 2)))
        tensors = [
            torch.from_numpy(p.copy()).float().div(127.5).sub(1)[None, None].repeat(1, 3, 1, 1) for p in pictures
        ]
        with torch.no_grad():
            found.append((l2, float(module(*tensors))))
    return found


def seconds(work: Callable[[], Any]) -> tuple[float, float]:
    """Return the wall and processor seconds that `work` took."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def run(repeats: int = 5, count: int = COUNT) -> list[dict[str, Any]]:
    """Return rows {name, ratio_median, ratio_min, ratio_max, bound, note}: plain seconds / ours, higher is better."""
    net = next((net for net in ("alex", "squeeze") if look(net)), "random")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task = make_pictures(folder, count)
        metric = Lpips(net)
        module, what = plain_lpips(metric, None)
        ways = {"first time": [], "targets seen before": []}
        compare(task, folder, module, metric)
        for _ in range(repeats):
            plain = seconds(lambda: plain_loop(task, folder, module))
            shutil.rmtree(folder / "cache", ignore_errors=True)
            for way in ways:
                engine = prepared(metric, TargetStore(folder / "cache"))
                ours = seconds(lambda engine=engine: ours_once(task, folder, engine))
                ways[way].append([a / b for a, b in zip(plain, ours, strict=True)])
    rows = []
    for (way, ratios), bound in zip(ways.items(), (1.5, 3.0), strict=True):
        wall, cpu = ([ratio[n] for ratio in ratios] for n in (0, 1))
        note = f"{what}, {net}, {count} pictures of {SIDE} px; processor time {statistics.median(cpu):.2f}"
        rows.append(
            {
                "name": f"score, {way}",
                "ratio_median": statistics.median(wall),
                "ratio_min": min(wall),
                "ratio_max": max(wall),
                "bound": bound,
                "note": note,
            }
        )
    return rows


def prepared(metric: Lpips, store: TargetStore) -> Engine:
    """Return an engine with its network laid out, as the plain way's is before the clock starts."""
    return Engine(load_protocol(lpips_net=metric.net), metric, store=store, jobs=torch.get_num_threads())


def ours_once(task: Task, root: Path, engine: Engine) -> list[float | None]:
    """Score as `pbvs score` does, files and cache included."""
    values = [row.lpips for row in engine.score(task, Targets(root, Radiometry(), None, engine.store)).rows]
    engine.store.close()
    return values


def compare(task: Task, root: Path, module: Callable[[torch.Tensor, torch.Tensor], Any], metric: Lpips) -> None:
    """Make sure, before anything is measured, that both ways give the same numbers."""
    ours = ours_once(task, root, prepared(metric, TargetStore(None)))
    worst = max(abs((a or 0.0) - b) for a, (_, b) in zip(ours, plain_loop(task, root, module), strict=True))
    if worst > 1e-5:
        raise AssertionError(f"The two ways differ by {worst}.")


if __name__ == "__main__":
    for row in run():
        print(row)
