"""Published checkpoints: built from their key patterns, taken whole or refused with the reason."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pbvs.errors import PbvsError, UsageError
from pbvs.networks.pix2pixhd import DiscriminatorConfig, GeneratorConfig, build
from pbvs.seeds import torch_generator
from pbvs.training.checkpoint import KINDS, Kind, make_network, read_model, write_weights
from pbvs.translators.pix2pixhd.published import (
    Published,
    describe_file,
    export_checkpoint,
    import_checkpoint,
    read_published,
)

CONFIGS = [
    GeneratorConfig(3, 3, 4, 4, 2),
    GeneratorConfig(36, 3, 2, 3, 9),
    GeneratorConfig(1, 1, 4, 2, 0),
    GeneratorConfig(1, 3, 4, 1, 1),
    GeneratorConfig(3, 3, 4, 2, 2, enhancers=1, enhancer_blocks=3),
    GeneratorConfig(36, 3, 4, 2, 1, enhancers=2, enhancer_blocks=1),
    GeneratorConfig(3, 3, 4, 2, 2, upsampling="resize"),
    DiscriminatorConfig(6, 4, 2, 3),
    DiscriminatorConfig(39, 4, 3, 3),
    DiscriminatorConfig(2, 8, 1, 2),
]


def network_of(config: GeneratorConfig | DiscriminatorConfig) -> nn.Module:
    return build(lambda: make_network(config), torch_generator(4, "published"))


def conv_pattern(source: int, target: int, width: int, depth: int, blocks: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a published global generator, written out from the published table."""
    shapes: dict[str, tuple[int, ...]] = {"model.1.weight": (width, source, 7, 7), "model.1.bias": (width,)}
    for i in range(depth):
        shapes[f"model.{4 + 3 * i}.weight"] = (width * 2 ** (i + 1), width * 2**i, 3, 3)
        shapes[f"model.{4 + 3 * i}.bias"] = (width * 2 ** (i + 1),)
    inner = width * 2**depth
    for b in range(blocks):
        for c in (1, 5):
            shapes[f"model.{4 + 3 * depth + b}.conv_block.{c}.weight"] = (inner, inner, 3, 3)
            shapes[f"model.{4 + 3 * depth + b}.conv_block.{c}.bias"] = (inner,)
    for i in range(depth):
        place = 4 + 3 * depth + blocks + 3 * i
        shapes[f"model.{place}.weight"] = (inner // 2**i, inner // 2 ** (i + 1), 3, 3)
        shapes[f"model.{place}.bias"] = (inner // 2 ** (i + 1),)
    shapes[f"model.{5 + 6 * depth + blocks}.weight"] = (target, width, 7, 7)
    shapes[f"model.{5 + 6 * depth + blocks}.bias"] = (target,)
    return shapes


@pytest.mark.parametrize(("depth", "blocks"), [(4, 9), (3, 9), (2, 0), (1, 2)])
def test_shapes_of_the_published_table_are_understood(tmp_path: Path, depth: int, blocks: int) -> None:
    shapes = conv_pattern(3, 1, 2, depth, blocks)
    torch.save({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "g.pth")
    assert read_published(tmp_path / "g.pth").config == GeneratorConfig(3, 1, 2, depth, blocks)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("legacy", [False, True])
def test_architecture_and_weights_come_through(
    tmp_path: Path, config: GeneratorConfig | DiscriminatorConfig, legacy: bool
) -> None:
    network = network_of(config)
    torch.save(network.state_dict(), tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    import_checkpoint(tmp_path / "a.pth", tmp_path / "a.safetensors")
    kind = "generator" if isinstance(config, GeneratorConfig) else "discriminator"
    tensors, found, metadata = read_model(tmp_path / "a.safetensors", kind)
    assert found == config
    assert len(metadata["imported_sha256"]) == 64
    assert all(torch.equal(tensors[name], value) for name, value in network.state_dict().items())


def test_stale_running_statistics_are_left_out_and_counted(tmp_path: Path) -> None:
    tensors = dict(network_of(CONFIGS[0]).state_dict())
    for place in (2, 5):
        tensors |= {f"model.{place}.running_mean": torch.zeros(4), f"model.{place}.running_var": torch.ones(4)}
    torch.save(tensors, tmp_path / "a.pth")
    assert read_published(tmp_path / "a.pth").dropped == (
        "model.2.running_mean", "model.2.running_var", "model.5.running_mean", "model.5.running_var",
    )  # fmt: skip
    assert "4 running statistics" in import_checkpoint(tmp_path / "a.pth", tmp_path / "a.safetensors")


def test_a_parallel_wrappers_prefix_is_taken_off(tmp_path: Path) -> None:
    tensors = {f"module.{name}": value for name, value in network_of(CONFIGS[0]).state_dict().items()}
    torch.save(tensors, tmp_path / "a.pth")
    published = read_published(tmp_path / "a.pth")
    assert published.config == CONFIGS[0]
    assert published.notes


def test_a_discriminator_without_feature_matching_has_other_names(tmp_path: Path) -> None:
    config = DiscriminatorConfig(6, 4, 2, 3)
    places = [0, 2, 5, 8, 11]
    ours = network_of(config).state_dict()
    theirs: dict[str, Tensor] = {}
    for name, value in ours.items():
        scale, layer = name.split(".")[0].removeprefix("scale").split("_layer")
        theirs[f"layer{scale}.{places[int(layer)]}.{name.split('.')[-1]}"] = value
    torch.save(theirs, tmp_path / "d.pth")
    published: Published = read_published(tmp_path / "d.pth")
    assert published.config == config
    assert all(torch.equal(published.tensors[name], value) for name, value in ours.items())


def refused(path: Path, message: str) -> None:
    with pytest.raises(PbvsError, match=message):
        import_checkpoint(path, path.with_suffix(".safetensors"))
    assert not path.with_suffix(".safetensors").exists()


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    tensors = dict(network_of(CONFIGS[0]).state_dict())
    changes: dict[str, tuple[dict[str, Tensor], str]] = {
        "missing": ({k: v for k, v in tensors.items() if k != "model.7.bias"}, "model.7.bias is missing"),
        "more": ({**tensors, "model.99.weight": torch.zeros(1)}, "model.99.weight is not part of the network"),
        "shape": ({**tensors, "model.7.bias": torch.zeros(3)}, r"model.7.bias has the shape \(3,\)"),
        "batchnorm": ({**tensors, "model.2.weight": torch.zeros(4)}, "model.2.weight is not part"),
        "other": ({"conv1.weight": torch.zeros(1)}, "neither a generator nor a discriminator .* conv1.weight"),
        "nan": ({**tensors, "model.1.bias": torch.full((4,), float("nan"))}, "not finite in model.1.bias"),
        "headless": ({k: v for k, v in tensors.items() if not k.startswith("model.31.")}, "model.31.bias"),
    }
    for name, (changed, message) in changes.items():
        torch.save(changed, tmp_path / f"{name}.pth")
        refused(tmp_path / f"{name}.pth", message)


class Evil:
    """What an attacker would put into a pickle."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch evil-was-run",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("plain", [False, True])
def test_a_pickle_with_code_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    if plain:
        (tmp_path / "a.pth").write_bytes(pickle.dumps({"model.1.weight": Evil()}))
    else:
        torch.save({"model.1.weight": Evil()}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "never code" if plain else "refused")
    assert not (tmp_path / "evil-was-run").exists()


@pytest.mark.parametrize("keep", [0, 1, 100, 5000])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_truncated_checkpoint_is_said(tmp_path: Path, keep: int, legacy: bool) -> None:
    path = tmp_path / "a.pth"
    torch.save(network_of(CONFIGS[2]).state_dict(), path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[:keep])
    refused(path, "truncated or no checkpoint")


def test_what_is_no_state_dict_is_said(tmp_path: Path) -> None:
    for number, thing in enumerate(([1, 2], {}, {"epoch": 3}, {"model": {"a": torch.zeros(1)}})):
        torch.save(thing, tmp_path / f"{number}.pth")
        refused(tmp_path / f"{number}.pth", "no plain state dict")
    refused(tmp_path / "gone.pth", "There is no checkpoint")


def test_export_gives_back_what_was_imported(tmp_path: Path) -> None:
    network = network_of(CONFIGS[4])
    torch.save(network.state_dict(), tmp_path / "a.pth")
    import_checkpoint(tmp_path / "a.pth", tmp_path / "a.safetensors")
    export_checkpoint(tmp_path / "a.safetensors", tmp_path / "b.pth")
    back = torch.load(tmp_path / "b.pth", weights_only=True)
    assert back.keys() == network.state_dict().keys()
    assert all(torch.equal(back[name], value) for name, value in network.state_dict().items())
    assert "generator" in describe_file(tmp_path / "a.safetensors")
    assert "published checkpoint: generator" in describe_file(tmp_path / "b.pth")


def test_names_of_other_formats_are_refused(tmp_path: Path) -> None:
    torch.save(network_of(CONFIGS[2]).state_dict(), tmp_path / "a.pth")
    with pytest.raises(UsageError):
        import_checkpoint(tmp_path / "a.pth", tmp_path / "a.bin")
    import_checkpoint(tmp_path / "a.pth", tmp_path / "a.safetensors")
    with pytest.raises(UsageError):
        export_checkpoint(tmp_path / "a.safetensors", tmp_path / "b.onnx")


@dataclass(frozen=True)
class ToyConfig:
    """A network of somebody's own."""

    width: int = 3


def test_a_network_that_a_method_adds_is_described_and_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "toy", Kind(ToyConfig, lambda config: torch.nn.Linear(config.width, 2)))
    write_weights(tmp_path / "toy.safetensors", torch.nn.Linear(5, 2).state_dict(), ToyConfig(5), {"task": "sar2eo"})
    assert "toy, 12 parameters (width 5)" in describe_file(tmp_path / "toy.safetensors")
    export_checkpoint(tmp_path / "toy.safetensors", tmp_path / "toy.pth")
    assert torch.load(tmp_path / "toy.pth", weights_only=True)["weight"].shape == (2, 5)
