"""Weights for other channels: grey in gives what grey replicated gave, grey out is the mean of the colours."""

from __future__ import annotations

import torch
from torch.nn import functional

from pbvs.networks.pix2pixhd import (
    DiscriminatorConfig,
    GeneratorConfig,
    adapt_discriminator,
    adapt_generator,
    adapt_inputs,
    adapt_outputs,
    build_discriminator,
    build_generator,
    make_generator,
)
from pbvs.seeds import torch_generator


def test_a_grey_stem_sees_grey_as_the_colour_stem_saw_it_replicated() -> None:
    weight, x = torch.randn(4, 3, 3, 3), torch.rand(1, 1, 8, 8)
    expected = functional.conv2d(x.repeat(1, 3, 1, 1), weight)
    assert torch.allclose(functional.conv2d(x, adapt_inputs(weight, 1)), expected, atol=1e-5)


def test_a_wider_stem_sees_replicated_grey_as_the_grey_stem_did() -> None:
    weight, x = torch.randn(4, 1, 3, 3), torch.rand(1, 1, 8, 8)
    wide = adapt_inputs(weight, 3)
    assert wide.shape == (4, 3, 3, 3)
    assert torch.allclose(functional.conv2d(x.repeat(1, 3, 1, 1), wide), functional.conv2d(x, weight), atol=1e-5)


def test_heads_average_and_repeat() -> None:
    weight = torch.randn(3, 4, 7, 7)
    assert torch.allclose(adapt_outputs(weight, 1)[0], weight.mean(0))
    assert torch.equal(adapt_outputs(weight[:1], 3)[2], weight[0])
    assert torch.equal(adapt_outputs(weight, 3), weight)


def test_a_whole_generator_changes_its_channels() -> None:
    for enhancers in (0, 1):
        old = GeneratorConfig(1, 1, 4, 2, 1, enhancers)
        new = GeneratorConfig(3, 3, 4, 2, 1, enhancers)
        first = build_generator(old, torch_generator(1, "test"))
        second = make_generator(new)
        second.load_state_dict(adapt_generator(first.state_dict(), old, new))
        x = torch.rand(1, 1, 32, 32)
        assert torch.allclose(second(x.repeat(1, 3, 1, 1)), first(x).repeat(1, 3, 1, 1), atol=1e-4)


def test_a_discriminator_keeps_source_and_target_apart() -> None:
    network = build_discriminator(DiscriminatorConfig(2, 4, 2), torch_generator(1, "test"))
    adapted = adapt_discriminator(network.state_dict(), (1, 1), (1, 3))
    weight = adapted["scale0_layer0.0.weight"]
    old = network.state_dict()["scale0_layer0.0.weight"]
    assert weight.shape[1] == 4
    assert torch.equal(weight[:, 0], old[:, 0])
    assert torch.allclose(weight[:, 1:].sum(1), old[:, 1])
