"""The bootstrap resamples places, not images, and does not depend on their order."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from pbvs.evaluation import bootstrap
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


def _places(count: int) -> dict[str, dict[str, list[float]]]:
    rng = np.random.default_rng(4)
    return {task: {f"p{n:05}": rng.random(1 + n % 3).tolist() for n in range(count)} for task in ("one", "two")}


def test_draws_in_parts_give_the_interval_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = _places(40)
    whole = combined_interval(tasks, seed=3)
    assert whole is not None
    for block in (1, 1000, 12_345):  # one draw at a time, and parts of unequal size
        monkeypatch.setattr(bootstrap, "BLOCK", block)
        assert combined_interval(tasks, seed=3) == pytest.approx(whole, abs=1e-12)


def test_the_jackknife_leaves_out_each_location_in_turn() -> None:
    sums, counts = np.array([[1.0, 4.0, 2.5, 0.5]]), np.array([[2.0, 5.0, 3.0, 1.0]])
    left = [(sums.sum() - sums[0, n]) / (counts.sum() - counts[0, n]) for n in range(4)]
    expected = np.sqrt(3 / 4 * np.square(left - np.mean(left)).sum())
    assert bootstrap._jackknife(sums, counts) == pytest.approx(expected, rel=1e-12)


def test_many_locations_take_little_memory() -> None:
    tasks = _places(5000)  # all draws at once are 160 MB, and a matrix of locations by locations 200
    tracemalloc.start()
    try:
        span = combined_interval(tasks, seed=3)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert span is not None and span[0] < 0.5 < span[1]
    assert peak < 64 << 20
