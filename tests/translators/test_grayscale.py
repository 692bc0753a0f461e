"""Grayscale and cascade against values computed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pbvs.errors import PbvsError
from pbvs.translators import METHODS, make_translator, translator_class
from pbvs.translators.base import ImageArray
from pbvs.translators.grayscale import CascadeStage, GrayscaleStage
from pbvs.translators.grayscale.translator import Grayscale, grayscale
from tests.tasks import TASKS


def test_grayscale_is_the_mean_times_the_factor_clipped() -> None:
    image = np.array([[[0.1, 0.2, 0.3], [0.9, 0.9, 0.9]]], np.float32)
    np.testing.assert_allclose(grayscale(image, 1.3)[0, :, 0], [0.26, 1.0], atol=1e-7)


def test_grayscale_does_not_change_its_input() -> None:
    image = np.full((2, 2, 1), 0.5, np.float32)
    grayscale(image, 1.5)
    assert (image == 0.5).all()


class Inverse(Grayscale):
    """Stands for a first stage: three channels from one, inverted."""

    def render(self, images: Sequence[ImageArray]) -> list[ImageArray]:
        return [np.repeat(1 - image, 3, axis=2) for image in images]


def test_cascade_feeds_the_first_stage_into_grayscale() -> None:
    first = Inverse(TASKS["sar2rgb"], GrayscaleStage(method="grayscale"))
    cascade = make_translator(
        TASKS["sar2ir"], CascadeStage(method="cascade", first="sar2rgb", intensity=1.15), {"sar2rgb": first}
    )
    [result] = cascade.translate([np.full((4, 5, 1), 0.6, np.float32)])
    assert result.shape == (4, 5, 1)
    np.testing.assert_allclose(result, 0.4 * 1.15, rtol=1e-6)


def test_a_model_with_another_factor_is_refused(tmp_path: Path) -> None:
    Grayscale(TASKS["rgb2ir"], GrayscaleStage(method="grayscale", intensity=1.3)).save(tmp_path)
    Grayscale(TASKS["rgb2ir"], GrayscaleStage(method="grayscale", intensity=1.3)).load(tmp_path)
    with pytest.raises(PbvsError, match=r"1\.3"):
        Grayscale(TASKS["rgb2ir"], GrayscaleStage(method="grayscale", intensity=1.2)).load(tmp_path)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_names_itself(method: str) -> None:
    assert translator_class(method).method == method
