"""The generators: published sizes and names, exact shapes, gradients everywhere, recomputation that changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pbvs.networks.pix2pixhd import (
    GeneratorConfig,
    LocalEnhancer,
    ReflectionPad,
    build_generator,
    count_parameters,
    make_generator,
    reflected,
    set_deterministic,
    stages_of,
)
from pbvs.seeds import torch_generator

SMALL = GeneratorConfig(3, 3, width=4, downsamplings=2, blocks=4)
SMALL_LOCAL = GeneratorConfig(1, 3, width=4, downsamplings=2, blocks=1, enhancers=1, enhancer_blocks=2)


def published_names(depth: int, blocks: int, *, with_head: bool = True) -> set[str]:
    """The key patterns of published checkpoints."""
    names = ["model.1"]
    names += [f"model.{4 + 3 * i}" for i in range(depth)]
    names += [f"model.{4 + 3 * depth + b}.conv_block.{c}" for b in range(blocks) for c in (1, 5)]
    names += [f"model.{4 + 3 * depth + blocks + 3 * i}" for i in range(depth)]
    names += [f"model.{4 + 6 * depth + blocks + 1}"] if with_head else []
    return {f"{name}.{part}" for name in names for part in ("weight", "bias")}


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (GeneratorConfig(), 182_443_267),
        (GeneratorConfig(36, 3), 182_546_755),
        (GeneratorConfig(1, 1), 182_430_721),
        (GeneratorConfig(1, 3), 182_436_995),
        (GeneratorConfig(downsamplings=3), 45_593_347),
        (GeneratorConfig(width=32), 45_620_867),
        (GeneratorConfig(width=32, enhancers=1), 182_701_827),
    ],
)
def test_published_parameter_counts(config: GeneratorConfig, count: int) -> None:
    with torch.device("meta"):
        assert count_parameters(make_generator(config)) == count


@pytest.mark.parametrize(("depth", "blocks"), [(4, 9), (3, 9), (2, 0), (1, 1)])
def test_global_names_are_the_published_ones(depth: int, blocks: int) -> None:
    with torch.device("meta"):
        names = set(make_generator(GeneratorConfig(width=2, downsamplings=depth, blocks=blocks)).state_dict())
    assert names == published_names(depth, blocks)


def test_default_has_56_tensors_with_the_head_at_38() -> None:
    names = published_names(4, 9)
    assert len(names) == 56
    assert "model.38.weight" in names


def test_local_names_are_the_published_ones() -> None:
    with torch.device("meta"):
        names = set(make_generator(GeneratorConfig(width=32, enhancers=1)).state_dict())
    layers = ["model1_1.1", "model1_1.4", "model1_2.3", "model1_2.7"]
    layers += [f"model1_2.{b}.conv_block.{c}" for b in range(3) for c in (1, 5)]
    local = {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    assert names == published_names(4, 9, with_head=False) | local


@pytest.mark.parametrize("upsampling", ["transpose", "resize"])
@pytest.mark.parametrize("enhancers", [0, 1, 2])
def test_output_has_the_inputs_size_and_lies_in_range(upsampling: str, enhancers: int) -> None:
    config = GeneratorConfig(2, 3, 4, 2, 1, enhancers, 1, upsampling)
    network = build_generator(config, torch_generator(1, "test"))
    y = network(torch.rand(2, 2, 2 * config.multiple, 3 * config.multiple) * 2 - 1)
    assert y.shape == (2, 3, 2 * config.multiple, 3 * config.multiple)
    assert y.abs().max() <= 1


@pytest.mark.parametrize("config", [SMALL, SMALL_LOCAL])
def test_every_parameter_gets_a_gradient(config: GeneratorConfig) -> None:
    network = build_generator(config, torch_generator(1, "test"))
    network(torch.rand(1, config.source_channels, 32, 32) * 2 - 1).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        if parameter.dim() == 4:
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("config", [SMALL, SMALL_LOCAL])
def test_recomputation_changes_no_bit(config: GeneratorConfig) -> None:
    network = build_generator(config, torch_generator(1, "test"))
    x = torch.rand(1, config.source_channels, 32, 32) * 2 - 1
    found = []
    for recompute in (False, True):
        network.recompute = recompute
        y = network(x)
        gradients = torch.autograd.grad(y.square().mean(), list(network.parameters()))
        found.append([y.detach(), *gradients])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_stages_keep_all_layers_in_order() -> None:
    network = build_generator(SMALL, torch_generator(1, "test"))
    stages = list(stages_of(network.model))
    assert len(stages) > 5
    assert [layer for stage in stages for layer in stage] == list(network.model)


def test_first_weights_depend_on_the_generator_alone() -> None:
    torch.manual_seed(5)
    first = build_generator(SMALL, torch_generator(3, "a")).state_dict()
    before = torch.random.get_rng_state()
    second = build_generator(SMALL, torch_generator(3, "a")).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    weights = torch.cat([value.flatten() for name, value in first.items() if name.endswith("weight")])
    assert abs(float(weights.std()) - 0.02) < 0.002


def test_norm_keeps_images_apart() -> None:
    network = build_generator(SMALL, torch_generator(1, "test"))
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    assert torch.allclose(network(x)[1], network(x[1:])[0], atol=1e-6)


def test_fixed_phase_frees_the_last_enhancer_only() -> None:
    network = build_generator(SMALL_LOCAL, torch_generator(1, "test"))
    assert isinstance(network, LocalEnhancer)
    fixed = {id(parameter) for parameter in network.global_parameters()}
    free = {name for name, parameter in network.named_parameters() if id(parameter) not in fixed}
    assert free
    assert all(name.startswith("model1_") for name in free)


@pytest.mark.parametrize("width", [1, 3])
def test_gathered_reflection_equals_pytorchs(width: int) -> None:
    x = torch.rand(2, 3, 9, 7, requires_grad=True)
    pad = nn.Sequential(ReflectionPad(width))
    plain = pad(x)
    (plain_gradient,) = torch.autograd.grad((plain**2).sum(), x)
    set_deterministic(pad, True)
    gathered = pad(x)
    (gradient,) = torch.autograd.grad((gathered**2).sum(), x)
    assert torch.equal(plain, gathered)
    assert torch.allclose(plain_gradient, gradient)


def test_reflection_beyond_the_image_goes_back_and_forth() -> None:
    assert reflected(3, 5, 5).tolist() == [1, 0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1]
    assert reflected(1, 2, 2).tolist() == [0] * 5
