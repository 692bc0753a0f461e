"""LPIPS equals the package's definition: golden numbers computed with it, and the package itself where it imports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pbvs.errors import PbvsError, UsageError
from pbvs.metrics import lpips as module
from pbvs.metrics.lpips import NETS, Lpips, heads_file, load_heads, unit
from pbvs.metrics.weights import look

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
    package = importable_package()
    if look(net, weights_dir) is None:
        pytest.skip(f"the weights of {net} are not here")
    reference = package.LPIPS(net=net, pnet_rand=True, verbose=False).eval()
    metric = Lpips(net, weights_dir)
    state = {name: f"features.{name.split('.', 1)[1]}" for name in reference.net.state_dict()}
    trunk = metric.trunk.state_dict()
    reference.net.load_state_dict({name: trunk[ours] for name, ours in state.items()})
    for first, second in real_pairs(standin):
        expected = reference(first.expand(-1, 3, -1, -1), second.expand(-1, 3, -1, -1)).item()
        assert metric(first, second).item() == pytest.approx(expected, abs=1e-5)


def importable_package():
    try:
        import lpips
    except Exception as error:
        pytest.skip(
            f"the package lpips does not import here ({type(error).__name__}: torchvision is missing or broken)"
        )
    return lpips


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
def test_heads_of_the_installed_package_are_whole_and_not_negative(net: str) -> None:
    channels = module.Trunk(net).channels
    heads = load_heads(net, channels)
    assert [head.shape[1] for head in heads] == list(channels)
    assert all(bool((head >= 0).all()) for head in heads)
    assert heads_file(net).name == f"{net}.pth"


def test_negative_or_foreign_heads_are_refused(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "heads.pth"
    monkeypatch.setattr(module, "heads_file", lambda net: path)
    for change in (
        {"lin0.model.1.weight": -torch.ones(1, 64, 1, 1)},
        {"lin1.model.0.weight": torch.ones(1, 192, 1, 1)},
    ):
        whole = {f"lin{n}.model.1.weight": torch.ones(1, c, 1, 1) for n, c in enumerate((64, 192, 384, 256, 256))}
        if "lin1.model.0.weight" in change:
            del whole["lin1.model.1.weight"]
        torch.save({**whole, **change}, path)
        with pytest.raises(PbvsError, match="heads"):
            load_heads("alex", (64, 192, 384, 256, 256))


def test_a_missing_package_is_named(monkeypatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PbvsError, match="pip install lpips"):
        heads_file("alex")


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
