"""FID and KID from features: float64 throughout, no matrix root that can turn complex, no sampling.

FID: Heusel et al. 2017, |m1 - m2|^2 + Tr(S1 + S2 - 2 sqrt(S1 S2)). KID: Binkowski et al. 2018, the unbiased estimate
of the squared maximum mean discrepancy with the kernel (x.y / d + 1)^3, over all pairs rather than random subsets.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pbvs.errors import PbvsError

ENOUGH = 2048  # images below which FID at 2048 dimensions is singular and biased upward
BLOCK = 2048  # rows of a kernel matrix that are in memory at a time

Features = NDArray[np.floating]


def fid(first: Features, second: Features) -> float:
    """Return the Frechet distance of two sets of features (N, D) and (M, D), 0 for equal sets; needs N, M >= 2.

    With fewer images than dimensions the trace is the sum of singular values of the centred features' product,
    which is the same number without a D x D matrix.
    """
    first, second = _checked(first), _checked(second)
    if first.shape == second.shape and np.array_equal(first, second):
        return 0.0
    mean_1, mean_2 = first.mean(0), second.mean(0)
    centred_1 = (first - mean_1) / np.sqrt(len(first) - 1)
    centred_2 = (second - mean_2) / np.sqrt(len(second) - 1)
    traces = float(np.square(centred_1).sum() + np.square(centred_2).sum())
    if max(len(first), len(second)) < first.shape[1]:
        root = float(np.linalg.svd(centred_1 @ centred_2.T, compute_uv=False).sum())
    else:
        root = trace_of_root(centred_1.T @ centred_1, centred_2.T @ centred_2)
    return max(0.0, float(np.square(mean_1 - mean_2).sum()) + traces - 2.0 * root)


def trace_of_root(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return Tr sqrt(S1 S2) of two covariances (D, D), as the roots of the eigenvalues of S1^1/2 S2 S1^1/2."""
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(0.0))) @ vectors.T
    return float(np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0.0)).sum())


def kid(first: Features, second: Features) -> float:
    """Return the unbiased squared kernel distance of features (N, D) and (M, D); it may be slightly negative."""
    first, second = _checked(first), _checked(second)
    if first.shape == second.shape and np.array_equal(first, second):
        return 0.0
    n, m = len(first), len(second)
    own = (_kernel_sum(first, first) - _diagonal(first)) / (n * (n - 1))
    other = (_kernel_sum(second, second) - _diagonal(second)) / (m * (m - 1))
    return own + other - 2.0 * _kernel_sum(first, second) / (n * m)


def _kernel_sum(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    blocks = range(0, len(first), BLOCK)
    return float(sum(((first[at : at + BLOCK] @ second.T / first.shape[1] + 1.0) ** 3).sum() for at in blocks))


def _diagonal(features: NDArray[np.float64]) -> float:
    return float(((np.square(features).sum(1) / features.shape[1] + 1.0) ** 3).sum())


def _checked(features: Features) -> NDArray[np.float64]:
    if features.ndim != 2 or len(features) < 2:
        raise PbvsError(f"A distance of two sets needs at least 2 images in each, not {len(features)}.")
    checked = np.asarray(features, np.float64)
    if not np.isfinite(checked).all():
        raise PbvsError("Features of an image are not finite, so the sets have no distance; check the weights.")
    return checked
