"""LPIPS v0.1 as the `lpips` package defines it, without importing it: its heads on our own trunks.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018. For each tap: divide
by the norm over channels, square the difference, weigh the channels, mean over positions; then the sum over taps.
Importing `lpips` imports torchvision, which breaks beside many builds of torch; the heads are read from its files.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn

from pbvs.errors import PbvsError, UsageError
from pbvs.metrics.backbones import Trunk, load_trunk
from pbvs.metrics.weights import read_tensors

NETS = ("alex", "squeeze", "vgg")
VERSION = "0.1"
EPSILON = 1e-10
# ImageNet's mean and deviation, rewritten for images in [-1, 1] (the package's scaling layer).
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


def heads_file(net: str) -> Path:
    """Return the file of the heads of `net` in the installed `lpips` package; raises PbvsError when it is not there."""
    spec = importlib.util.find_spec("lpips")
    places = list(spec.submodule_search_locations or []) if spec else []
    for place in places:
        path = Path(place) / "weights" / f"v{VERSION}" / f"{net}.pth"
        if path.is_file():
            return path
    raise PbvsError(
        f"LPIPS' heads for {net} were not found, because the package lpips is missing or not whole; "
        "run `pip install lpips` in this environment."
    )


def load_heads(net: str, channels: tuple[int, ...]) -> list[Tensor]:
    """Return the heads of `net`, one (1, C_k, 1, 1) each, verified to be non-negative as the metric requires.

    `random` gets equal weights. Raises PbvsError when the file is damaged or has a negative weight.
    """
    if net == "random":
        return [torch.full((1, count, 1, 1), 1.0 / count) for count in channels]
    path = heads_file(net)
    tensors = read_tensors(path)
    heads = [tensors.get(f"lin{tap}.model.1.weight") for tap in range(len(channels))]
    for head, count in zip(heads, channels, strict=True):
        if head is None or head.shape != (1, count, 1, 1) or not bool((head >= 0).all()):
            raise PbvsError(
                f"{path} does not hold LPIPS' heads for {net} (a head is missing, of another shape or negative); "
                "install the package lpips again."
            )
    return [head.float() for head in heads if head is not None]


def unit(features: Tensor) -> Tensor:
    """Divide (N, C, H, W) by its norm over C at each position, as f / (|f| + 1e-10); the gradient at 0 is 0."""
    norm: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / (norm + EPSILON)


class Lpips(nn.Module):
    """The distance of images that people see: 0 for equal ones, about 1 for the most different.

    `weights` is a trunk's file or a folder to look in. Images are (N, 3, H, W) or (N, 1, H, W) in [-1, 1]; one
    channel is repeated. Raises PbvsError when the trunk or the heads cannot be had.
    """

    def __init__(self, net: str = "alex", weights: Path | None = None):
        super().__init__()
        if net not in (*NETS, "random"):
            raise UsageError(f"There is no LPIPS net {net!r}; the nets are {', '.join(NETS)} and random.")
        self.net = net
        self.trunk: Trunk = load_trunk(net, weights)
        heads = load_heads(net, self.trunk.channels)
        for tap, head in enumerate(heads):
            self.register_buffer(f"head{tap}", head)
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1))
        self.eval()

    @property
    def is_lpips(self) -> bool:
        """False for the random trunk, whose numbers are not LPIPS."""
        return self.net != "random"

    @property
    def label(self) -> str:
        """What the number is called wherever it appears."""
        if self.is_lpips:
            return f"LPIPS ({self.net}, v{VERSION})"
        return "not LPIPS (random trunk, wiring check only)"

    @property
    def heads(self) -> list[Tensor]:
        """The channels' weights, one (1, C_k, 1, 1) for each tap."""
        return [self.get_buffer(f"head{tap}") for tap in range(len(self.trunk.taps))]

    def activations(self, x: Tensor) -> list[Tensor]:
        """Return the trunk's taps of images in [-1, 1]; one channel becomes three."""
        taps: list[Tensor] = self.trunk((x - self.get_buffer("shift")) / self.get_buffer("scale"))
        return taps

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the taps' activations with norm 1 over channels, one (N, C_k, H_k, W_k) each."""
        if x.dim() != 4 or x.shape[1] not in (1, 3):
            raise PbvsError(f"LPIPS takes images of shape (N, 3 or 1, H, W), not {tuple(x.shape)}.")
        return [unit(tap) for tap in self.activations(x)]

    def distance(self, first: list[Tensor], second: list[Tensor]) -> Tensor:
        """Return (N,) distances from what `features` gave for two batches."""
        parts = [
            (a - b).square().mean((2, 3)) @ head.flatten() for a, b, head in zip(first, second, self.heads, strict=True)
        ]
        return torch.stack(parts).sum(0)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return (N,) distances of two batches in [-1, 1]; differentiable in both."""
        if x.shape[0] != y.shape[0] or x.shape[2:] != y.shape[2:]:
            raise PbvsError(f"LPIPS takes two batches of one size, not {tuple(x.shape)} and {tuple(y.shape)}.")
        return self.distance(self.features(x), self.features(y))
