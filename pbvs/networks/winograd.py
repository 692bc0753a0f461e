"""3 x 3 convolution with 4 multiplications where the definition has 9: Winograd's F(2 x 2, 3 x 3), to train on CPUs.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016), section 4.1: each 2 x 2 tile of the
output is A^T [(G g G^T) * (B^T d B)] A, with d the 4 x 4 tile of the input and g the kernel. The products over all
channels are 16 matrix products. The backward pass is the adjoint of the same steps. Results differ from PyTorch's own
by rounding (a few 1e-7 of the largest value), so that only training steps use it, inside `quick_convolutions`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

LEAST_CHANNELS = 128  # below this the transforms cost more than the products save
TOGETHER = 128  # output channels at once, so that their transformed kernels stay in the processor's cache
_G = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]])
_KERNEL = torch.kron(_G, _G)  # (16, 9): all entries of G g G^T from those of g
_quick = False


@contextlib.contextmanager
def quick_convolutions() -> Iterator[None]:
    """Let the convolutions of this module take the quick way where they can; the backward pass belongs inside too."""
    global _quick
    before, _quick = _quick, True
    try:
        yield
    finally:
        _quick = before


class Conv3x3(nn.Conv2d):
    """A 3 x 3 convolution of step 1 with PyTorch's parameters and names; quick where that was asked for."""

    def __init__(self, channels_in: int, channels_out: int, padding: int = 0):
        super().__init__(channels_in, channels_out, 3, padding=padding)

    def forward(self, input: Tensor) -> Tensor:
        """Return (N, C_out, H + 2 padding - 2, W + 2 padding - 2)."""
        if not (_quick and self.suits(input)):
            return super().forward(input)
        edge = int(self.padding[0])
        padded = functional.pad(input, (edge,) * 4) if edge else input
        apply: Any = _Winograd.apply
        result: Tensor = apply(padded, self.weight, self.bias)
        return result

    def suits(self, x: Tensor) -> bool:
        """Return whether the quick way pays and applies: a CPU, single precision, many channels, even sides."""
        sides = [side + 2 * int(self.padding[0]) - 2 for side in x.shape[2:]]
        return (
            x.device.type == "cpu"
            and x.dtype == self.weight.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and min(self.in_channels, self.out_channels) >= LEAST_CHANNELS
            and all(side >= 4 and side % 2 == 0 for side in sides)
        )


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        tiles = tiles_of(x)
        parts = [torch.bmm(tiles, kernels_of(some).transpose(1, 2)) for some in torch.split(weight, TOGETHER)]
        y = outputs_of(torch.cat(parts, dim=2), x.shape)
        if bias is not None:
            y += bias
        return y.permute(0, 3, 1, 2).contiguous()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        products = spread_outputs(gradient)
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = spread_tiles(_products_with_kernels(products, weight), x.shape)
        if ctx.needs_input_grad[1]:
            of_weight = _weight_gradient(products, tiles_of(x), weight)
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3))
        return of_x, of_weight, of_bias


def _products_with_kernels(products: Tensor, weight: Tensor) -> Tensor:
    """Return (16, tiles, C) of the gradient's (16, tiles, O)."""
    total = weight.new_zeros((16, products.shape[1], weight.shape[1]))
    for some, kernels in zip(torch.split(products, TOGETHER, dim=2), torch.split(weight, TOGETHER), strict=True):
        total.baddbmm_(some, kernels_of(kernels))
    return total


def _weight_gradient(products: Tensor, tiles: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of (O, C, 3, 3): the adjoint of `kernels_of` on the sums over all tiles."""
    result = torch.empty_like(weight)
    for some, part in zip(torch.split(products, TOGETHER, dim=2), torch.split(result, TOGETHER), strict=True):
        kernels = torch.bmm(some.transpose(1, 2), tiles).view(16, -1)
        part.view(-1, 9).copy_(torch.mm(_KERNEL.t(), kernels).t())
    return result


def kernels_of(weight: Tensor) -> Tensor:
    """Return (16, O, C): G g G^T of each kernel of (O, C, 3, 3)."""
    o, c = weight.shape[:2]
    return torch.mm(_KERNEL, weight.detach().reshape(o * c, 9).t()).view(16, o, c)


def tiles_of(x: Tensor) -> Tensor:
    """Return (16, tiles, C): B^T d B of each 4 x 4 tile, two pixels apart, of (N, C, H, W)."""
    n, c, height, width = x.shape
    down, across = height // 2 - 1, width // 2 - 1
    pixels = x.detach().permute(0, 2, 3, 1).contiguous()
    a, b, d, e = (pixels[:, s : s + 2 * down - 1 : 2] for s in range(4))
    tiles = x.new_empty((16, n, down, across, c))
    for i, row in enumerate((a - d, b + d, d - b, b - e)):
        a2, b2, d2, e2 = (row[:, :, s : s + 2 * across - 1 : 2] for s in range(4))
        torch.sub(a2, d2, out=tiles[4 * i])
        torch.add(b2, d2, out=tiles[4 * i + 1])
        torch.sub(d2, b2, out=tiles[4 * i + 2])
        torch.sub(b2, e2, out=tiles[4 * i + 3])
    return tiles.view(16, -1, c)


def spread_tiles(tiles: Tensor, shape: torch.Size) -> Tensor:
    """Return (N, C, H, W): the adjoint of `tiles_of`."""
    n, c, height, width = shape
    down, across = height // 2 - 1, width // 2 - 1
    grid = tiles.view(4, 4, n, down, across, c)
    pixels = tiles.new_zeros((n, height, width, c))
    rows = tiles.new_zeros((4, n, down, width, c))
    for row, four in zip(rows, grid, strict=True):
        for s, part in enumerate(_transposed(*four)):
            row[:, :, s : s + 2 * across - 1 : 2] += part
    for s, part in enumerate(_transposed(*rows)):
        pixels[:, s : s + 2 * down - 1 : 2] += part
    return pixels.permute(0, 3, 1, 2).contiguous()


def _transposed(a: Tensor, b: Tensor, d: Tensor, e: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return B (a, b, d, e), for B^T = [1 0 -1 0; 0 1 1 0; 0 -1 1 0; 0 1 0 -1]."""
    return a, b - d + e, b + d - a, -e


def outputs_of(products: Tensor, shape: torch.Size) -> Tensor:
    """Return (N, H, W, O): A^T m A of each tile of (16, tiles, O); `shape` is the padded input's."""
    n, _, height, width = shape
    down, across, o = height // 2 - 1, width // 2 - 1, products.shape[2]
    a, b, d, e = products.view(4, 4, n, down, across, o)
    y = products.new_empty((n, down, 2, across, 2, o))
    for i, row in enumerate((a + b + d, b - d - e)):
        torch.add(row[0] + row[1], row[2], out=y[:, :, i, :, 0])
        torch.sub(row[1] - row[2], row[3], out=y[:, :, i, :, 1])
    return y.view(n, 2 * down, 2 * across, o)


def spread_outputs(gradient: Tensor) -> Tensor:
    """Return (16, tiles, O) of (N, O, H, W): the adjoint of `outputs_of`."""
    n, o, height, width = gradient.shape
    y = gradient.permute(0, 2, 3, 1).contiguous().view(n, height // 2, 2, width // 2, 2, o)
    products = gradient.new_empty((4, 4, n, height // 2, width // 2, o))
    first, second = y[:, :, 0], y[:, :, 1]
    for four, row in zip(products, (first, first + second, first - second, -second), strict=True):
        left, right = row[:, :, :, 0], row[:, :, :, 1]
        four[0] = left
        torch.add(left, right, out=four[1])
        torch.sub(left, right, out=four[2])
        torch.neg(right, out=four[3])
    return products.view(16, -1, o)
