"""Frozen trunks inside a loss, quicker on a CPU: Winograd's products forwards and backwards.

The gradient of a 3x3 convolution by its input is a 3x3 convolution with the kernel turned round, so that the products
saved forwards (see `networks.quick`) are saved backwards too. Weights never change, so both kernels are made once.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pbvs.metrics.quick import LEAST_CHANNELS, WinogradConv

Net = TypeVar("Net", bound=nn.Module)


class FrozenConv(nn.Module):
    """A 3x3 convolution of stride 1 and padding 1 whose weights take no gradient."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        turned = nn.Conv2d(conv.out_channels, conv.in_channels, 3, padding=1, bias=False).requires_grad_(False)
        turned.weight.copy_(conv.weight.flip(2, 3).transpose(0, 1))
        self.forwards, self.backwards = WinogradConv(conv), WinogradConv(turned)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H, W)."""
        apply: Any = _Product.apply
        result: Tensor = apply(x, self.forwards, self.backwards)
        return result


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        x, forwards, ctx.backwards = inputs
        return forwards(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return ctx.backwards(gradients[0].contiguous(memory_format=torch.channels_last)), None, None


def quicken_frozen(network: Net) -> Net:
    """Return a copy of a frozen network whose wide 3x3 convolutions are `FrozenConv`; for CPUs alone.

    Activations and gradients differ from the plain ones by rounding, about 1e-6 of their size.
    """
    quick = copy.deepcopy(network).requires_grad_(False)
    with torch.no_grad():
        _replace(quick)
    return quick


def _replace(quick: nn.Module) -> None:
    for parent in list(quick.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Conv2d) and fits(layer):
                setattr(parent, name, FrozenConv(layer))


def fits(layer: nn.Conv2d) -> bool:
    """Return whether Winograd's algorithm is for this layer and pays."""
    plain = layer.kernel_size == (3, 3) and layer.stride == (1, 1) and layer.padding == (1, 1)
    return plain and min(layer.in_channels, layer.out_channels) >= LEAST_CHANNELS
