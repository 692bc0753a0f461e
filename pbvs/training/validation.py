"""Validation while training: held-out pairs, translated whole, measured as the scorer measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from pbvs.data.images import resize
from pbvs.data.manifest import Pair
from pbvs.devices import rank, world_size
from pbvs.training import distributed
from pbvs.training.log import write_strip
from pbvs.training.losses import three_channels
from pbvs.translators.base import ImageArray

STRIPS = 4  # images shown of each validation
Translate = Callable[[nn.Module, Sequence[ImageArray]], list[ImageArray]]


class Opened(Protocol):
    """A pair's images on one grid, (H, W, C) float32 in [0, 1]."""

    @property
    def source(self) -> ImageArray:
        """The input."""
        ...

    @property
    def target(self) -> ImageArray | None:
        """What it should become."""
        ...


@dataclass
class Validator:
    """Measures a network on `pairs`; each process takes its share, and all get the same numbers."""

    pairs: Sequence[Pair]
    open_pair: Callable[[Pair], Opened]
    translate: Translate
    lpips: Callable[[Tensor, Tensor], Tensor] | None = None
    device: str = "cpu"
    samples: Path | None = None  # folder of the strips
    strips: list[tuple[ImageArray, ImageArray, ImageArray]] = field(default_factory=list)

    def __call__(self, network: nn.Module, epoch: int) -> dict[str, float | None]:
        """Return rmse, lpips (None without a trunk) and score, the mean of both, over all pairs."""
        self.strips = []
        values = torch.zeros(len(self.pairs), 2, dtype=torch.float64)
        for index in range(rank(), len(self.pairs), world_size()):
            values[index] = self._measure(network, index)
        rmse, lpips = distributed.total(values).mean(dim=0).tolist()
        if self.samples is not None and distributed.is_main():
            write_strip(self.samples / f"{epoch:04d}.png", self.strips)
        if self.lpips is None:
            return {"rmse": rmse, "lpips": None, "score": rmse}
        return {"rmse": rmse, "lpips": lpips, "score": (rmse + lpips) / 2}

    def _measure(self, network: nn.Module, index: int) -> Tensor:
        opened = self.open_pair(self.pairs[index])
        if opened.target is None:
            return torch.zeros(2)
        made = resize(self.translate(network, [opened.source])[0], *opened.target.shape[:2])
        prediction = np.rint(made * 255) / np.float32(255)
        if len(self.strips) < STRIPS:
            self.strips.append((opened.source, prediction, opened.target))
        rmse = float(np.sqrt(np.mean((prediction - opened.target) ** 2, dtype=np.float64)))
        return torch.tensor([rmse, self._lpips(prediction, opened.target)], dtype=torch.float64)

    def _lpips(self, prediction: ImageArray, target: ImageArray) -> float:
        if self.lpips is None:
            return 0.0
        with torch.inference_mode():
            x, y = (
                three_channels(_tensor(p).permute(2, 0, 1)[None] * 2 - 1).to(self.device) for p in (prediction, target)
            )
            return float(self.lpips(x, y))


def _tensor(image: ImageArray) -> torch.Tensor:
    """Return an image as a tensor; one that came out of a decoder may not be written, which torch warns of."""
    return torch.from_numpy(np.require(image, requirements=["C_CONTIGUOUS", "WRITEABLE"]))
