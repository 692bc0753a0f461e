"""Learning rates at the epochs where they change."""

from __future__ import annotations

import pytest

from pbvs.training.step import Schedule
from pbvs.translators.unet.translator import Cosine


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


def test_the_cosine_keeps_the_curve_that_was_and_gives_what_is_added_one_of_its_own() -> None:
    short, added = Cosine(2.0, 24, warm_up=0.1), Cosine(2.0, 12, warm_up=0.1)
    longer = Cosine(2.0, 36, ends=(24,), warm_up=0.1)
    assert [longer.at(epoch) for epoch in range(1, 25)] == [short.at(epoch) for epoch in range(1, 25)]
    assert [longer.at(epoch) for epoch in range(25, 37)] == [added.at(epoch) for epoch in range(1, 13)]
    assert longer.at(24) < 0.01 and max(longer.at(epoch) for epoch in (25, 26, 27)) > 1.8 and longer.at(36) < 0.02
    thrice = Cosine(2.0, 40, ends=(24, 36), warm_up=0.1)
    assert [thrice.at(epoch) for epoch in range(1, 37)] == [longer.at(epoch) for epoch in range(1, 37)]
