"""Weights: found in a stated order, checked, fetched whole or not at all, and a sentence where that cannot be."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import time
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import load_file, save_file

from pbvs.errors import PbvsError, UsageError
from pbvs.experiments import machine as slimming
from pbvs.metrics import weights
from pbvs.metrics.perceptual import load_trunk
from tests.metrics.test_trunks import random_weights


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights of this machine are seen."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("PBVS_WEIGHTS", raising=False)


def answer(monkeypatch: pytest.MonkeyPatch, content: bytes | Exception) -> list[str]:
    asked: list[str] = []

    def urlopen(url: str, timeout: float) -> io.BytesIO:
        asked.append(url)
        assert timeout <= 10
        if isinstance(content, Exception):
            raise content
        return io.BytesIO(content)

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    return asked


def expect(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Let the published AlexNet be `content`."""
    digest = hashlib.sha256(content).hexdigest()[:8]
    source = weights.Source(
        "alex", "AlexNet", "alexnet-features.safetensors", f"alexnet-owt-{digest}.pth", "https://x", 1
    )
    monkeypatch.setitem(weights.SOURCES, "alex", source)


def test_the_folder_given_comes_first_then_the_variable_then_the_hub(tmp_path: Path, monkeypatch) -> None:
    places = [tmp_path / "given", tmp_path / "variable", tmp_path / "torch" / "hub" / "checkpoints"]
    monkeypatch.setenv("PBVS_WEIGHTS", str(places[1]))
    for place in reversed(places):
        place.mkdir(parents=True)
        (place / "alexnet-owt-7be5be79.pth").write_bytes(b"")
        assert weights.find("alex", places[0]).parent == place
    (places[0] / "alexnet-features.safetensors").write_bytes(b"")
    assert weights.find("alex", places[0]).suffix == ".safetensors"


def test_both_names_of_inceptions_weights_are_known(tmp_path: Path) -> None:
    path = tmp_path / "weights-inception-2015-12-05-6726825d.pth"
    path.write_bytes(b"")
    assert weights.find("inception", tmp_path) == path
    assert weights.get_source("inception").digest == "6726825d"


def test_without_a_network_it_says_what_would_do_and_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    answer(monkeypatch, URLError("Name or service not known"))
    start = time.process_time()
    with pytest.raises(PbvsError) as caught:
        weights.fetch("vgg", tmp_path / "w")
    assert time.process_time() - start < 10
    text = str(caught.value)
    assert "vgg16-397923af.pth" in text and "Name or service not known" in text and str(tmp_path / "w") in text
    assert not list((tmp_path / "w").iterdir())


def test_a_file_with_another_digest_is_not_kept(tmp_path: Path, monkeypatch) -> None:
    answer(monkeypatch, b"a login page")
    with pytest.raises(PbvsError, match="7be5be79"):
        weights.fetch("alex", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_good_file_is_fetched_once(tmp_path: Path, monkeypatch) -> None:
    expect(monkeypatch, b"weights")
    asked = answer(monkeypatch, b"weights")
    path = weights.fetch("alex", tmp_path)
    assert path.read_bytes() == b"weights"
    assert weights.fetch("alex", tmp_path) == path
    assert len(asked) == 1


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOSYS])
def test_where_nothing_can_be_locked_it_is_fetched_all_the_same(number: int, tmp_path: Path, monkeypatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def unsupported(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    expect(monkeypatch, b"weights")
    answer(monkeypatch, b"weights")
    path = weights.fetch("alex", tmp_path / "w")
    assert path.read_bytes() == b"weights"
    assert list((tmp_path / "w").iterdir()) == [path]


def test_a_folder_that_cannot_be_written_gets_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(PbvsError, match="cannot be written"):
        weights.fetch("alex", tmp_path / "file")


def test_slim_keeps_the_network_and_drops_the_rest(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = random_weights("alex")
    torch.save({**state, "classifier.6.weight": torch.zeros(1000, 4096)}, tmp_path / "alexnet-owt-7be5be79.pth")
    before = load_trunk("alex", tmp_path).digest
    path = slimming.slim("alex", tmp_path, tmp_path / "slim")
    assert set(load_file(path)) == set(state)
    assert path.stat().st_size < 0.5 * (tmp_path / "alexnet-owt-7be5be79.pth").stat().st_size
    assert load_trunk("alex", path).digest == before


def test_verify_tells_published_files_from_others(tmp_path: Path) -> None:
    full = tmp_path / "vgg16-397923af.pth"
    full.write_bytes(b"something else")
    with pytest.raises(PbvsError, match="397923af"):
        slimming.verify("vgg", full)
    slim = tmp_path / "squeezenet1_1-features.safetensors"
    save_file(random_weights("squeeze"), slim)
    with pytest.raises(PbvsError, match="published tensors"):
        slimming.verify("squeeze", slim)


@pytest.mark.parametrize("net", ["alex", "squeeze", "vgg"])
def test_the_trunks_at_hand_are_the_published_ones(net: str, weights_dir: Path) -> None:
    if weights.look(net, weights_dir) is None:
        pytest.skip(f"the weights of {net} are not here")
    assert "published" in slimming.verify(net, weights.find(net, weights_dir))


def test_an_unknown_net_names_those_there_are() -> None:
    with pytest.raises(UsageError, match="vgg19"):
        weights.find("resnet")
