"""Which device does the work, and which of several processes this one is."""

from __future__ import annotations

import os

from pbvs.errors import UsageError
from pbvs.memory import keep_freed_memory, prefer_huge_pages


def resolve_device(name: str) -> str:
    """Return a torch device name for `auto`, `cpu`, `cuda` or `cuda:N`; raise UsageError when it is not there.

    Under torchrun each process takes the GPU of its local rank. For the CPU the process's memory is made ready.
    """
    prefer_huge_pages()
    if name == "cpu":
        keep_freed_memory()
        return name
    import torch

    available = torch.cuda.is_available()
    if name == "auto":
        return f"cuda:{local_rank()}" if available else resolve_device("cpu")
    if name == "cuda" and available:
        return f"cuda:{local_rank()}"
    if name.startswith("cuda:") and available and name[5:].isdigit() and int(name[5:]) < torch.cuda.device_count():
        return name
    raise UsageError(f"There is no device {name!r} here; use --device cpu or auto.")


def rank() -> int:
    """Return this process's number among those that torchrun started, 0 when it did not."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Return this process's number on its own host."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """Return how many processes work together."""
    return int(os.environ.get("WORLD_SIZE", "1"))
