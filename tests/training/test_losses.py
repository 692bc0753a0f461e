"""The loss terms, against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import shift

from pbvs.metrics.perceptual import Lpips
from pbvs.seeds import generator, torch_generator
from pbvs.training import losses
from pbvs.training.losses import PerceptualLoss, PerceptualTerm


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


def smooth(count: int = 2, side: int = 64) -> torch.Tensor:
    coarse = torch.rand(count, 1, side // 8, side // 8, generator=torch_generator(7, "smooth")) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")


def distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x - y).abs().mean((1, 2, 3))


def test_perceptual_terms_are_weighted_and_added() -> None:
    x, y = smooth(), smooth().flip(2)
    terms = [PerceptualTerm("one", 0.5), PerceptualTerm("two", 2.0)]
    loss = PerceptualLoss(terms, {"one": distance, "two": lambda a, b: 3 * distance(a, b)})
    assert float(loss(x, y)) == pytest.approx(6.5 * float(distance(x, y).mean()))


def test_one_plain_term_is_lpips() -> None:
    x, y, lpips = smooth(), smooth().flip(3), Lpips("random")
    assert float(PerceptualLoss([PerceptualTerm("random")], {"random": lpips})(x, y)) == float(lpips(x, y).mean())


@pytest.mark.parametrize(
    "options", [{"transforms": True}, {"crops": 3, "crop_size": 32}, {"transforms": True, "crops": 1}]
)
def test_what_is_random_is_shared_by_both_images_and_depends_on_their_index_alone(options: dict[str, int]) -> None:
    seen: list[torch.Tensor] = []

    def spy(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        assert torch.equal(x, y)
        seen.append(x)
        return distance(x, y)

    loss = PerceptualLoss([PerceptualTerm("spy", **options)], {"spy": spy}, seed=5)
    images = smooth(4)
    loss(images, images, 10)
    loss(images[2:], images[2:], 12)
    loss(images, images, 11)
    assert len(seen[0]) == 4 * max(1, options.get("crops", 0))
    assert torch.equal(seen[0][len(seen[0]) // 2 :], seen[1])
    assert not torch.equal(seen[0], seen[2])


def test_crops_are_parts_of_the_images() -> None:
    ramp = torch.arange(48 * 48.0).view(1, 1, 48, 48)
    (cut,) = losses.cropped([ramp], 5, 16, [generator(1, "crop")])
    assert cut.shape == (5, 1, 16, 16)
    assert torch.equal(cut[:, 0, 1:] - cut[:, 0, :-1], torch.full((5, 15, 16), 48.0))
    assert len({float(part[0, 0, 0]) for part in cut}) > 1


@pytest.mark.parametrize("move", [0.0, 2.0, -5.0])
def test_resampling_moves_as_scipy_does(move: float) -> None:
    image = smooth(1)[0, 0].double().numpy()
    made = losses.resampling(64, 1.0, move, False).double().numpy() @ image
    np.testing.assert_allclose(made, shift(image, (-move, 0), order=1, mode="mirror"), atol=1e-5)


def test_resampling_zooms_as_scipy_does_and_flips() -> None:
    row = smooth(1)[0, 0, 5].double().numpy()
    enlarged = losses.resampling(64, 1.4, 0.0, False).double().numpy() @ row
    at = (np.arange(64) - 31.5) / 1.4 + 31.5
    np.testing.assert_allclose(enlarged, np.interp(at, np.arange(64), row), atol=1e-5)
    matrix = losses.resampling(64, 0.7, 3.0, True)
    torch.testing.assert_close(matrix.sum(1), torch.ones(64))
    assert float((matrix >= 0).float().mean()) == 1
    np.testing.assert_allclose(losses.resampling(64, 1.0, 0.0, True).double().numpy() @ row, row[::-1], atol=1e-6)


def test_gradients_reach_the_made_image_through_transforms_and_crops() -> None:
    made = smooth().requires_grad_(True)
    loss = PerceptualLoss([PerceptualTerm("d", transforms=True, crops=2, crop_size=48)], {"d": distance}, 3)
    loss(made, smooth().flip(2)).backward()
    assert made.grad is not None
    assert bool(torch.isfinite(made.grad).all())
    assert float((made.grad != 0).float().mean()) > 0.3
