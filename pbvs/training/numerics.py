"""How a device computes while training: fast kernels chosen by trial, or the same bits every time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch


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
