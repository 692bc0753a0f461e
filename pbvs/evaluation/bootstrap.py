"""How far a mean can be trusted: resample whole locations, because images of one place are not independent.

The percentile bootstrap of Efron (1979) over clusters: a draw takes as many locations as there are, with replacement,
and all images of each; the interval lies between percentiles of the draws' means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pbvs.seeds import generator

DRAWS = 1000
LEVEL = 0.95
Values = Mapping[str, Sequence[float]]  # location -> one value an image


def interval(values_by_location: Values, seed: int, n: int = DRAWS, level: float = LEVEL) -> tuple[float, float] | None:
    """Return the interval of the mean over all images; None with fewer than two locations, which say nothing of it.

    The same values and seed give the same interval, whatever the order of the locations.
    """
    return combined_interval({"": values_by_location}, seed, n, level)


def combined_interval(
    tasks: Mapping[str, Values], seed: int, n: int = DRAWS, level: float = LEVEL
) -> tuple[float, float] | None:
    """Return the interval of the mean over the tasks of each task's mean over its images.

    A location is drawn for all tasks at once, since its images serve several of them; a draw that leaves a task
    without an image is put back. None where a task has fewer than two locations.
    """
    used = {task: {place: values for place, values in found.items() if values} for task, found in tasks.items()}
    if not used or min(len(found) for found in used.values()) < 2:
        return None
    places = sorted({place for found in used.values() for place in found})
    draws = _draws(len(places), seed, n)
    means = [_means(found, places, draws) for found in used.values()]
    combined = np.mean(means, axis=0)
    combined = combined[np.isfinite(combined)]
    if not combined.size:
        return None
    low, high = np.quantile(combined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _draws(places: int, seed: int, n: int) -> NDArray[np.float64]:
    """Return (n, places): how often each location was drawn."""
    return generator(seed, "bootstrap", places).multinomial(places, np.full(places, 1.0 / places), n).astype(np.float64)


def _means(found: Values, places: Sequence[str], draws: NDArray[np.float64]) -> NDArray[np.float64]:
    sums = np.array([sum(found.get(place, ())) for place in places])
    counts = np.array([len(found.get(place, ())) for place in places], np.float64)
    drawn = draws @ counts
    means: NDArray[np.float64] = np.divide(draws @ sums, drawn, out=np.full(len(draws), np.nan), where=drawn > 0)
    return means
