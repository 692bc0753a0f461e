"""Trunks: torchvision's names, files of both kinds, and a clear word when a file is missing or another net's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pbvs.errors import PbvsError, UsageError
from pbvs.metrics.perceptual import Trunk, load_trunk

# (layer index in torchvision's `features`, channels out) of every convolution
CONVOLUTIONS = {
    "alex": [(0, 64), (3, 192), (6, 384), (8, 256), (10, 256)],
    "vgg": [(0, 64), (2, 64), (5, 128), (7, 128), (10, 256), (12, 256), (14, 256), (17, 512), (19, 512), (21, 512),
            (24, 512), (26, 512), (28, 512)],
    "vgg19": [(0, 64), (2, 64), (5, 128), (7, 128), (10, 256), (12, 256), (14, 256), (16, 256), (19, 512), (21, 512),
              (23, 512), (25, 512), (28, 512)],
}  # fmt: skip
WIDTHS = {
    "alex": [64, 192, 384, 256, 256], "vgg": [64, 128, 256, 512, 512], "vgg19": [64, 128, 256, 512, 512],
    "squeeze": [64, 128, 256, 384, 384, 512, 512], "random": [16, 32, 32, 32, 32],
}  # fmt: skip
SIZES = {"alex": [15, 7, 3, 3, 3], "vgg": [64, 32, 16, 8, 4], "vgg19": [64, 32, 16, 8, 4]}


def random_weights(net: str, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(value.shape, generator=generator) * 0.05 for name, value in Trunk(net).state_dict().items()
    }


def random_file(net: str, folder: Path, seed: int = 0) -> Path:
    path = folder / f"{net}.safetensors"
    save_file(random_weights(net, seed), path)
    return path


def random_trunk(net: str, folder: Path) -> Trunk:
    return load_trunk(net, None if net == "random" else random_file(net, folder))


@pytest.mark.parametrize("net", list(CONVOLUTIONS))
def test_layers_have_the_published_names_and_widths(net: str) -> None:
    state = Trunk(net).state_dict()
    found = [(int(name.split(".")[1]), value.shape[0]) for name, value in state.items() if name.endswith("weight")]
    assert found == CONVOLUTIONS[net]
    assert {tuple(value.shape[2:]) for name, value in state.items() if name.endswith("weight") and "vgg" in net} <= {
        (3, 3)
    }


@pytest.mark.parametrize("net", ["alex", "vgg", "vgg19", "squeeze", "random"])
def test_taps_are_activations_of_the_stated_widths(net: str, tmp_path: Path) -> None:
    taps = random_trunk(net, tmp_path)(torch.rand(2, 3, 64, 64))
    assert [tap.shape[1] for tap in taps] == WIDTHS[net]
    assert all(bool((tap >= 0).all()) for tap in taps)
    if net in SIZES:
        assert [tap.shape[2] for tap in taps] == SIZES[net]


def test_squeezenet_pools_to_the_next_whole_pixel(tmp_path: Path) -> None:
    sides = [tap.shape[2] for tap in random_trunk("squeeze", tmp_path)(torch.zeros(1, 3, 64, 64))]
    assert sides == [31, 15, 7, 3, 3, 3, 3]


@pytest.mark.parametrize("net", ["alex", "squeeze"])
def test_slim_and_full_files_give_the_same_network(net: str, tmp_path: Path) -> None:
    tensors = random_weights(net)
    slim, full = tmp_path / "slim.safetensors", tmp_path / "full.pth"
    save_file(tensors, slim)
    torch.save({**tensors, "classifier.1.weight": torch.zeros(4, 4)}, full)
    first, second = load_trunk(net, slim), load_trunk(net, full)
    x = torch.rand(1, 3, 64, 64)
    assert first.digest == second.digest
    assert all(torch.equal(a, b) for a, b in zip(first(x), second(x), strict=True))


def test_it_is_found_in_a_folder_by_its_published_name(tmp_path: Path) -> None:
    torch.save(random_weights("vgg19"), tmp_path / "vgg19-dcbb9e9d.pth")
    assert load_trunk("vgg19", tmp_path).net == "vgg19"


def test_a_missing_file_is_named_with_its_place_and_what_else_would_do(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("PBVS_WEIGHTS", raising=False)
    save_file(random_weights("squeeze"), tmp_path / "squeezenet1_1-features.safetensors")
    with pytest.raises(PbvsError) as caught:
        load_trunk("vgg", tmp_path)
    text = str(caught.value)
    assert "vgg16-397923af.pth" in text and str(tmp_path) in text and "weights fetch vgg" in text
    assert "--lpips-net squeeze" in text


def test_weights_of_another_net_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "vgg16-397923af.pth"
    torch.save(random_weights("alex"), path)
    with pytest.raises(PbvsError, match="another net"):
        load_trunk("vgg", path)


def test_a_damaged_file_and_a_file_that_would_run_code_are_refused(tmp_path: Path) -> None:
    broken, pickled = tmp_path / "a.safetensors", tmp_path / "b.pth"
    broken.write_bytes(b"\xff" * 100)
    torch.save(Path("x"), pickled)
    for path in (broken, pickled):
        with pytest.raises(PbvsError, match=r"damaged or no safetensors|read, never code"):
            load_trunk("alex", path)


def test_it_stays_frozen_in_a_module_that_trains() -> None:
    trunk = torch.nn.Sequential(load_trunk("random")).train()[0]
    assert not trunk.training
    assert not any(parameter.requires_grad for parameter in trunk.parameters())


def test_the_random_trunk_is_the_same_every_time() -> None:
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(load_trunk("random")(x)[-1], load_trunk("random")(x)[-1])
    assert float(load_trunk("random")(x)[-1].std()) > 0.01


def test_a_image_that_is_too_small_and_an_unknown_net_get_a_sentence() -> None:
    with pytest.raises(PbvsError, match="too small"):
        load_trunk("random")(torch.zeros(1, 3, 16, 16))
    with pytest.raises(UsageError, match="alex, squeeze, vgg"):
        Trunk("resnet")
