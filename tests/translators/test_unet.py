"""The U-Net, the loss it is trained on, and the translator around them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pbvs.data.dataset import _brightened, _sharpened, _zoomed
from pbvs.errors import PbvsError
from pbvs.metrics.perceptual import Lpips
from pbvs.metrics.weights import look
from pbvs.networks.unet import UNet, UNetConfig, build_unet, without_grid
from pbvs.run import STATE
from pbvs.seeds import torch_generator
from pbvs.training.checkpoint import read_tensors
from pbvs.training.step import Batch, Rounds
from pbvs.training.trainer import Settings, Trainer
from pbvs.translators.base import FitContext
from pbvs.translators.unet import UNetStage
from pbvs.translators.unet.translator import LARGEST_GRADIENT, Cosine, UNetStep, UNetTranslator, Weights, adapt_unet
from tests.tasks import TASKS
from tests.training.little import LittleChips, equal, random_lpips, weights_of
from tests.translators.scenes import context_of, recipe_of, translator_of

LITTLE = UNetConfig(1, 1, width=8, levels=2, widest=2, style=4)
STAGE = {"method": "unet", "width": 8, "levels": 2, "widest": 2, "style": 4, "size": 16}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def unet(config: UNetConfig = LITTLE, seed: int = 1) -> UNet:
    return build_unet(config, torch_generator(seed, "unet"))


def woken(network: UNet) -> UNet:
    """The network with all its weights moved away from zero, so that every path matters."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch_generator(3, "wake"))
    return network


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch_generator(seed, "images")) * 2 - 1


@pytest.mark.parametrize("style", [0, 4])
@pytest.mark.parametrize(("shuffle", "levels"), [(1, 1), (2, 3), (4, 2)])
def test_the_output_has_the_inputs_size(shuffle: int, levels: int, style: int) -> None:
    config = UNetConfig(3, 1, width=8, levels=levels, shuffle=shuffle, style=style)
    side = config.multiple
    assert unet(config)(images(2, 3, 2 * side, 3 * side)).shape == (2, 1, 2 * side, 3 * side)


def test_every_weight_gets_a_gradient() -> None:
    network = woken(unet(UNetConfig(1, 3, width=8, levels=3, style=4, blocks=2)))
    network(images(2, 1, 32, 32)).square().sum().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_first_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    first = unet().state_dict()
    torch.manual_seed(6)
    assert equal(first, unet().state_dict())
    assert not equal(first, unet(seed=2).state_dict())
    assert all(bool(torch.isfinite(value).all()) for value in first.values())


def test_with_gray_residual_an_idle_network_returns_the_gray() -> None:
    network = unet(UNetConfig(3, 1, width=8, levels=2, residual="gray"))
    nn.init.zeros_(network.head.weight)
    nn.init.zeros_(network.head.bias)
    x = images(1, 3, 16, 16)
    torch.testing.assert_close(network(x), x.mean(dim=1, keepdim=True))


def test_the_style_carries_what_is_far_away() -> None:
    """A change in one corner reaches the opposite one through the style and in no other way."""
    a = images(1, 1, 128, 128)
    b = a.clone()
    b[..., :8, :8] = 1.0
    for style, differs in ((4, True), (0, False)):
        network = woken(unet(UNetConfig(1, 1, width=8, levels=2, style=style)))
        with torch.no_grad():
            for module in network.modules():  # group norm, too, looks at the whole image
                if isinstance(module, nn.GroupNorm):
                    module.forward = lambda x: x
            far = (network(a) - network(b))[..., -8:, -8:].abs().max()
        assert bool(far > 0) is differs


def test_translating_leaves_no_grid_between_the_pixels_of_a_square() -> None:
    network = woken(unet(UNetConfig(1, 3, width=8, levels=2, widest=2, style=4)))
    with torch.no_grad():
        network.head.weight.mul_(0.05)
        network.head.bias.copy_(torch.linspace(-0.05, 0.05, 12))  # up to 6.4 of 255 gray levels
        x = images(2, 1, 32, 48)
        grid, level = network.train()(x), network.eval()(x)

    def corners(image: Tensor) -> Tensor:
        return torch.stack([image[:, :, i::2, j::2].mean(dim=(2, 3)) for i in (0, 1) for j in (0, 1)])

    assert corners(grid).std(dim=0).min() > 0.009
    assert corners(level).std(dim=0).max() < 0.001
    torch.testing.assert_close(level.mean(dim=(2, 3)), grid.mean(dim=(2, 3)), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("shuffle", "levels", "side"), [(4, 2, 4), (2, 1, 2), (1, 3, 2), (1, 1, 1)])
def test_the_grid_is_that_of_squares_as_channels_or_of_doubled_pixels(shuffle: int, levels: int, side: int) -> None:
    network = woken(unet(UNetConfig(1, 3, width=8, levels=levels, widest=2, style=4, shuffle=shuffle)))
    x = images(2, 1, 32, 48) if side > 1 else images(2, 1, 33, 47)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(x), without_grid(network.train()(x), side), rtol=0, atol=0)


@pytest.mark.parametrize("side", [2, 4])
def test_a_faint_grid_goes_where_it_comes_and_goes(side: int) -> None:
    """Its strength and its sign differ from place to place, so that the means over the whole image are equal."""
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(128.0), indexing="ij")
    ground = 0.3 * torch.sin(x / 9) * torch.cos(y / 7) + 0.004 * x
    pattern = (2 * np.pi / side * x).cos() * (2 * np.pi / side * y).cos()
    grid = pattern * torch.cos(2 * np.pi * x / 128) * 4 / 127.5
    clean = without_grid((ground + grid)[None, None], side)[0, 0]
    left = (clean - ground).abs()
    assert left.max() < 1.6 / 127.5 and left.mean() < 0.25 * grid.abs().mean()


def test_edges_and_texture_are_no_grid() -> None:
    """A step of 200 gray levels changes by less than two and a half; noise of the image's own keeps its strength."""
    edge = torch.full((1, 1, 64, 64), -0.8)
    edge[..., 31:] = 0.8
    assert (without_grid(edge, 2) - edge).abs().max() < 2.5 / 127.5
    noise = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(1)) * 0.1
    assert (without_grid(noise, 2) - noise).std() < 0.1 * noise.std()
    assert without_grid(noise, 1) is noise


def test_half_precision_gives_single_precision_out() -> None:
    network = woken(unet())
    x = images(1, 1, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        made = network(x)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, network(x), atol=0.05, rtol=0.05)


@pytest.mark.parametrize(("source", "target"), [(1, 3), (3, 1), (3, 3)])
def test_a_network_for_other_channels_starts_with_the_same_image(source: int, target: int) -> None:
    old = woken(unet())
    config = UNetConfig(source, target, width=8, levels=2, widest=2, style=4)
    new = unet(config, seed=9)
    new.load_state_dict(adapt_unet(old.state_dict(), LITTLE, config))
    x = images(1, 1, 16, 16)
    expected = old(x).expand(-1, target, -1, -1)
    torch.testing.assert_close(new(x.expand(-1, source, -1, -1)), expected, atol=1e-5, rtol=1e-5)


def test_networks_with_other_squares_cannot_start_from_each_other() -> None:
    with pytest.raises(PbvsError, match="shuffle"):
        adapt_unet(unet().state_dict(), LITTLE, UNetConfig(1, 1, shuffle=4))


def test_the_rate_rises_and_falls_and_is_never_negative() -> None:
    schedule = Cosine(1.0, 100, warm_up=0.1)
    rates = [schedule.at(epoch) for epoch in range(1, 101)]
    assert rates[0] < 0.1
    assert np.argmax(rates) == 10
    assert 0.95 < max(rates) <= 1.0
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert 0 < rates[-1] < 1e-3


def test_rounds_show_every_chip_in_each_round() -> None:
    class Keys:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, key: tuple[int, int]) -> Any:
            return key

    rounds = Rounds(Keys(), 2)
    assert len(rounds) == 6
    assert [rounds[4, position] for position in range(6)] == [(8, 0), (8, 1), (8, 2), (9, 0), (9, 1), (9, 2)]


def test_sharpening_changes_the_source_alone_and_undoes_nothing_flat() -> None:
    array = np.random.default_rng(0).integers(60, 200, (3, 12, 12), dtype=np.uint8)
    array[:, :, 6:] = 100
    crisp, soft = _sharpened(array, 1, 1.0), _sharpened(array, 1, -0.5)
    np.testing.assert_array_equal(crisp[1:], array[1:])
    assert crisp[0, :, :6].std() > array[0, :, :6].std() > soft[0, :, :6].std()
    np.testing.assert_array_equal(crisp[0, :, 8:], 100)
    np.testing.assert_array_equal(_sharpened(array, 1, 0.0), array)


def test_brightness_changes_the_source_alone() -> None:
    array = np.full((3, 4, 4), 100, dtype=np.uint8)
    bright = _brightened(array, 2, 1.104)
    assert (bright[:2] == 110).all() and (bright[2] == 100).all()
    assert (_brightened(array, 1, 3.0)[0] == 255).all()


def test_zoom_keeps_images_together_and_forgets_pixels_that_touch_unknown_ones() -> None:
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 256, (10, 10)), np.ones((16, 16))).astype(np.uint8)
    valid = np.full((160, 160), 255, dtype=np.uint8)
    valid[:, 80:] = 0
    small = _zoomed(np.stack((image, image, valid)), 80)
    np.testing.assert_array_equal(small[0], small[1])
    assert abs(small[0].mean() - image.mean()) < 1
    assert (small[2, :, :38] == 255).all() and (small[2, :, 40:] == 0).all()
    assert set(np.unique(small[2])) == {0, 255}


def batch(valid: float = 1.0) -> Batch:
    source = images(2, 1, 32, 32)
    known = torch.ones(2, 1, 32, 32, dtype=torch.bool)
    known[..., int(32 * valid) :] = False
    return Batch(source, -source, known)


def test_the_loss_is_the_score_twice() -> None:
    network = woken(unet())
    lpips = Lpips("random")
    method = UNetStep(network, Weights(), perceptual=random_lpips())
    data = batch()
    found = method.accumulate(data, 1.0, last=True)
    with torch.no_grad():
        made = network(data.source)
        rmse = ((made - data.target) / 2).square().mean((1, 2, 3)).sqrt().mean()
        expected = rmse + lpips(made, data.target).mean()
    torch.testing.assert_close(found["loss"], expected)


def test_pixels_without_data_count_as_right() -> None:
    method = UNetStep(woken(unet()), Weights())
    assert float(method.accumulate(batch(0.0), 1.0, last=True)["loss"]) < 1e-5
    assert float(method.accumulate(batch(0.5), 1.0, last=True)["loss"]) > 0.1


def test_a_step_is_no_longer_than_the_clipped_gradient_allows() -> None:
    network = woken(unet())
    method = UNetStep(network, Weights(l2=1e6))
    method.accumulate(batch(), 1.0, last=True)
    seen: list[float] = []
    method.optimizers["unet"].register_step_pre_hook(
        lambda *_: seen.append(float(torch.cat([p.grad.flatten() for p in network.parameters()]).norm()))
    )
    method.step(1e-3)
    assert seen[0] == pytest.approx(LARGEST_GRADIENT, rel=1e-3)


def trainer(folder: Path, epochs_before_stop: int | None = None) -> Trainer:
    method = UNetStep(unet(), Weights(), perceptual=random_lpips())
    if epochs_before_stop is not None:
        plain = method.begin_epoch

        def begin(epoch: int) -> None:
            if epoch > epochs_before_stop:
                raise KeyboardInterrupt
            plain(epoch)

        method.begin_epoch = begin
    settings = Settings(schedule=Cosine(2e-3, 3), batch_size=2, save_minutes=0.0)
    return Trainer(method, Rounds(LittleChips(side=32), 2), folder, settings)


def test_it_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole")
    whole.run()
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "cut", epochs_before_stop=2).run()
    resumed = trainer(tmp_path / "cut")
    resumed.run()
    assert equal(weights_of(whole), weights_of(resumed))


def test_it_learns_to_invert(tmp_path: Path) -> None:
    method = UNetStep(unet(UNetConfig(1, 1, width=8, levels=2, style=0)), Weights(), rate=1e-2)
    chips = LittleChips(side=16)
    Trainer(method, chips, tmp_path, Settings(schedule=Cosine(1e-2, 60), batch_size=6, ema_decay=0.9)).run()
    losses = [float(row.split(",")[4]) for row in (tmp_path / "log.csv").read_text().splitlines()[1:]]
    assert losses[-1] < losses[0] / 3


def test_save_and_load_give_the_same_images(tmp_path: Path) -> None:
    stage = UNetStage(**STAGE, lpips_weight=0.0)
    first = UNetTranslator(TASKS["sar2rgb"], stage)
    first.network = woken(build_unet(first.config, torch_generator(1, "unet")))
    first.save(tmp_path)
    second = UNetTranslator(TASKS["sar2rgb"], stage)
    second.load(tmp_path)
    inputs = [
        np.random.default_rng(i).random((h, w, 1), dtype=np.float32) for i, (h, w) in enumerate([(20, 33), (16, 16)])
    ]
    for a, b, x in zip(first.translate(inputs), second.translate(inputs), inputs, strict=True):
        assert a.shape == (*x.shape[:2], 3)
        assert a.min() >= 0 and a.max() <= 1
        np.testing.assert_array_equal(a, b)


def test_without_pairs_nothing_is_learnt(tmp_path: Path) -> None:
    from pbvs.recipe import Recipe

    stage = UNetStage(**STAGE, lpips_weight=0.0)
    recipe = Recipe(name="x", stages={"sar2eo": stage})
    with pytest.raises(PbvsError, match="empty"):
        UNetTranslator(TASKS["sar2eo"], stage).fit(FitContext(recipe, tmp_path, [], [], tmp_path, tmp_path))


@pytest.mark.skipif(look("alex") is None or look("squeeze") is None, reason="needs AlexNet's and SqueezeNet's weights")
def test_a_training_goes_on_with_the_net_that_it_began_to_choose_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [look(net) for net in ("squeeze", "alex")]
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("PBVS_WEIGHTS", raising=False)
    (tmp_path / "weights").mkdir()
    fresh = []
    for epochs, path in enumerate(found, 1):  # AlexNet's weights, which come first, are there from the second epoch on
        assert path
        shutil.copy(path, tmp_path / "weights")
        recipe = recipe_of(epochs=epochs, half_rate_epochs=0, lpips_weight=0.0)
        for name in ("model", f"fresh{epochs}"):
            translator_of(recipe).fit(context_of(tmp_path, recipe, name, weights=tmp_path / "weights"))
        kept, fresh = (
            [read_tensors(tmp_path / name / file)[1]["lpips_net"] for file in ("model.safetensors", STATE)]
            for name in ("model", f"fresh{epochs}")
        )
        assert kept == ["squeeze", "squeeze"]
    assert fresh == ["alex", "alex"]
