"""The same LPIPS, quicker on a CPU: wide convolutions by Winograd's algorithm, and one channel seen as one.

Winograd 1980, for neural networks Lavin and Gray 2016 (arXiv 1509.09308): F(m x m, r x r) makes m x m results of an
r x r kernel from (m + r - 1)^2 products, where the plain sum takes m^2 r^2; F(4x4, 3x3) takes 36 for 144 and
F(4x4, 5x5) 64 for 400. On GPUs the library chooses by itself, so this is for CPUs alone; the distances differ from the
plain ones by about 1e-7.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pbvs.metrics.lpips import Lpips

POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)  # of the interpolation; the last one is infinity
STEP = 4  # pixels a side that a tile gives
ALEXNETS_STEP = 5  # its 3x3 layers see 15 pixels a side of an image of 256, which is three tiles
LEAST_CHANNELS = 128  # with fewer, moving the data costs more than the products of a 3x3 kernel that are saved
LEAST = {3: LEAST_CHANNELS, 5: 64}  # the same by the kernel's side
TOGETHER = 128  # tiles at once, so that they stay in the processor's cache


class Transforms(NamedTuple):
    """Winograd's three matrices: of a tile's input, (n, n), of the kernel, (n, r), and of the products, (m, n)."""

    into: NDArray[np.float64]
    kernel: NDArray[np.float64]
    back: NDArray[np.float64]


def transforms(step: int, side: int) -> Transforms:
    """Return the matrices of F(step, side) in one dimension.

    The kernel's and the result's are values at the points (Vandermonde); the input's rows are the coefficients of the
    polynomials that are 0 at all other points, which the kernel's rows are divided by (Toom and Cook; infinity is the
    highest coefficient).
    """
    tile = step + side - 1
    points = np.array(POINTS[: tile - 1])
    others = [np.delete(points, place) for place in range(tile - 1)]
    into, kernel, back = np.zeros((tile, tile)), np.zeros((tile, side)), np.zeros((step, tile))
    for place, rest in enumerate(others):
        into[place, :-1] = np.poly(rest)[::-1]
        kernel[place] = points[place] ** np.arange(side) / np.prod(points[place] - rest)
    into[-1] = np.poly(points)[::-1]
    back[:, :-1] = points ** np.arange(step)[:, None]
    kernel[-1, -1] = back[-1, -1] = 1.0
    return Transforms(into, kernel, back)


class WinogradConv(nn.Module):
    """A convolution of stride 1 that keeps the size, as matrix products over overlapping tiles."""

    products: Tensor
    into: Tensor
    back: Tensor

    def __init__(self, conv: nn.Conv2d, step: int = STEP):
        super().__init__()
        side = conv.kernel_size[0]
        self.step, self.tile, self.edge = step, step + side - 1, side // 2
        # In two dimensions each matrix is applied to rows and columns, at once by its product with itself.
        into, kernel, back = (torch.from_numpy(np.kron(matrix, matrix)) for matrix in transforms(step, side))
        weight = conv.weight.double().permute(2, 3, 1, 0)
        products = kernel @ weight.reshape(side * side, -1)
        self.register_buffer("products", products.view(self.tile**2, *weight.shape[2:]).float())
        self.register_buffer("into", into.float())
        self.register_buffer("back", back.float())
        self.bias = conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H, W), channels last in memory."""
        tiles = -(-x.shape[2] // self.step) * -(-x.shape[3] // self.step)
        return torch.cat([self._some(part) for part in torch.split(x, max(1, TOGETHER // tiles))])

    def _some(self, x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        step, tile, edge = self.step, self.tile, self.edge
        down, across = -(-height // step), -(-width // step)
        margin = (0, 0, edge, across * step - width + edge, edge, down * step - height + edge)
        padded = functional.pad(x.permute(0, 2, 3, 1), margin)
        tiles = padded.unfold(1, tile, step).unfold(2, tile, step).permute(4, 5, 0, 1, 2, 3)
        seen = (self.into @ tiles.reshape(tile * tile, -1)).view(tile * tile, -1, channels)
        made = self.back @ torch.bmm(seen, self.products).view(tile * tile, -1)
        placed = made.view(step, step, count, down, across, -1).permute(2, 3, 0, 4, 1, 5)
        whole = placed.reshape(count, down * step, across * step, -1)[:, :height, :width]
        return (whole if self.bias is None else whole + self.bias).permute(0, 3, 1, 2)


class QuickLpips(Lpips):
    """An `Lpips` for inference on a CPU, made by `quicken`."""

    grey_kernel: Tensor

    def activations(self, x: Tensor) -> list[Tensor]:
        """Return the trunk's taps; one channel goes through a kernel that is the sum of the three."""
        if x.shape[1] != 1:
            return super().activations(x)
        stem = self.trunk.stem
        # What the shift and the bias add: the same for every image of a size, but not at the border.
        flat = (-self.get_buffer("shift") / self.get_buffer("scale")).expand(1, 3, *x.shape[2:])
        seen = functional.conv2d(x, self.grey_kernel, None, stem.stride, stem.padding)
        taps: list[Tensor] = self.trunk(seen.add_(stem(flat)), start=1)
        return taps


def quicken(net: Lpips) -> QuickLpips:
    """Return a copy of `net` that gives the same distances sooner, with weights laid out channels last."""
    quick = copy.deepcopy(net)
    quick.__class__ = QuickLpips
    assert isinstance(quick, QuickLpips)
    layers = quick.trunk.features
    for index, layer in enumerate(layers):
        if isinstance(layer, nn.Conv2d) and _fits(layer):
            layers[index] = WinogradConv(layer, _step(net.net, layer))
        elif isinstance(layer, nn.ReLU):
            layer.inplace = True  # what comes before it is looked at by nothing else
    for parameter in layers.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    kernel = (quick.trunk.stem.weight / quick.get_buffer("scale")).sum(1, keepdim=True)
    quick.register_buffer("grey_kernel", kernel.contiguous(memory_format=torch.channels_last))
    return quick


def _fits(layer: nn.Conv2d) -> bool:
    side = layer.kernel_size[0]
    keeps = layer.kernel_size == (side, side) and layer.stride == (1, 1) and layer.padding == (side // 2, side // 2)
    return keeps and layer.in_channels >= LEAST.get(side, layer.in_channels + 1)


def _step(net: str, layer: nn.Conv2d) -> int:
    return ALEXNETS_STEP if net == "alex" and layer.kernel_size == (3, 3) else STEP
