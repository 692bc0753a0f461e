"""pix2pixHD's generators: the global one, and local enhancers around it for fine detail.

Architecture and parameter names after Wang et al., "High-Resolution Image Synthesis and Semantic Manipulation with
Conditional GANs" (CVPR 2018), and its published code, so that published checkpoints fit key by key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pbvs.networks.layers import EnlargingConv, FloatTanh, ReflectionPad, build

Upsampling = Literal["transpose", "resize"]


@dataclass(frozen=True)
class GeneratorConfig:
    """What makes one generator different from another; `width` is the channels at full resolution."""

    source_channels: int = 3
    target_channels: int = 3
    width: int = 64
    downsamplings: int = 4
    blocks: int = 9
    enhancers: int = 0  # local enhancers around the global generator; 0 is the global one alone
    enhancer_blocks: int = 3
    upsampling: Upsampling = "transpose"

    @property
    def multiple(self) -> int:
        """Sides of the input must be multiples of this."""
        return int(2 ** (self.downsamplings + self.enhancers))


def convolution(channels_in: int, channels_out: int, kernel: int, stride: int = 1, padding: int = 0) -> list[nn.Module]:
    """Return convolution, instance norm without parameters, and ReLU."""
    return [
        nn.Conv2d(channels_in, channels_out, kernel, stride, padding),
        nn.InstanceNorm2d(channels_out),
        nn.ReLU(inplace=True),
    ]


def enlargement(channels_in: int, channels_out: int, upsampling: Upsampling) -> list[nn.Module]:
    """Return the layers which double both sides, with norm and ReLU."""
    layer: nn.Module
    if upsampling == "transpose":
        layer = nn.ConvTranspose2d(channels_in, channels_out, 3, stride=2, padding=1, output_padding=1)
    else:
        layer = EnlargingConv(channels_in, channels_out)
    return [layer, nn.InstanceNorm2d(channels_out), nn.ReLU(inplace=True)]


def stem(channels_in: int, width: int) -> list[nn.Module]:
    """Return the 7 x 7 convolution at full resolution with which a generator begins."""
    return [ReflectionPad(3), *convolution(channels_in, width, 7)]


def head(width: int, channels_out: int) -> list[nn.Module]:
    """Return the 7 x 7 convolution and tanh with which a generator ends."""
    return [ReflectionPad(3), nn.Conv2d(width, channels_out, 7), FloatTanh()]


class ResidualBlock(nn.Module):
    """x + F(x) with two 3 x 3 convolutions in F and no activation after the sum."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv_block = nn.Sequential(
            ReflectionPad(1),
            *convolution(channels, channels, 3),
            ReflectionPad(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the input's shape."""
        return cast(Tensor, x + self.conv_block(x))


class Staged(nn.Module):
    """A network that can forget activations between its stages and compute them again in the backward pass."""

    recompute = False

    def run(self, layers: nn.Sequential, x: Tensor) -> Tensor:
        """Apply `layers`, in stages that begin at each change of resolution and every third block."""
        if not (self.recompute and self.training and torch.is_grad_enabled()):
            return cast(Tensor, layers(x))
        for stage in stages_of(layers):
            x = cast(Tensor, checkpoint(stage, x, use_reentrant=False, preserve_rng_state=False))
        return x


def stages_of(layers: nn.Sequential) -> Iterator[nn.Sequential]:
    """Cut `layers` before each convolution (with the padding before it) and before every third residual block."""
    stage: list[nn.Module] = []
    blocks = 0
    for layer in layers:
        last = stage[-1] if stage else layer
        if isinstance(layer, ResidualBlock):
            begins = blocks % 3 == 0
            blocks += 1
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            begins = not isinstance(last, ReflectionPad)
        else:
            begins = isinstance(layer, ReflectionPad)
        if stage and begins:
            yield nn.Sequential(*stage)
            stage = []
        stage.append(layer)
    yield nn.Sequential(*stage)


class GlobalGenerator(Staged):
    """Stem, halvings, residual blocks, doublings, head; `model` numbers the layers as published checkpoints do."""

    def __init__(self, config: GeneratorConfig, *, with_head: bool = True):
        super().__init__()
        width, depth = config.width, config.downsamplings
        layers = stem(config.source_channels, width)
        for level in range(depth):
            layers += convolution(width << level, width << (level + 1), 3, stride=2, padding=1)
        layers += [ResidualBlock(width << depth) for _ in range(config.blocks)]
        for level in reversed(range(depth)):
            layers += enlargement(width << (level + 1), width << level, config.upsampling)
        if with_head:
            layers += head(width, config.target_channels)
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Translate (N, C_source, H, W) to (N, C_target, H, W), both in [-1, 1]; sides multiples of 2^downsamplings."""
        return self.run(self.model, x)


class LocalEnhancer(Staged):
    """A global generator at reduced resolution, refined by one enhancer for each doubling up to the full one.

    `model{n}_1` brings the picture to the resolution before, where the coarser features are added; `model{n}_2`
    refines and enlarges the sum.
    """

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        self.enhancers = config.enhancers
        inner = GeneratorConfig(**{**vars(config), "width": config.width << config.enhancers, "enhancers": 0})
        self.model = GlobalGenerator(inner, with_head=False).model
        for number in range(1, config.enhancers + 1):
            width = config.width << (config.enhancers - number)
            down = stem(config.source_channels, width) + convolution(width, 2 * width, 3, stride=2, padding=1)
            up: list[nn.Module] = [ResidualBlock(2 * width) for _ in range(config.enhancer_blocks)]
            up += enlargement(2 * width, width, config.upsampling)
            if number == config.enhancers:
                up += head(config.width, config.target_channels)
            self.add_module(f"model{number}_1", nn.Sequential(*down))
            self.add_module(f"model{number}_2", nn.Sequential(*up))

    def forward(self, x: Tensor) -> Tensor:
        """Translate (N, C_source, H, W) to (N, C_target, H, W), both in [-1, 1]."""
        pyramid = [x]
        for _ in range(self.enhancers):
            pyramid.append(halved(pyramid[-1]))
        output = self.run(self.model, pyramid[-1])
        for number in range(1, self.enhancers + 1):
            down = cast(nn.Sequential, getattr(self, f"model{number}_1"))
            up = cast(nn.Sequential, getattr(self, f"model{number}_2"))
            output = self.run(up, self.run(down, pyramid[self.enhancers - number]) + output)
        return output

    def global_parameters(self) -> list[nn.Parameter]:
        """Return the parameters which the first phase of training leaves as they are.

        All but those of the last enhancer, as in the published training with `niter_fix_global`.
        """
        free = f"model{self.enhancers}_"
        return [parameter for name, parameter in self.named_parameters() if not name.startswith(free)]


def halved(x: Tensor) -> Tensor:
    """Return (N, C, ceil(H / 2), ceil(W / 2)): means over 3 x 3 at every second pixel, the border not counted."""
    return functional.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)


def make_generator(config: GeneratorConfig) -> GlobalGenerator | LocalEnhancer:
    """Return the generator of `config` with PyTorch's own first weights."""
    return LocalEnhancer(config) if config.enhancers else GlobalGenerator(config)


def build_generator(config: GeneratorConfig, rng: torch.Generator) -> GlobalGenerator | LocalEnhancer:
    """Return the generator of `config` with first weights from `rng` (see `layers.build`)."""
    return build(lambda: make_generator(config), rng)
