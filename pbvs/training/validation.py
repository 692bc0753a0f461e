"""Validation while training: held-out pairs, translated whole, measured by the protocol that the score goes by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pbvs.challenge.model import Challenge
from pbvs.data.images import resize
from pbvs.data.manifest import Pair
from pbvs.devices import rank, world_size
from pbvs.metrics.judge import Judge
from pbvs.metrics.protocol import DEFAULT, choose_protocol, load_protocol
from pbvs.metrics.weights import look
from pbvs.training import distributed
from pbvs.training.log import write_strip

STRIPS = 4  # images shown of each validation
MOST_PIXELS = 1536**2  # larger images are reduced: VGG-16 holds 1.4 KB a pixel, which is 14 GiB at 3157 x 3240
WATCHED = ("squeeze", "alex", "vgg")  # in the order in which one is taken
NAMES = ("rmse", "lpips", "unseen", "score")

ImageArray = NDArray[np.float32]
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
    """Measures a network on `pairs`; each process takes its share, and all get the same numbers.

    `unseen` names the metric of a network that no loss has seen. Images are compared at `size` pixels a side, None
    for the targets' own size.
    """

    pairs: Sequence[Pair]
    open_pair: Callable[[Pair], Opened]
    translate: Translate
    judge: Judge
    unseen: str = ""
    size: int | None = None
    samples: Path | None = None  # folder of the strips
    strips: list[tuple[ImageArray, ImageArray, ImageArray]] = field(default_factory=list)

    @property
    def identity(self) -> list[Any]:
        """What the scores depend on beside the network: the protocol, the pairs, and the size of comparison."""
        return [self.judge.protocol.model_dump(mode="json"), [pair.paths for pair in self.pairs], self.size]

    def __call__(self, network: nn.Module, epoch: int) -> dict[str, float | None]:
        """Return the means of `NAMES` over all pairs; None for what the protocol does not measure."""
        self.strips = []
        values = torch.zeros(len(self.pairs), len(NAMES), dtype=torch.float64)
        for index in range(rank(), len(self.pairs), world_size()):
            values[index] = torch.tensor(self._measure(network, index), dtype=torch.float64)
        means = distributed.total(values).mean(dim=0).tolist()
        if self.samples is not None and distributed.is_main():
            write_strip(self.samples / f"{epoch:04d}.png", self.strips)
        return {name: None if np.isnan(mean) else mean for name, mean in zip(NAMES, means, strict=True)}

    def _measure(self, network: nn.Module, index: int) -> list[float]:
        opened = self.open_pair(self.pairs[index])
        if opened.target is None:
            return [0.0] * len(NAMES)
        made = self.translate(network, [opened.source])[0]
        height, width = compared_size(opened.target.shape[0], opened.target.shape[1], self.size)
        prediction = np.rint(resize(made, height, width) * 255) / np.float32(255)
        target = resize(opened.target, height, width)
        if len(self.strips) < STRIPS:
            self.strips.append((opened.source, prediction, target))
        numbers = self.judge.score_images([prediction], [target]).iloc[0]
        named = {"rmse": numbers.get("rmse"), "lpips": numbers.get("lpips"), "score": numbers["score"]}
        named["unseen"] = numbers.get(self.unseen)
        return [float("nan") if named[name] is None else float(named[name]) for name in NAMES]


def make_judge(
    choose_by: str, challenge: Challenge, nets: Sequence[str], watch: str, weights: Path | None, device: str
) -> tuple[Judge, str]:
    """Return what measures epochs, and the metric of a network that no loss has seen ("" for none).

    `choose_by` names a protocol, or is "auto": the challenge's. Where that is `l2-lpips`, which leaves the net open,
    LPIPS is taken with the first of `nets`, those of the loss; without any, with AlexNet where its weights are, else
    not at all. `watch` names the unseen net, or is "auto": the first one with weights that is in neither.
    """
    protocol = choose_protocol(challenge)
    if choose_by != "auto":
        protocol = choose_protocol(challenge, choose_by)
    elif protocol.name == DEFAULT and (nets or look("alex", weights)):
        protocol = load_protocol(protocol, lpips_net=next(iter(nets), "alex"))
    elif protocol.name == DEFAULT:
        protocol = load_protocol(protocol, terms=["rmse"])
    protocol = protocol.of_images().model_copy(update={"shown": ("rmse",)})
    known = {*nets, *(protocol.resolve(term.metric).removeprefix("lpips-") for term in protocol.terms)}
    if watch == "auto":
        others = (net for net in WATCHED if net not in known and look(net, weights))
        watch = "" if "random" in known else next(others, "")
    unseen = f"lpips-{watch}" if watch not in ("", "none") else ""
    return Judge(protocol, weights, device, extra=(unseen,) if unseen else ()), unseen


def compared_size(height: int, width: int, size: int | None = None) -> tuple[int, int]:
    """Return the size at which a target of (height, width) is compared: `size` a side, its own, or less of it.

    >>> compared_size(256, 300), compared_size(256, 300, 1024), compared_size(3072, 3072)
    ((256, 300), (1024, 1024), (1536, 1536))
    """
    if size:
        height = width = size
    scale = min(1.0, (MOST_PIXELS / (height * width)) ** 0.5)
    return round(height * scale), round(width * scale)
