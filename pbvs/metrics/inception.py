"""The Inception-v3 that FID is defined on, in plain torch, with the names of its published weights.

Szegedy et al., "Rethinking the Inception Architecture", 2016; the variant of the TensorFlow model of 2015-12-05 that
Heusel et al. 2017 took: average pools that leave out the padding, a maximum pool in the last block, and TensorFlow 1's
bilinear resampling to 299 x 299. Weights: pt_inception-2015-12-05-6726825d.pth.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from pbvs.errors import PbvsError
from pbvs.metrics.backbones import pick
from pbvs.metrics.weights import find, fingerprint, read_tensors

SIDE = 299
LAYERS = (64, 192, 768, 2048)


class Conv(NamedTuple):
    """One convolution of a block: its name, channels out, kernel (height, width) and stride."""

    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalisation, ReLU; padded to keep the size where the stride is 1."""

    def __init__(self, channels: int, spec: Conv, padded: bool = True):
        super().__init__()
        padding = (spec.kernel[0] // 2, spec.kernel[1] // 2) if padded and spec.stride == 1 else 0
        self.conv = nn.Conv2d(channels, spec.channels, spec.kernel, spec.stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(spec.channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, spec.channels, H', W')."""
        return torch.relu(self.bn(self.conv(x)))


class Branch(NamedTuple):
    """A chain of convolutions in a block; the `fork` ones all see the chain's end, and are put side by side."""

    chain: tuple[Conv, ...]
    fork: tuple[Conv, ...] = ()


class Mixed(nn.Module):
    """Branches side by side; `pool` says what the last one pools with: average, maximum, or shrink (stride 2)."""

    def __init__(self, channels: int, branches: Sequence[Branch], pool: str, pool_channels: int = 0):
        super().__init__()
        self.branches = tuple(branches)
        self.pool = pool
        for branch in branches:
            before = channels
            for spec in branch.chain:
                self.add_module(spec.name, ConvNorm(before, spec))
                before = spec.channels
            for spec in branch.fork:
                self.add_module(spec.name, ConvNorm(before, spec))
        if pool_channels:
            self.branch_pool = ConvNorm(channels, Conv("branch_pool", pool_channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the branches' channels, in the order of the published network."""
        outputs: list[Tensor] = []
        for branch in self.branches:
            y = x
            for spec in branch.chain:
                y = self.get_submodule(spec.name)(y)
            outputs += [self.get_submodule(spec.name)(y) for spec in branch.fork] or [y]
        return torch.cat((*outputs, self._pooled(x)), 1)

    def _pooled(self, x: Tensor) -> Tensor:
        if self.pool == "shrink":
            return functional.max_pool2d(x, 3, 2)
        if self.pool == "maximum":
            pooled = functional.max_pool2d(x, 3, 1, 1)
        else:
            pooled = functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        result: Tensor = self.branch_pool(pooled)
        return result


def _block_a(channels: int, pool: int) -> Mixed:
    return Mixed(
        channels,
        [
            Branch((Conv("branch1x1", 64),)),
            Branch((Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5)))),
            Branch(
                (
                    Conv("branch3x3dbl_1", 64),
                    Conv("branch3x3dbl_2", 96, (3, 3)),
                    Conv("branch3x3dbl_3", 96, (3, 3)),
                )
            ),
        ],
        "average",
        pool,
    )


def _block_b(channels: int) -> Mixed:
    double = (
        Conv("branch3x3dbl_1", 64),
        Conv("branch3x3dbl_2", 96, (3, 3)),
        Conv("branch3x3dbl_3", 96, (3, 3), 2),
    )
    return Mixed(channels, [Branch((Conv("branch3x3", 384, (3, 3), 2),)), Branch(double)], "shrink")


def _block_c(middle: int) -> Mixed:
    single = (
        Conv("branch7x7_1", middle),
        Conv("branch7x7_2", middle, (1, 7)),
        Conv("branch7x7_3", 192, (7, 1)),
    )
    double = (
        Conv("branch7x7dbl_1", middle),
        Conv("branch7x7dbl_2", middle, (7, 1)),
        Conv("branch7x7dbl_3", middle, (1, 7)),
        Conv("branch7x7dbl_4", middle, (7, 1)),
        Conv("branch7x7dbl_5", 192, (1, 7)),
    )
    return Mixed(768, [Branch((Conv("branch1x1", 192),)), Branch(single), Branch(double)], "average", 192)


def _block_d(channels: int) -> Mixed:
    three = (Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, (3, 3), 2))
    seven = (
        Conv("branch7x7x3_1", 192),
        Conv("branch7x7x3_2", 192, (1, 7)),
        Conv("branch7x7x3_3", 192, (7, 1)),
        Conv("branch7x7x3_4", 192, (3, 3), 2),
    )
    return Mixed(channels, [Branch(three), Branch(seven)], "shrink")


def _block_e(channels: int, pool: str) -> Mixed:
    three = Branch(
        (Conv("branch3x3_1", 384),),
        (Conv("branch3x3_2a", 384, (1, 3)), Conv("branch3x3_2b", 384, (3, 1))),
    )
    double = Branch(
        (Conv("branch3x3dbl_1", 448), Conv("branch3x3dbl_2", 384, (3, 3))),
        (Conv("branch3x3dbl_3a", 384, (1, 3)), Conv("branch3x3dbl_3b", 384, (3, 1))),
    )
    return Mixed(channels, [Branch((Conv("branch1x1", 320),)), three, double], pool, 192)


class Inception(nn.Module):
    """Frozen Inception-v3; `forward` returns the four layers that FID is taken at, averaged over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, Conv("", 32, (3, 3), 2))
        self.Conv2d_2a_3x3 = ConvNorm(32, Conv("", 32, (3, 3)), padded=False)
        self.Conv2d_2b_3x3 = ConvNorm(32, Conv("", 64, (3, 3)))
        self.Conv2d_3b_1x1 = ConvNorm(64, Conv("", 80))
        self.Conv2d_4a_3x3 = ConvNorm(80, Conv("", 192, (3, 3)), padded=False)
        self.Mixed_5b = _block_a(192, 32)
        self.Mixed_5c = _block_a(256, 64)
        self.Mixed_5d = _block_a(288, 64)
        self.Mixed_6a = _block_b(288)
        self.Mixed_6b = _block_c(128)
        self.Mixed_6c = _block_c(160)
        self.Mixed_6d = _block_c(160)
        self.Mixed_6e = _block_c(192)
        self.Mixed_7a = _block_d(768)
        self.Mixed_7b = _block_e(1280, "average")
        self.Mixed_7c = _block_e(2048, "maximum")
        self.digest = ""
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Inception:
        """Stay frozen whatever the parent module does."""
        super().train(False)
        return self

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        """Return {64, 192, 768, 2048: (N, layer)} for images (N, 3 or 1, H, W) with values 0..255."""
        if x.dim() != 4 or x.shape[1] not in (1, 3):
            raise PbvsError(f"Inception takes images of shape (N, 3 or 1, H, W), not {tuple(x.shape)}.")
        x = resize_like_tensorflow(x.float().expand(-1, 3, -1, -1), SIDE)
        x = (x - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = functional.max_pool2d(x, 3, 2)
        found = {64: x.mean((2, 3))}
        x = functional.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, 2)
        found[192] = x.mean((2, 3))
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        found[768] = x.mean((2, 3))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        found[2048] = x.mean((2, 3))
        return found


def resize_like_tensorflow(x: Tensor, side: int) -> Tensor:
    """Resample (N, C, H, W) to a square bilinearly as TensorFlow 1 does: sources at index * (size / side), no
    half-pixel offset, no antialiasing.
    """
    for dim in (2, 3):
        size = x.shape[dim]
        places = torch.arange(side, device=x.device, dtype=x.dtype) * (size / side)
        low = places.floor().long().clamp(max=size - 1)
        high = (low + 1).clamp(max=size - 1)
        share = (places - low).view([-1 if axis == dim else 1 for axis in range(4)])
        lower = x.index_select(dim, low)
        x = lower + (x.index_select(dim, high) - lower) * share
    return x


def load_inception(weights: Path | None = None) -> Inception:
    """Return the frozen network with weights from a file, or found in a folder or the usual places.

    Raises PbvsError when the weights are missing, damaged or another net's.
    """
    path = weights if weights is not None and weights.is_file() else find("inception", weights)
    network = Inception()
    tensors = read_tensors(path)
    counters = {name: value for name, value in network.state_dict().items() if name.endswith("num_batches_tracked")}
    used = pick(network, {**counters, **tensors}, path)
    network.load_state_dict({**used, **counters})
    network.digest = fingerprint({name: value for name, value in used.items() if name not in counters})
    return network
