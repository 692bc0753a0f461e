"""What a path says, in both spellings of the archives."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbvs.challenge import load_challenge
from pbvs.data.catalog import PathInfo, PathReader, date_of, natural_key, number_of

READER = PathReader(load_challenge("mavic-t-2026"))


@pytest.mark.parametrize(
    ("path", "modality", "role", "split", "task"),
    [
        ("Train_Data_and_Validation_EO_SAR/SAR/train/1.png", "sar", "image", "train", "sar2eo"),
        ("Train_Data_and_Validation_EO_SAR/EO/validation/1.png", "eo", "image", "val", "sar2eo"),
        ("design_data/SAR/train/Gotcha_1.png", "sar", "image", "train", "sar2eo"),
        ("design_data/EO/1.png", "eo", "image", "train", "sar2eo"),
        ("design_data/SAR/test/1.png", "sar", "input", "test", "sar2eo"),
        ("Validation (SAR, IR, RGB)/sar2rgb/input/0.tiff", "sar", "input", "val", "sar2rgb"),
        ("val/rgb2ir/0.tiff", "rgb", "input", "val", "rgb2ir"),
        ("val/sar2ir/input/0.tiff", "sar", "input", "val", "sar2ir"),
        ("test/sar2eo/1041.png", "sar", "input", "test", "sar2eo"),
        ("mavic_t_2025_test/sar2rgb/7.tiff", "sar", "input", "test", "sar2rgb"),
        ("a/MAVIC_T_2025_test_set/rgb2ir/7.tiff", "rgb", "input", "test", "rgb2ir"),
        ("uc_davis_merged_chips_stacks/38.5_-121.7/x_ir.tiff", "ir", "image", "train", ""),
        ("Train_Data_Bingham_SAR_IR_RGB/40.5_-112.1/2023-05-12_UMBRA-05_GEC.tif", "sar", "image", "train", ""),
        ("Train_Data_Bingham_SAR_IR_RGB/40.5_-112.1/mosiac_rgb_2.tiff", "rgb", "mosaic", "train", ""),
        ("Train_Data_Bingham_SAR_IR_RGB/40.5_-112.1/mosaic_ir.tiff", "ir", "mosaic", "train", ""),
    ],
)
def test_both_spellings(path: str, modality: str, role: str, split: str, task: str) -> None:
    place = READER.read(path)
    assert isinstance(place, PathInfo)
    assert (place.modality, place.role, place.split, place.task) == (modality, role, split, task)


def test_rgb_and_ir_of_one_moment_have_one_base() -> None:
    places = [READER.read(f"A/0_0/NAIP_2009_{name}.tiff") for name in ("rgb", "ir")]
    assert len({place.base for place in places if isinstance(place, PathInfo)}) == 1
    assert isinstance(places[0], PathInfo)
    assert places[0].location == "0_0"


@pytest.mark.parametrize("path", ["loose.tiff", "A/0_0/preview.png", "A/0_0/mosiac.tiff"])
def test_what_says_nothing_is_refused_with_a_reason(path: str) -> None:
    assert isinstance(READER.read(path), str)


@pytest.mark.parametrize(
    ("stem", "date"),
    [
        ("S1_20201204_GEC", "2020-12-04"),
        ("Landsat8_2020_07_10_ir", "2020-07-10"),
        ("2023-05-12-17-45_UMBRA", "2023-05-12"),
        ("x_20230231_20230301", "2023-03-01"),
        ("282D_485L_3_3", ""),
        ("120201204", ""),
    ],
)
def test_dates_in_names(stem: str, date: str) -> None:
    assert date_of(stem) == date


def test_numbers_sort_as_numbers_and_end_names() -> None:
    assert sorted(["10.png", "9.png", "a.png"], key=natural_key) == ["9.png", "10.png", "a.png"]
    assert (number_of("Gotcha_1234"), number_of("none")) == (1234, None)


def _words_and_numbers(text: str) -> list[tuple[int, int | str]]:
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split("([0-9]+)", text)]


@given(st.lists(st.text("01239aB-_. ", max_size=8), max_size=6))
def test_the_natural_order_is_that_of_words_and_numbers(names: list[str]) -> None:
    assert sorted(names, key=natural_key) == sorted(names, key=_words_and_numbers)
