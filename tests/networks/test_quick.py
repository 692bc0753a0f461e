"""The quick LPIPS is the same metric: layer by layer, for every size, in colour and grey."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pbvs.metrics.lpips import Lpips
from pbvs.metrics.quick import WinogradConv, quicken, transforms


@pytest.mark.parametrize("side", [3, 5])
@pytest.mark.parametrize("step", [2, 3, 4])
def test_the_transforms_are_the_correlation(step: int, side: int) -> None:
    into, kernel, back = transforms(step, side)
    rng = np.random.default_rng(side)
    values, weights = rng.normal(size=step + side - 1), rng.normal(size=side)
    found = back @ ((kernel @ weights) * (into @ values))
    assert found == pytest.approx(np.correlate(values, weights, "valid"), abs=1e-12)


@pytest.mark.parametrize("size", [(4, 4), (15, 15), (13, 18), (31, 7)])
@pytest.mark.parametrize(("side", "step"), [(3, 4), (3, 5), (5, 4)])
def test_winograds_convolution_is_the_convolution(side: int, step: int, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(size[1])
    conv = nn.Conv2d(24, 32, side, padding=side // 2)
    x = torch.rand(3, 24, *size, generator=generator)
    assert torch.allclose(WinogradConv(conv, step)(x), conv(x), atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("net", ["random", "alex"])
def test_distances_are_the_plain_ones(net: str, channels: int, monkeypatch) -> None:
    trunk_of_noise(monkeypatch, net)
    metric = Lpips(net)
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.rand(2, channels, 70, 94, generator=generator) * 2 - 1 for _ in range(2))
    with torch.inference_mode():
        quick = quicken(metric)
        assert torch.allclose(quick(first, second), metric(first, second), atol=1e-6, rtol=1e-6)
    assert sum(isinstance(layer, WinogradConv) for layer in quick.modules()) == (4 if net == "alex" else 0)


def trunk_of_noise(monkeypatch, net: str) -> None:
    """Let the metric have random weights of the full width, where the real ones may not be at hand."""
    from pbvs.metrics import lpips
    from pbvs.metrics.backbones import Trunk, load_trunk

    def load(name: str, weights=None) -> Trunk:
        if name == "random":
            return load_trunk(name)
        torch.manual_seed(0)
        return Trunk(name)

    monkeypatch.setattr(lpips, "load_trunk", load)
    assert net in ("random", "alex")


def test_the_metric_it_was_made_of_is_left_alone() -> None:
    metric = Lpips("random")
    before = {name: value.clone() for name, value in metric.state_dict().items()}
    quicken(metric)
    assert type(metric) is Lpips
    assert all(torch.equal(before[name], value) for name, value in metric.state_dict().items())
