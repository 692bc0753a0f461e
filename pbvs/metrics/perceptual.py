"""LPIPS of many pairs of 8-bit images: the network sees batches of one size, each image keeps its own number."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pbvs.files import digest
from pbvs.metrics.lpips import Lpips
from pbvs.metrics.quick import quicken
from pbvs.metrics.weights import fingerprint

Pixels = NDArray[np.uint8]
Taps = list[Tensor]  # one image's activations with norm 1, (C_k, H_k, W_k) each


def as_tensor(images: Sequence[Pixels], device: str = "cpu") -> Tensor:
    """Stack (H, W, C) 8-bit images of one size as (N, C, H, W) float32 in [-1, 1], channels last in memory."""
    stacked = torch.from_numpy(np.stack(images)).to(device)
    return stacked.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1.0)


class Perceptual:
    """An LPIPS network on a device, laid out in memory as it is quickest."""

    def __init__(self, net: Lpips, device: str = "cpu"):
        self.net = quicken(net) if device == "cpu" else net.to(device)
        self.device = device
        self.digest = digest([net.net, net.trunk.digest, fingerprint(dict(enumerate_heads(net)))])

    @torch.inference_mode()
    def taps(self, images: Sequence[Pixels]) -> list[Taps]:
        """Return each image's features; images have one size."""
        if not images:
            return []
        with full_precision(self.device):
            found = self.net.features(as_tensor(images, self.device))
        return [[tap[n] for tap in found] for n in range(len(images))]

    @torch.inference_mode()
    def distance(self, first: Taps, second: Taps) -> float:
        """Return the distance of two images from their features, without regard to any other image."""
        return float(self.net.distance([tap[None] for tap in first], [tap[None] for tap in second]))


def full_precision(device: str) -> contextlib.AbstractContextManager[None]:
    """Return a context in which a GPU multiplies whole float32 numbers, so that it gives what a CPU gives."""
    if device == "cpu":
        return contextlib.nullcontext()
    manager: contextlib.AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return manager


def enumerate_heads(net: Lpips) -> list[tuple[str, Tensor]]:
    """Return the heads with their names."""
    return [(f"head{number}", head) for number, head in enumerate(net.heads)]
