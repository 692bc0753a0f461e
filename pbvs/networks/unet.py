"""A light U-Net that works at half resolution and knows the whole image's mood: fast on CPUs, sharp at full size.

Pixels go into channels by space-to-depth, so no convolution runs at full resolution; residual blocks with group norm
at each level; the mean and deviation of the deepest features, through a small perceptron, scale and shift every block
of the decoder, so that brightness and contrast are decided for the image as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

Residual = Literal["none", "gray"]
FAINT = 16 / 127.5  # sixteen gray levels of 256, in the output's [-1, 1]


@dataclass(frozen=True)
class UNetConfig:
    """What makes one U-Net different from another."""

    source_channels: int = 1
    target_channels: int = 1
    width: int = 32  # channels of the first level; level i has width * min(2^i, widest)
    levels: int = 4
    widest: int = 4
    blocks: int = 1  # residual blocks of each level, on the way down and on the way up
    style: int = 64  # numbers that describe the whole image; 0: none
    shuffle: int = 2  # side of the squares of pixels that become channels
    residual: Residual = "none"  # gray: the network corrects the mean of its input's channels

    @property
    def multiple(self) -> int:
        """Sides of the input must be multiples of this."""
        return int(self.shuffle * 2 ** (self.levels - 1))

    @property
    def grid(self) -> int:
        """Side of the squares of pixels that the network makes alike: those that were channels, or a pixel doubled."""
        return self.shuffle if self.shuffle > 1 else min(self.levels, 2)

    @property
    def channels(self) -> list[int]:
        """Channels of each level, the finest first."""
        return [self.width * min(2**level, self.widest) for level in range(self.levels)]


class StyledBlock(nn.Module):
    """x + F(x): norm, SiLU and a 3 x 3 convolution, twice; a style scales and shifts what is between them."""

    def __init__(self, channels: int, style: int = 0):
        super().__init__()
        self.norm1, self.norm2 = group_norm(channels), group_norm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.style = nn.Linear(style, 2 * channels) if style else None

    def forward(self, x: Tensor, style: Tensor | None = None) -> Tensor:
        """Return a tensor of the input's shape; `style` is (N, S)."""
        h = self.norm2(self.conv1(functional.silu(self.norm1(x))))
        if self.style is not None and style is not None:
            scale, shift = self.style(style)[:, :, None, None].chunk(2, dim=1)
            h = h * (1 + scale) + shift
        return cast(Tensor, x + self.conv2(functional.silu(h)))


def group_norm(channels: int) -> nn.GroupNorm:
    """Return group norm with eight groups, fewer where the channels do not divide by eight."""
    groups = next(count for count in (8, 4, 2, 1) if channels % count == 0)
    return nn.GroupNorm(groups, channels)


class UNet(nn.Module):
    """Translates (N, C_source, H, W) to (N, C_target, H, W), both in [-1, 1] (the output is not clipped)."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        widths, style = config.channels, config.style
        pairs = list(pairwise(widths))
        area = config.shuffle**2
        self.stem = nn.Conv2d(config.source_channels * area, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(Stack(width, config.blocks) for width in widths)
        self.halve = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.describe = Describe(widths[-1], style) if style else None
        self.middle = Stack(widths[-1], 1, style)
        self.narrow = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in pairs)
        self.join = nn.ModuleList(nn.Conv2d(2 * fine, fine, 1) for fine, _ in pairs)
        self.decoder = nn.ModuleList(Stack(width, config.blocks, style) for width in widths)
        self.last_norm = group_norm(widths[0])
        self.head = nn.Conv2d(widths[0], config.target_channels * area, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the translation, float32 also where the layers ran in half precision."""
        h = self.stem(functional.pixel_unshuffle(x, self.config.shuffle).contiguous(memory_format=torch.channels_last))
        kept = []
        for level, encode in enumerate(self.encoder):
            h = encode(h)
            if level < len(self.halve):
                kept.append(h)
                h = self.halve[level](h)
        style = self.describe(h) if self.describe is not None else None
        h = self.decoder[-1](self.middle(h, style), style)
        for level in reversed(range(len(self.halve))):
            finer = functional.interpolate(self.narrow[level](h), scale_factor=2.0)
            h = self.decoder[level](self.join[level](torch.cat((finer, kept[level]), dim=1)), style)
        out = self.head(functional.silu(self.last_norm(h)))
        out = functional.pixel_shuffle(out if out.dtype == torch.float64 else out.float(), self.config.shuffle)
        out = out if self.training else without_grid(out, self.config.grid)
        return out + x.mean(dim=1, keepdim=True) if self.config.residual == "gray" else out


def without_grid(image: Tensor, side: int) -> Tensor:
    """Return (N, C, H, W) without the faint pattern that repeats every `side` pixels, where it lies over some pixels.

    Nothing in the losses tells the pixels of a square apart, so a network may leave a difference between them: dots on
    even ground, lines in towns. It is what the fine detail of one position in the squares has on average around a
    pixel, above that of all positions. Detail counts to `FAINT` at most: edges are no pattern.
    """
    if side == 1:
        return image
    detail = (image - smooth(image)).clamp(-FAINT, FAINT)
    means = smooth(functional.pixel_unshuffle(detail, side))
    means = means.reshape(*image.shape[:2], side**2, *means.shape[2:])
    return image - functional.pixel_shuffle((means - means.mean(dim=2, keepdim=True)).flatten(1, 2), side)


def smooth(x: Tensor) -> Tensor:
    """Return (N, C, H, W) averaged twice over 5 x 5 pixels, of those that there are at a border."""
    for _ in range(2):
        x = functional.avg_pool2d(x, 5, stride=1, padding=2, count_include_pad=False)
    return x


class Stack(nn.Module):
    """Residual blocks one after the other."""

    def __init__(self, channels: int, blocks: int, style: int = 0):
        super().__init__()
        self.blocks = nn.ModuleList(StyledBlock(channels, style) for _ in range(blocks))

    def forward(self, x: Tensor, style: Tensor | None = None) -> Tensor:
        """Return a tensor of the input's shape."""
        for block in self.blocks:
            x = block(x, style)
        return x


class Describe(nn.Module):
    """The whole image in a few numbers: from its features' means and deviations, (N, C, H, W) to (N, S)."""

    def __init__(self, channels: int, style: int):
        super().__init__()
        self.first = nn.Linear(2 * channels, style)
        self.second = nn.Linear(style, style)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, S)."""
        x = x if x.dtype == torch.float64 else x.float()
        mean = x.mean(dim=(2, 3))
        spread = (x.var(dim=(2, 3), correction=0) + 1e-6).sqrt()
        return functional.silu(self.second(functional.silu(self.first(torch.cat((mean, spread), dim=1)))))


def build_unet(config: UNetConfig, generator: torch.Generator) -> UNet:
    """Return a U-Net with first weights from `generator` alone.

    Weights and biases are uniform in +-1/sqrt(fan in), PyTorch's own start; the last convolution of each block and
    each style's layer start at zero, so that every block begins as the identity.
    """
    with torch.device("meta"):
        network = UNet(config)
    network = network.to_empty(device="cpu")
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                bound = module.weight[0].numel() ** -0.5
                module.weight.uniform_(-bound, bound, generator=generator)
                cast(Tensor, module.bias).uniform_(-bound, bound, generator=generator)
            elif isinstance(module, nn.GroupNorm):
                module.reset_parameters()
        for module in network.modules():
            if isinstance(module, StyledBlock):
                for layer in (module.conv2, module.style):
                    for parameter in layer.parameters() if layer is not None else ():
                        parameter.zero_()
    return network
