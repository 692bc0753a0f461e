"""Keeping freed memory and using huge pages changes how long a step takes, and no bit of its result."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

from pbvs import devices as memory

STEP = """
import hashlib, sys
from pbvs.devices import resolve_device
resolve_device("cpu")
import torch
torch.set_num_threads(1)
from pbvs.networks.pix2pixhd import GeneratorConfig, build_generator
network = build_generator(GeneratorConfig(width=16, blocks=2), torch.Generator().manual_seed(0))
x = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
digest = hashlib.sha256()
for _ in range(2):
    network.zero_grad()
    loss = network(x).square().mean()
    loss.backward()
    for parameter in network.parameters():
        digest.update(parameter.grad.numpy().tobytes())
print(digest.hexdigest(), end="")
"""


def run(keep: str) -> str:
    environment = {**os.environ, memory.KEEP: keep}
    environment.pop(memory.HUGE_PAGES, None)
    done = subprocess.run([sys.executable, "-c", STEP], env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_gradients_are_the_same_to_the_last_bit() -> None:
    kept = run("1")
    assert len(kept) == len(hashlib.sha256().hexdigest())
    assert kept == run("0")


def test_zero_leaves_the_allocator_alone(monkeypatch) -> None:
    monkeypatch.setenv(memory.KEEP, "0")
    monkeypatch.delenv(memory.HUGE_PAGES, raising=False)
    memory.prefer_huge_pages()
    assert memory.HUGE_PAGES not in os.environ
    assert not memory.keep_freed_memory()


def test_a_users_own_choice_of_pages_stays(monkeypatch) -> None:
    monkeypatch.setenv(memory.HUGE_PAGES, "0")
    memory.prefer_huge_pages()
    assert os.environ[memory.HUGE_PAGES] == "0"
