"""LPIPS of many pairs of 8-bit pictures: the network sees batches of one size, each picture keeps its own number."""

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
Taps = list[Tensor]  # one picture's activations with norm 1, (C_k, H_k, W_k) each


def as_tensor(pictures: Sequence[Pixels], device: str = "cpu") -> Tensor:
    """Stack (H, W, C) 8-bit pictures of one size as (N, C, H, W) float32 in [-1, 1], channels last in memory."""
    stacked = torch.from_numpy(np.stack(pictures)).to(device)
    return stacked.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1.0)


class Perceptual:
    """An LPIPS network on a device, laid out in memory as it is quickest."""

    def __init__(self, net: Lpips, device: str = "cpu"):
        self.net = quicken(net) if device == "cpu" else net.to(device)
        self.device = device
        self.digest = digest([net.net, net.trunk.digest, fingerprint(dict(enumerate_heads(net)))])

    @torch.inference_mode()
    def taps(self, pictures: Sequence[Pixels]) -> list[Taps]:
        """Return each picture's features; pictures have one size."""
        if not pictures:
            return []
        with full_precision(self.device):
            found = self.net.features(as_tensor(pictures, self.device))
        return [[tap[n] for tap in found] for n in range(len(pictures))]

    @torch.inference_mode()
    def distance(self, first: Taps, second: Taps) -> float:
        """Return the distance of two pictures from their features, without regard to any other picture."""
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
