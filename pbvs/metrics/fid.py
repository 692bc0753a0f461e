"""Distances of sets of images: FID and KID on Inception-v3, and a Frechet distance on VGG-16 by its own name.

FID: Heusel et al. 2017, |m1 - m2|^2 + Tr(S1 + S2 - 2 sqrt(S1 S2)). KID: Binkowski et al. 2018, the unbiased estimate
of the squared maximum mean discrepancy with the kernel (x.y / d + 1)^3, over all pairs rather than random subsets.
Both in float64, with no matrix root that can turn complex. The network is torchvision's Inception-v3, changed to the
variant that FID is defined on, with the published weights (pt_inception-2015-12-05-6726825d.pth).
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pbvs.errors import PbvsError
from pbvs.metrics.base import Array, Features, Network, SetMetric, Setting, register
from pbvs.metrics.perceptual import Frozen, as_tensor, full_precision, imagenet_normalised, load_trunk, pick
from pbvs.metrics.weights import find, fingerprint, read_tensors

ENOUGH = 2048  # images below which FID at 2048 dimensions is singular and biased upward
BLOCK = 2048  # rows of a kernel matrix that are in memory at a time
SIDE = 299
LAYERS = (64, 192, 768, 2048)

Vectors = NDArray[np.floating]


def fid(first: Vectors, second: Vectors) -> float:
    """Return the Frechet distance of two sets of features (N, D) and (M, D), 0 for equal sets; needs N, M >= 2.

    With fewer images than dimensions the trace is the sum of singular values of the centred features' product,
    which is the same number without a D x D matrix.
    """
    first, second = _checked(first), _checked(second)
    if same_set(first, second):
        return 0.0
    mean_1, mean_2 = first.mean(0), second.mean(0)
    centred_1 = (first - mean_1) / np.sqrt(len(first) - 1)
    centred_2 = (second - mean_2) / np.sqrt(len(second) - 1)
    traces = float(np.square(centred_1).sum() + np.square(centred_2).sum())
    if max(len(first), len(second)) < first.shape[1]:
        root = float(np.linalg.svd(centred_1 @ centred_2.T, compute_uv=False).sum())
    else:
        root = trace_of_root(centred_1.T @ centred_1, centred_2.T @ centred_2)
    return max(0.0, float(np.square(mean_1 - mean_2).sum()) + traces - 2.0 * root)


def trace_of_root(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return Tr sqrt(S1 S2) of two covariances (D, D), as the roots of the eigenvalues of S1^1/2 S2 S1^1/2."""
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(0.0))) @ vectors.T
    return float(np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0.0)).sum())


def kid(first: Vectors, second: Vectors) -> float:
    """Return the unbiased squared kernel distance of features (N, D) and (M, D).

    It may be slightly negative for sets of one distribution; a set with itself, in whatever order, has exactly 0.
    """
    first, second = _checked(first), _checked(second)
    if same_set(first, second):
        return 0.0
    n, m = len(first), len(second)
    own = (_kernel_sum(first, first) - _diagonal(first)) / (n * (n - 1))
    other = (_kernel_sum(second, second) - _diagonal(second)) / (m * (m - 1))
    return own + other - 2.0 * _kernel_sum(first, second) / (n * m)


def same_set(first: NDArray[np.float64], second: NDArray[np.float64]) -> bool:
    """Return whether two sets have the same features to rounding, in any order."""
    if first.shape != second.shape:
        return False
    one, other = (values[np.lexsort(values.T[::-1][-3:])] for values in (first, second))
    scale = float(np.abs(one).max(initial=0.0))
    return bool(np.abs(one - other).max(initial=0.0) <= 1e-6 * scale)


def _kernel_sum(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    blocks = range(0, len(first), BLOCK)
    return float(sum(((first[at : at + BLOCK] @ second.T / first.shape[1] + 1.0) ** 3).sum() for at in blocks))


def _diagonal(features: NDArray[np.float64]) -> float:
    return float(((np.square(features).sum(1) / features.shape[1] + 1.0) ** 3).sum())


def _checked(features: Vectors) -> NDArray[np.float64]:
    if features.ndim != 2 or len(features) < 2:
        raise PbvsError(f"A distance of two sets needs at least 2 images in each, not {len(features)}.")
    checked = np.asarray(features, np.float64)
    if not np.isfinite(checked).all():
        raise PbvsError("Features of an image are not finite, so the sets have no distance; check the weights.")
    return checked


class Inception(Frozen):
    """Frozen Inception-v3 of FID; `forward` returns the four layers that FID is taken at, averaged over positions.

    It differs from torchvision's in three things: average pools leave out the padding, the last block pools with a
    maximum, and images are resampled as TensorFlow 1 did.
    """

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import Inception3

        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net: Any = Inception3(num_classes=1, aux_logits=False, init_weights=False)
        for name in ("5b", "5c", "5d", "6b", "6c", "6d", "6e", "7b"):
            net.get_submodule(f"Mixed_{name}").branch_pool.register_forward_pre_hook(_without_padding)
        net.Mixed_7c._forward = functools.partial(_last_block, net.Mixed_7c)
        del net.fc
        self.net = net
        self.digest = ""
        self.freeze()

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        """Return {64, 192, 768, 2048: (N, layer)} for images (N, 3 or 1, H, W) with values 0..255."""
        if x.dim() != 4 or x.shape[1] not in (1, 3):
            raise PbvsError(f"Inception takes images of shape (N, 3 or 1, H, W), not {tuple(x.shape)}.")
        net = self.net
        x = (resize_like_tensorflow(x.float().expand(-1, 3, -1, -1), SIDE) - 128) / 128
        found = {}
        for layer, names in (
            (64, ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1")),
            (192, ("Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool2")),
            (768, ("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e")),
            (2048, ("Mixed_7a", "Mixed_7b", "Mixed_7c")),
        ):
            for name in names:
                x = net.get_submodule(name)(x)
            found[layer] = x.mean((2, 3))
        return found


def _without_padding(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """Turn averages of 3 x 3 that count the padding's zeros into averages of what lies inside."""
    (pooled,) = inputs
    share = functional.avg_pool2d(torch.ones_like(pooled[:1, :1]), 3, 1, 1)
    return (pooled / share,)


def _last_block(block: Any, x: Tensor) -> list[Tensor]:
    """Return the branches of the last block, whose pool is a maximum in the network that FID is defined on."""
    three = block.branch3x3_1(x)
    double = block.branch3x3dbl_2(block.branch3x3dbl_1(x))
    return [
        block.branch1x1(x),
        torch.cat((block.branch3x3_2a(three), block.branch3x3_2b(three)), 1),
        torch.cat((block.branch3x3dbl_3a(double), block.branch3x3dbl_3b(double)), 1),
        block.branch_pool(functional.max_pool2d(x, 3, 1, 1)),
    ]


def resize_like_tensorflow(x: Tensor, side: int) -> Tensor:
    """Resample (N, C, H, W) to a square bilinearly as TensorFlow 1 does: sources at index * (size / side), no
    half-pixel offset, no antialiasing.
    """
    for dim in (2, 3):
        size = x.shape[dim]
        places = torch.arange(side, device=x.device, dtype=x.dtype) * (size / side)
        low = places.floor().long().clamp(max=size - 1)
        high = (low + 1).clamp(max=size - 1)
        share = (places - low).view([-1 if axis == dim else 1 for axis in range(4)])
        lower = x.index_select(dim, low)
        x = lower + (x.index_select(dim, high) - lower) * share
    return x


def load_inception(weights: Path | None = None) -> Inception:
    """Return the frozen network with weights from a file, or found in a folder or the usual places.

    Raises PbvsError when the weights are missing, damaged or another net's.
    """
    path = weights if weights is not None and weights.is_file() else find("inception", weights)
    network = Inception()
    wanted = network.net.state_dict()
    counters = {name: torch.zeros((), dtype=torch.long) for name in wanted if name.endswith("num_batches_tracked")}
    used = pick({name: value for name, value in wanted.items() if name not in counters}, read_tensors(path), path)
    network.net.load_state_dict({**used, **counters}, assign=True)
    network.requires_grad_(False)
    network.digest = fingerprint(used)
    return network


class InceptionNetwork(Network):
    """Inception on a device; an image's features are its four layers."""

    def __init__(self, setting: Setting):
        self.inception = load_inception(setting.find("inception")).to(setting.device)
        self.device, self.digest = setting.device, self.inception.digest

    @torch.inference_mode()
    def features(self, images: Sequence[Array]) -> list[Features]:
        """Return the four layers of each image, (layer,) each."""
        with full_precision(self.device):
            found = self.inception((as_tensor(images, self.device) + 1.0).mul_(127.5).round_())
        return [[found[layer][n].cpu() for layer in LAYERS] for n in range(len(images))]


class VggNetwork(Network):
    """VGG-16 on a device; an image's features are the means over positions of relu5_3, 512 numbers."""

    def __init__(self, setting: Setting):
        self.trunk = load_trunk("vgg", setting.find("vgg")).to(setting.device)
        self.device, self.digest = setting.device, f"{self.trunk.digest}-mean"

    @torch.inference_mode()
    def features(self, images: Sequence[Array]) -> list[Features]:
        """Return the means of the last tap of each image."""
        with full_precision(self.device):
            found = self.trunk(imagenet_normalised(as_tensor(images, self.device)))[-1].mean((2, 3)).cpu()
        return [[vector] for vector in found]


class _SetDistance(SetMetric):
    """A distance of two sets of vectors: those of one layer of a network's features."""

    layer = 0

    def distance(self, predictions: Sequence[Features], targets: Sequence[Features]) -> float:
        """Return the distance of the features; raises PbvsError when a set has fewer than two images."""
        first, second = (np.array([each[self.layer].numpy() for each in images]) for images in (predictions, targets))
        return self._between(first, second)

    def _between(self, first: Vectors, second: Vectors) -> float:
        return fid(first, second)


class _OnInception(_SetDistance):
    """A metric at one of Inception's layers, the number at the end of its name."""

    def __init__(self, name: str, setting: Setting):
        super().__init__(name, setting)
        self.network = setting.network("inception", lambda: InceptionNetwork(setting))
        self.layer = LAYERS.index(int(name.rsplit("-", 1)[1]))


@register
class Fid(_OnInception):
    """FID at one of Inception's layers; 2048 is what the word means by itself."""

    names = tuple(f"fid-{layer}" for layer in LAYERS)


@register
class Kid(_OnInception):
    """KID at one of Inception's layers, without FID's bias for small sets."""

    names = tuple(f"kid-{layer}" for layer in LAYERS)

    def _between(self, first: Vectors, second: Vectors) -> float:
        return kid(first, second)


@register
class FrechetVgg(_SetDistance):
    """The Frechet distance of VGG-16's features (relu5_3, means over positions): not FID, and on no common scale."""

    names = ("frechet-vgg16",)
    has_floor = True

    def __init__(self, name: str, setting: Setting):
        super().__init__(name, setting)
        self.network = setting.network("vgg-means", lambda: VggNetwork(setting))
