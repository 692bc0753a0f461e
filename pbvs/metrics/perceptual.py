"""LPIPS by the `lpips` package, and torchvision's networks as frozen trunks, on weights that lie on this machine.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018. The package gives
the network, the scaling of inputs, the heads and their order; the trunk's weights are read from a file (`weights`), as
the package itself would download them.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from pbvs.errors import PbvsError, UsageError
from pbvs.files import digest
from pbvs.metrics.base import LEVELS, Array, FeatureMetric, Features, Network, Setting, register
from pbvs.metrics.weights import find, fingerprint, get_source, look, read_tensors
from pbvs.seeds import torch_generator

if TYPE_CHECKING:
    from typing_extensions import Self

NETS = ("alex", "squeeze", "vgg")  # with published heads
VERSION = "0.1"
EPSILON = 1e-10
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CHEAPEST_FIRST = ("squeeze", "alex", "vgg")
# net -> torchvision's function, indices of the activations that are compared, pixels a side that it needs.
# Taps: those of LPIPS v0.1, and for VGG-19 relu1_1 to relu5_1 as pix2pixHD takes.
TRUNKS: dict[str, tuple[str, tuple[int, ...], int]] = {
    "alex": ("alexnet", (1, 4, 7, 9, 11), 31),
    "squeeze": ("squeezenet1_1", (1, 4, 7, 9, 10, 11, 12), 17),
    "vgg": ("vgg16", (3, 8, 15, 22, 29), 16),
    "vgg19": ("vgg19", (1, 6, 11, 20, 29), 16),
    "random": ("", (1, 4, 7, 9, 11), 31),
}


class Frozen(nn.Module):
    """A network that never learns: `train()` leaves it in evaluation mode."""

    def freeze(self) -> None:
        """Take no gradients, and behave as in evaluation."""
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay frozen whatever the parent module does."""
        return super().train(False)


class Trunk(Frozen):
    """A frozen network that returns the activations at its taps.

    `net` is alex, squeeze, vgg, vgg19, or random (a narrow AlexNet). Made by `load_trunk`; by itself its weights are
    not there (on the meta device).
    """

    def __init__(self, net: str):
        super().__init__()
        if net not in TRUNKS:
            raise UsageError(f"There is no trunk {net!r}; the trunks are {', '.join(TRUNKS)}.")
        name, self.taps, self.smallest = TRUNKS[net]
        self.net = net
        self.digest = ""
        import torchvision  # which takes a second

        with torch.device("meta"):
            layers = getattr(torchvision.models, name)(weights=None).features if name else _narrow_alexnet()
        self.features = nn.Sequential(*list(layers.children())[: self.taps[-1] + 1])
        self.freeze()

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the taps' activations (N, C_k, H_k, W_k) of (N, 3, H, W) as given; raises PbvsError when too small."""
        check_size(x, self.net)
        found = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                found.append(x)
        return found


def unseen_net(known: Container[str], weights: Path | None) -> str:
    """Return the cheapest LPIPS net that is none of those `known` and whose weights are found, "" where none is."""
    return next((net for net in CHEAPEST_FIRST if net not in known and look(net, weights)), "")


def check_size(x: Tensor, net: str) -> None:
    """Raise PbvsError when images (N, C, H, W) are smaller than the network can take."""
    smallest = TRUNKS[net][2]
    if min(x.shape[-2:]) < smallest:
        raise PbvsError(
            f"An image of {x.shape[-1]} x {x.shape[-2]} pixels is too small for the trunk {net}; "
            f"it needs {smallest} a side."
        )


def _narrow_alexnet() -> nn.Sequential:
    """Return AlexNet's layers with few channels."""
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(16, 32, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(layer for _ in range(3) for layer in (nn.Conv2d(32, 32, 3, 1, 1), nn.ReLU())),
    )


def load_trunk(net: str, weights: Path | None = None) -> Trunk:
    """Return the frozen trunk `net` with weights from a file, or found in a folder or the usual places.

    `random` has small fixed random weights, for wiring checks only. Raises PbvsError when the weights are missing,
    damaged or another net's, UsageError when there is no such net.
    """
    trunk = Trunk(net)
    tensors = trunk_tensors(net, weights, trunk.state_dict())
    trunk.load_state_dict(tensors, assign=True)
    trunk.requires_grad_(False)
    trunk.digest = fingerprint(tensors)
    return trunk


def trunk_tensors(net: str, weights: Path | None, wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a trunk's tensors by torchvision's names; raises PbvsError as `load_trunk` does."""
    if net == "random":
        return _random_tensors(wanted)
    path = weights if weights is not None and weights.is_file() else find(net, weights)
    return pick(wanted, read_tensors(path, get_source(net).prefix), path)


def pick(wanted: dict[str, Tensor], tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the tensors that are wanted; raise PbvsError when one is missing or has another shape."""
    for name, value in wanted.items():
        if name not in tensors or tensors[name].shape != value.shape:
            found = "missing" if name not in tensors else f"{tuple(tensors[name].shape)}"
            raise PbvsError(
                f"{path} holds the weights of another net ({name} is {found}, not {tuple(value.shape)}); "
                "name the right file or another net."
            )
    return {name: tensors[name].to(torch.float32) for name in wanted}


def _random_tensors(wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    generator = torch_generator(0, "random trunk")
    made = {}
    for name, value in wanted.items():
        scale = (2.0 / value[0].numel()) ** 0.5 if value.dim() > 1 else 0.0
        made[name] = torch.randn(value.shape, generator=generator) * scale
    return made


class Lpips(Frozen):
    """LPIPS v0.1 as a module, for losses and scores: 0 for equal images, about 1 for the most different.

    `weights` is a trunk's file or a folder to look in. Images are (N, 3, H, W) or (N, 1, H, W) in [-1, 1]; one
    channel is repeated. Raises PbvsError when the trunk's weights cannot be had, UsageError when there is no such net.

    >>> Lpips("random")(torch.zeros(2, 1, 64, 64), torch.ones(2, 1, 64, 64)).shape
    torch.Size([2])
    """

    def __init__(self, net: str = "alex", weights: Path | None = None):
        super().__init__()
        if net not in (*NETS, "random"):
            raise UsageError(f"There is no LPIPS net {net!r}; the nets are {', '.join(NETS)} and random.")
        self.net = net
        self.package, self.trunk_digest = _package(net, weights)
        self.freeze()

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

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the taps' activations with norm 1 over channels, one (N, C_k, H_k, W_k) each."""
        if x.dim() != 4 or x.shape[1] not in (1, 3):
            raise PbvsError(f"LPIPS takes images of shape (N, 3 or 1, H, W), not {tuple(x.shape)}.")
        check_size(x, self.net)
        scaled = self.package.scaling_layer(x.expand(-1, 3, -1, -1))
        return [unit(tap) for tap in self.package.net(scaled)]

    def distance(self, first: list[Tensor], second: list[Tensor]) -> Tensor:
        """Return (N,) distances from what `features` gave for two batches."""
        heads = self.package.lins
        parts = [head((a - b) ** 2).mean((1, 2, 3)) for head, a, b in zip(heads, first, second, strict=True)]
        return torch.stack(parts).sum(0)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return (N,) distances of two batches in [-1, 1]; differentiable in both."""
        if x.shape[0] != y.shape[0] or x.shape[2:] != y.shape[2:]:
            raise PbvsError(f"LPIPS takes two batches of one size, not {tuple(x.shape)} and {tuple(y.shape)}.")
        return self.distance(self.features(x), self.features(y))


def unit(features: Tensor) -> Tensor:
    """Divide (N, C, H, W) by its norm over C at each position, as f / (|f| + 1e-10); the gradient at 0 is 0.

    The package's own function has the same values, and NaN as its gradient where nothing is active.
    """
    norm: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / (norm + EPSILON)


def _package(net: str, weights: Path | None) -> tuple[Any, str]:
    """Return the package's module with the trunk's weights and its own heads, and the trunk's fingerprint.

    It is made without memory and filled after: otherwise torchvision would draw 100 million random numbers first.
    """
    import lpips

    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # how the package calls torchvision is deprecated
        made = lpips.LPIPS(net="alex" if net == "random" else net, pretrained=False, pnet_rand=True, verbose=False)
        if net == "random":
            made.net = Trunk(net)
            widths = [made.net.features[tap - 1].out_channels for tap in made.net.taps]
            for tap in range(made.L):
                delattr(made, f"lin{tap}")  # the same modules under a second name
            made.lins = nn.ModuleList(lpips.NetLinLayer(width, use_dropout=True) for width in widths)
    made.scaling_layer = lpips.ScalingLayer()
    # The package's slices keep the layers' indices in torchvision's `features`.
    ours = {name: f"features.{name.split('.', 1)[1]}" for name in made.net.state_dict()}
    wanted = {ours[name]: value for name, value in made.net.state_dict().items()}
    tensors = trunk_tensors(net, weights, wanted)
    made.net.load_state_dict({name: tensors[ours[name]] for name in ours}, assign=True)
    _load_heads(made, net)
    return made, fingerprint(tensors)


def _load_heads(made: Any, net: str) -> None:
    """Fill the heads with the package's own; `random` gets equal weights. Raises PbvsError when they are not right."""
    widths = [head.model[-1].in_channels for head in made.lins]
    if net == "random":
        heads = [torch.full((1, width, 1, 1), 1.0 / width) for width in widths]
    else:
        path = heads_file(net)
        tensors = read_tensors(path)
        heads = [tensors.get(f"lin{tap}.model.1.weight", torch.empty(0)) for tap in range(len(widths))]
        shapes = [(1, width, 1, 1) for width in widths]
        if [tuple(head.shape) for head in heads] != shapes or not all(bool((head >= 0).all()) for head in heads):
            raise PbvsError(
                f"{path} does not hold LPIPS' heads for {net} (a head is missing, of another shape or negative); "
                "install the package lpips again."
            )
    for head, value in zip(made.lins, heads, strict=True):
        head.model[-1].weight = nn.Parameter(value.float(), requires_grad=False)


def heads_file(net: str) -> Path:
    """Return the file of the heads of `net` in the installed `lpips` package."""
    import lpips

    return Path(lpips.__file__).parent / "weights" / f"v{VERSION}" / f"{net}.pth"


def as_tensor(images: Sequence[Array], device: str = "cpu") -> Tensor:
    """Stack (H, W, C) images of one size as (N, C, H, W) float32 in [-1, 1]."""
    stacked = np.stack(images)
    tensor = torch.from_numpy(stacked.astype(np.float32)).to(device)
    return tensor.permute(0, 3, 1, 2).div(LEVELS.get(str(stacked.dtype), 1.0) / 2).sub_(1.0)


def imagenet_normalised(x: Tensor) -> Tensor:
    """Return (N, 3, H, W) in [-1, 1] with ImageNet's mean and deviation instead."""
    mean, deviation = (x.new_tensor(numbers).view(1, 3, 1, 1) for numbers in (IMAGENET_MEAN, IMAGENET_STD))
    return ((x + 1) / 2 - mean) / deviation


def full_precision(device: str) -> contextlib.AbstractContextManager[None]:
    """Return a context in which a GPU multiplies whole float32 numbers, so that it gives what a CPU gives."""
    if device == "cpu":
        return contextlib.nullcontext()
    manager: contextlib.AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return manager


class LpipsNetwork(Network):
    """An `Lpips` on a device that gives features of 8-bit images one by one."""

    def __init__(self, net: str, setting: Setting):
        found = None if net == "random" else setting.find(net)
        self.lpips = Lpips(net, found).to(setting.device).to(memory_format=torch.channels_last)  # as images lie
        self.device = setting.device
        heads = {f"head{n}": head.model[-1].weight for n, head in enumerate(self.lpips.package.lins)}
        self.digest = digest([net, self.lpips.trunk_digest, fingerprint(heads)])

    @torch.inference_mode()
    def features(self, images: Sequence[Array]) -> list[Features]:
        """Return each image's taps with norm 1, (C_k, H_k, W_k) each; images have one size."""
        with full_precision(self.device):
            found = self.lpips.features(as_tensor(images, self.device))
        return [[tap[n] for tap in found] for n in range(len(images))]

    @torch.inference_mode()
    def compare(self, first: Features, second: Features) -> float:
        """Return the distance of two images."""
        batches = ([tap[None].to(self.device) for tap in taps] for taps in (first, second))
        return float(self.lpips.distance(*batches))


@register
class LpipsMetric(FeatureMetric):
    """LPIPS v0.1 of one image with a net; lower is better. Values of different nets are not comparable.

    `lpips-random` is no LPIPS: its network has random weights, for wiring checks only.
    """

    names = tuple(f"lpips-{net}" for net in (*NETS, "random"))

    def __init__(self, name: str, setting: Setting):
        super().__init__(name, setting)
        net = name.removeprefix("lpips-")
        self.network: Any = setting.network(name, lambda: LpipsNetwork(net, setting))

    def compare(self, prediction: Features, target: Features) -> float:
        """Return the distance of two images from their features."""
        result: float = self.network.compare(prediction, target)
        return result
