"""FID and KID: known values, torch-fidelity's where it is installed, and every path the same number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pbvs.errors import PbvsError
from pbvs.metrics.fid import LAYERS, Inception, fid, kid, load_inception, resize_like_tensorflow, trace_of_root

# torch-fidelity 0.4.0 on the features that the tests below compare: images in each set, distance.
GOLDEN_FID = [((60, 70), 31.658076445945667), ((300, 260), 14.488561903435055)]
GOLDEN_KID = 0.5913650931589114  # its mmd2 and kernel_poly on 60 images each


def features(count: int, width: int, seed: int, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, width)) @ np.random.default_rng(9).normal(size=(width, width)) / width**0.5 + shift


def random_inception(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in Inception().net.state_dict().items():
        if name.endswith("conv.weight"):
            state[name] = torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5
        elif name.endswith("running_var"):
            state[name] = torch.rand(value.shape, generator=generator) + 0.5
        elif name.endswith(("bn.bias", "running_mean")):
            state[name] = torch.randn(value.shape, generator=generator) * 0.1
        else:
            state[name] = torch.ones(value.shape) if name.endswith("weight") else torch.zeros((), dtype=torch.long)
    return state


def test_equal_sets_have_exactly_no_distance() -> None:
    found = features(30, 64, 0)
    assert fid(found, found.copy()) == 0.0
    assert kid(found, found.copy()) == 0.0
    other_order = found[np.random.default_rng(1).permutation(len(found))]
    assert fid(found, other_order) == 0.0
    assert kid(found, other_order) == 0.0


def test_diagonal_gaussians_have_the_distance_of_the_formula() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=(200_000, 2))
    second = rng.normal(size=(200_000, 2)) * 3.0 + 2.0
    assert fid(first, second) == pytest.approx(2 * 2.0**2 + 2 * (3.0 - 1.0) ** 2, rel=0.02)


def test_few_images_and_many_take_different_ways_to_one_number() -> None:
    first, second = features(40, 64, 1), features(50, 64, 2, 0.3)
    mean = np.square(first.mean(0) - second.mean(0)).sum()
    s1, s2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    expected = mean + np.trace(s1) + np.trace(s2) - 2 * trace_of_root(s1, s2)
    assert fid(first, second) == pytest.approx(expected, rel=1e-5)


def test_order_of_images_changes_nothing() -> None:
    first, second = features(80, 64, 1), features(90, 64, 2, 0.2)
    assert fid(first[::-1], second[::-1]) == pytest.approx(fid(first, second), abs=1e-6)
    assert kid(first[::-1], second[::-1]) == pytest.approx(kid(first, second), abs=1e-6)


def test_kid_is_the_unbiased_estimate() -> None:
    first, second = features(30, 8, 1), features(25, 8, 2, 0.5)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    off = ~np.eye(30, dtype=bool), ~np.eye(25, dtype=bool)
    expected = kernel(first, first)[off[0]].mean() + kernel(second, second)[off[1]].mean()
    assert kid(first, second) == pytest.approx(expected - 2 * kernel(first, second).mean(), rel=1e-9)


def test_one_image_is_no_set() -> None:
    with pytest.raises(PbvsError, match="at least 2"):
        fid(features(1, 8, 0), features(5, 8, 1))


@pytest.mark.parametrize(("counts", "expected"), GOLDEN_FID)
def test_golden_distances_of_torch_fidelity(counts: tuple[int, int], expected: float) -> None:
    first, second = features(counts[0], 64, 3), features(counts[1], 64, 4, 0.4)
    assert fid(first, second) == pytest.approx(expected, rel=1e-6)


def test_golden_kid_of_torch_fidelity() -> None:
    assert kid(features(60, 64, 3), features(60, 64, 4, 0.4)) == pytest.approx(GOLDEN_KID, rel=1e-9)


@pytest.mark.parametrize("counts", [(60, 70), (300, 260)])
def test_equal_to_torch_fidelity(counts: tuple[int, int]) -> None:
    metric = pytest.importorskip(
        "torch_fidelity.metric_fid", reason="torch-fidelity is not installed", exc_type=Exception
    )
    first, second = features(counts[0], 64, 3), features(counts[1], 64, 4, 0.4)
    stats = [metric.fid_features_to_statistics(torch.from_numpy(part)) for part in (first, second)]
    expected = metric.fid_statistics_to_metric(*stats, False)["frechet_inception_distance"]
    assert fid(first, second) == pytest.approx(expected, rel=1e-6)


def test_inceptions_features_equal_torch_fidelitys(tmp_path: Path) -> None:
    other = pytest.importorskip(
        "torch_fidelity.feature_extractor_inceptionv3", reason="torch-fidelity is not installed", exc_type=Exception
    )
    path = tmp_path / "inception.pth"
    state = {**random_inception(), "fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    torch.save(state, path)
    names = [str(layer) for layer in LAYERS]
    reference = other.FeatureExtractorInceptionV3("x", names, feature_extractor_weights_path=str(path))
    images = torch.randint(0, 256, (2, 3, 97, 120), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    found = load_inception(path)(images)
    for name, expected in zip(names, reference(images), strict=True):
        assert torch.allclose(found[int(name)], expected, atol=1e-5, rtol=1e-6)


def test_inception_has_the_published_size_and_four_layers(tmp_path: Path) -> None:
    path = tmp_path / "pt_inception-2015-12-05-6726825d.pth"
    torch.save(random_inception(), path)
    network = load_inception(tmp_path)
    assert sum(value.numel() for value in network.parameters()) == 21_785_568  # Inception-v3 without its classifier
    assert not network.train().training
    found = network(torch.randint(0, 256, (1, 1, 64, 64), dtype=torch.uint8))
    assert {layer: value.shape[1] for layer, value in found.items()} == {layer: layer for layer in LAYERS}


def test_weights_of_another_net_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"features.0.weight": torch.zeros(1)}, path)
    with pytest.raises(PbvsError, match="another net"):
        load_inception(path)


def test_resampling_takes_sources_at_index_times_ratio() -> None:
    line = torch.arange(4.0).view(1, 1, 1, 4).expand(1, 1, 4, 4)
    assert resize_like_tensorflow(line, 8)[0, 0, 0].tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3]
