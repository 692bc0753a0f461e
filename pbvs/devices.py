"""Which device does the work, and which of several processes this one is."""

from __future__ import annotations

import os
import sys

from pbvs.errors import UsageError


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


# --- Memory for large tensors on a CPU: huge pages, and freed memory kept, since page faults cost more than arithmetic.

HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # PyTorch asks for huge pages in blocks of 2 MiB and more where this is set
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8  # glibc's malloc.h
KEEP = "PBVS_KEEP_MEMORY"  # 0: leave the allocator as it is


def prefer_huge_pages() -> None:
    """Let PyTorch use huge pages; it looks once, at its first tensor, so this must come before."""
    if os.environ.get(KEEP) != "0":
        os.environ.setdefault(HUGE_PAGES, "1")


def keep_freed_memory() -> bool:
    """Tell the C library to keep what is freed for the next step; return whether it understood (glibc alone does).

    Large blocks come from the heap instead of mappings of their own, and the heap never shrinks. Threads share it, as
    the small heaps of their own would be given back. The most that the process ever needs grows by some fragments.
    """
    if sys.platform != "linux" or os.environ.get(KEEP) == "0":
        return False
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    settings = ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (ARENA_MAX, 1))  # -1: never trimmed
    return mallopt is not None and all(mallopt(name, value) for name, value in settings)
