"""Intervals hold what they promise, and equal methods are called equal: simulations of few and many locations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from pbvs.evaluation.bootstrap import DRAWS, Values, combined_interval

pytestmark = pytest.mark.slow
TIMES, TRUTH = 1000, 0.3
KINDS: dict[str, Callable[[np.random.Generator, int], NDArray[np.float64]]] = {
    "normal": lambda rng, count: rng.normal(0, 1, count),
    "uniform": lambda rng, count: rng.uniform(-1, 1, count),
    # A few locations that are much harder than the rest; both have the mean 0 and the deviation 1.
    "exponential": lambda rng, count: rng.exponential(1, count) - 1,
    "lognormal": lambda rng, count: (rng.lognormal(0, 1, count) - np.e**0.5) / ((np.e - 1) * np.e) ** 0.5,
}


def interval(values: Values, seed: int, n: int = DRAWS) -> tuple[float, float] | None:
    return combined_interval({"": values}, seed, n)


def scene(rng: np.random.Generator, kind: str, count: int, truth: float) -> dict[str, list[float]]:
    """Locations with 2 to 6 images each: a location's own difficulty, and each image's."""
    sizes, own = rng.integers(2, 7, count), KINDS[kind](rng, count)
    return {f"{n}": list(truth + 0.05 * own[n] + 0.03 * rng.normal(size=size)) for n, size in enumerate(sizes)}


@pytest.mark.parametrize("count", [3, 4, 5, 7, 9, 10, 12, 17, 25, 40])
@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_intervals_cover_the_truth(kind: str, count: int) -> None:
    assert coverage(kind, count) >= 0.92


# What is honest of skewed data: few locations cannot know of the rare hard one that they did not meet.
SKEWED = [
    ("exponential", 3, 0.89),
    ("exponential", 4, 0.87),
    *(("exponential", count, 0.92) for count in (5, 10, 17, 40)),
    ("lognormal", 4, 0.85),
    ("lognormal", 7, 0.87),
    ("lognormal", 17, 0.89),
    ("lognormal", 40, 0.92),
]


@pytest.mark.parametrize(("kind", "count", "least"), SKEWED)
def test_intervals_cover_the_truth_of_skewed_locations_as_far_as_docs_say(kind: str, count: int, least: float) -> None:
    assert coverage(kind, count) >= least


def coverage(kind: str, count: int) -> float:
    rng = np.random.default_rng(count)
    found = [interval(scene(rng, kind, count, TRUTH), seed, 400) for seed in range(TIMES)]
    return sum(low <= TRUTH <= high for low, high in filter(None, found)) / TIMES


@pytest.mark.parametrize("count", [3, 5, 10, 17, 40])
def test_equal_methods_are_seldom_called_better_or_worse(count: int) -> None:
    rng = np.random.default_rng(100 + count)
    found = [interval(scene(rng, "normal", count, 0.0), seed, 400) for seed in range(TIMES)]
    assert sum(not low <= 0 <= high for low, high in filter(None, found)) / TIMES <= 0.08


def test_intervals_are_no_wider_than_they_must_be() -> None:
    rng = np.random.default_rng(5)
    widths = []
    for seed in range(200):
        low, high = interval(scene(rng, "normal", 40, TRUTH), seed, 400) or (0, 0)
        widths.append(high - low)
    assert np.mean(widths) < 1.25 * 2 * 1.96 * 0.0525 / 40**0.5
