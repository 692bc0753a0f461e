"""Learning rates at the epochs where they change."""

from __future__ import annotations

import pytest

from pbvs.training.step import Schedule


@pytest.mark.parametrize(("epoch", "rate"), [(1, 2e-4), (30, 2e-4), (31, 1e-4), (40, 1e-4)])
def test_the_papers(epoch: int, rate: float) -> None:
    schedule = Schedule(2e-4, 30, half=10)
    assert schedule.epochs == 40
    assert schedule.at(epoch) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize(
    ("epoch", "rate"), [(1, 2e-4), (100, 2e-4), (101, 2e-4), (102, 2e-4 * 0.99), (150, 2e-4 * 0.51), (200, 2e-6)]
)
def test_the_published_one(epoch: int, rate: float) -> None:
    schedule = Schedule(2e-4, 100, decay=100)
    assert schedule.epochs == 200
    assert schedule.at(epoch) == pytest.approx(rate, rel=1e-9)


def test_the_linear_phase_starts_from_the_half_rate_when_there_was_one() -> None:
    schedule = Schedule(1.0, 2, half=2, decay=4)
    assert [schedule.at(epoch) for epoch in range(1, 9)] == pytest.approx([1, 1, 0.5, 0.5, 0.5, 0.375, 0.25, 0.125])
