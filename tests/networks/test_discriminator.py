"""The discriminator: published sizes, names, feature maps, and which parameters judge which resolution."""

from __future__ import annotations

import pytest
import torch

from pbvs.networks.pix2pixhd import DiscriminatorConfig, MultiscaleDiscriminator, build_discriminator, count_parameters
from pbvs.seeds import torch_generator


@pytest.mark.parametrize(("scales", "count"), [(2, 5_535_618), (3, 8_303_427)])
def test_published_parameter_counts(scales: int, count: int) -> None:
    with torch.device("meta"):
        assert count_parameters(MultiscaleDiscriminator(DiscriminatorConfig(6, 64, scales))) == count


def test_names_are_the_published_ones() -> None:
    with torch.device("meta"):
        names = set(MultiscaleDiscriminator(DiscriminatorConfig(6, 2, 2)).state_dict())
    assert names == {f"scale{s}_layer{j}.0.{p}" for s in range(2) for j in range(5) for p in ("weight", "bias")}


@pytest.mark.parametrize(
    ("side", "sizes"),
    [(512, [[257, 129, 65, 66, 67], [129, 65, 33, 34, 35]]), (256, [[129, 65, 33, 34, 35], [65, 33, 17, 18, 19]])],
)
def test_feature_maps_have_the_published_sizes(side: int, sizes: list[list[int]]) -> None:
    with torch.device("meta"):
        network = MultiscaleDiscriminator(DiscriminatorConfig(2, 2, 2))
        features = network(torch.empty(1, 1, side, side), torch.empty(1, 1, side, side))
    assert [[layer.shape[-1] for layer in scale] for scale in features] == sizes


def test_the_highest_number_judges_the_full_resolution() -> None:
    network = build_discriminator(DiscriminatorConfig(2, 4, 2), torch_generator(1, "test"))
    source, target = torch.rand(1, 1, 32, 32), torch.rand(1, 1, 32, 32)
    before = network(source, target)
    with torch.no_grad():
        network.get_submodule("scale1_layer0")[0].bias.add_(1.0)
    after = network(source, target)
    assert not torch.equal(before[0][0], after[0][0])
    assert torch.equal(before[1][0], after[1][0])


def test_every_parameter_gets_a_gradient() -> None:
    network = build_discriminator(DiscriminatorConfig(3, 4, 3), torch_generator(1, "test"))
    features = network(torch.rand(1, 1, 64, 64), torch.rand(1, 2, 64, 64))
    sum((scale[-1] - 1).square().mean() for scale in features).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        if parameter.dim() == 4:
            assert parameter.grad.abs().sum() > 0, name
