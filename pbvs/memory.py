"""Memory for large tensors on a CPU: huge pages, and freed memory kept, since page faults cost more than arithmetic.

A training step at full width frees and takes some gigabytes. By default the C library gives blocks of more than
128 KiB back to the system and gets them back empty, page by page; on a virtual machine that is more than half of the
step's time. The results do not change (docs/speed.md has the figures).
"""

from __future__ import annotations

import os
import sys

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
