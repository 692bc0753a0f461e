"""How a network translates an image of any size: on the grid it was trained on, padded, in tiles only where it must."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pbvs.data.images import resize
from pbvs.errors import enough_memory
from pbvs.networks.pix2pixhd import reflected

Image = NDArray[np.float32]
Forward = Callable[[Tensor], Tensor]
TILE_STEP = 0.5  # of a tile's side between neighbours at most, as nnU-Net does
LEAST_WEIGHT = 1e-3  # of a tile's corner, so that no pixel is without weight


@dataclass(frozen=True)
class Grid:
    """The sizes of the images that a network was trained on; an input is brought to one of them before the network.

    A network knows textures by their size in pixels: an input of half the resolution is another kind of image to it.
    An image's side is the root of its area. `whole`: images were resized to squares of one side for training.
    """

    least: float
    most: float
    whole: bool = False

    @classmethod
    def of(cls, sizes: Sequence[tuple[int, int]], whole: int = 0) -> Grid | None:
        """Return the grid of training images of these (height, width), None without any; `whole`: their square's side.

        The smallest and largest twentieth are left out, so that a few odd images do not make everything usual.
        """
        if whole:
            return cls(whole, whole, whole=True)
        if not sizes:
            return None
        least, most = np.quantile([math.sqrt(height * width) for height, width in sizes], (0.05, 0.95))
        return cls(float(least), float(most))

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size at which an image of (height, width) goes through the network.

        >>> Grid(256, 512).size(100, 400), Grid(256, 512).size(300, 400)
        ((128, 512), (300, 400))
        """
        if self.whole:
            return round(self.most), round(self.most)
        side = math.sqrt(height * width)
        scale = min(max(side, self.least), self.most) / side
        if abs(scale - 1) < 0.01:  # not worth a resampling
            return height, width
        return max(1, round(height * scale)), max(1, round(width * scale))

    def bring(self, image: Image) -> Image:
        """Return (H, W, C) in [0, 1] on the grid, antialiased."""
        return resize(image, *self.size(*image.shape[:2]))

    def table(self) -> dict[str, Any]:
        """Return what a model file states and `Grid(**table)` takes."""
        return asdict(self)


@dataclass(frozen=True)
class Inference:
    """`multiple`: what the network's sides must be multiples of; `pixels`: the most that go through it at once."""

    multiple: int
    pixels: int
    dihedral: bool = False  # average over the eight symmetries of the square

    @property
    def least_side(self) -> int:
        """The smallest side that reflections inside the network allow."""
        return 2 * self.multiple


def pixel_budget(gibibytes: float, width: int) -> int:
    """Return how many pixels of a network with `width` channels at full resolution fit into this much memory.

    At its peak a generator was measured to hold four and a half maps of full width in single precision, the
    convolutions' workspace among them; eight are reckoned with.
    """
    return max(1, int(gibibytes * 2**30 / (8 * 4 * width)))


@enough_memory("lower the stage's inference_memory (in GiB), as with --set stages.TASK.inference_memory=1")
def translate(network: nn.Module, images: Sequence[Image], how: Inference, device: str = "cpu") -> list[Image]:
    """Translate (H, W, C_source) images in [0, 1] to (H, W, C_target) of the same sizes, in the same order.

    Images of one size go through together as far as `how.pixels` allows.
    """
    training = network.training
    network.eval()
    results: list[Image | None] = [None] * len(images)
    try:
        with torch.inference_mode():
            for indices in batches_of_equal_size(images, how):
                some = [images[index].transpose(2, 0, 1) for index in indices]
                x = torch.from_numpy(np.stack(some, out=np.empty((len(some), *some[0].shape), np.float32)))
                y = forward_symmetric(network, x.mul_(2).sub_(1), how, device).add_(1).div_(2).clamp_(0, 1)
                for index, image in zip(indices, y, strict=True):
                    results[index] = image.permute(1, 2, 0).contiguous().numpy()
    finally:
        network.train(training)
    return [result for result in results if result is not None]


def batches_of_equal_size(images: Sequence[Image], how: Inference) -> Iterator[list[int]]:
    """Yield indices of images with one shape, as many as the pixel budget lets through together."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        by_shape.setdefault(image.shape, []).append(index)
    for shape, indices in by_shape.items():
        height, width = (padded_side(side, how) for side in shape[:2])
        count = max(1, how.pixels // (height * width))
        for start in range(0, len(indices), count):
            yield indices[start : start + count]


def forward_symmetric(network: Forward, x: Tensor, how: Inference, device: str) -> Tensor:
    """Return (N, C_target, H, W) on the CPU; averaged over turned and mirrored views when `how.dihedral`."""
    if not how.dihedral:
        return forward_padded(network, x, how, device)
    total = torch.zeros(())
    for turns in range(4):
        for mirrored in (False, True):
            view = torch.rot90(x.flip(3) if mirrored else x, turns, (2, 3)).contiguous()
            y = torch.rot90(forward_padded(network, view, how, device), -turns, (2, 3))
            total = total + (y.flip(3) if mirrored else y)
    return total / 8


def padded_side(side: int, how: Inference) -> int:
    """Return the side rounded up to the network's multiple, at least what it can take."""
    return max(how.least_side, -(-side // how.multiple) * how.multiple)


def forward_padded(network: Forward, x: Tensor, how: Inference, device: str) -> Tensor:
    """Pad by reflection to the network's multiple, translate whole or in tiles, and crop back."""
    height, width = x.shape[2:]
    top, left = (padded_side(height, how) - height) // 2, (padded_side(width, how) - width) // 2
    rows = reflected(height, top, padded_side(height, how) - height - top)
    columns = reflected(width, left, padded_side(width, how) - width - left)
    padded = x if (len(rows), len(columns)) == (height, width) else x.index_select(2, rows).index_select(3, columns)
    y = forward_tiled(network, padded, how, device)
    return y[:, :, top : top + height, left : left + width]


def forward_tiled(network: Forward, x: Tensor, how: Inference, device: str) -> Tensor:
    """Translate (N, C, H, W), whole when H x W is within the pixel budget, else tile by tile.

    Overlapping tiles are averaged with a Gaussian weight, which hides that instance norm sees each tile for itself.
    """
    height, width = x.shape[2:]
    tile_height, tile_width = tile_size(height, width, how)
    if (tile_height, tile_width) == (height, width):
        return network(x.to(device)).float().cpu()
    weight = gaussian(tile_height)[:, None] * gaussian(tile_width)[None, :]
    total = torch.zeros(())
    weights = torch.zeros(height, width)
    for top in starts(height, tile_height):
        for left in starts(width, tile_width):
            window = (..., slice(top, top + tile_height), slice(left, left + tile_width))
            y = network(x[window].to(device)).float().cpu()
            if total.dim() == 0:
                total = torch.zeros(*y.shape[:2], height, width)
            total[window] += y * weight
            weights[window] += weight
    return total.div_(weights)


def tile_size(height: int, width: int, how: Inference) -> tuple[int, int]:
    """Return the sides of a tile: multiples of the network's, within the budget, the whole when that fits."""
    if height * width <= how.pixels:
        return height, width
    square = int(how.pixels**0.5) // how.multiple * how.multiple
    tile_height = min(height, max(how.least_side, square))
    tile_width = min(width, max(how.least_side, how.pixels // tile_height // how.multiple * how.multiple))
    tile_height = min(height, max(how.least_side, how.pixels // tile_width // how.multiple * how.multiple))
    return tile_height, tile_width


def starts(side: int, tile: int) -> list[int]:
    """Return where tiles begin: evenly spread, the first at 0, the last at side - tile."""
    if tile >= side:
        return [0]
    count = int(np.ceil((side - tile) / (tile * TILE_STEP))) + 1
    return [round(number * (side - tile) / (count - 1)) for number in range(count)]


def gaussian(tile: int) -> Tensor:
    """Return (tile,) weights: 1 in the middle, a standard deviation of an eighth of the tile, nowhere nearly 0."""
    offsets = torch.arange(tile, dtype=torch.float32) - (tile - 1) / 2
    return torch.exp(-0.5 * (offsets / (tile / 8)) ** 2).clamp_min(LEAST_WEIGHT)
