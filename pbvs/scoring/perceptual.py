"""LPIPS of many pairs of 8-bit pictures: batches of one size, each picture's own number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pbvs.networks.lpips import Lpips

Pixels = NDArray[np.uint8]


def as_tensor(pictures: Sequence[Pixels], device: str = "cpu") -> Tensor:
    """Stack (H, W, C) 8-bit pictures of one size as (N, C, H, W) float32 in [-1, 1]."""
    stacked = torch.from_numpy(np.stack(pictures)).to(device)
    return stacked.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0


@torch.inference_mode()
def lpips_pairs(net: Lpips, predictions: Sequence[Pixels], targets: Sequence[Pixels], device: str) -> list[float]:
    """Return one distance for each pair of pictures of one size; equal pictures have exactly 0."""
    different = [n for n, (a, b) in enumerate(zip(predictions, targets, strict=True)) if not np.array_equal(a, b)]
    values = [0.0] * len(predictions)
    if different:
        first = as_tensor([predictions[n] for n in different], device)
        second = as_tensor([targets[n] for n in different], device)
        taps = net.features(torch.cat((first, second)))
        half = len(different)
        distances = net.distance([tap[:half] for tap in taps], [tap[half:] for tap in taps])
        for n, value in zip(different, distances.cpu().tolist(), strict=True):
            values[n] = value
    return values
