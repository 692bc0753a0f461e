"""pix2pixHD's discriminator: the same patch classifier at several resolutions, its features given out for matching.

Architecture and parameter names after Wang et al. (CVPR 2018) and its published code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from pbvs.networks.generator import halved
from pbvs.networks.layers import build

WIDEST = 512
Features = list[list[Tensor]]  # [scale, full resolution first][layer, the last being the verdict]


@dataclass(frozen=True)
class DiscriminatorConfig:
    """What makes one discriminator different from another; `channels` counts source and target together."""

    channels: int = 6
    width: int = 64
    scales: int = 2
    layers: int = 3


def patch_layers(config: DiscriminatorConfig) -> list[nn.Sequential]:
    """Return the layers of one scale: 4 x 4 convolutions, padding 2, each twice as wide as the one before, at most 512.

    The first has no norm; the last but one and the last keep the resolution; the verdict has no sigmoid (LSGAN).
    """
    widths = [min(config.width << level, WIDEST) for level in range(config.layers + 1)]
    layers = [nn.Sequential(nn.Conv2d(config.channels, widths[0], 4, 2, 2), nn.LeakyReLU(0.2, inplace=True))]
    for level in range(1, config.layers + 1):
        stride = 1 if level == config.layers else 2
        layers.append(
            nn.Sequential(
                nn.Conv2d(widths[level - 1], widths[level], 4, stride, 2),
                nn.InstanceNorm2d(widths[level]),
                nn.LeakyReLU(0.2, inplace=True),
            )
        )
    return [*layers, nn.Sequential(nn.Conv2d(widths[-1], 1, 4, 1, 2))]


class MultiscaleDiscriminator(nn.Module):
    """Patch classifiers on the picture and its halvings.

    Parameters are called `scale{s}_layer{j}`; s counts from the coarsest, so the full resolution is judged by the
    highest s, as in published checkpoints.
    """

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        self.config = config
        for scale in range(config.scales):
            for number, layer in enumerate(patch_layers(config)):
                self.add_module(f"scale{scale}_layer{number}", layer)

    def forward(self, source: Tensor, target: Tensor) -> Features:
        """Judge (N, C_target, H, W) given (N, C_source, H, W), both in [-1, 1]; return all layers of all scales."""
        x = torch.cat((source, target), dim=1)
        features: Features = []
        for scale in reversed(range(self.config.scales)):
            features.append(self._judge(scale, x))
            if scale:
                x = halved(x)
        return features

    def _judge(self, scale: int, x: Tensor) -> list[Tensor]:
        outputs = []
        for number in range(self.config.layers + 2):
            x = cast(nn.Module, getattr(self, f"scale{scale}_layer{number}"))(x)
            outputs.append(x)
        return outputs


def build_discriminator(config: DiscriminatorConfig, rng: torch.Generator) -> MultiscaleDiscriminator:
    """Return the discriminator of `config` with first weights from `rng` (see `layers.build`)."""
    return build(lambda: MultiscaleDiscriminator(config), rng)
