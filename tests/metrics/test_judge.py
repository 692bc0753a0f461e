"""What of an image counts: borders, luma, masks, ranges, shifts and bias; and images measured as epochs are chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pbvs.errors import PbvsError
from pbvs.metrics.judge import Judge
from pbvs.metrics.protocol import Protocol, load_protocol


def rule(*metrics: str, **changes: Any) -> Protocol:
    tables = {"name": "rule", "terms": [{"metric": name} for name in metrics], "shown": [], "lpips_net": "random"}
    return load_protocol({**tables, **changes})


def noise(seed: int, side: int = 64, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (side, side, channels), dtype=np.uint8)


def measured(protocol: Protocol, *images: NDArray, valid: NDArray | None = None) -> dict[str, float]:
    judge = Judge(protocol)
    return judge.measure([judge.pair(*images, valid)])[0].numbers


def rmse(first: NDArray, second: NDArray) -> float:
    return float(np.sqrt(np.square(first / 255.0 - second / 255.0).mean()))


def test_a_border_is_left_out_for_every_metric() -> None:
    first, second = noise(0), noise(1)
    spoilt = first.copy()
    spoilt[:4], spoilt[:, -4:] = 0, 255
    plain = measured(rule("rmse", "lpips"), first[4:-4, 4:-4], second[4:-4, 4:-4])
    assert measured(rule("rmse", "lpips", border=4), spoilt, second) == pytest.approx(plain, abs=1e-7)


def test_luma_is_the_y_of_bt_601() -> None:
    first, second = noise(0), noise(1)
    weights = np.array([65.481, 128.553, 24.966]) / 255  # of R, G, B in [0, 1], without the offset of 16
    difference = (first / 255.0 - second / 255.0) @ weights
    found = measured(rule("rmse", channels="luma"), first, second)["rmse"]
    assert found == pytest.approx(np.sqrt(np.square(difference).mean()), rel=1e-4)
    gray = noise(2, channels=1), noise(3, channels=1)
    assert measured(rule("rmse", channels="luma"), *gray)["rmse"] == pytest.approx(rmse(*gray))


def test_only_valid_pixels_count_where_the_rule_says_so() -> None:
    first, second = noise(0), noise(1)
    valid = np.zeros((64, 64), bool)
    valid[16:48, 8:40] = True
    found = measured(rule("rmse", pixels="valid"), first, second, valid=valid)["rmse"]
    assert found == pytest.approx(rmse(first[valid], second[valid]))
    assert measured(rule("rmse"), first, second, valid=valid)["rmse"] == pytest.approx(rmse(first, second))
    filled = np.where(valid[:, :, None], first, second)
    lpips = measured(rule("lpips", pixels="valid"), first, second, valid=valid)["lpips"]
    assert lpips == pytest.approx(measured(rule("lpips"), filled, second)["lpips"], abs=1e-7)


def test_a_targets_own_range_counts_where_the_rule_says_so() -> None:
    target = (noise(1) // 4 + 64).astype(np.uint8)
    prediction = (noise(0) // 4 + 64).astype(np.uint8)
    span = (int(target.max()) - int(target.min())) / 255
    found = measured(rule("psnr", value_range="image"), prediction, target)["psnr"]
    assert found == pytest.approx(20 * np.log10(span / rmse(prediction, target)))


def test_the_best_shift_is_found_and_a_bias_is_taken_away() -> None:
    scene = noise(0, 80, 1)
    target = scene[6:70, 6:70]
    moved = (scene[8:72, 5:69].astype(int) // 2 + 20).astype(np.uint8)
    darker = (target // 2).astype(np.uint8)
    assert measured(rule("rmse", shifts=3), scene[8:72, 5:69], target)["rmse"] == 0
    assert measured(rule("rmse", shifts=1), scene[8:72, 5:69], target)["rmse"] > 0.1
    assert measured(rule("rmse", bias=True), darker, (darker + 40).astype(np.uint8))["rmse"] == pytest.approx(
        0, abs=1e-9
    )
    both = measured(rule("psnr", shifts=3, bias=True), moved, (target // 2).astype(np.uint8))["psnr"]
    assert both == 100.0


def probav(prediction: NDArray, target: NDArray, clear: NDArray) -> float:
    """cPSNR as the Kelvins PROBA-V competition words it: best of all shifts of a border of 3, over clear pixels."""
    best = -np.inf
    size = prediction.shape[0] - 6
    inner = prediction[3:-3, 3:-3, 0] / 65535
    for u in range(7):
        for v in range(7):
            hr, c = target[u : u + size, v : v + size, 0] / 65535, clear[u : u + size, v : v + size]
            bias = (hr - inner)[c].mean()
            best = max(best, -10 * np.log10(np.square(hr - (inner + bias))[c].mean()))
    return float(best)


def test_probas_cpsnr_as_its_page_words_it() -> None:
    rng = np.random.default_rng(3)
    target = rng.integers(0, 16384, (40, 40, 1)).astype(np.uint16)
    prediction = (np.roll(target, (1, -2), (0, 1)) + rng.integers(0, 900, target.shape)).astype(np.uint16)
    clear = rng.random((40, 40)) > 0.2
    protocol = rule("psnr", shifts=3, bias=True, pixels="valid")
    assert measured(protocol, prediction, target, valid=clear)["psnr"] == pytest.approx(
        probav(prediction, target, clear)
    )


def test_images_are_scored_as_an_epoch_is_chosen() -> None:
    predictions, targets = [noise(0), noise(2, 48)], [noise(1), noise(3, 48)]
    judge = Judge(load_protocol(lpips_net="random"))
    table = judge.score_images(predictions, targets)
    assert list(table.columns) == ["l1", "mse", "rmse", "psnr", "ssim", "lpips", "score"]
    assert table["rmse"].tolist() == pytest.approx([rmse(a, b) for a, b in zip(predictions, targets, strict=True)])
    assert table["score"].tolist() == pytest.approx(((table["rmse"] + table["lpips"]) / 2).tolist())
    floats = judge.score_images([image / 255.0 for image in predictions], [image / 255.0 for image in targets])
    assert floats["score"].tolist() == pytest.approx(table["score"].tolist(), abs=1e-6)


def test_a_number_does_not_depend_on_the_other_images_nor_on_the_cache() -> None:
    class Kept(dict):
        def get(self, network: str, key: str) -> Any:
            return dict.get(self, (network, key))

        def put(self, network: str, key: str, features: Any) -> None:
            self[network, key] = [tap.clone() for tap in features]

    images = [(noise(n), noise(10 + n)) for n in range(4)]
    judge, cache = Judge(rule("lpips", "rmse")), Kept()
    pairs = [judge.pair(*pair) for pair in images]
    alone = [judge.measure([pair])[0].numbers["lpips"] for pair in pairs]
    judge.cache = cache
    fresh = [found.numbers["lpips"] for found in judge.measure(pairs, [str(n) for n in range(4)])]
    again = [found.numbers["lpips"] for found in judge.measure(pairs[::-1], [str(n) for n in (3, 2, 1, 0)])][::-1]
    assert len(cache) == 4
    assert fresh == pytest.approx(alone, abs=1e-6) and again == pytest.approx(fresh, abs=1e-6)


def test_nothing_left_is_a_sentence() -> None:
    with pytest.raises(PbvsError, match="No pixel"):
        measured(rule("rmse", border=32), noise(0), noise(1))


def test_a_frechet_distance_on_vgg_is_nought_for_one_set_and_small_for_two_halves(weights_dir: Path) -> None:
    from pbvs.metrics.weights import look

    if look("vgg", weights_dir) is None:
        pytest.skip("the weights of vgg are not here")
    judge = Judge(rule("rmse", shown=["frechet-vgg16"]), weights_dir)
    rng = np.random.default_rng(0)
    flat = [np.full((32, 32, 1), value, np.uint8) for value in rng.integers(0, 256, 12)]
    rough = [rng.integers(0, 256, (32, 32, 1), dtype=np.uint8) for _ in range(12)]

    def distance(first: list, second: list) -> float:
        found = judge.measure([judge.pair(a, b) for a, b in zip(first, second, strict=True)])
        return judge.set_numbers(found)["frechet-vgg16"]

    assert distance(flat, flat) == 0
    measured_flat = judge.measure([judge.pair(a, a) for a in flat])
    assert judge.set_numbers(measured_flat)["frechet-vgg16-floor"] == pytest.approx(distance(flat[::2], flat[1::2]))
    assert distance(flat[:6], flat[6:]) < distance(flat[:6], rough[:6])
