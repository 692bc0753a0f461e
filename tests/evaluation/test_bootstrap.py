"""The bootstrap resamples places, not images, and does not depend on their order."""

from __future__ import annotations

import numpy as np
import pytest

from pbvs.evaluation.bootstrap import DRAWS, Values, combined_interval


def interval(values: Values, seed: int, n: int = DRAWS) -> tuple[float, float] | None:
    return combined_interval({"": values}, seed, n)


def places(count: int, each: int, spread: float) -> dict[str, list[float]]:
    rng = np.random.default_rng(7)
    return {f"p{i}": list(rng.normal(0.5, spread) + np.zeros(each)) for i in range(count)}


def test_it_holds_the_mean_and_has_the_width_of_theory() -> None:
    values = places(100, 1, 0.1)
    low, high = interval(values, 1) or (0, 0)
    means = np.array([found[0] for found in values.values()])
    assert low < means.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * means.std() / 10, rel=0.1)


def test_more_images_of_the_same_places_prove_nothing_more() -> None:
    assert interval(places(20, 1, 0.1), 1) == pytest.approx(interval(places(20, 50, 0.1), 1))


def test_the_order_of_places_changes_nothing() -> None:
    values = places(12, 3, 0.1)
    assert interval(values, 3) == interval(dict(reversed(values.items())), 3)
    assert interval(values, 3) != interval(values, 4)


@pytest.mark.parametrize("values", [{}, {"only": [0.1, 0.9]}, {"a": [0.1], "empty": []}, {"a": [0.1], "b": [0.2, 0.3]}])
def test_fewer_than_three_locations_give_no_interval(values: dict[str, list[float]]) -> None:
    assert interval(values, 1) is None


def test_equal_values_give_an_interval_of_no_width() -> None:
    assert interval({"a": [0.0], "b": [0.0, 0.0], "c": [0.0]}, 1) == (0.0, 0.0)


def test_the_combined_interval_is_of_the_mean_over_tasks() -> None:
    tasks = {"one": places(30, 1, 0.1), "two": {f"q{i}": [0.9] for i in range(5)}}
    low, high = combined_interval(tasks, 1) or (0, 0)
    assert low < (np.mean([v[0] for v in tasks["one"].values()]) + 0.9) / 2 < high
    assert combined_interval(tasks | {"three": {"x": [0.5]}}, 1) is None
