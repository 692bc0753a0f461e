"""Which samples a step sees: a function of the step alone, the same for any number of processes."""

from __future__ import annotations

import pytest
import torch

from pbvs.errors import PbvsError
from pbvs.training.step import BatchPlan, Feed, batches, replicated
from tests.training.little import LittleChips


def test_an_epoch_sees_every_sample_and_fills_its_last_step() -> None:
    plan = BatchPlan(samples=7, batch_size=2)
    keys = [key for batch in plan.batches(0, plan.steps, 0) for key in batch]
    assert plan.steps == 4
    assert keys == [(0, position) for position in (0, 1, 2, 3, 4, 5, 6, 0)]


def test_starting_later_gives_the_rest_of_the_same_order() -> None:
    plan = BatchPlan(samples=7, batch_size=2)
    whole = list(plan.batches(0, 12, 0))
    assert list(plan.batches(5, 12, 0)) == whole[5:]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_processes_share_what_one_with_their_batches_together_sees(accumulate: int) -> None:
    one = BatchPlan(samples=16, batch_size=4, accumulate=accumulate)
    two = BatchPlan(samples=16, batch_size=2, accumulate=accumulate, processes=2)
    alone = list(one.batches(0, 2 * one.steps, 0))
    shares = [list(two.batches(0, 2 * two.steps, process)) for process in (0, 1)]
    assert [a + b for a, b in zip(*shares, strict=True)] == alone


def test_workers_change_nothing() -> None:
    chips = LittleChips()
    plan = BatchPlan(len(chips), 2, 1)
    found = [list(batches(chips, plan, 1, 5, Feed(workers=workers))) for workers in (0, 2)]
    for a, b in zip(*found, strict=True):
        assert torch.equal(a.source, b.source)
        assert torch.equal(a.target, b.target)
        assert a.source.min() >= -1
        assert a.source.max() <= 1


def test_grey_is_replicated_and_colours_are_not_thrown_away() -> None:
    assert replicated(torch.rand(1, 1, 2, 2), 3).shape == (1, 3, 2, 2)
    with pytest.raises(PbvsError, match=r"takes 1 channels but the images have 3"):
        replicated(torch.rand(1, 3, 2, 2), 1)


def test_nothing_to_learn_from_is_said() -> None:
    with pytest.raises(PbvsError, match="nothing to learn from"):
        BatchPlan(samples=0, batch_size=1)


def test_a_batch_over_the_data_is_said() -> None:
    with pytest.raises(PbvsError, match=r"A step takes 12 samples .* but an epoch has only 6"):
        BatchPlan(samples=6, batch_size=3, accumulate=2, processes=2)
