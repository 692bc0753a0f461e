"""Translating images of any size: padded and cropped, tiled without seams, averaged over turns, within memory."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pbvs.networks.pix2pixhd import GeneratorConfig, build_generator
from pbvs.seeds import generator, torch_generator
from pbvs.translators import inference
from pbvs.translators.inference import Inference, forward_padded, forward_symmetric, forward_tiled, translate
from tests.conftest import REPOSITORY


class Same(nn.Module):
    """Gives back what it gets, and remembers the sizes it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape))
        return x


class Local(nn.Module):
    """A blur: what it gives at a pixel depends on the pixels around it alone."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def image(height: int, width: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    return generator(seed, "image").random((height, width, channels), dtype=np.float32)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (5, 100), (1, 1), (17, 64)])
def test_any_size_comes_back_as_it_was(size: tuple[int, int]) -> None:
    network, how = Same(), Inference(16, 10**6)
    original = image(*size)
    (result,) = translate(network, [original], how)
    assert np.allclose(result, original, atol=1e-6)
    assert all(side % 16 == 0 and side >= 32 for side in network.seen[0][2:])


def test_images_of_one_size_go_together_as_far_as_the_budget_goes() -> None:
    network = Same()
    images = [image(32, 32, seed=n) for n in range(5)] + [image(64, 32)]
    images.insert(1, image(16, 16))
    results = translate(network, images, Inference(16, 2 * 32 * 32))
    assert sorted(shape[0] for shape in network.seen) == [1, 1, 1, 2, 2]
    assert max(n * h * w for n, _, h, w in network.seen) <= 2 * 32 * 32
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(results, images, strict=True))


def test_a_image_within_the_budget_is_translated_whole_to_the_last_bit() -> None:
    network = build_generator(GeneratorConfig(1, 1, 4, 2, 1), torch_generator(1, "t"))
    x = torch.rand(1, 1, 64, 48) * 2 - 1
    with torch.inference_mode():
        assert torch.equal(forward_tiled(network, x, Inference(4, 64 * 48), "cpu"), network(x))


def test_tiles_join_without_seams() -> None:
    x = torch.rand(1, 2, 96, 160) * 2 - 1
    tiled = forward_tiled(Local(), x, Inference(8, 48 * 48), "cpu")
    assert torch.allclose(tiled[..., 1:-1, 1:-1], Local()(x)[..., 1:-1, 1:-1], atol=0.05)
    assert (tiled - Local()(x)).abs().mean() < 1e-3


@pytest.mark.parametrize("size", [(100, 1000), (1000, 100), (500, 501), (33, 2000)])
@pytest.mark.parametrize("budget", [32 * 32, 64 * 80, 300 * 300])
def test_tiles_never_exceed_the_budget_and_cover_all(size: tuple[int, int], budget: int) -> None:
    network, how = Same(), Inference(16, budget)
    x = torch.rand(1, 1, *size)
    with torch.inference_mode():
        y = forward_padded(network, x, how, "cpu")
    assert torch.allclose(y, x, atol=1e-5)
    assert max(h * w for _, _, h, w in network.seen) <= budget
    assert all(h % 16 == 0 and w % 16 == 0 for _, _, h, w in network.seen)


def test_tiles_overlap_by_half_at_least() -> None:
    starts = inference.starts(1000, 256)
    assert starts[0] == 0
    assert starts[-1] == 1000 - 256
    assert max(b - a for a, b in pairwise(starts)) <= 128


def test_weights_are_highest_in_the_middle_and_never_nothing() -> None:
    weight = inference.gaussian(64)
    assert int(weight.argmax()) in (31, 32)
    assert torch.equal(weight, weight.flip(0))
    assert float(weight.min()) >= inference.LEAST_WEIGHT


def test_the_eight_views_are_turned_back() -> None:
    x = torch.rand(2, 1, 32, 48) * 2 - 1
    assert torch.allclose(forward_symmetric(Same(), x, Inference(16, 10**6, dihedral=True), "cpu"), x, atol=1e-6)


def test_averaging_makes_any_network_turn_with_its_image() -> None:
    network = build_generator(GeneratorConfig(1, 1, 4, 1, 1), torch_generator(1, "t"))
    how = Inference(2, 10**6, dihedral=True)
    x = torch.rand(1, 1, 32, 32) * 2 - 1
    with torch.inference_mode():
        straight = forward_symmetric(network, x, how, "cpu")
        turned = forward_symmetric(network, torch.rot90(x, 1, (2, 3)), how, "cpu")
        plain = forward_symmetric(network, x, Inference(2, 10**6), "cpu")
    assert torch.allclose(torch.rot90(straight, 1, (2, 3)), turned, atol=1e-5)
    assert not torch.allclose(straight, plain, atol=1e-3)


def test_a_network_in_training_goes_on_training() -> None:
    network = Same().train()
    translate(network, [image(8, 8)], Inference(2, 10**6))
    assert network.training


MEASURE = """
import resource, sys
import numpy as np, torch
from pbvs.networks.pix2pixhd import GeneratorConfig, build_generator
from pbvs.seeds import torch_generator
from pbvs.translators.inference import Inference, pixel_budget, translate
torch.set_num_threads(1)
network = build_generator(GeneratorConfig(1, 1, 16, 2, 1), torch_generator(1, "t"))
translate(network, [np.zeros((64, 64, 1), np.float32)], Inference(4, 10**6))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
translate(network, [np.zeros((768, 768, 1), np.float32)], Inference(4, pixel_budget(float(sys.argv[1]), 16)))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20)
"""


def test_a_image_takes_no_more_memory_than_asked_for() -> None:
    gibibytes = 0.0625
    command = [sys.executable, "-c", MEASURE, str(gibibytes)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    own = 5 * 4 * 768 * 768 / 2**30  # the image, its padded copy, the sum, the weights, the result
    assert float(result.stdout) < gibibytes + own
