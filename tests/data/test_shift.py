"""Misregistration: found from many pairs, never claimed from few, and written into pairs only where it is trusted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from pbvs.data.align import Opened, open_pair
from pbvs.data.build import build_pairs
from pbvs.data.images import to_uint8, write_tiff
from pbvs.data.manifest import Pair, manifest_path, read_manifest
from pbvs.data.registration import FEWEST, Surface, correct, estimate, find_shifts, information_surface


def image(seed: int, shift: tuple[int, int], side: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """SAR that shows (row + down, column + across) what the target shows, of another kind of brightness."""
    rng = np.random.default_rng(seed)
    ground = gaussian_filter(rng.standard_normal((side, side)), 3)
    ground = (ground - ground.min()) / np.ptp(ground)
    sar = np.roll(np.abs(ground - 0.5), shift, (0, 1)) * rng.gamma(4, 0.25, (side, side))
    return sar[:, :, None].astype(np.float32).clip(0, 1), ground[:, :, None].astype(np.float32)


def surfaces(shift: tuple[int, int], count: int = 12) -> list[Surface]:
    made = [information_surface(*image(seed, shift), np.ones((96, 96), np.bool_)) for seed in range(count)]
    return [surface for surface in made if surface is not None]


@pytest.mark.parametrize("shift", [(0, 0), (3, -5), (-8, 2)])
def test_a_known_shift_is_found(shift: tuple[int, int]) -> None:
    found = estimate(surfaces(shift))
    assert found is not None
    assert np.hypot(found.down - shift[0], found.across - shift[1]) < 0.5
    assert found.trusted == (shift != (0, 0))


def test_few_pairs_say_nothing() -> None:
    assert estimate(surfaces((3, 3), FEWEST - 1)) is None


def test_images_of_different_places_are_not_trusted() -> None:
    made = [
        information_surface(image(seed, (0, 0))[0], image(seed + 100, (0, 0))[1], np.ones((96, 96), np.bool_))
        for seed in range(16)
    ]
    found = estimate([surface for surface in made if surface is not None])
    assert found is not None
    assert not found.trusted


def test_small_flat_and_empty_images_have_no_surface() -> None:
    sar, target = image(0, (0, 0))
    everywhere = np.ones((96, 96), np.bool_)
    assert information_surface(sar[:40, :40], target[:40, :40], everywhere[:40, :40]) is None
    assert information_surface(np.zeros_like(sar), target, everywhere) is None
    assert information_surface(sar, target, ~everywhere) is None


def test_a_quarter_without_data_changes_little() -> None:
    valid = np.ones((96, 96), np.bool_)
    valid[:48, :48] = False
    made = [information_surface(*image(seed, (3, -5)), valid) for seed in range(12)]
    found = estimate([surface for surface in made if surface is not None])
    assert found is not None
    assert np.hypot(found.down - 3, found.across + 5) < 0.7


@pytest.fixture(scope="module")
def sentinel(standin: Path, standin_manifests: Path) -> tuple[list[Pair], list[Opened]]:
    pairs = [
        pair
        for pair in read_manifest(manifest_path(standin_manifests, "sar2rgb", "train"))
        if "Sentinel_" in pair.source
    ][:40]
    return pairs, [open_pair(pair, standin) for pair in pairs]


@pytest.mark.parametrize(("shift", "limit"), [((0, 0), 1.5), ((3, 0), 1.0), ((-5, 6), 1.0), ((8, -8), 1.0)])
def test_the_stand_ins_shift_is_found_from_forty_pairs(
    sentinel: tuple[list[Pair], list[Opened]], shift: tuple[int, int], limit: float
) -> None:
    made = [
        information_surface(np.roll(opened.source, shift, (0, 1)), opened.target, opened.valid)
        for opened in sentinel[1]
        if opened.target is not None
    ]
    found = estimate([surface for surface in made if surface is not None])
    assert found is not None
    assert found.pairs == 40
    assert np.hypot(found.down - shift[0], found.across - shift[1]) <= limit


def test_pairs_are_corrected_only_by_what_is_trusted(standin: Path, sentinel: tuple[list[Pair], list[Opened]]) -> None:
    shifts = find_shifts(sentinel[0], standin)
    (group, found), *others = shifts.items()
    assert not others
    assert not found.trusted
    assert correct(sentinel[0], shifts) == sentinel[0]
    known = replace(found, down=3.25, across=-2.0, information=2 * found.unshifted, gaining=0.9, spread=0.2)
    corrected = correct(sentinel[0], {group: known})
    assert {pair.shift for pair in corrected} == {"3.25 -2.00"}


def test_build_pairs_corrects_on_request_only(tmp_path: Path) -> None:
    for seed in range(12):
        sar, target = image(seed, (3, -4))
        folder = tmp_path / f"root/A/loc{seed}"
        write_tiff(folder / "s_GEC.tiff", to_uint8(sar))
        write_tiff(folder / "a_rgb.tiff", to_uint8(np.repeat(target, 3, axis=2)))
    build_pairs(tmp_path / "root", tmp_path / "plain")
    summary = build_pairs(tmp_path / "root", tmp_path / "moved", correct_shift=True)
    plain, moved = (read_manifest(manifest_path(tmp_path / name, "sar2rgb", "train")) for name in ("plain", "moved"))
    assert {pair.shift for pair in plain} == {""}
    assert summary.details["misregistration"]["sar2rgb A"]["trusted"]
    (shift,) = {pair.shift for pair in moved}
    assert np.hypot(*(np.array(shift.split(), float) - (3, -4))) < 0.5
    before, after = (
        np.mean([mutual(open_pair(pair, tmp_path / "root")) for pair in pairs]) for pairs in (plain, moved)
    )
    assert after > 1.3 * before


def mutual(opened: Opened) -> float:
    assert opened.target is not None
    surface = information_surface(opened.source, opened.target, opened.valid)
    assert surface is not None
    return float(surface[surface.shape[0] // 2, surface.shape[1] // 2])
