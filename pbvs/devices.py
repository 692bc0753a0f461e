"""Which device does the work, and which of several processes this one is."""

from __future__ import annotations

import os

from pbvs.errors import UsageError


def resolve_device(name: str) -> str:
    """Return a torch device name for `auto`, `cpu`, `mps`, `cuda` or `cuda:N`.

    Under torchrun each process takes the GPU of its local rank. Raises UsageError when the device is not there, or
    when two processes would share one GPU, which NCCL cannot.

    >>> resolve_device("cpu")
    'cpu'
    """
    if name == "cpu":
        return name
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto" and not gpus:
        return "mps" if torch.backends.mps.is_available() and world_size() == 1 else "cpu"
    if name in ("auto", "cuda") and gpus:
        return f"cuda:{_own_gpu(gpus)}"
    if name == "mps" and torch.backends.mps.is_available():
        return name
    if name.startswith("cuda:") and name[5:].isdigit() and int(name[5:]) < gpus:
        if local_world_size() > 1:
            raise UsageError(f"--device {name} would give every process the same GPU; use --device cuda with torchrun.")
        return name
    raise UsageError(f"There is no device {name!r} here; use --device cpu or auto.")


def _own_gpu(gpus: int) -> int:
    if local_world_size() > gpus or local_rank() >= gpus:
        raise UsageError(
            f"{max(local_world_size(), local_rank() + 1)} processes were started on this machine, which has {gpus} "
            f"GPU{'s' if gpus > 1 else ''}; start torchrun with --nproc-per-node {gpus}, or use --device cpu."
        )
    return local_rank()


def _number(variable: str, otherwise: int) -> int:
    """Return a whole number that torchrun sets; raise UsageError when the environment says something else."""
    text = os.environ.get(variable, str(otherwise))
    if not text.isdecimal() or len(text) > 9:
        raise UsageError(f"The environment says {variable}={text[:40]!r}, which is no number; unset it.")
    return int(text)


def rank() -> int:
    """Return this process's number among those that torchrun started, 0 when it did not."""
    return _number("RANK", 0)


def local_rank() -> int:
    """Return this process's number on its own host."""
    return _number("LOCAL_RANK", 0)


def world_size() -> int:
    """Return how many processes work together."""
    return _number("WORLD_SIZE", 1)


def local_world_size() -> int:
    """Return how many of them are on this host."""
    return _number("LOCAL_WORLD_SIZE", 1)
