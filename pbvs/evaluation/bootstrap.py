"""How far a mean can be trusted, where images of one location are not independent of each other.

The mean over images is a ratio of sums over locations; its standard error is that of the ratio (Cochran 1977, section
6.3), with whole locations as the units. The interval is Student's t of it, with a jackknife's error where that is
larger; from 5 locations on it reaches at least as far, to each side, as the bootstrap-t (Efron 1982; Efron and
Tibshirani 1993, section 12.5), which draws whole locations and follows skewed data. Percentile intervals are too narrow
here: with 3 locations they hold the truth in 77 of 100 cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pbvs.seeds import generator

DRAWS = 2000
LEVEL = 0.95
FEWEST = 3  # locations below which nothing is said
BLOCK = 1 << 20  # numbers of one task's locations that are drawn at once
ENOUGH = 5  # locations from which on the bootstrap-t is used as well
Values = Mapping[str, Sequence[float]]  # location -> one value an image
Floats = NDArray[np.float64]


def combined_interval(tasks: Mapping[str, Values], seed: int, n: int = DRAWS) -> tuple[float, float] | None:
    """Return the interval of the mean over the tasks of each task's mean over its images.

    A location is drawn for all tasks at once, since its images serve several of them. None where a task has fewer than
    three locations, which say little of it. The same values and seed give the same interval, whatever their order.

    >>> combined_interval({"sar2eo": {"a": [0.2], "b": [0.2, 0.2], "c": [0.2]}}, seed=1)
    (0.2, 0.2)
    """
    used = {
        task: {location: values for location, values in found.items() if len(values)} for task, found in tasks.items()
    }
    fewest = min((len(found) for found in used.values()), default=0)
    if fewest < FEWEST:
        return None
    locations = sorted({location for found in used.values() for location in found})
    sums = np.array([[sum(found.get(location, ())) for location in locations] for found in used.values()], np.float64)
    counts = np.array([[len(found.get(location, ())) for location in locations] for found in used.values()], np.float64)
    center = float((sums.sum(1) / counts.sum(1)).mean())
    # Values around their task's mean: a sum of equal numbers is then exactly 0.
    shifted = sums - counts * (sums.sum(1) / counts.sum(1))[:, None]
    once = np.ones((1, len(locations)))
    error = float(_moments(shifted, counts, once)[1][0])
    if error <= 1e-12 * max(1.0, abs(center)):
        return center, center
    low, high = _quantiles(shifted, counts, error, fewest, seed, n)
    return center - high * error, center - low * error


def _quantiles(sums: Floats, counts: Floats, error: float, fewest: int, seed: int, n: int) -> tuple[float, float]:
    """Return the quantiles of (estimate - truth) / standard error: Student's, or where wider those of draws."""
    from scipy.special import stdtrit  # Student's t without the 25 MB of scipy.stats

    student = float(stdtrit(fewest - 1, (1 + LEVEL) / 2)) * max(1.0, _jackknife(sums, counts) / error)
    if fewest < ENOUGH:
        return -student, student
    count = sums.shape[1]
    random, shares = generator(seed, "bootstrap", count), np.full(count, 1.0 / count)
    at_once = max(1, BLOCK // sums.size)  # the same draws in parts: all of them hold n numbers for each location
    parts = (random.multinomial(count, shares, min(at_once, n - done)) for done in range(0, n, at_once))
    means, errors = np.hstack([_moments(sums, counts, draws.astype(np.float64)) for draws in parts])
    usable = np.isfinite(means) & (errors > 1e-3 * error)
    if usable.sum() < n // 2:
        return -student, student
    low, high = np.quantile(means[usable] / errors[usable], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return min(float(low), -student), max(float(high), student)


def _jackknife(sums: Floats, counts: Floats) -> float:
    """Return the standard error from leaving out each location in turn.

    It is the ratio's own where locations have equally many images, and a little larger where they do not: with few of
    them the ratio's own is too small.
    """
    count = sums.shape[1]
    without = ((sums.sum(1, keepdims=True) - sums) / (counts.sum(1, keepdims=True) - counts)).mean(0)
    return float(np.sqrt((count - 1) / count * np.square(without - without.mean()).sum()))


def _moments(sums: Floats, counts: Floats, draws: Floats) -> tuple[Floats, Floats]:
    """Return (n,) means over tasks and their standard errors, for (n, locations) times that each location was drawn.

    A draw that leaves a task with fewer than two locations has NaN. The factor is that of a sample's variance.
    """
    drawn = draws @ counts.T  # (n, tasks)
    present = (draws > 0).astype(np.float64) @ (counts > 0).T.astype(np.float64)
    drawn = np.where(present >= 2, drawn, np.nan)
    means = draws @ sums.T / drawn
    # Each location's share in the error of the mean over tasks.
    shares = (sums[None] - means[:, :, None] * counts[None]) / drawn[:, :, None]
    units = draws.sum(1)
    squares = (draws * np.square(shares.mean(1))).sum(1) * units / np.maximum(units - 1, 1)
    return means.mean(1), np.sqrt(squares)
