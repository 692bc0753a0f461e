"""Calibration finds the numbers that made the targets, writes them, and never makes the score worse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pbvs.data.align import open_pair
from pbvs.data.images import read_image, to_uint8, write_png
from pbvs.data.manifest import manifest_path, read_manifest
from pbvs.errors import PbvsError, UsageError
from pbvs.experiments.calibrate import Sample, Tone, calibrate, closed_form
from tests.evaluation.hand_made import Place
from tests.manifests import write_manifest


def sample(seed: int, tone: Tone, noise: float = 0.0) -> Sample:
    rng = np.random.default_rng(seed)
    source = (rng.random((40, 40, 3)) * 0.5 + 0.1).astype(np.float32)
    target = tone.apply(source) / 255.0 + noise * rng.standard_normal((40, 40, 1))
    return Sample(source, to_uint8(target), np.ones((40, 40), bool))


def test_the_closed_form_finds_the_factor_that_made_the_targets() -> None:
    found = closed_form([sample(n, Tone(1.3), noise=0.02) for n in range(4)])
    assert found.intensity == pytest.approx(1.3, abs=0.005)
    assert (found.channel_weights, found.offset, found.gamma) == ((), 0.0, 1.0)


def test_it_is_the_least_squares_factor() -> None:
    samples = [sample(n, Tone(1.2, gamma=1.3)) for n in range(3)]
    best = closed_form(samples).intensity

    def error(factor: float) -> float:
        return sum(float(np.square(s.source.mean(2, keepdims=True) * factor - s.target / 255.0).sum()) for s in samples)

    assert error(best) < min(error(best - 0.01), error(best + 0.01))


def test_channels_and_offset_are_found_too() -> None:
    made = Tone(0.9, (0.2, 0.5, 0.3), 0.08)
    found = closed_form([sample(n, made) for n in range(3)], channels=True, offset=True)
    assert found.intensity == pytest.approx(0.9, abs=0.01)
    assert found.channel_weights == pytest.approx((0.2, 0.5, 0.3), abs=0.01)
    assert found.offset == pytest.approx(0.08, abs=0.005)


def test_pixels_without_data_have_no_say() -> None:
    one = sample(0, Tone(1.3))
    one.valid[:20] = False
    one.target[:20] = 255
    assert closed_form([one]).intensity == pytest.approx(1.3, abs=0.01)


def bright(place: Place, factor: float) -> Place:
    """Let rgb2ir's targets be the inputs' gray times a factor, in training too."""
    for n, pair in enumerate(place.pairs("rgb2ir")):
        source = (read_image(place.folder / "data" / pair.source) * 0.5).astype(np.uint8)
        write_png(place.folder / "data" / pair.source, source)
        gray = source.mean(axis=2, keepdims=True) / 255.0
        write_png(place.target("rgb2ir", n), to_uint8(gray * factor))
    pairs = read_manifest(manifest_path(place.manifests, "rgb2ir", "val"))
    write_manifest(manifest_path(place.manifests, "rgb2ir", "train"), [replace(pair, split="train") for pair in pairs])
    return place


def run(place: Place, **options):
    settings = {"root": place.folder / "data", "manifests": place.manifests, "lpips_net": "random", "pairs": 4}
    return calibrate(place.run, ["rgb2ir"], **{**settings, **options})


def test_it_writes_factor_gain_and_curve_into_the_run(tmp_path: Path) -> None:
    place = bright(Place(tmp_path).make(), 1.45)
    [found] = run(place)
    assert found.after.intensity == pytest.approx(1.45, abs=0.03)
    assert found.train["after"] < found.train["before"] and found.held_out["after"] < found.held_out["before"]
    assert place.run.recipe().stages["rgb2ir"].intensity == found.after.intensity
    facts = json.loads((place.run.folder / "calibration" / "rgb2ir.json").read_text())
    assert facts["after"]["intensity"] == found.after.intensity and facts["lpips"].startswith("not LPIPS")
    assert len(facts["curve"]) >= 9
    assert (place.run.folder / "calibration" / "rgb2ir.png").read_bytes().startswith(b"\x89PNG")


def test_a_factor_that_is_best_already_is_kept(tmp_path: Path) -> None:
    place = bright(Place(tmp_path).make(), 1.0)
    [found] = run(place)
    assert found.train["after"] <= found.train["before"]
    assert found.after == found.before == Tone(1.0)


def test_a_dry_run_leaves_the_recipe_as_it_is(tmp_path: Path) -> None:
    place = bright(Place(tmp_path).make(), 1.45)
    before = place.run.recipe_file.read_bytes()
    run(place, write=False)
    assert place.run.recipe_file.read_bytes() == before
    assert not (place.run.folder / "calibration").exists()


def test_a_stage_that_learns_a_missing_first_model_and_no_pairs_get_a_sentence(tmp_path: Path) -> None:
    place = Place(tmp_path).make()
    settings = {"root": tmp_path / "data", "manifests": place.manifests, "lpips_net": "random"}
    with pytest.raises(PbvsError, match="pbvs predict --run hand --task sar2rgb"):
        calibrate(place.run, ["sar2ir"], **settings)
    with pytest.raises(PbvsError, match="build-pairs"):
        calibrate(place.run, ["rgb2ir"], **settings)
    with pytest.raises(UsageError, match="the tasks are"):
        calibrate(place.run, ["unknown"], **settings)


def test_the_l2_optimum_on_real_aerial_images_lies_near_the_papers_factor(standin: Path) -> None:
    from pbvs.data.manifest import Pair

    folder = standin / "Train_Data_NAIP_SAR_IR_RGB"
    images = sorted(folder.glob("*/*_rgb.tiff"))
    samples = []
    for path in images:
        names = [str(p.relative_to(standin)) for p in (path, path.with_name(path.name.replace("_rgb", "_ir")))]
        opened = open_pair(Pair("x", "rgb2ir", "train", "naip", *names), standin)
        samples.append(Sample(opened.source, to_uint8(opened.target), opened.valid))
    assert closed_form(samples).intensity == pytest.approx(1.3, abs=0.1)
