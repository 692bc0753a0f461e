"""The frozen ImageNet networks whose activations compare images, in plain torch with torchvision's names.

Layer tables: Krizhevsky 2014 ("One weird trick", AlexNet), Simonyan and Zisserman 2015 (VGG-16 and VGG-19),
Iandola et al. 2016 (SqueezeNet 1.1). Taps: those of LPIPS v0.1, and for VGG-19 relu1_1 to relu5_1 as pix2pixHD takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pbvs.errors import PbvsError, UsageError
from pbvs.metrics.weights import find, fingerprint, get_source, read_tensors
from pbvs.seeds import torch_generator


class Fire(nn.Module):
    """SqueezeNet's module: squeeze to few channels, expand by 1x1 and 3x3 side by side."""

    def __init__(self, channels: int, squeeze: int, expand: int):
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, 2 * expand, H, W)."""
        x = torch.relu(self.squeeze(x))
        return torch.relu(torch.cat((self.expand1x1(x), self.expand3x3(x)), 1))


@dataclass(frozen=True)
class Plan:
    """Layers in torchvision's order and the indices whose outputs are the taps."""

    layers: list[nn.Module]
    taps: tuple[int, ...]
    channels: tuple[int, ...]
    smallest: int  # pixels a side that the network needs


def _alexnet(widths: tuple[int, ...] = (64, 192, 384, 256, 256)) -> Plan:
    a, b, c, d, e = widths
    layers = [
        nn.Conv2d(3, a, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(a, b, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(b, c, 3, 1, 1), nn.ReLU(), nn.Conv2d(c, d, 3, 1, 1), nn.ReLU(), nn.Conv2d(d, e, 3, 1, 1), nn.ReLU(),
    ]  # fmt: skip
    return Plan(layers, (1, 4, 7, 9, 11), widths, 31)


def _vgg(depths: tuple[int, ...], taps: tuple[int, ...]) -> Plan:
    widths = (64, 128, 256, 512, 512)
    layers: list[nn.Module] = []
    before = 3
    for depth, width in zip(depths, widths, strict=True):
        for _ in range(depth):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
        layers.append(nn.MaxPool2d(2, 2))
    return Plan(layers[: taps[-1] + 1], taps, widths, 16)


def _squeezenet() -> Plan:
    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    layers = [
        nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pool(),
        Fire(64, 16, 64), Fire(128, 16, 64), pool(),
        Fire(128, 32, 128), Fire(256, 32, 128), pool(),
        Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256),
    ]  # fmt: skip
    return Plan(layers, (1, 4, 7, 9, 10, 11, 12), (64, 128, 256, 384, 384, 512, 512), 17)


def plan(net: str) -> Plan:
    """Return the layers of a net: alex, vgg, squeeze, vgg19, or random (a narrow AlexNet); UsageError for others."""
    if net == "alex":
        return _alexnet()
    if net == "vgg":
        return _vgg((2, 2, 3, 3, 3), (3, 8, 15, 22, 29))
    if net == "vgg19":
        return _vgg((2, 2, 4, 4, 4), (1, 6, 11, 20, 29))
    if net == "squeeze":
        return _squeezenet()
    if net == "random":
        return _alexnet((16, 32, 32, 32, 32))
    raise UsageError(f"There is no trunk {net!r}; the trunks are alex, vgg, squeeze, vgg19 and random.")


class Trunk(nn.Module):
    """A frozen network that returns the activations at its taps; `train()` leaves it in evaluation mode."""

    def __init__(self, net: str):
        super().__init__()
        made = plan(net)
        self.net = net
        self.taps = made.taps
        self.channels = made.channels
        self.smallest = made.smallest
        self.digest = ""
        self.features = nn.Sequential(*made.layers)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Trunk:
        """Stay frozen whatever the parent module does."""
        super().train(False)
        return self

    @property
    def stem(self) -> nn.Conv2d:
        """The first convolution."""
        first = self.features[0]
        assert isinstance(first, nn.Conv2d)
        return first

    def forward(self, x: Tensor, start: int = 0) -> list[Tensor]:
        """Return the taps' activations (N, C_k, H_k, W_k) of (N, 3, H, W) as given; raises PbvsError when too small.

        With `start`, `x` is what the layer before that one gave.
        """
        if start == 0 and min(x.shape[-2:]) < self.smallest:
            raise PbvsError(
                f"An image of {x.shape[-1]} x {x.shape[-2]} pixels is too small for the trunk {self.net}; "
                f"it needs {self.smallest} a side."
            )
        found = []
        for index in range(start, len(self.features)):
            x = self.features[index](x)
            if index in self.taps:
                found.append(x)
        return found


def load_trunk(net: str, weights: Path | None = None) -> Trunk:
    """Return the frozen trunk `net` with weights from a file, or found in a folder or the usual places.

    `random` has small fixed random weights, for wiring checks only. Raises PbvsError when the weights are missing,
    damaged or another net's.
    """
    trunk = Trunk(net)
    if net == "random":
        _fill(trunk)
        tensors = dict(trunk.state_dict())
    else:
        path = weights if weights is not None and weights.is_file() else find(net, weights)
        tensors = pick(trunk, read_tensors(path, get_source(net).prefix), path)
        trunk.load_state_dict(tensors)
    trunk.digest = fingerprint(tensors)
    return trunk


def pick(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the tensors that `module` uses; raise PbvsError when one is missing or has another shape."""
    wanted = module.state_dict()
    for name, value in wanted.items():
        if name not in tensors or tensors[name].shape != value.shape:
            found = "missing" if name not in tensors else f"{tuple(tensors[name].shape)}"
            raise PbvsError(
                f"{path} holds the weights of another net ({name} is {found}, not {tuple(value.shape)}); "
                "name the right file or another net."
            )
    return {name: tensors[name].to(torch.float32) for name in wanted}


def _fill(trunk: Trunk) -> None:
    generator = torch_generator(0, "random trunk")
    for parameter in trunk.parameters():
        fan_in = max(1, parameter[0].numel())
        scale = (2.0 / fan_in) ** 0.5 if parameter.dim() > 1 else 0.0
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
