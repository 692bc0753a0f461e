"""Layers that networks share: reflection with a deterministic backward, enlargement, and weights from a seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

Net = TypeVar("Net", bound=nn.Module)


def reflected(size: int, before: int, after: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the indices which extend 0..size-1 by reflection, the edge itself not repeated.

    Works for any widths: where they reach beyond the picture the reflection goes back and forth.
    """
    positions = torch.arange(-before, size + after, device=device)
    if size == 1:
        return torch.zeros_like(positions)
    folded = positions.remainder(2 * (size - 1))
    return torch.minimum(folded, 2 * (size - 1) - folded)


class ReflectionPad(nn.Module):
    """Pad (N, C, H, W) by reflection on all sides.

    With `deterministic` it gathers by index, since PyTorch's own layer has no deterministic backward on CUDA; the
    values are the same bit for bit. It has no parameters, as the layer which it stands for.
    """

    deterministic = False

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, H + 2 width, W + 2 width)."""
        if not self.deterministic:
            return functional.pad(x, (self.width,) * 4, mode="reflect")
        rows = reflected(x.shape[2], self.width, self.width, x.device)
        columns = reflected(x.shape[3], self.width, self.width, x.device)
        return x.index_select(2, rows).index_select(3, columns)


class EnlargingConv(nn.Conv2d):
    """Each pixel repeated 2 x 2, then a 3 x 3 convolution: no checkerboard, unlike a transposed convolution.

    The repetition is a view and a copy, so that its backward is a plain sum and deterministic on every device.
    """

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__(channels_in, channels_out, 3, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        """Return (N, C_out, 2 H, 2 W)."""
        n, c, h, w = input.shape
        repeated = input[:, :, :, None, :, None].expand(n, c, h, 2, w, 2).reshape(n, c, 2 * h, 2 * w)
        return super().forward(repeated)


class FloatTanh(nn.Module):
    """Tanh in single precision also where the layers before it ran in half: the output's steps stay fine."""

    def forward(self, x: Tensor) -> Tensor:
        """Return values in [-1, 1], float32 unless the input is wider."""
        return torch.tanh(x if x.dtype == torch.float64 else x.float())


def build(make: Callable[[], Net], generator: torch.Generator) -> Net:
    """Make a network whose first weights come from `generator` alone, never from the global one.

    Convolutions get pix2pixHD's start: weights from N(0, 0.02), biases PyTorch's uniform +-1/sqrt(fan in).
    """
    with torch.device("meta"):
        network = make()
    network = network.to_empty(device="cpu")
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                module.weight.normal_(0.0, 0.02, generator=generator)
                if module.bias is not None:
                    bound = module.weight[0].numel() ** -0.5
                    module.bias.uniform_(-bound, bound, generator=generator)
    return network


def set_deterministic(network: nn.Module, on: bool) -> None:
    """Choose how all reflections of `network` are computed."""
    for module in network.modules():
        if isinstance(module, ReflectionPad):
            module.deterministic = on


def count_parameters(network: nn.Module) -> int:
    """Return the number of trainable and frozen weights together."""
    return sum(parameter.numel() for parameter in network.parameters())
