"""The checks as tests: on a GPU where there is one, and a short rehearsal on the CPU everywhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.gpu import commands, networks
from tests.gpu.lab import Lab

SHORT = (
    networks.parity,
    partial(networks.half_precision, steps=2),
    networks.recomputing,
    networks.deterministic,
    networks.enhancer,
    networks.data_parallel,
    networks.translating,
    commands.profile,
)
ON_GPU = (
    networks.parity,
    networks.half_precision,
    networks.recomputing,
    networks.deterministic,
    networks.enhancer,
    networks.data_parallel,
    networks.frozen_networks,
    networks.translating,
)


def name(check: Any) -> str:
    return getattr(check, "func", check).__name__


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu")


@pytest.mark.parametrize("check", SHORT, ids=name)
def test_the_check_passes_in_its_rehearsal_on_the_cpu(check: Callable[[Lab], dict[str, Any]], folder: Path) -> None:
    found = check(Lab("cpu", folder))
    assert found["ok"], found


@pytest.mark.gpu
@pytest.mark.parametrize("check", ON_GPU, ids=name)
def test_the_check_passes_on_the_gpu(check: Callable[[Lab], dict[str, Any]], folder: Path) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    found = check(Lab("cuda", folder))
    assert found["ok"], found


def test_other_weights_on_the_device_fail_the_parity(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = networks.make_step
    calls = []

    def perturbed(*arguments: Any) -> Any:
        step = made(*arguments)
        calls.append(step)
        if len(calls) % 2:
            for parameter in step.network.parameters():
                parameter.data.mul_(1.1)
        return step

    monkeypatch.setattr(networks, "make_step", perturbed)
    assert not networks.parity(Lab("cpu", folder))["ok"]
