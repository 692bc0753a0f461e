"""The scorer: exact where it must be, the same in any order, and never silent about what it could not score."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pbvs.data.images import read_image, write_png
from pbvs.data.manifest import Pair, manifest_path, read_manifest
from pbvs.errors import PbvsError, UsageError
from pbvs.evaluation.reading import FeatureCache, Images, TaskToScore
from pbvs.evaluation.results import Scores, score_table
from tests.evaluation.hand_made import SIDE, Place, noise
from tests.manifests import write_manifest
from tests.metrics.test_frechet import random_inception


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path).make()


def flat(summary: Scores) -> dict[str, float]:
    names = ("l1", "mse", "rmse", "lpips", "score")
    values = {f"{task}.{name}": facts[name] for task, facts in summary["tasks"].items() for name in names}
    return {**values, "combined": summary["combined"]}


def rows(place: Place, task: str) -> list[dict[str, str]]:
    return list(csv.DictReader((place.run.score_folders()[0] / f"{task}.csv").open()))


def test_ground_truth_against_itself_is_exactly_zero(place: Place) -> None:
    summary = place.score()
    assert set(flat(summary).values()) == {0.0}
    assert not summary["partial"]


def test_numbers_are_those_of_the_definitions(place: Place) -> None:
    summary = place.spoil().score()
    pairs = [[read_image(path(("sar2rgb"), n)) / 255.0 for path in (place.prediction, place.target)] for n in range(4)]
    l1 = np.mean([np.abs(a - b).mean() for a, b in pairs])
    rmse = np.mean([math.sqrt(np.square(a - b).mean()) for a, b in pairs])
    facts = summary["tasks"]["sar2rgb"]
    assert facts["l1"] == pytest.approx(l1, abs=1e-12)
    assert facts["rmse"] == pytest.approx(rmse, abs=1e-12)
    assert facts["score"] == pytest.approx((facts["rmse"] + facts["lpips"]) / 2, abs=1e-12)
    assert summary["combined"] == pytest.approx(np.mean([f["score"] for f in summary["tasks"].values()]), abs=1e-12)


@pytest.mark.parametrize("options", [{"batch": 1}, {"batch": 3}, {"jobs": 4}, {"batch": 2, "jobs": 3}])
def test_batch_size_and_workers_change_nothing(place: Place, options: dict) -> None:
    expected = flat(place.spoil().score())
    assert flat(place.score(**options)) == pytest.approx(expected, abs=1e-6)


def test_the_order_of_files_changes_nothing(place: Place) -> None:
    before = place.spoil().score()
    for task in before["tasks"]:
        path = manifest_path(place.manifests, task, "val")
        write_manifest(path, reversed(read_manifest(path)))
    after = place.score()
    assert flat(after) == pytest.approx(flat(before), abs=1e-6)
    assert after["interval"] == pytest.approx(before["interval"], abs=1e-6)


def test_targets_seen_before_give_the_same_numbers(place: Place, tmp_path: Path) -> None:
    expected = flat(place.spoil().score())
    cache = tmp_path / "cache"
    first, second = place.score(cache=cache), place.score(cache=cache)
    assert list((cache / "features").rglob("*.safetensors"))
    assert flat(first) == pytest.approx(expected, abs=1e-6)
    assert flat(second) == pytest.approx(expected, abs=1e-6)


def test_a_changed_target_is_not_taken_from_the_cache(place: Place, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    place.score(cache=cache)
    write_png(place.target("sar2eo", 0), noise(99, 1))
    assert place.score(cache=cache)["tasks"]["sar2eo"]["rmse"] > 0.05


def test_a_target_changed_while_it_is_scored_is_not_kept_as_the_new_one(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, plain = place.spoil().target("sar2eo", 1), TaskToScore.read

    def read(task: TaskToScore, pair: Pair) -> Images:
        images = plain(task, pair)
        if (task.name, pair.name) == ("sar2eo", "p1"):
            write_png(target, noise(4711, 1))
        return images

    with monkeypatch.context() as patch:
        patch.setattr(TaskToScore, "read", read)
        place.score(cache=tmp_path / "cache")
    found, wanted = (flat(place.score(cache=where)) for where in (tmp_path / "cache", None))
    assert found == pytest.approx(wanted, abs=1e-6)


def test_a_damaged_cache_is_made_again(place: Place, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    expected = flat(place.spoil().score(cache=cache))
    for path in cache.rglob("*.safetensors"):
        path.write_bytes(b"\0" * 10)
    assert flat(place.score(cache=cache)) == pytest.approx(expected, abs=1e-6)


def test_zeros_in_the_middle_of_the_cache_are_seen(place: Place, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    expected = flat(place.spoil().score(cache=cache))
    for path in cache.rglob("*.safetensors"):  # as a power failure may leave a file that nobody waited for
        data = bytearray(path.read_bytes())
        data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
        path.write_bytes(data)
    assert flat(place.score(cache=cache)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("cores", [2, 3])
def test_batches_judged_at_once_have_the_same_numbers(place: Place, tmp_path: Path, cores: int) -> None:
    expected = flat(place.spoil().score())
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(cores)
        assert flat(place.score(cache=tmp_path / "cache")) == pytest.approx(expected, abs=1e-6)
        assert flat(place.score(cache=tmp_path / "cache", batch=1)) == pytest.approx(expected, abs=1e-6)
        assert torch.get_num_threads() == cores
    finally:
        torch.set_num_threads(before)


def test_a_missing_task_counts_one_and_is_named(place: Place) -> None:
    for n in range(4):
        place.prediction("sar2rgb", n).unlink()
    summary = place.score()
    assert summary["tasks"]["sar2rgb"]["status"] == "missing"
    assert summary["combined"] == 0.25 and summary["partial"]
    assert any("sar2rgb is missing" in note and "counts 1" in note for note in summary["notes"])
    assert "sar2rgb" in score_table(summary) and "(partial)" in score_table(summary)


def test_the_official_protocols_add_one_for_a_missing_task(place: Place, tmp_path: Path) -> None:
    rule = tmp_path / "rule.toml"
    rule.write_text('name = "rule"\nmissing_adds = 1.0\n')
    for n in range(4):
        place.prediction("sar2rgb", n).unlink()
    assert place.score(protocol=rule)["combined"] == 1.25


@pytest.mark.parametrize(
    ("status", "spoil"),
    [
        ("missing", lambda path: path.unlink()),
        ("unreadable", lambda path: path.write_bytes(path.read_bytes()[:200])),
        ("unreadable", lambda path: path.write_bytes(b"not an image")),
        ("wrong-size", lambda path: write_png(path, noise(1, 1, SIDE * 2))),
        ("wrong-mode", lambda path: write_png(path, noise(1, 3))),
    ],
)
def test_a_bad_prediction_makes_the_task_partial_and_is_named(place: Place, status: str, spoil) -> None:
    spoil(place.prediction("rgb2ir", 2))
    facts = (summary := place.score())["tasks"]["rgb2ir"]
    assert (facts["status"], facts["images"], facts["expected"]) == ("partial", 3, 4)
    assert facts["score"] == 0 and f"1 {status} (first: p2)" in facts["reason"]
    bad = [row for row in rows(place, "rgb2ir") if row["status"] != "ok"]
    assert [(row["name"], row["status"], row["rmse"]) for row in bad] == [("p2", status, "")]
    assert bad[0]["reason"].endswith(".")
    assert any("rgb2ir is partial" in note for note in summary["notes"])


def test_a_target_that_is_gone_or_of_another_mode_is_named(place: Place) -> None:
    place.target("sar2ir", 1).unlink()
    write_png(place.target("rgb2ir", 0), noise(3, 3))
    facts = place.score()["tasks"]
    assert "1 no-target (first: p1)" in facts["sar2ir"]["reason"]
    assert facts["rgb2ir"]["images"] in (3, 4)  # a grey target stored as RGB may be read as grey


def test_sixteen_bits_are_no_submission(place: Place) -> None:
    from PIL import Image

    Image.fromarray(np.zeros((SIDE, SIDE), np.uint16)).save(place.prediction("sar2eo", 0))
    assert "wrong-mode" in place.score()["tasks"]["sar2eo"]["reason"]


def test_grey_stored_as_equal_rgb_is_grey(place: Place) -> None:
    path = place.prediction("sar2eo", 0)
    write_png(path, np.repeat(read_image(path).astype(np.uint8), 3, 2))
    assert place.score()["tasks"]["sar2eo"]["score"] == 0


def test_extra_and_duplicate_files_are_named_and_not_scored(place: Place) -> None:
    write_png(place.prediction("sar2eo", 77), noise(1, 1))
    place.prediction("sar2eo", 1).with_suffix(".PNG").write_bytes(b"")
    notes = " ".join(place.score()["notes"])
    assert "p77.png" in notes and "belong to no input" in notes
    assert "p1.PNG" in notes and "another prediction" in notes


def test_a_protocol_may_resample_what_has_another_size(place: Place, tmp_path: Path) -> None:
    write_png(place.prediction("sar2eo", 0), noise(1, 1, SIDE * 2))
    rule = tmp_path / "rule.toml"
    rule.write_text('name = "rule"\nother_size = "resample"\n')
    assert place.score(protocol=rule)["tasks"]["sar2eo"]["status"] == "scored"


def test_targets_are_brought_to_the_challenges_size(tmp_path: Path) -> None:
    place = Place(tmp_path, count=2).make("challenge")
    write_png(place.prediction("sar2eo", 1), noise(1, 1, 256))
    facts = place.score()["tasks"]["sar2eo"]
    assert "wrong-size" in facts["reason"]
    assert "256 x 256" in rows(place, "sar2eo")[0]["reason"]
    assert facts["images"] == 1


def test_nothing_scored_is_an_error_and_keeps_earlier_scores(place: Place) -> None:
    before = place.spoil().score()
    kept = {path: path.read_bytes() for path in before.folder.iterdir()}
    for task in before["tasks"]:
        for n in range(place.count):
            place.prediction(task, n).unlink()
    with pytest.raises(PbvsError, match=r"Not one image of the split val.*pbvs predict"):
        place.score()
    assert {path: path.read_bytes() for path in before.folder.iterdir()} == kept


def test_an_image_that_no_network_can_take_is_listed_and_the_rest_scored(place: Place) -> None:
    for path in (place.target("sar2eo", 1), place.prediction("sar2eo", 1)):
        write_png(path, noise(1, 1, 20))
    facts = place.score()["tasks"]["sar2eo"]
    assert (facts["status"], facts["images"], facts["expected"]) == ("partial", 3, 4)
    assert "1 not-measurable (first: p1)" in facts["reason"]
    assert "too small" in next(row["reason"] for row in rows(place, "sar2eo") if row["name"] == "p1")


def test_what_is_written_is_what_is_returned(place: Place) -> None:
    summary = place.spoil().score()
    assert json.loads((summary.folder / "summary.json").read_text()) == summary.summary
    found = rows(place, "sar2eo")
    assert [row["name"] for row in found] == ["p0", "p1", "p2", "p3"]
    mean = sum(float(row["lpips"]) for row in found) / 4
    assert mean == pytest.approx(summary["tasks"]["sar2eo"]["lpips"], abs=1e-12)
    assert summary["tasks"]["sar2eo"]["locations"]["place1"]["images"] == 2


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Inception's weights, random ones under the published name."""
    folder = tmp_path_factory.mktemp("inception")
    torch.save(random_inception(), folder / "pt_inception-2015-12-05-6726825d.pth")
    return folder


def test_fid_and_kid_are_exactly_zero_for_ground_truth_and_the_same_in_any_batch(
    inception: Path, tmp_path: Path
) -> None:
    place = Place(tmp_path, count=3).make()
    for n in range(3):
        write_png(place.prediction("sar2eo", n), noise(5 + n, 1))
    rule = tmp_path / "rule.toml"
    rule.write_text('name = "rule"\nterms = ["fid", "pixel"]\nfid_layer = 64\nunsettled_fid_weight = [1.0, 10.0]\n')
    first = place.score(protocol=rule, weights=inception, cache=tmp_path / "cache")
    second = place.score(protocol=rule, weights=inception, cache=tmp_path / "cache", batch=2)
    facts = first["tasks"]["sar2eo"]
    assert [first["tasks"]["rgb2ir"][name] for name in ("fid", "kid", "score")] == [0.0, 0.0, 0.0]
    assert facts["fid"] > 1e-4 and set(facts["fids"]) == {"64", "192", "768", "2048"}
    assert facts["score"] == pytest.approx((2 / math.pi * math.atan(facts["fid"]) + facts["rmse"]) / 2)
    for name in ("fid", "kid"):
        assert second["tasks"]["sar2eo"][name] == pytest.approx(facts[name], abs=1e-6)
    assert any("sar2eo 3" in note and "2,048" in note for note in first["notes"])
    assert "FID layer 64, w 10" in [row["reading"] for row in first["sensitivity"]]
    assert "FID" in score_table(first) and max(map(len, score_table(first).splitlines())) <= 80


def test_one_image_has_no_fid_and_its_task_is_named(inception: Path, tmp_path: Path) -> None:
    rule = tmp_path / "rule.toml"
    rule.write_text('name = "rule"\nterms = ["fid"]\n')
    summary = Place(tmp_path, count=1).make().score(protocol=rule, weights=inception)
    assert summary["combined"] == 1.0
    assert "FID needs two images" in summary["notes"][0]


def test_a_protocol_with_fid_names_the_weights_that_are_missing(place: Place, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("PBVS_WEIGHTS", raising=False)
    asked = []
    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: asked.append(url))
    cases = ("inception", "mavic-t-2026", "random"), ("vgg", "mavic-t-2026", None), ("vgg", "l2-lpips", None)
    for net, protocol, lpips_net in cases:
        with pytest.raises(PbvsError, match=f"run `pbvs weights fetch {net}`"):
            place.score(protocol=protocol, lpips_net=lpips_net)
    assert not asked and not (tmp_path / "torch").exists()  # scoring never tries a download


def test_intervals_hold_their_mean(tmp_path: Path) -> None:
    summary = Place(tmp_path / "more", count=7).make().spoil().score()
    for facts in (*summary["tasks"].values(), {"score": summary["combined"], "interval": summary["interval"]}):
        low, high = facts["interval"]
        assert low <= facts["score"] <= high


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_table_fits_a_terminal_and_names_net_and_protocol(place: Place, columns: int) -> None:
    place.spoil().prediction("sar2eo", 0).unlink()
    scores = place.score()
    text = score_table(scores, columns)
    assert max(map(len, text.splitlines())) <= columns
    assert "l2-lpips" in text and "NOT LPIPS" in text and "combined (partial)" in text
    heads = [line.replace("95 % interval", "interval").split() for line in text.splitlines() if line.startswith("task")]
    shown = [name for head in heads for name in head[1:]]
    assert shown == ["images", "L1", "L2", "random", "PSNR", "SSIM", "score", "interval", "status"]
    assert len(heads) == (1 if columns == 120 else 2)
    rows = [line.split() for line in text.splitlines() if line.startswith("sar2rgb")]
    row = dict(zip(["task", *shown], [rows[0][0], *(cell for row in rows for cell in row[1:])], strict=False))
    rmse = scores["tasks"]["sar2rgb"]["rmse"]
    assert row["images"] == "4/4" and float(row["L2"]) == pytest.approx(rmse, abs=5e-5)
    assert float(row["score"]) == pytest.approx(scores["tasks"]["sar2rgb"]["score"], abs=5e-5)


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_long_names_of_tasks_are_not_cut_and_the_table_keeps_its_width(place: Place, columns: int) -> None:
    summary = json.loads(json.dumps(place.spoil().score().summary))
    names = [f"sentinel-{n}-descending-to-optical" for n in range(4)]
    summary["tasks"] = dict(zip(names, summary["tasks"].values(), strict=True))
    lines = score_table(summary, columns).splitlines()
    assert max(map(len, lines)) <= columns
    for name, found in summary["tasks"].items():
        row = " ".join(line for line in lines if line.startswith(name))
        assert "4/4" in row and f"{found['score']:.4f}" in row


def test_no_run_no_manifest_and_no_protocol_get_a_sentence(place: Place, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="l2-lpips"):
        place.score(protocol="l3")
    with pytest.raises(PbvsError, match="build-pairs"):
        place.manifests.rename(tmp_path / "elsewhere")
        place.score()
    place.run.recipe_file.unlink()
    with pytest.raises(PbvsError, match="There is no run 'hand'"):
        place.score()


def test_the_cache_of_targets_stays_within_its_room(tmp_path: Path) -> None:
    one = [torch.zeros(256, dtype=torch.float32)]  # 1,024 bytes, and a little more on the disk
    for _ in range(2):  # what an earlier command wrote counts
        cache = FeatureCache(tmp_path, capacity=4096)
        for number in range(40):
            cache.put("vgg", f"{number}", one)
            for waiting in cache._pending:
                waiting.result()
        cache.close()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert 1 <= len(written) <= 4 and sum(path.stat().st_size for path in written) <= 4 * 1400
    found = cache.get("vgg", "0")
    assert found is not None and torch.equal(found[0], one[0])
    assert cache.get("vgg", "39") is None
