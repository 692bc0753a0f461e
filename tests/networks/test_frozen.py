"""Quick frozen convolutions: the plain ones' values and gradients, to rounding."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pbvs.metrics.backbones import Trunk
from pbvs.metrics.frozen import FrozenConv, quicken_frozen
from pbvs.networks.pix2pixhd import build
from pbvs.seeds import torch_generator


@pytest.mark.parametrize("size", [(1, 8, 8), (2, 13, 7), (1, 33, 34)])
def test_values_and_gradients_are_the_convolutions(size: tuple[int, int, int]) -> None:
    conv = nn.Conv2d(6, 5, 3, padding=1).requires_grad_(False)
    count, height, width = size
    x = torch.randn(count, 6, height, width, requires_grad=True)
    weights = torch.randn(count, 5, height, width)
    plain, quick = conv(x), FrozenConv(conv)(x)
    assert torch.allclose(plain, quick, atol=1e-5)
    (expected,) = torch.autograd.grad((plain * weights).sum(), x)
    (found,) = torch.autograd.grad((quick * weights).sum(), x)
    assert torch.allclose(expected, found, atol=1e-4)


def test_a_whole_trunk_gives_the_same_taps_and_gradient() -> None:
    trunk = build(lambda: Trunk("vgg19"), torch_generator(1, "trunk"))
    with torch.no_grad():
        for parameter in trunk.parameters():
            if parameter.dim() == 4:
                parameter.mul_((2 / parameter[0].numel()) ** 0.5 / parameter.std())
    quick = quicken_frozen(trunk.requires_grad_(False))
    assert sum(isinstance(layer, FrozenConv) for layer in quick.modules()) == 10
    x = torch.rand(1, 3, 48, 48, requires_grad=True)
    gradients = []
    for network in (trunk, quick):
        taps = network(x)
        gradients.append((taps, torch.autograd.grad(sum(tap.square().mean() for tap in taps), x)[0]))
    for a, b in zip(gradients[0][0], gradients[1][0], strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4 * a.detach().abs().max().item())
    scale = float(gradients[0][1].abs().max())
    assert (gradients[0][1] - gradients[1][1]).abs().max() < 1e-3 * scale
    assert not any(parameter.requires_grad for parameter in quick.parameters())
