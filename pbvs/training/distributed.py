"""Several processes that train together: torchrun starts them, this module is all that the rest needs to know.

One process needs no process group: every function then does nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from pbvs.devices import rank, world_size

Made = TypeVar("Made")


def is_main() -> bool:
    """Return whether this process is the one that writes files and shows progress."""
    return rank() == 0


# How long a process waits for the others: the first one may hash data and cut chips for hours meanwhile.
TIMEOUT = timedelta(hours=24)


def join(device: str = "cpu") -> None:
    """Join the group of processes that torchrun started, if there is more than one and it was not done before.

    A GPU is claimed for this process only where the work is on one: `device` is what `resolve_device` gave.
    """
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    if world_size() == 1 or dist.is_initialized():
        return
    atexit.register(leave)
    nccl = torch.cuda.is_available() and dist.is_nccl_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo", timeout=TIMEOUT)


def barrier() -> None:
    """Wait until every process is here."""
    total(torch.zeros(1))


def total(tensor: Tensor) -> Tensor:
    """Return the sum of `tensor` over the processes, to every one of them; it is added up in place."""
    if world_size() > 1:
        join()
        dist.all_reduce(tensor)
    return tensor


def main_first(make: Callable[[], Made]) -> Made:
    """Return what `make` gives, in the main process before the others, which then find its files."""
    if not is_main():
        barrier()
    made = make()
    if is_main():
        barrier()
    return made


def leave() -> None:
    """Leave the group, so that the process can end quietly.

    Gloo's threads need Python's lock to let go of the last tensors; without the pause they can wait for it for ever,
    while the thread that destroys the group holds it and waits for them (seen with torch 2.13).
    """
    if dist.is_initialized():
        time.sleep(0.2)
        dist.destroy_process_group()


# --- How a device computes while training: fast kernels chosen by trial, or the same bits every time.


@contextlib.contextmanager
def numerics(deterministic: bool) -> Iterator[None]:
    """Within it, cuDNN tries out its kernels for the fastest; with `deterministic` only reproducible ones are used.

    PyTorch then raises where an operation has none; the networks here have (reflections are gathered by index, see
    `networks.layers`). cuBLAS needs its workspace fixed, before it is first used.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
