"""Random generators that depend on what they are for, never on what ran before them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive(seed: int, *what: int | str) -> int:
    """Return a 63-bit seed for the purpose `what` (for instance "augment", epoch, index) of the run's `seed`."""
    text = "\x1f".join(str(part) for part in (seed, *what))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *what: int | str) -> np.random.Generator:
    """Return NumPy's generator (PCG64) seeded by `derive(seed, *what)`."""
    return np.random.Generator(np.random.PCG64(derive(seed, *what)))


def torch_generator(seed: int, *what: int | str) -> torch.Generator:
    """Return a CPU torch generator seeded by `derive(seed, *what)`."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *what))
