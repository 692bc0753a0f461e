"""The stream from input to PNG: right images under right names, failures reported, the rest written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pbvs.data.align import Input
from pbvs.data.manifest import Pair
from pbvs.errors import PbvsError
from pbvs.translators.base import predict_pairs
from pbvs.translators.grayscale import GrayscaleStage
from pbvs.translators.grayscale.translator import Grayscale
from tests.tasks import TASKS


def _pairs(count: int) -> list[Pair]:
    return [Pair(name=str(i), task="rgb2ir", split="test", location="", source=f"{i}.png") for i in range(count)]


def _read(pair: Pair) -> Input:
    if pair.name == "3":
        raise PbvsError("image 3 is broken.")
    return Input(np.full((8, 6, 3), int(pair.name) / 255, np.float32), 8, 6)


@pytest.mark.parametrize(("jobs", "batch"), [(1, 1), (3, 4)])
def test_each_image_lands_under_its_name_and_failures_are_told(tmp_path: Path, jobs: int, batch: int) -> None:
    translator = Grayscale(TASKS["rgb2ir"], GrayscaleStage(method="grayscale", intensity=2.0))
    outcome = predict_pairs(
        translator, _pairs(10), _read, lambda p: tmp_path / f"{p.name}.png", size=None, what="x", jobs=jobs, batch=batch
    )
    assert (outcome.images, outcome.failures) == (9, ["image 3 is broken."])
    assert sorted(p.stem for p in tmp_path.iterdir()) == [str(i) for i in range(10) if i != 3]
    for i in (0, 5, 9):
        image = Image.open(tmp_path / f"{i}.png")
        assert (image.mode, image.size) == ("L", (6, 8))
        assert np.asarray(image).mean() == 2 * i


def test_the_challenges_size_is_a_square(tmp_path: Path) -> None:
    translator = Grayscale(TASKS["rgb2ir"], GrayscaleStage(method="grayscale"))
    predict_pairs(translator, _pairs(1), _read, lambda p: tmp_path / "0.png", size=32, what="x")
    assert Image.open(tmp_path / "0.png").size == (32, 32)


@pytest.mark.parametrize(("dtype", "high"), [("uint8", 255), ("uint16", 65535)])
@pytest.mark.parametrize("size", [96, 1100])
def test_an_image_of_any_size_is_what_is_resampled_clipped_and_rounded(
    tmp_path: Path, size: int, dtype: str, high: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written some rows at a time, the pixels are those of the whole image."""
    translator = Grayscale(TASKS["rgb2ir"], GrayscaleStage(method="grayscale"))
    made = np.random.default_rng(5).normal(0.5, 0.5, (96, 70, 1)).astype(np.float32)
    monkeypatch.setattr(translator, "render", lambda images: [made])
    path = tmp_path / "0.png"
    predict_pairs(translator, _pairs(1), _read, lambda p: path, size=size, what="x", dtype=dtype)
    whole = np.asarray(Image.fromarray(made[:, :, 0]).resize((size, size), Image.Resampling.BICUBIC))
    assert (np.asarray(Image.open(path)) == np.rint(whole.clip(0, 1) * np.float32(high))).all()


def test_a_failed_write_stops_the_stream(tmp_path: Path) -> None:
    translator = Grayscale(TASKS["rgb2ir"], GrayscaleStage(method="grayscale"))
    (tmp_path / "file").write_text("")
    with pytest.raises(PbvsError, match="cannot be written"):
        predict_pairs(translator, _pairs(2), _read, lambda p: tmp_path / "file" / "0.png", size=None, what="x")
