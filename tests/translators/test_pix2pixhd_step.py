"""The fused step: the same losses and gradients as the textbook's three runs of the discriminator."""

from __future__ import annotations

import copy
import functools

import pytest
import torch

from pbvs.networks.pix2pixhd import GeneratorConfig
from pbvs.training import losses
from pbvs.training.checkpoint import module_tensors
from pbvs.training.step import Batch, Execution
from pbvs.translators.pix2pixhd.translator import GanStep
from tests.training.little import little_method, random_lpips


def batch(side: int = 32, count: int = 2, channels: tuple[int, int] = (1, 1)) -> Batch:
    rng = torch.Generator().manual_seed(3)
    source, target = (torch.rand(count, c, side, side, generator=rng) * 2 - 1 for c in channels)
    return Batch(source, target, torch.ones(count, 1, side, side, dtype=torch.bool))


def textbook_step(method: GanStep, data: Batch) -> dict[str, float]:
    """One published iteration: D on detached fake, on real, on fake; G's step, then D's."""
    generator, discriminator = method.generator, method.discriminator
    fake = generator(data.source)
    fakes_detached = discriminator(data.source, fake.detach())
    reals = discriminator(data.source, data.target)
    loss_d = (losses.lsgan(fakes_detached, 0.0) + losses.lsgan(reals, 1.0)) / 2
    fakes = discriminator(data.source, fake)
    assert method.perceptual is not None
    loss_g = losses.lsgan(fakes, 1.0) + 10 * losses.feature_matching(fakes, reals)
    loss_g = loss_g + method.perceptual(fake, data.target) + losses.l2(fake, data.target)
    method.optimizers["generator"].zero_grad()
    loss_g.backward()
    method.optimizers["generator"].step()
    method.optimizers["discriminator"].zero_grad()
    loss_d.backward()
    method.optimizers["discriminator"].step()
    method.optimizers["discriminator"].zero_grad()
    return {"generator": loss_g.item(), "discriminator": loss_d.item()}


def test_three_steps_give_the_textbooks_losses_and_weights() -> None:
    ours, textbook = little_method(perceptual=random_lpips()), little_method(perceptual=random_lpips())
    for _ in range(3):
        expected = textbook_step(textbook, batch())
        found = ours.accumulate(batch(), 1.0, last=True)
        ours.step(1e-3)
        for name, value in expected.items():
            assert float(found[name]) == pytest.approx(value, rel=1e-4)
    for name, value in textbook.generator.state_dict().items():
        # biases before an instance norm have no effect and hence gradients of pure rounding, which Adam blows up
        if name.endswith("weight"):
            assert torch.allclose(ours.generator.state_dict()[name], value, atol=1e-4), name


def test_the_discriminator_learns_from_its_own_loss_alone() -> None:
    method = little_method()
    method.accumulate(batch(), 1.0, last=True)
    judged = method.discriminator(batch().source, method.generator(batch().source).detach())
    reals = method.discriminator(batch().source, batch().target)
    loss = (losses.lsgan(judged, 0.0) + losses.lsgan(reals, 1.0)) / 2
    for parameter, expected in zip(
        method.discriminator.parameters(),
        torch.autograd.grad(loss, list(method.discriminator.parameters())),
        strict=True,
    ):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, expected, atol=1e-5)


def test_accumulated_halves_equal_the_whole_batch() -> None:
    whole, halves = little_method(), little_method()
    data = batch(count=4)
    whole.accumulate(data, 1.0, last=True)
    for part in (slice(0, 2), slice(2, 4)):
        half = Batch(data.source[part], data.target[part], data.valid[part])
        halves.accumulate(half, 0.5, last=part.start == 2)
    for network in ("generator", "discriminator"):
        pairs = zip(whole.modules[network].parameters(), halves.modules[network].parameters(), strict=True)
        assert all(torch.allclose(a.grad, b.grad, atol=1e-5) for a, b in pairs)


def test_pixels_without_target_teach_nothing() -> None:
    data = batch()
    data.valid[..., :16] = False
    other = Batch(data.source, data.target.clone(), data.valid)
    other.target[..., :16] = 0.7
    found = []
    for changed in (data, other):
        method = little_method()
        method.weights = type(method.weights)(gan=0.0, feature_matching=0.0, vgg=0.0, l2=1.0)
        method.accumulate(changed, 1.0, last=True)
        found.append([parameter.grad for parameter in method.generator.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_global_part_learns_only_after_its_phase() -> None:
    method = little_method(GeneratorConfig(1, 1, 4, 1, 1, 1, 1), fix_global_epochs=1)
    method.begin_epoch(1)
    method.accumulate(batch(), 1.0, last=True)
    before = copy.deepcopy(method.generator.state_dict())
    method.step(1e-3)
    changed = {name for name, value in method.generator.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("model1_") for name in changed)
    moments = len(method.optimizers["generator"].state)
    method.begin_epoch(2)
    method.accumulate(batch(), 1.0, last=True)
    method.step(1e-3)
    assert len(method.optimizers["generator"].state) > moments
    assert all(parameter.requires_grad for parameter in method.generator.parameters())


def test_half_precision_stays_close() -> None:
    plain, half = little_method(), little_method(execution=Execution(half_precision=True))
    a, b = plain.accumulate(batch(), 1.0, last=True), half.accumulate(batch(), 1.0, last=True)
    assert float(b["generator"]) == pytest.approx(float(a["generator"]), rel=0.05)
    assert all(parameter.grad.dtype == torch.float32 for parameter in half.generator.parameters())


@pytest.mark.parametrize(
    "options", [{"channels_last": True}, {"compiled": True}, {"channels_last": True, "compiled": True}]
)
def test_options_of_speed_change_losses_by_rounding_alone(
    options: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Traced and taken apart as for a GPU, but run by torch itself: no compiler of C++ is needed.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    plain, quick = little_method(), little_method(execution=Execution(**options))
    quick.begin_epoch(1)
    for _ in range(2):
        expected, found = (method.accumulate(batch(), 1.0, last=True) for method in (plain, quick))
        for name, value in expected.items():
            assert float(found[name]) == pytest.approx(float(value), rel=1e-4), name
        for method in (plain, quick):
            method.step(1e-3)
    assert quick.generator.state_dict().keys() == plain.generator.state_dict().keys()
    names = {f"module/{name}/{key}" for name, module in plain.modules.items() for key in module.state_dict()}
    assert module_tensors(quick.modules).keys() == names
