"""Devices of one and several processes; machines with GPUs are simulated."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
import torch

from pbvs.devices import ROOM, ahead, resolve_device
from pbvs.errors import UsageError
from pbvs.training import distributed


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretend that there are so many GPUs and processes; return what was asked of CUDA and of the group."""
    asked: list[tuple[str, Any]] = []
    joined = [False]

    def init(backend: str, **options: Any) -> None:
        joined[0] = True
        asked.append(("group", (backend, options.get("timeout"))))

    def make(gpus: int, processes: int = 1, rank: int = 0) -> list[tuple[str, Any]]:
        for name, value in (
            ("WORLD_SIZE", processes),
            ("LOCAL_WORLD_SIZE", processes),
            ("RANK", rank),
            ("LOCAL_RANK", rank),
        ):
            monkeypatch.setenv(name, str(value))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: asked.append(("device", str(device))))
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        monkeypatch.setattr(distributed.dist, "is_initialized", lambda: joined[0])
        monkeypatch.setattr(distributed.dist, "is_nccl_available", lambda: gpus > 0)
        monkeypatch.setattr(distributed.dist, "init_process_group", init)
        monkeypatch.setattr(distributed.atexit, "register", lambda function: None)
        return asked

    return make


@pytest.mark.parametrize(
    ("name", "gpus", "rank", "found"),
    [("auto", 0, 0, "cpu"), ("cpu", 2, 1, "cpu"), ("auto", 2, 1, "cuda:1"), ("cuda", 2, 0, "cuda:0")],
)
def test_each_process_takes_its_own_gpu(machine: Any, name: str, gpus: int, rank: int, found: str) -> None:
    machine(gpus, 2, rank)
    assert resolve_device(name) == found


def test_one_process_may_choose_its_gpu(machine: Any) -> None:
    machine(2)
    assert resolve_device("cuda:1") == "cuda:1"
    with pytest.raises(UsageError, match="no device 'cuda:2'"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("rank", [0, 1])
def test_more_processes_than_gpus_are_refused_in_each_of_them(machine: Any, rank: int) -> None:
    machine(1, 2, rank)
    for name in ("auto", "cuda"):
        with pytest.raises(UsageError, match=r"2 processes .* has 1 GPU; start torchrun with --nproc-per-node 1"):
            resolve_device(name)


def test_one_gpu_is_not_given_to_two_processes(machine: Any) -> None:
    machine(2, 2, 1)
    with pytest.raises(UsageError, match="cuda:0 would give every process the same GPU"):
        resolve_device("cuda:0")


def test_work_on_the_cpu_claims_no_gpu(machine: Any) -> None:
    asked = machine(1, 2, 1)
    distributed.join(resolve_device("cpu"))
    assert [what for what, _ in asked] == ["group"]


def test_the_group_waits_for_as_long_as_data_take(machine: Any) -> None:
    asked = machine(2, 2, 1)
    distributed.join(resolve_device("cuda"))
    assert asked == [("device", "cuda:1"), ("group", ("cpu:gloo,cuda:nccl", distributed.TIMEOUT))]
    assert distributed.TIMEOUT.total_seconds() >= 6 * 3600
    distributed.join("cuda:1")
    assert [what for what, _ in asked].count("group") == 1


def test_without_gpus_the_group_is_gloos(machine: Any) -> None:
    asked = machine(0, 2)
    distributed.join("cpu")
    assert asked == [("group", ("gloo", distributed.TIMEOUT))]


def test_light_results_are_made_ahead_and_heavy_ones_when_they_are_asked_for() -> None:
    for weight, most in ((0, 4), (ROOM, 0)):
        made: list[int] = []

        def make(number: int, made: list[int] = made) -> int:
            made.append(number)
            return number

        with (
            ThreadPoolExecutor(1) as pool,
            closing(ahead(pool, make, range(9), 4, lambda _, weight=weight: weight)) as stream,
        ):
            for number, result in enumerate(stream):
                time.sleep(0.02)
                assert result == number and len(made) <= number + 1 + most
        assert made == list(range(9))


def test_a_stream_of_heavy_results_that_is_left_ends_its_threads() -> None:
    with (
        pytest.raises(ValueError, match="enough"),
        ThreadPoolExecutor(3) as pool,
        closing(ahead(pool, lambda n: n, range(9), 4, lambda _: ROOM)) as stream,
    ):
        next(stream)
        raise ValueError("enough")
