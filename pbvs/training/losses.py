"""The terms of the paper's loss, each a function of tensors; images in [-1, 1]."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from pbvs.networks.pix2pixhd import Features

VGG_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)  # relu1_1 .. relu5_1, published pix2pixHD
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


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
    """Return (N, 3, H, W): grey replicated, three as they are, else the mean of the channels replicated."""
    if x.shape[1] == 3:
        return x
    return x.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)


def imagenet_normalised(x: Tensor) -> Tensor:
    """Return (N, 3, H, W) in [-1, 1] with ImageNet's mean and deviation instead."""
    mean = x.new_tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
    deviation = x.new_tensor(IMAGENET_STD).view(1, 3, 1, 1)
    return ((x + 1) / 2 - mean) / deviation


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
