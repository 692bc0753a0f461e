"""NaN, infinity, constant and empty input to every metric and loss: a true number or a sentence, never a lie."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pbvs.data.images import to_uint8
from pbvs.data.intensity import to_unit
from pbvs.errors import PbvsError
from pbvs.evaluation.bootstrap import DRAWS, Values, combined_interval
from pbvs.files import write_json
from pbvs.metrics.base import ImagePair, create
from pbvs.metrics.fid import fid, kid
from pbvs.metrics.perceptual import Lpips
from pbvs.metrics.protocol import load_protocol
from pbvs.training import losses
from tests.tasks import TASKS

NAN, INF = math.nan, math.inf


def interval(values: Values, seed: int, n: int = DRAWS) -> tuple[float, float] | None:
    return combined_interval({"": values}, seed, n)


FLAT = np.full((8, 8, 1), 7, np.uint8)


def test_constant_images_have_exact_errors() -> None:
    metrics = create(("l1", "mse", "rmse")).values()
    black, white = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
    assert [metric.measure(ImagePair(FLAT, FLAT)) for metric in metrics] == [0, 0, 0]
    assert [metric.measure(ImagePair(black, white)) for metric in metrics] == [1, 1, 1]


@pytest.mark.parametrize("shape", [(0, 0, 1), (0, 8, 3), (8, 8, 0)])
def test_empty_images_have_no_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(PbvsError, match="No pixel"):
        ImagePair(np.zeros(shape, np.uint8), np.zeros(shape, np.uint8))


@pytest.mark.parametrize("distance", [fid, kid])
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_features_that_are_no_numbers_have_no_distance(distance: object, bad: float) -> None:
    good = np.random.default_rng(0).normal(size=(10, 4))
    broken = good.copy()
    broken[3, 2] = bad
    for pair in ((good, broken), (broken, good), (broken, broken)):
        with pytest.raises(PbvsError, match="not finite"):
            distance(*pair)  # type: ignore[operator]


@pytest.mark.parametrize("distance", [fid, kid])
def test_constant_and_empty_features(distance: object) -> None:
    flat = np.ones((10, 4))
    assert distance(flat, flat) == 0  # type: ignore[operator]
    assert math.isfinite(distance(flat, flat + 1))  # type: ignore[operator]
    for count in (0, 1):
        with pytest.raises(PbvsError, match="at least 2"):
            distance(flat[:count], flat)  # type: ignore[operator]


def test_lpips_of_constant_images_is_a_number_and_of_equal_ones_zero() -> None:
    net = Lpips("random")
    flat = torch.zeros(2, 1, 64, 64)
    assert net(flat, flat).tolist() == [0, 0]
    assert all(math.isfinite(value) and value >= 0 for value in net(flat - 1, flat + 1).tolist())


@pytest.mark.parametrize("bad", [NAN, INF])
def test_lpips_does_not_hide_a_number_that_is_none(bad: float) -> None:
    x = torch.zeros(2, 1, 64, 64)
    x[0, 0, 3, 3] = bad
    values = Lpips("random")(x, torch.zeros(2, 1, 64, 64)).tolist()
    assert not math.isfinite(values[0])
    assert values[1] == 0


def test_lpips_of_images_that_are_too_small_is_a_sentence() -> None:
    with pytest.raises(PbvsError, match="too small"):
        Lpips("random")(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize("bad", [NAN, INF])
def test_no_loss_hides_a_number_that_is_none(bad: float) -> None:
    x = torch.zeros(1, 3, 8, 8)
    x[0, 0, 0, 0] = bad
    zero = torch.zeros_like(x)
    assert not math.isfinite(float(losses.l2(x, zero)))
    assert not math.isfinite(float(losses.lsgan([[x]], 1.0)))
    assert not math.isfinite(float(losses.feature_matching([[x, x]], [[zero, zero]])))
    assert not math.isfinite(float(losses.vgg_distance(lambda t: [t] * 5, x, zero)))


def test_losses_of_equal_constant_images_are_zero_with_finite_slopes() -> None:
    x = torch.zeros(1, 3, 8, 8, requires_grad=True)
    zero = torch.zeros(1, 3, 8, 8)
    total = losses.l2(x, zero) + losses.vgg_distance(lambda t: [t] * 5, x, zero)
    total = (
        total
        + losses.feature_matching([[x, x]], [[zero, zero]])
        + Lpips("random")(torch.nn.functional.interpolate(x, 64), torch.zeros(1, 3, 64, 64)).sum()
    )
    total.backward()
    assert float(total.detach()) == pytest.approx(0, abs=1e-5)
    assert x.grad is not None and bool(torch.isfinite(x.grad).all())


@pytest.mark.parametrize("rule", ["full", "window:-25:0", "percentile:2:98", "power-db:-25:0", "amplitude-db:-25:0"])
def test_radiometry_makes_numbers_of_what_is_none(rule: str) -> None:
    for pixels in (
        np.full((4, 4, 1), NAN, np.float32),
        np.full((4, 4, 1), INF, np.float32),
        np.full((4, 4, 1), -INF, np.float32),
        np.zeros((4, 4, 1), np.float32),
        np.array([[[NAN], [INF]], [[-INF], [1.0]]], np.float32),
    ):
        unit = to_unit(pixels, rule)
        assert np.isfinite(unit).all() and unit.min() >= 0 and unit.max() <= 1


def test_quantising_makes_numbers_of_what_is_none() -> None:
    assert to_uint8(np.array([[[NAN, INF, -INF, 0.5]]])).tolist() == [[[0, 255, 0, 128]]]


def test_a_score_from_partial_components_is_none_and_a_missing_task_counts() -> None:
    protocol = load_protocol()
    assert protocol.task_score({"rmse": 0.1, "lpips": None}) is None
    assert protocol.combined({**dict.fromkeys(TASKS), "sar2eo": 0.2}) == pytest.approx((0.2 + 3) / 4)


def test_no_interval_of_nothing() -> None:
    assert interval({}, seed=0) is None
    assert interval({"a": []}, seed=0) is None
    assert interval({"a": [0.1], "b": []}, seed=0) is None


@pytest.mark.parametrize("bad", [NAN, INF])
def test_json_with_a_number_that_is_none_is_not_written(tmp_path: object, bad: float) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"score": bad})  # type: ignore[operator]
    assert not list(tmp_path.iterdir())  # type: ignore[attr-defined]
