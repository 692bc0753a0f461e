"""A training step with real loading beside the same step on tensors that are in memory already."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Row, compare, cost
from tests.benchmarks.trees import images

PART = "input"
SIDE, WIDTH = 256, 16


def chips(folder: Path, count: int) -> Any:
    """Return a data set of RGB to IR pairs, prepared in a cache as training does it."""
    from pbvs.data.dataset import ChipDataset
    from pbvs.data.manifest import Pair
    from pbvs.recipe import Augmentation, Radiometry

    images(folder / "rgb", count, SIDE + 64, 3, different=count)
    images(folder / "ir", count, SIDE + 64, 1, different=count)
    pairs = [
        Pair(str(n), "rgb2ir", "train", str(n), f"rgb/{n}.png", f"ir/{n}.png", alignment="footprint")
        for n in range(count)
    ]
    return ChipDataset(
        pairs, folder, Radiometry(), size=SIDE, seed=0, augmentation=Augmentation(), cache=folder / "cache"
    )  # fmt: skip


def method() -> Any:
    """Return a small GAN without trunks: the quicker the step, the more loading counts."""
    import torch

    from pbvs.networks.pix2pixhd import DiscriminatorConfig, GeneratorConfig, build_discriminator, build_generator
    from pbvs.translators.pix2pixhd.translator import GanStep, Weights

    rng = torch.Generator().manual_seed(0)
    generator = build_generator(GeneratorConfig(3, 1, WIDTH), rng)
    made = GanStep(generator, build_discriminator(DiscriminatorConfig(4, WIDTH), rng), Weights())
    made.begin_epoch(1)
    return made


def run(quick: bool) -> list[Row]:
    from pbvs.devices import resolve_device

    resolve_device("cpu")
    from pbvs.training.step import BatchPlan, batches

    with tempfile.TemporaryDirectory() as name:
        data = chips(Path(name), 8)
        plan = BatchPlan(len(data), 1, 1)
        trained = method()
        stream: Iterator[Any] = batches(data, plan, 0, 100_000, feed())
        ready = next(stream)

        def step(batch: Any) -> None:
            trained.accumulate(batch, 1.0, last=True)
            trained.step(2e-4)

        repeats = 6 if quick else 30
        row = compare(PART, f"step with loading / on tensors, {SIDE} px", lambda: step(next(stream)),
                      lambda: step(ready), repeats=repeats, warm=2, bound="<= 1.05")  # fmt: skip
        loads = [cost(lambda: next(stream)).cpu for _ in range(20)]
    assert row.plain is not None
    load = statistics.median(loads)
    row.facts = {"load_seconds": load, "step_seconds": row.plain}
    row.note = (
        f"loading a chip takes {load * 1e3:.1f} ms of one core; the step here (width {WIDTH}, no trunks) "
        f"{row.plain * 1e3:.0f} ms. On a GPU up to 8 processes load ahead: no GPU here, not checked."
    )
    return [row]


def feed() -> Any:
    """Return how training on a CPU is fed."""
    from pbvs.training.step import Feed

    return Feed("cpu", 0, (3, 1))
