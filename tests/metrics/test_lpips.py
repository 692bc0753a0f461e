"""LPIPS equals the package's definition: golden numbers computed with it, and the package itself where it imports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pbvs.errors import PbvsError, UsageError
from pbvs.metrics import perceptual as module
from pbvs.metrics.perceptual import NETS, Lpips, heads_file, unit
from pbvs.metrics.weights import find, look, read_tensors
from tests.metrics.test_trunks import random_file

# lpips 0.1.4 with torch 2.15 and torchvision 0.29 on the two images below: in colour, and the red channel alone.
GOLDEN = {"alex": (0.6236490607, 0.5062939525), "squeeze": (0.6463491321, 0.3619024754)}
# The package with AlexNet on the stand-in's first four held-out SAR and EO images.
REAL = [0.5698416233, 0.5178034306, 0.4640003443, 0.4402968884]


def images() -> tuple[torch.Tensor, torch.Tensor]:
    """Two images made of whole numbers, (1, 3, 96, 128) in [-1, 1]."""
    y, x = np.mgrid[0:96, 0:128]
    first = np.stack([(x * 2) % 256, (y * 3) % 256, (x + y) % 256], -1)
    second = np.stack([(x * 2 + 16 * ((y // 8) % 2)) % 256, (y * y // 7) % 256, (x * y // 5) % 256], -1)
    a, b = (torch.from_numpy(v.astype(np.uint8)).permute(2, 0, 1)[None].float() / 127.5 - 1 for v in (first, second))
    return a, b


@pytest.mark.parametrize("net", sorted(GOLDEN))
def test_golden_numbers_of_the_package(net: str, weights_dir: Path) -> None:
    first, second = images()
    metric = Lpips(net, weights_dir)
    colour, grey = metric(first, second).item(), metric(first[:, :1], second[:, :1]).item()
    assert (colour, grey) == pytest.approx(GOLDEN[net], abs=1e-6)


@pytest.mark.parametrize("net", NETS)
def test_equal_to_the_package_on_real_images(net: str, weights_dir: Path, standin: Path) -> None:
    import lpips

    if look(net, weights_dir) is None:
        pytest.skip(f"the weights of {net} are not here")
    reference = lpips.LPIPS(net=net, pnet_rand=True, verbose=False).eval()
    trunk = read_tensors(find(net, weights_dir))
    names = reference.net.state_dict()
    reference.net.load_state_dict({name: trunk[f"features.{name.split('.', 1)[1]}"] for name in names})
    metric = Lpips(net, weights_dir)
    for first, second in real_pairs(standin):
        expected = reference(first.expand(-1, 3, -1, -1), second.expand(-1, 3, -1, -1)).item()
        assert metric(first, second).item() == pytest.approx(expected, abs=1e-6)


def real_pairs(standin: Path):
    from pbvs.data.images import read_image

    folder = standin / "Train_Data_and_Validation_EO_SAR"
    for path in sorted((folder / "EO" / "validation").glob("*.png"))[:4]:
        pair = [read_image(path), read_image(folder / "SAR" / "validation" / path.name)]
        yield tuple(torch.from_numpy(v.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1 for v in pair)


def test_real_images_keep_their_numbers(weights_dir: Path, standin: Path) -> None:
    metric = Lpips("alex", weights_dir)
    values = [metric(first, second).item() for first, second in real_pairs(standin)]
    assert values == pytest.approx(REAL, abs=1e-5)


def test_equal_images_have_no_distance_and_order_does_not_matter() -> None:
    first, second = images()
    metric = Lpips("random")
    assert metric(first, first).item() == 0
    assert metric(first, second).item() == pytest.approx(metric(second, first).item(), abs=1e-7)


def test_features_compared_later_give_the_same_number() -> None:
    first, second = images()
    metric = Lpips("random")
    features = metric.features(torch.cat([first, second]))
    kept = metric.distance([tap[:1] for tap in features], [tap[1:] for tap in features])
    assert kept.item() == pytest.approx(metric(first, second).item(), abs=1e-7)
    assert all(tap.square().sum(1).max() <= 1.0001 for tap in features)


@pytest.mark.parametrize("net", NETS)
def test_heads_are_the_packages_own_and_not_negative(net: str, weights_dir: Path) -> None:
    if look(net, weights_dir) is None:
        pytest.skip(f"the weights of {net} are not here")
    file = torch.load(heads_file(net), map_location="cpu", weights_only=True)
    published = {name: value for name, value in file.items() if ".model.1." in name}
    heads = [head.model[-1].weight for head in Lpips(net, weights_dir).package.lins]
    assert len(heads) == len(published)
    for tap, head in enumerate(heads):
        assert torch.equal(head, published[f"lin{tap}.model.1.weight"])
        assert bool((head >= 0).all()) and float(head.sum()) > 0


@pytest.mark.parametrize("change", ["negative", "renamed"])
def test_negative_or_foreign_heads_are_refused(change: str, tmp_path: Path, monkeypatch) -> None:
    heads = {f"lin{n}.model.1.weight": torch.ones(1, c, 1, 1) for n, c in enumerate((64, 192, 384, 256, 256))}
    if change == "negative":
        heads["lin0.model.1.weight"] *= -1
    else:
        heads["lin1.model.0.weight"] = heads.pop("lin1.model.1.weight")
    torch.save(heads, tmp_path / "heads.pth")
    monkeypatch.setattr(module, "heads_file", lambda net: tmp_path / "heads.pth")
    with pytest.raises(PbvsError, match="heads"):
        Lpips("alex", random_file("alex", tmp_path))


def test_it_stays_frozen_and_evaluates_in_a_module_that_trains() -> None:
    metric = torch.nn.Sequential(Lpips("random")).train()[0]
    assert not any(layer.training for layer in metric.modules())
    assert not any(parameter.requires_grad for parameter in metric.parameters())


def test_gradients_reach_both_images_and_are_finite_where_nothing_is_active() -> None:
    metric = Lpips("random")
    first, second = (image.clone().requires_grad_() for image in images())
    with torch.autograd.detect_anomaly(check_nan=True):
        metric(first, second).sum().backward()
    for image in (first, second):
        assert image.grad is not None and bool(image.grad.isfinite().all()) and float(image.grad.abs().sum()) > 0
    dead = torch.zeros(1, 4, 3, 3, requires_grad=True)
    unit(dead).sum().backward()
    assert bool(dead.grad.isfinite().all())


def test_the_random_net_never_calls_itself_lpips() -> None:
    assert not Lpips("random").is_lpips
    assert Lpips("random").label.startswith("not LPIPS")


def test_wrong_shapes_and_nets_get_a_sentence() -> None:
    metric = Lpips("random")
    with pytest.raises(PbvsError, match="one size"):
        metric(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 48))
    with pytest.raises(PbvsError, match="3 or 1"):
        metric(torch.zeros(1, 2, 64, 64), torch.zeros(1, 2, 64, 64))
    with pytest.raises(UsageError, match="alex"):
        Lpips("resnet")
