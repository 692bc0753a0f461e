"""The terms that losses are made of, each a function of tensors; images in [-1, 1]."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pbvs.metrics.perceptual import imagenet_normalised
from pbvs.networks.pix2pixhd import Features
from pbvs.seeds import generator

Distance = Callable[[Tensor, Tensor], Tensor]

VGG_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)  # relu1_1 .. relu5_1, published pix2pixHD


def lsgan(features: Features, truth: float) -> Tensor:
    """Return the least-squares GAN loss: mean of (verdict - truth)^2, summed over the scales (Mao et al. 2017)."""
    return torch.stack([(scale[-1].float() - truth).square().mean() for scale in features]).sum()


def feature_matching(fake: Features, real: Features) -> Tensor:
    """Return the distance of the discriminator's features, the verdict left out; no gradient flows to `real`.

    Sum over scales and layers of L1 / number of scales * 4 / number of layers with a norm plus one, as published.
    """
    weight = 4.0 / (len(fake[0]) - 1) / len(fake)
    terms = [
        functional.l1_loss(x.float(), y.detach().float())
        for fakes, reals in zip(fake, real, strict=True)
        for x, y in zip(fakes[:-1], reals[:-1], strict=True)
    ]
    return torch.stack(terms).sum() * weight


def three_channels(x: Tensor) -> Tensor:
    """Return (N, 3, H, W): gray replicated, three as they are, else the mean of the channels replicated."""
    if x.shape[1] == 3:
        return x
    return x.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)


def vgg_distance(
    trunk: Callable[[Tensor], Sequence[Tensor]], fake: Tensor, real: Tensor, *, imagenet: bool = False
) -> Tensor:
    """Return the weighted L1 distance of VGG19's activations (Johnson et al. 2016, weights of published pix2pixHD).

    The published code feeds images in [-1, 1] as they are; `imagenet` normalises them as VGG19 was trained.
    """
    fake, real = three_channels(fake), three_channels(real)
    if imagenet:
        fake, real = imagenet_normalised(fake), imagenet_normalised(real)
    with torch.no_grad():
        wanted = trunk(real)
    terms = [
        weight * functional.l1_loss(x.float(), y.float())
        for weight, x, y in zip(VGG_WEIGHTS, trunk(fake), wanted, strict=True)
    ]
    return torch.stack(terms).sum()


def l2(fake: Tensor, real: Tensor) -> Tensor:
    """Return the challenge's L2: the root mean square error of each image on the scale [0, 1], then their mean.

    The tiny constant keeps the root's slope finite where the images are equal.
    """
    squares = ((fake - real).float() / 2).square().mean(dim=(1, 2, 3))
    return (squares + 1e-12).sqrt().mean()


def shifted_l2(fake: Tensor, real: Tensor, reach: int) -> Tensor:
    """Return `l2` where each image may lie up to `reach` pixels beside its target: the least of all whole shifts.

    A radar image and its optical partner are often a pixel or two apart; an error that a shift explains teaches the
    network only to blur. All shifts are measured on the same pixels, those that stay inside for every one of them.
    """
    if not reach:
        return l2(fake, real)
    height, width = (side - 2 * reach for side in fake.shape[2:])
    inner = fake[:, :, reach : reach + height, reach : reach + width]
    squares = [
        ((inner - real[:, :, down : down + height, across : across + width]).float() / 2).square().mean(dim=(1, 2, 3))
        for down in range(2 * reach + 1)
        for across in range(2 * reach + 1)
    ]
    return (torch.stack(squares).amin(dim=0) + 1e-12).sqrt().mean()


# --- LPIPS that cannot be gamed: several nets, on random crops, after random transforms of both images alike.

MOVED = 7  # pixels at most
ZOOMED = (0.7, 1.4)


@dataclass(frozen=True)
class PerceptualTerm:
    """One LPIPS of the loss: `net` with its weight, on the whole image or on `crops` squares of it.

    With `transforms` both images are first moved, flipped, turned and zoomed by the same random amounts, so that no
    pattern which only this net likes at this position pays (E-LPIPS: Kettunen et al. 2019, arXiv 1906.03973).
    """

    net: str
    weight: float = 1.0
    transforms: bool = False
    crops: int = 0
    crop_size: int = 64


class PerceptualLoss(nn.Module):
    """The weighted sum of LPIPS terms; what is random comes from (seed, index of the image in the training) alone.

    `nets` gives each term's distance, (N, C, H, W) in [-1, 1] twice to (N,). With a single plain term it is that
    term's mean over the images.
    """

    def __init__(self, terms: Sequence[PerceptualTerm], nets: Mapping[str, Distance], seed: int = 0):
        super().__init__()
        self.terms, self.nets, self.seed = tuple(terms), dict(nets), seed

    def forward(self, fake: Tensor, real: Tensor, first: int = 0) -> Tensor:
        """Return the loss of images (N, C, H, W) in [-1, 1]; `first` is the first one's index in the training."""
        total = fake.new_zeros((), dtype=torch.float32)
        for number, term in enumerate(self.terms):
            x, y = fake, real
            random = [generator(self.seed, "perceptual", number, first + n) for n in range(len(fake))]
            if term.transforms:
                x, y = transformed((x, y), random)
            if term.crops:
                x, y = cropped((x, y), term.crops, term.crop_size, random)
            total = total + term.weight * self.nets[term.net](x, y).float().mean()
        return total


def transformed(images: Sequence[Tensor], random: Sequence[np.random.Generator]) -> list[Tensor]:
    """Return batches (N, C, H, W) moved by up to `MOVED` pixels, flipped, turned and zoomed, each image in its way.

    Rows and columns are resampled by one matrix each, antialiased and reflected at the border: its gradient is a
    product of matrices, which every device computes reproducibly. Images that are not square are not turned.
    """
    height, width = images[0].shape[2:]
    draws = [
        (
            float(np.exp(rng.uniform(*np.log(ZOOMED)))),
            rng.uniform(-MOVED, MOVED, 2),
            rng.integers(2, size=3).astype(bool),
        )
        for rng in random
    ]
    rows, columns = (
        torch.stack([resampling(side, zoom, float(move[axis]), bool(flip[axis])) for zoom, move, flip in draws])
        for axis, side in enumerate((height, width))
    )
    turn = torch.tensor([bool(flip[2]) and height == width for _, _, flip in draws])
    device = images[0].device
    rows, columns, turn = rows.to(device)[:, None], columns.to(device)[:, None], turn.to(device)[:, None, None, None]
    with torch.autocast(device.type, enabled=False):
        moved = [rows @ x.float() @ columns.transpose(2, 3) for x in images]
        return [torch.where(turn, x.transpose(2, 3), x) if height == width else x for x in moved]


def resampling(side: int, zoom: float, move: float, flipped: bool) -> Tensor:
    """Return the (side, side) matrix that zooms a row of pixels about its middle, moves it and may flip it.

    A triangle filter as wide as a pixel of the result, at least one of the source's; each row of weights adds up to 1.
    """
    middle, reach = (side - 1) / 2, max(1.0, 1 / zoom)
    at = (np.arange(side) - middle) / zoom * (-1 if flipped else 1) + middle + move
    low, count = np.floor(at - reach).astype(int), int(np.ceil(2 * reach)) + 2
    taps = low[:, None] + np.arange(count)
    weights = np.maximum(0.0, 1 - np.abs(taps - at[:, None]) / reach)
    folded = np.mod(taps, 2 * side - 2)
    matrix = np.zeros((side, side))
    np.add.at(matrix, (np.arange(side)[:, None], np.minimum(folded, 2 * side - 2 - folded)), weights)
    return torch.from_numpy((matrix / matrix.sum(1, keepdims=True)).astype(np.float32))


def cropped(images: Sequence[Tensor], count: int, size: int, random: Sequence[np.random.Generator]) -> list[Tensor]:
    """Return `count` squares of `size` pixels of each image, at the same positions in every batch."""
    height, width = images[0].shape[2:]
    corners = [
        (number, int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1)))
        for number, rng in enumerate(random)
        for _ in range(count)
    ]
    return [torch.stack([x[n, :, top : top + size, left : left + size] for n, top, left in corners]) for x in images]
