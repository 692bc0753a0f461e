"""The quick 3 x 3 convolution equals the plain one, forward and backward, and is used only where asked for."""

from __future__ import annotations

import pytest
import torch

from pbvs.networks import winograd
from pbvs.networks.winograd import Conv3x3, quick_convolutions


def results(layer: Conv3x3, x: torch.Tensor, quick: bool) -> list[torch.Tensor]:
    layer.zero_grad()
    x = x.clone().requires_grad_()
    if quick:
        with quick_convolutions():
            y = layer(x)
            assert type(y.grad_fn).__name__ == "_WinogradBackward"
            (y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum().backward()
    else:
        y = layer(x)
        (y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum().backward()
    return [y.detach(), x.grad, layer.weight.grad.clone(), layer.bias.grad.clone()]


@pytest.mark.parametrize(
    ("batch", "sides", "padding"), [(1, (18, 18), 0), (2, (6, 12), 0), (1, (8, 4), 1), (3, (6, 6), 1)]
)
def test_values_and_gradients_are_those_of_pytorch(batch: int, sides: tuple[int, int], padding: int) -> None:
    torch.manual_seed(0)
    layer = Conv3x3(128, 160, padding)
    x = torch.randn(batch, 128, *sides)
    for plain, quick in zip(results(layer, x, False), results(layer, x, True), strict=True):
        assert quick.shape == plain.shape
        assert (quick - plain).abs().max() <= 3e-6 * plain.abs().max()


def test_frozen_weights_get_no_gradient() -> None:
    layer = Conv3x3(128, 128, 1).requires_grad_(False)
    x = torch.randn(1, 128, 8, 8, requires_grad=True)
    with quick_convolutions():
        layer(x).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is None


@pytest.mark.parametrize(
    ("channels", "sides", "kind"),
    [(64, (8, 8), torch.float32), (128, (7, 8), torch.float32), (128, (8, 8), torch.float64)],
)
def test_the_plain_way_where_the_quick_one_does_not_apply(
    channels: int, sides: tuple[int, int], kind: torch.dtype
) -> None:
    layer = Conv3x3(channels, channels, 1).to(kind)
    x = torch.randn(1, channels, *sides, dtype=kind)
    plain = layer(x)
    with quick_convolutions():
        assert torch.equal(layer(x), plain)


def test_outside_a_training_step_nothing_changes() -> None:
    layer = Conv3x3(128, 128, 1)
    x = torch.randn(1, 128, 8, 8)
    assert torch.equal(layer(x), torch.nn.functional.conv2d(x, layer.weight, layer.bias, padding=1))
    with pytest.raises(ValueError, match="stop"), quick_convolutions():
        raise ValueError("stop")
    assert not winograd._quick
