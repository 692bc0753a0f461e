"""The same LPIPS, quicker on a CPU: 3x3 convolutions by Winograd's algorithm, and one channel seen as one.

Winograd 1980, for neural networks Lavin and Gray 2016 (arXiv 1509.09308): F(4x4, 3x3) takes 36 products where the
plain sum takes 144. The matrices follow from interpolation at 0, 1, -1, 2, -2 and infinity. On GPUs the library chooses
by itself, so this is for CPUs alone; the distances differ from the plain ones by about 1e-7.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from pbvs.networks.lpips import Lpips

POINTS = (0.0, 1.0, -1.0, 2.0, -2.0)
SCALES = (1 / 4, -1 / 6, -1 / 6, 1 / 24, 1 / 24)  # 1 / product of the distances to the other points
INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
TILE, STEP = 6, 4  # pixels a side that a tile reads and writes
LEAST_CHANNELS = 192  # with fewer, moving the data costs more than the products saved
TOGETHER = 128  # tiles at once, so that they stay in the processor's cache


class WinogradConv(nn.Module):
    """A 3x3 convolution of stride 1 and padding 1, as matrix products over tiles of 6 x 6 pixels."""

    products: Tensor
    into: Tensor
    back: Tensor

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        rows = [[scale * point**power for power in range(3)] for point, scale in zip(POINTS, SCALES, strict=True)]
        kernel = torch.tensor([*rows, [0.0, 0.0, 1.0]], dtype=torch.float64)
        back = torch.tensor(
            [[*(point**power for point in POINTS), float(power == STEP - 1)] for power in range(STEP)],
            dtype=torch.float64,
        )
        into = torch.tensor(INPUT, dtype=torch.float64)
        weight = conv.weight.double().permute(2, 3, 1, 0)
        products = torch.kron(kernel, kernel) @ weight.reshape(9, -1)
        self.register_buffer("products", products.view(TILE * TILE, *weight.shape[2:]).float())
        self.register_buffer("into", torch.kron(into, into).float())
        self.register_buffer("back", torch.kron(back, back).float())
        self.bias = conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H, W), channels last in memory."""
        tiles = -(-x.shape[2] // STEP) * -(-x.shape[3] // STEP)
        return torch.cat([self._some(part) for part in torch.split(x, max(1, TOGETHER // tiles))])

    def _some(self, x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        down, across = -(-height // STEP), -(-width // STEP)
        margin = (0, 0, 1, across * STEP - width + 1, 1, down * STEP - height + 1)
        padded = functional.pad(x.permute(0, 2, 3, 1), margin)
        tiles = padded.unfold(1, TILE, STEP).unfold(2, TILE, STEP).permute(4, 5, 0, 1, 2, 3)
        seen = (self.into @ tiles.reshape(TILE * TILE, -1)).view(TILE * TILE, -1, channels)
        made = self.back @ torch.bmm(seen, self.products).view(TILE * TILE, -1)
        placed = made.view(STEP, STEP, count, down, across, -1).permute(2, 3, 0, 4, 1, 5)
        whole = placed.reshape(count, down * STEP, across * STEP, -1)[:, :height, :width]
        return (whole if self.bias is None else whole + self.bias).permute(0, 3, 1, 2)


class QuickLpips(Lpips):
    """An `Lpips` for inference on a CPU, made by `quicken`."""

    grey_kernel: Tensor

    def activations(self, x: Tensor) -> list[Tensor]:
        """Return the trunk's taps; one channel goes through a kernel that is the sum of the three."""
        if x.shape[1] != 1:
            return super().activations(x)
        stem = self.trunk.stem
        # What the shift and the bias add: the same for every picture of a size, but not at the border.
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
            layers[index] = WinogradConv(layer)
    for parameter in layers.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    kernel = (quick.trunk.stem.weight / quick.get_buffer("scale")).sum(1, keepdim=True)
    quick.register_buffer("grey_kernel", kernel.contiguous(memory_format=torch.channels_last))
    return quick


def _fits(layer: nn.Conv2d) -> bool:
    plain = layer.kernel_size == (3, 3) and layer.stride == (1, 1) and layer.padding == (1, 1)
    return plain and layer.in_channels >= LEAST_CHANNELS
