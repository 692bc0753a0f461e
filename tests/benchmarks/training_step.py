"""One step of training, ours beside the textbook's, from the same weights on the same images.

Each way runs in a process of its own, since how memory is kept (pbvs.devices) belongs to the process. The trunks have
VGG's shapes and random weights: the time does not depend on the weights, and nobody has to fetch half a gigabyte.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

from tests.benchmarks.harness import Row, in_turns, row_of
from tests.benchmarks.worker import Worker

PART = "training_step"
WIDTHS = (64, 128, 256, 512, 512)  # of the activations that VGG-16 is compared by
SIZES = {"64": (64, 256), "16": (16, 256)}  # generator width, pixels a side


def materials(width: int, side: int) -> tuple[Any, ...]:
    """Return generator, discriminator, VGG-19, LPIPS and a pair, the same in every process."""
    import torch

    from pbvs.networks.pix2pixhd import DiscriminatorConfig, GeneratorConfig, build_discriminator, build_generator

    rng = torch.Generator().manual_seed(0)
    generator = build_generator(GeneratorConfig(width=width), rng)
    discriminator = build_discriminator(DiscriminatorConfig(width=width), rng)
    pair = [torch.rand(1, 3, side, side, generator=rng) * 2 - 1 for _ in range(2)]
    return generator, discriminator, trunk("vgg19", rng), trunk("vgg", rng), *pair


def trunk(net: str, rng: Any) -> Any:
    """Return a trunk with random weights that keep activations in bounds (He et al. 2015)."""
    from pbvs.metrics.perceptual import Trunk

    made = Trunk(net).to_empty(device="cpu")
    for parameter in made.parameters():
        fan_in = parameter[0].numel()
        parameter.normal_(0.0, (2 / fan_in) ** 0.5 if parameter.dim() > 1 else 0.0, generator=rng)
    return made


def heads(channels: tuple[int, ...]) -> list[Any]:
    import torch

    return [torch.full((1, count, 1, 1), 1 / count) for count in channels]


def ours(width: int, side: int, device: str = "cpu", half: bool = False) -> Callable[[], Any]:
    """Return our step."""
    from pbvs.devices import resolve_device

    resolve_device(device)
    import torch

    from pbvs.training.losses import PerceptualLoss, PerceptualTerm, vgg_distance
    from pbvs.training.step import Batch, Execution
    from pbvs.translators.pix2pixhd.translator import GanStep, Weights

    generator, discriminator, vgg, vgg16, source, target = (x.to(device) for x in materials(width, side))
    perceptual = PerceptualLoss([PerceptualTerm("vgg")], {"vgg": metric(vgg16).to(device)})
    method = GanStep(
        generator, discriminator, Weights(), vgg=lambda x, y: vgg_distance(vgg, x, y), perceptual=perceptual,
        execution=Execution(half_precision=half),
    )  # fmt: skip
    method.begin_epoch(1)
    batch = Batch(source, target, torch.ones(1, 1, side, side, dtype=torch.bool, device=device))

    def step() -> list[float]:
        losses = method.accumulate(batch, 1.0, last=True)
        method.step(2e-4)
        return [float(losses["generator"]), float(losses["discriminator"])]

    return step


def metric(vgg16: Any) -> Any:
    """Return our LPIPS module around a trunk that was made here, with equal heads."""
    from pbvs.metrics.perceptual import Lpips

    made = Lpips("random")
    made.package.net = vgg16
    for layer, head in zip(made.package.lins, heads(WIDTHS), strict=True):
        layer.model[-1].weight.data = head
    return made


def plain(width: int, side: int, device: str = "cpu") -> Callable[[], Any]:
    """Return the textbook's step."""
    from tests.benchmarks.textbook import Discriminator, Generator, Step, Taps

    generator, discriminator, vgg, vgg16, source, target = materials(width, side)
    book_g, book_d = Generator(width), Discriminator(width)
    book_g.load_state_dict(generator.state_dict())
    book_d.load_state_dict(discriminator.state_dict())
    del generator, discriminator
    taps = [Taps(copy.deepcopy(net.features), net.taps).to(device) for net in (vgg, vgg16)]
    step = Step(book_g.to(device), book_d.to(device), *taps, [head.to(device) for head in heads(WIDTHS)])
    source, target = source.to(device), target.to(device)

    def once() -> list[float]:
        found = step(source, target)
        return [found["generator"], found["discriminator"]]

    return once


def matmul_rate() -> float:
    """Return the floating-point operations a second of a large matrix product, the best of a few."""
    import torch

    a = torch.rand(2048, 2048)
    out = torch.empty_like(a)
    best = float("inf")
    for _ in range(8):
        start = time.perf_counter()
        torch.mm(a, a, out=out)
        best = min(best, time.perf_counter() - start)
    return 2 * 2048**3 / best


def operations(width: int, side: int) -> float:
    """Return the floating-point operations of our step, as PyTorch's own counter sees them."""
    from torch.utils.flop_counter import FlopCounterMode

    step = ours(width, side)
    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops())


def run(quick: bool) -> list[Row]:
    import torch

    rows = [measure("16", 2 if quick else 4)]
    if not quick:
        rows.append(measure("64", 3))
    if torch.cuda.is_available():
        rows.append(on_gpu())
    else:
        note = "bf16 at 512 px on a GPU (bounds: 3 times textbook fp32, 60 % of its memory): no GPU here, not checked"
        rows[-1].note += f" {note}."
    return rows


def measure(size: str, repeats: int, warm: int = 1) -> Row:
    """Return the row of one width: the ratio, the losses' agreement, and how far the arithmetic limit is."""
    width, side = SIZES[size]
    arguments = {"width": width, "side": side}
    with Worker(f"{__name__}:plain", **arguments) as book, Worker(f"{__name__}:ours", **arguments) as own:
        differences = []

        def turn(worker: Worker) -> Any:
            taken = worker.turn()
            if worker is book:
                differences.append(apart(own.value, book.value))
            return taken

        costs = in_turns(lambda: turn(own), lambda: turn(book), repeats, warm)
        row = row_of(PART, f"fp32 step, width {width}, {side} px", *costs, bound=">= 1.1")
        peaks = own.peak, book.peak
    count, rate = operations(width, side), matmul_rate()
    assert row.ours is not None
    row.facts = {
        "losses_apart_first_step": differences[0],
        "losses_apart_by_step": differences,
        "operations": count,
        "matmul_per_second": rate,
        "least_seconds": count / rate,
        "peak_mib": peaks,
    }
    row.note = (
        f"losses apart {differences[0]:.1e} at the first step; {count / 1e9:.0f} G operations, {rate / 1e9:.0f} G/s "
        f"as a matrix product: {count / rate:.2f} s at least, so {count / rate / row.ours:.0%} of the limit; "
        f"memory {peaks[0]:.0f} MiB, textbook {peaks[1]:.0f}."
    )
    return row


def apart(a: list[float], b: list[float]) -> float:
    """Return the largest relative difference of two steps' losses."""
    return max(abs(x - y) / max(1e-12, abs(y)) for x, y in zip(a, b, strict=True))


def on_gpu() -> Row:
    """Return the row of bf16 at 512 px on the GPU beside the textbook's fp32, with peak memory."""
    arguments = {"width": 64, "side": 512, "device": "cuda"}
    with (
        Worker(f"{__name__}:gpu_plain", **arguments) as book,
        Worker(f"{__name__}:gpu_ours", half=True, **arguments) as own,
    ):
        row = row_of(PART, "bf16 step on the GPU, 512 px", *in_turns(own.turn, book.turn, 5, warm=2), bound=">= 3")
        row.facts = {"peak_bytes": [own.value, book.value]}
        row.note = f"GPU memory {own.value / book.value:.0%} of the textbook's (bound 60 %)."
    return row


def gpu_ours(**arguments: Any) -> Callable[[], int]:
    """Return ten of our steps as one turn, which says the GPU's peak memory."""
    return _ten(ours(**arguments))


def gpu_plain(**arguments: Any) -> Callable[[], int]:
    """Return ten of the textbook's steps as one turn."""
    return _ten(plain(**arguments))


def _ten(step: Callable[[], Any]) -> Callable[[], int]:
    import torch

    def turn() -> int:
        for _ in range(10):
            step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()

    return turn
