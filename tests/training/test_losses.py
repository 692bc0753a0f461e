"""The loss terms, against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from pbvs.seeds import torch_generator
from pbvs.training import losses


def features(*scales: list[float]) -> list[list[torch.Tensor]]:
    """One 2 x 2 map for each number."""
    return [[torch.full((1, 1, 2, 2), value) for value in scale] for scale in scales]


def test_lsgan_sums_the_scales_verdicts() -> None:
    found = losses.lsgan(features([9.0, 0.5], [9.0, -1.0]), 1.0)
    assert float(found) == pytest.approx(0.25 + 4.0)
    assert float(losses.lsgan(features([9.0, 0.5], [9.0, -1.0]), 0.0)) == pytest.approx(0.25 + 1.0)


def test_feature_matching_with_the_published_layers_weighs_each_layer_by_one_over_the_scales() -> None:
    fake = features([1.0, 2.0, 3.0, 4.0, 100.0], [0.0, 0.0, 0.0, 0.0, 100.0])
    real = features([0.0, 0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0, 0.0])
    assert float(losses.feature_matching(fake, real)) == pytest.approx((1 + 2 + 3 + 4) / 2 + 4 / 2)


def test_feature_matching_with_other_depths_keeps_the_sum_of_four_layers() -> None:
    fake, real = features([1.0] * 7), features([0.0] * 7)  # n_layers 5: weight 4 / 6 each
    assert float(losses.feature_matching(fake, real)) == pytest.approx(6 * 4 / 6)


def test_feature_matching_leaves_the_real_side_alone() -> None:
    fake = [[torch.ones(1, 1, 2, 2, requires_grad=True) for _ in range(5)]]
    real = [[torch.zeros(1, 1, 2, 2, requires_grad=True) for _ in range(5)]]
    losses.feature_matching(fake, real).backward()
    assert fake[0][0].grad is not None
    assert fake[0][4].grad is None
    assert all(x.grad is None for x in real[0])


def taps(x: torch.Tensor) -> list[torch.Tensor]:
    return [x * (number + 1) for number in range(5)]


def test_vgg_distance_has_the_published_weights() -> None:
    fake, real = torch.full((2, 3, 4, 4), 0.5), torch.zeros(2, 3, 4, 4)
    expected = 0.5 * (1 / 32 + 2 / 16 + 3 / 8 + 4 / 4 + 5)
    assert float(losses.vgg_distance(taps, fake, real)) == pytest.approx(expected)


def test_vgg_distance_may_normalise_as_imagenet() -> None:
    fake, real = torch.ones(1, 3, 4, 4), -torch.ones(1, 3, 4, 4)
    per_unit = sum(1 / deviation for deviation in (0.229, 0.224, 0.225)) / 3
    expected = per_unit * (1 / 32 + 2 / 16 + 3 / 8 + 4 / 4 + 5)
    assert float(losses.vgg_distance(taps, fake, real, imagenet=True)) == pytest.approx(expected, rel=1e-5)


def test_vgg_distance_takes_grey() -> None:
    assert float(losses.vgg_distance(taps, torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4))) == 0


def test_l2_is_the_mean_of_each_images_root_mean_square_on_unit_scale() -> None:
    fake = torch.stack((torch.full((1, 2, 2), 1.0), torch.full((1, 2, 2), 0.0)))
    real = torch.stack((torch.full((1, 2, 2), -1.0), torch.tensor([[[0.6, 0.0], [0.0, 0.8]]])))
    expected = (1.0 + math.sqrt((0.09 + 0.16) / 4)) / 2
    assert float(losses.l2(fake, real)) == pytest.approx(expected, rel=1e-6)


def test_l2_of_equal_images_has_a_finite_gradient() -> None:
    x = torch.zeros(1, 1, 4, 4, requires_grad=True)
    losses.l2(x, torch.zeros(1, 1, 4, 4)).backward()
    assert x.grad is not None
    assert bool(torch.isfinite(x.grad).all())


def test_a_shift_within_reach_costs_nothing_and_beyond_it_does() -> None:
    real = torch.rand(2, 1, 20, 20, generator=torch_generator(5, "real")) * 2 - 1
    fake = torch.roll(real, (2, -1), dims=(2, 3))
    assert losses.shifted_l2(fake, real, 2) < 1e-5
    assert losses.shifted_l2(fake, real, 1) > 0.1
    assert losses.shifted_l2(fake, real, 0) == losses.l2(fake, real)


def test_each_image_of_a_batch_has_its_own_shift() -> None:
    real = torch.rand(2, 1, 20, 20, generator=torch_generator(6, "real")) * 2 - 1
    fake = torch.stack([torch.roll(real[0], 1, dims=1), torch.roll(real[1], -1, dims=2)])
    assert losses.shifted_l2(fake, real, 1) < 1e-5
