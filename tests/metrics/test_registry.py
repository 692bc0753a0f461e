"""A new metric is one file: the registry finds it, and a protocol, the scorer, its tables and compare use it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from pbvs import metrics
from pbvs.errors import UsageError
from pbvs.evaluation.compare import compare
from pbvs.evaluation.results import score_table
from pbvs.files import write_text
from pbvs.metrics import base
from pbvs.metrics.base import ImagePair, create, get_metric, registry
from pbvs.run import Run
from tests.evaluation.hand_made import Place

MODULE = '''
"""How much brighter a prediction is than its target."""

from pbvs.metrics.base import ImageMetric, ImagePair, register


@register
class Brightness(ImageMetric):
    """Absolute difference of the mean values."""

    names = ("brightness",)
    bounds = (0.0, 1.0)

    def measure(self, pair: ImagePair) -> float:
        prediction, target = pair.units()
        return abs(float(prediction.mean() - target.mean()))
'''
PROTOCOL = """
name = "bright"
shown = ["l1"]
[[terms]]
metric = "brightness"
weight = 2.0
[[terms]]
metric = "rmse"
"""


@pytest.fixture
def brightness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a metric's module beside the package's own for one test."""
    folder = tmp_path / "more"
    write_text(folder / "brightness.py", MODULE)
    monkeypatch.setattr(metrics, "__path__", [*metrics.__path__, str(folder)])
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))
    yield
    sys.modules.pop("pbvs.metrics.brightness", None)


@pytest.mark.usefixtures("brightness")
def test_a_metric_is_one_file_and_a_term(tmp_path: Path) -> None:
    write_text(tmp_path / "bright.toml", PROTOCOL)
    place = Place(tmp_path / "data", count=3).make().spoil()
    scores = place.score(protocol=tmp_path / "bright.toml")
    row = scores.table("sar2rgb").iloc[0]
    assert row["score"] == pytest.approx((2 * row["brightness"] + row["rmse"]) / 2)
    assert 0 < scores.task("sar2rgb")["brightness"] == pytest.approx(scores.table("sar2rgb")["brightness"].mean())
    assert "BRIGHTN" in score_table(scores) and "2 brightness" in score_table(scores)
    assert compare(place.run, Run(place.run.name, place.run.submissions)).combined.identical


def test_all_metrics_of_the_package_are_known_with_their_direction() -> None:
    expected = {"l1", "mse", "rmse", "psnr", "ssim", "ms-ssim", "lpips-alex", "lpips-vgg", "lpips-squeeze"}
    expected |= {"fid-64", "fid-192", "fid-768", "fid-2048", "kid-2048", "frechet-vgg16"}
    assert expected <= set(registry())
    assert {name for name in registry() if get_metric(name).higher_is_better} == {"psnr", "ssim", "ms-ssim"}
    with pytest.raises(UsageError, match="psnr"):
        get_metric("pnsr")


def test_values_lie_within_their_bounds() -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 256, (192, 192, 3), dtype=np.uint8) for _ in range(2))
    for name, metric in create(["l1", "mse", "rmse", "psnr", "ssim", "ms-ssim"]).items():
        low, high = metric.bounds
        for other in (first, second):
            assert low <= metric.measure(ImagePair(first, other)) <= high, name
