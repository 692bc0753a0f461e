"""Weights for other channels: the first and last convolutions changed with as little harm as possible."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pbvs.networks.pix2pixhd import GeneratorConfig


def adapt_inputs(weight: Tensor, channels: int) -> Tensor:
    """Return a convolution's weight (out, in, k, k) for another number of input channels.

    To one channel: the sum over the old ones, so that gray gives what gray replicated gave. To more: the old ones in
    turn, scaled by old / new, so that what comes in keeps its size (timm's rule for stems).
    """
    old = weight.shape[1]
    if old == channels:
        return weight
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    return weight[:, [channel % old for channel in range(channels)]] * (old / channels)


def adapt_outputs(weight: Tensor, channels: int) -> Tensor:
    """Return a convolution's weight (out, in, k, k) or bias (out,) for another number of output channels.

    To one channel: the mean of the old ones, the gray of what they made. To more: the old ones in turn.
    """
    old = weight.shape[0]
    if old == channels:
        return weight
    if channels == 1:
        return weight.mean(dim=0, keepdim=True)
    return weight[[channel % old for channel in range(channels)]]


def adapt_generator(tensors: Mapping[str, Tensor], old: GeneratorConfig, new: GeneratorConfig) -> dict[str, Tensor]:
    """Return generator weights with stems and head changed from `old` to the channels of `new`."""
    adapted = dict(tensors)
    head = head_key(old)
    for stem in stem_keys(old):
        adapted[f"{stem}.weight"] = adapt_inputs(tensors[f"{stem}.weight"], new.source_channels)
    for part in ("weight", "bias"):
        adapted[f"{head}.{part}"] = adapt_outputs(tensors[f"{head}.{part}"], new.target_channels)
    return adapted


def stem_keys(config: GeneratorConfig) -> list[str]:
    """Return the names of the convolutions that see the image itself."""
    return ["model.1", *(f"model{number}_1.1" for number in range(1, config.enhancers + 1))]


def head_key(config: GeneratorConfig) -> str:
    """Return the name of the last convolution."""
    if config.enhancers:
        return f"model{config.enhancers}_2.{config.enhancer_blocks + 4}"
    return f"model.{4 + 6 * config.downsamplings + config.blocks + 1}"


def adapt_discriminator(tensors: Mapping[str, Tensor], old: tuple[int, int], new: tuple[int, int]) -> dict[str, Tensor]:
    """Return discriminator weights with stems changed from `old` to `new` (source channels, target channels)."""
    adapted = dict(tensors)
    for name, weight in tensors.items():
        if name.endswith("_layer0.0.weight"):
            source, target = weight[:, : old[0]], weight[:, old[0] :]
            adapted[name] = torch.cat((adapt_inputs(source, new[0]), adapt_inputs(target, new[1])), dim=1)
    return adapted
