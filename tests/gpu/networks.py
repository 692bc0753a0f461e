"""Checks of networks and training steps: the same numbers on the device as on the CPU, again and again."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.gpu.lab import Lab, furthest, relative

METHODS = ("pix2pixhd", "unet")


@dataclass(frozen=True)
class How:
    """How a training step is set up."""

    half: bool = False
    deterministic: bool = False
    recompute: bool = False
    vgg: bool = True
    enhancers: int = 0


@dataclass(frozen=True)
class Steps:
    """What some training steps gave: each step's losses, the first one's gradients, all weights at the end."""

    losses: list[dict[str, float]]
    gradients: dict[str, Any]
    state: dict[str, Any]
    step: Any


def make_step(lab: Lab, method: str, device: str, how: How) -> Any:
    """Return the training step of a method with small networks, the same weights in every call."""
    import torch

    from pbvs.metrics.perceptual import Lpips, load_trunk
    from pbvs.networks import pix2pixhd, unet
    from pbvs.seeds import torch_generator
    from pbvs.training.losses import PerceptualLoss, PerceptualTerm, vgg_distance
    from pbvs.training.step import Execution
    from pbvs.translators.pix2pixhd.translator import GanStep
    from pbvs.translators.pix2pixhd.translator import Weights as GanWeights
    from pbvs.translators.unet.translator import UNetStep
    from pbvs.translators.unet.translator import Weights as UNetWeights

    execution = Execution(half_precision=how.half)
    terms = [PerceptualTerm("alex")]
    perceptual = PerceptualLoss(terms, {"alex": Lpips("alex", lab.weights).to(device)})
    if method == "unet":
        network = unet.build_unet(unet.UNetConfig(3, 1, 16), torch_generator(0, "u"))
        for parameter in network.parameters():  # none of zeros, so that every gradient is seen
            if float(parameter.detach().abs().max()) == 0:
                parameter.data.normal_(0, 0.02, generator=torch.Generator().manual_seed(3))
        return UNetStep(network.to(device), UNetWeights(), perceptual=perceptual, execution=execution)
    config = pix2pixhd.GeneratorConfig(1, 3, 16, 3 - bool(how.enhancers), 2, how.enhancers, 1)
    generator = pix2pixhd.build_generator(config, torch_generator(0, "g"))
    discriminator = pix2pixhd.build_discriminator(pix2pixhd.DiscriminatorConfig(4, 16), torch_generator(0, "d"))
    for network in (generator, discriminator):
        pix2pixhd.set_deterministic(network, how.deterministic)
    generator.recompute = how.recompute
    trunk = load_trunk("vgg19", lab.weights).to(device) if how.vgg else None
    return GanStep(
        generator.to(device),
        discriminator.to(device),
        GanWeights(vgg=10.0 if how.vgg else 0.0),
        vgg=(lambda x, y: vgg_distance(trunk, x, y)) if trunk is not None else None,
        perceptual=perceptual,
        execution=execution,
        fix_global_epochs=1 if how.enhancers else 0,
    )


def make_batch(method: str, device: str, number: int = 0, side: int = 128, images: int = 2) -> Any:
    """Return a batch that belongs to its number: a target that follows its source, some pixels unknown."""
    import torch

    from pbvs.training.step import Batch

    rng = torch.Generator().manual_seed(number)
    channels = (3, 1) if method == "unet" else (1, 3)
    source = torch.rand(images, channels[0], side, side, generator=rng) * 2 - 1
    noise = torch.randn(images, channels[1], side, side, generator=rng)
    target = (source.mean(1, keepdim=True) * 0.6 + 0.2 * noise).clamp(-1, 1)
    valid = torch.rand(images, 1, side, side, generator=rng) > 0.1
    return Batch(source.to(device), target.to(device), valid.to(device), number * images)


def take_steps(lab: Lab, method: str, device: str, count: int = 3, how: How | None = None) -> Steps:
    """Take some training steps from the same weights on the same batches."""
    step = make_step(lab, method, device, how or How())
    losses, gradients = [], {}
    for number in range(count):
        step.begin_epoch(number + 1)
        found = step.accumulate(make_batch(method, device, number), 1.0, True)
        losses.append({name: float(value) for name, value in found.items()})
        gradients = gradients or gradients_of(step)
        step.step(2e-4)
    return Steps(losses, gradients, state_of(step), step)


def gradients_of(step: Any) -> dict[str, Any]:
    """Return all gradients by name, on the CPU."""
    return {
        f"{name}.{key}": parameter.grad.detach().cpu().clone()
        for name, module in step.modules.items()
        for key, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def state_of(step: Any) -> dict[str, Any]:
    """Return all weights and buffers by name, on the CPU."""
    return {
        f"{name}.{key}": value.detach().cpu().clone()
        for name, module in step.modules.items()
        for key, value in module.state_dict().items()
    }


def gradients_apart(found: dict[str, Any], wanted: dict[str, Any]) -> float:
    """Return the relative difference of all gradients together."""
    assert found.keys() == wanted.keys()
    difference = sum(float((found[key].double() - value.double()).square().sum()) for key, value in wanted.items())
    return math.sqrt(difference / max(1e-30, sum(float(value.double().square().sum()) for value in wanted.values())))


@contextmanager
def exact() -> Iterator[None]:
    """Multiply whole float32 numbers on a GPU, as a CPU does."""
    import torch

    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def parity(lab: Lab) -> dict[str, Any]:
    """One step in float32 gives the CPU's losses and gradients on the device."""
    found: dict[str, Any] = {"ok": True}
    with exact():
        for method in METHODS:
            ours, cpu = (take_steps(lab, method, device, 1) for device in (lab.device, "cpu"))
            losses = furthest(ours.losses[0], cpu.losses[0])
            gradients = gradients_apart(ours.gradients, cpu.gradients)
            found[method] = f"losses {losses:.1e}, gradients {gradients:.1e}"
            found["ok"] &= losses < 1e-3 and gradients < 1e-2
    return found


def half_precision(lab: Lab, steps: int = 200) -> dict[str, Any]:
    """bfloat16 starts within 5 % of float32's losses and stays finite for 200 steps; images come out in float32."""
    import torch

    found: dict[str, Any] = {"ok": True, "steps": steps}
    for method in METHODS:
        half = take_steps(lab, method, lab.device, steps, How(half=True))
        first = furthest(half.losses[0], take_steps(lab, method, lab.device, 1).losses[0])
        finite = all(math.isfinite(value) for row in half.losses for value in row.values())
        with torch.autocast(lab.kind, torch.bfloat16):
            whole = half.step.network(make_batch(method, lab.device).source).dtype == torch.float32
        found[method] = f"{first:.1e} at first, {'finite' if finite else 'NOT finite'} over all"
        found["ok"] &= first < 0.05 and finite and whole
    return found


def recomputing(lab: Lab) -> dict[str, Any]:
    """Blocks that are computed again in the backward pass give the plain step's losses and gradients."""
    again, plain = (take_steps(lab, "pix2pixhd", lab.device, 1, How(half=True, recompute=r)) for r in (True, False))
    losses, gradients = furthest(again.losses[0], plain.losses[0]), gradients_apart(again.gradients, plain.gradients)
    return {"ok": losses < 1e-2 and gradients < 0.05, "losses": f"{losses:.1e}", "gradients": f"{gradients:.1e}"}


def deterministic(lab: Lab) -> dict[str, Any]:
    """With --deterministic three steps give the same bits twice, also after cuBLAS was used without it."""
    import torch

    from pbvs.training.distributed import numerics

    torch.rand(64, 64, device=lab.device) @ torch.rand(64, 64, device=lab.device)
    found: dict[str, Any] = {"ok": True}
    for method in METHODS:
        for half in (False, True):
            with numerics(True):
                how = How(half=half, deterministic=True)
                first, second = (take_steps(lab, method, lab.device, 3, how).state for _ in range(2))
            same = all(torch.equal(first[key], second[key]) for key in first)
            found[f"{method} {'bf16' if half else 'fp32'}"] = same
            found["ok"] &= same
    return found


def enhancer(lab: Lab) -> dict[str, Any]:
    """A local enhancer learns alone, then with its global part; a restored state steps to the same bits.

    Deterministically: otherwise a GPU adds in another order each time, and Adam makes much of little.
    """
    from pbvs.training.distributed import numerics

    how = How(half=lab.on_gpu, deterministic=True, enhancers=1)
    with numerics(True):
        step = make_step(lab, "pix2pixhd", lab.device, how)
        before = state_of(step)
        _step_twice(step, lab.device, 1)
        fixed = {key: value for key, value in state_of(step).items() if key.startswith("generator.model.")}
        held = bool(fixed) and all(relative(value, before[key]) == 0 for key, value in fixed.items())
        for epoch in (2, 3):
            _step_twice(step, lab.device, epoch)
        other = _restored(step, make_step(lab, "pix2pixhd", lab.device, how), lab.folder / "state.safetensors")
        for each in (step, other):
            _step_twice(each, lab.device, 4)
    apart = max(relative(value, state_of(step)[key]) for key, value in state_of(other).items())
    return {"ok": held and apart == 0, "held": held, "apart": f"{apart:.1e}"}


def _restored(step: Any, other: Any, path: Path) -> Any:
    """Return another step with the weights and optimisers of the first, by way of a file."""
    from pbvs.training import checkpoint

    tensors = {**checkpoint.module_tensors(step.modules), **checkpoint.optimizer_tensors(step.optimizers)}
    checkpoint.write_tensors(path, tensors, {})
    tensors, _ = checkpoint.read_tensors(path)
    other.begin_epoch(4)
    checkpoint.restore_modules(other.modules, tensors)
    checkpoint.restore_optimizers(other.optimizers, tensors)
    return other


def _step_twice(step: Any, device: str, epoch: int) -> None:
    """Step once on two batches."""
    step.begin_epoch(epoch)
    step.accumulate(make_batch("pix2pixhd", device, epoch), 0.5, False)
    step.accumulate(make_batch("pix2pixhd", device, epoch + 9), 0.5, True)
    step.step(2e-4)


def data_parallel(lab: Lab) -> dict[str, Any]:
    """In a process group of one, steps of wrapped networks with accumulation give the plain step's gradients."""
    import os
    from unittest.mock import patch

    from torch import distributed

    with exact():
        alone = {method: take_steps(lab, method, lab.device, 1).gradients for method in METHODS}
    found: dict[str, Any] = {"ok": True}
    with patch.dict(os.environ, {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}):
        distributed.init_process_group("cpu:gloo,cuda:nccl" if lab.on_gpu else "gloo", rank=0, world_size=1)
    try:
        with exact(), patch("pbvs.training.step.world_size", lambda: 2):  # a group of one is not wrapped otherwise
            for method in METHODS:
                step = make_step(lab, method, lab.device, How())
                step.begin_epoch(1)
                step.accumulate(make_batch(method, lab.device), 0.5, False)
                step.accumulate(make_batch(method, lab.device), 0.5, True)
                apart = gradients_apart(gradients_of(step), alone[method])
                found[method] = f"{apart:.1e}"
                found["ok"] &= apart < 5e-3
    finally:
        distributed.destroy_process_group()
    return found


def frozen_networks(lab: Lab) -> dict[str, Any]:
    """LPIPS of three nets at odd sizes, gray too, and Inception's features are the CPU's on the device."""
    import torch

    from pbvs.metrics.fid import load_inception
    from pbvs.metrics.perceptual import Lpips, as_tensor, full_precision

    rng, found = np.random.default_rng(0), {"ok": True}
    sizes = ((64, 64, 3), (37, 100, 1), (100, 227, 3))
    pairs = [[rng.integers(0, 256, size, dtype=np.uint8) for _ in range(2)] for size in sizes]
    for net in ("alex", "squeeze", "vgg"):
        nets = [(Lpips(net, lab.weights).to(device), device) for device in ("cpu", lab.device)]
        with torch.inference_mode(), full_precision(lab.device):
            values = [
                [float(one(*(as_tensor([image], device) for image in pair))) for pair in pairs] for one, device in nets
            ]
        worst = max(abs(a - b) for a, b in zip(*values, strict=True))
        found[net], found["ok"] = f"{worst:.1e}", found["ok"] and worst < 2e-5
    with torch.inference_mode(), full_precision(lab.device):
        x = (as_tensor([pairs[2][0]]) + 1) * 127.5
        cpu, ours = (load_inception(lab.weights).to(device)(x.to(device)) for device in ("cpu", lab.device))
    worst = max(relative(ours[key], cpu[key]) for key in cpu)
    return {**found, "inception": f"{worst:.1e}", "ok": found["ok"] and worst < 1e-4}


def translating(lab: Lab) -> dict[str, Any]:
    """Whole images, tiles and the mean of eight views come out as on the CPU."""
    from pbvs.translators.inference import Inference, translate

    network, rng, worst = make_step(lab, "pix2pixhd", "cpu", How(vgg=False)).network, np.random.default_rng(0), 0.0
    images = [
        rng.random((height, width, 1), np.float32) for height, width in ((96, 120), (33, 47), (96, 120), (200, 90))
    ]
    for how in (Inference(8, 10**6), Inference(8, 4096), Inference(8, 10**6, True)):
        with exact():
            cpu, ours = (translate(network.to(device), images, how, device) for device in ("cpu", lab.device))
        worst = max(worst, *(float(np.abs(a - b).max()) for a, b in zip(cpu, ours, strict=True)))
    return {"ok": worst < 2e-3, "furthest": f"{worst:.1e}"}
