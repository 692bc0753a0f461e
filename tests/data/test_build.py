"""Manifests: what is paired, what is held out, what is refused, and that the same seed gives the same bytes."""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
from pathlib import Path

import pytest

from pbvs.challenge import SPLITS
from pbvs.data.build import build_pairs, find_root
from pbvs.data.images import read_image, write_tiff
from pbvs.data.manifest import Pair, manifest_path, pairs_digest, read_manifest
from pbvs.data.pairing import Rules
from pbvs.errors import PbvsError, UsageError
from pbvs.files import UNFINISHED, is_unfinished
from tests.data.conftest import Tree
from tests.tasks import TASKS


def manifests_of(folder: Path) -> dict[tuple[str, str], list[Pair]]:
    return {
        (task, split): list(read_manifest(manifest_path(folder, task, split))) for task in TASKS for split in SPLITS
    }


def unused(folder: Path) -> dict[str, str]:
    with (folder / "unused.csv").open(encoding="utf-8", newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def test_the_same_seed_gives_the_same_bytes(demo: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        build_pairs(demo, tmp_path / name, rules=Rules(seed=seed, pairs_per_location=1, draw="once"))
    a, b, c = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("a", "b", "c"))
    assert a == b
    assert a["sar2rgb_train.csv"] != c["sar2rgb_train.csv"]


def test_only_what_changed_is_written_again(demo: Path, tmp_path: Path) -> None:
    build_pairs(demo, tmp_path)
    before = {path: (path.read_bytes(), path.stat().st_ino) for path in tmp_path.glob("*.*")}
    build_pairs(demo, tmp_path)
    assert before == {path: (path.read_bytes(), path.stat().st_ino) for path in tmp_path.glob("*.*")}
    (tmp_path / "sar2eo_train.csv").write_text("cut")
    (tmp_path / UNFINISHED).write_text("")
    build_pairs(demo, tmp_path)
    assert {path: data for path, (data, _) in before.items()} == {
        path: path.read_bytes() for path in tmp_path.glob("*.*")
    }
    assert not is_unfinished(tmp_path)
    (tmp_path / UNFINISHED).write_text("")
    build_pairs(demo, tmp_path)
    assert not is_unfinished(tmp_path)


def test_the_demo_serves_every_task_and_split(demo: Path, tmp_path: Path) -> None:
    summary = build_pairs(demo, tmp_path)
    assert all(count > 0 for counts in summary.pairs.values() for count in counts.values())
    assert summary.warnings == []
    for (_, split), pairs in manifests_of(tmp_path).items():
        assert len({pair.name for pair in pairs}) == len(pairs)
        assert all(not pair.target for pair in pairs if pair.origin == "official")
        assert all(pair.target for pair in pairs if pair.origin != "official")
        assert split != "test" or {pair.origin for pair in pairs} == {"official"}


def test_no_location_is_in_train_and_val(demo: Path, tmp_path: Path) -> None:
    build_pairs(demo, tmp_path)
    manifests = manifests_of(tmp_path)
    train = {pair.location for (_, split), pairs in manifests.items() if split == "train" for pair in pairs}
    held = {pair.location for (_, split), pairs in manifests.items() if split == "val" for pair in pairs}
    assert not train & held


def test_rgb_and_ir_are_paired_by_base_and_sar_with_the_mosaics(tree: Tree, tmp_path: Path) -> None:
    tree.location("A", "one", bases=("x", "y"), sar=2)
    tree.tiff("A/one/mosiac_rgb.tiff", 3)
    tree.location("A", "two", bases=("x",), sar=1)
    build_pairs(tree.root, tmp_path / "m", rules=Rules(sampling="all"))
    rows = [pair for pairs in manifests_of(tmp_path / "m").values() for pair in pairs if pair.location == "one"]
    base = [pair for pair in rows if pair.task == "rgb2ir"]
    assert {pair.source.replace("rgb", "ir") for pair in base} == {pair.target for pair in base}
    assert {pair.target for pair in rows if pair.task == "sar2rgb"} == {"A/one/mosiac_rgb.tiff"}
    assert len({pair.target for pair in rows if pair.task == "sar2ir"}) == 2


def test_pairs_per_location_is_a_limit(tree: Tree, tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        tree.location("A", name, bases=("x", "y", "z"), sar=3)
    for name, draw, rows, limit in (("m", "each-epoch", 9, "4"), ("once", "once", 4, "")):
        build_pairs(tree.root, tmp_path / name, rules=Rules(pairs_per_location=4, draw=draw))
        for split, count, most in (("train", [rows, rows], limit), ("val", [4], "")):
            pairs = manifests_of(tmp_path / name)["sar2rgb", split]
            assert [
                sum(pair.location == place for pair in pairs) for place in {pair.location for pair in pairs}
            ] == count
            assert {pair.limit for pair in pairs} == {most}
    val, once = (manifests_of(tmp_path / name)["sar2rgb", "val"] for name in ("m", "once"))
    assert val == once  # validation is drawn once in any case
    candidates = {pair.name for pair in manifests_of(tmp_path / "m")["sar2rgb", "train"]}
    assert {pair.name for pair in manifests_of(tmp_path / "once")["sar2rgb", "train"]} <= candidates


def test_rgb_and_ir_of_any_base_by_a_setting(tree: Tree, tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        tree.location("A", name, bases=("x", "y", "z"), sar=1)
    for folder, rules, each in (("m", Rules(), 3), ("any", Rules(any_base=True, pairs_per_location=5), 9)):
        build_pairs(tree.root, tmp_path / folder, rules=rules)
        manifests = manifests_of(tmp_path / folder)
        train, val = manifests["rgb2ir", "train"], manifests["rgb2ir", "val"]
        assert (len(train), len(val)) == (2 * each, min(each, rules.pairs_per_location))
        same = [pair.source.replace("rgb", "ir") == pair.target for pair in train]
        assert sum(same) == 6 and {pair.limit for pair in train} == {str(rules.pairs_per_location)}
        assert len({pair.name for pair in train}) == len(train)


def test_changed_images_make_another_manifest(tree: Tree, tmp_path: Path) -> None:
    """The same size and, in the second case, the same time of writing."""
    tree.location("A", "one")
    tree.location("A", "two")
    tree.png("test/sar2eo/7.png")
    build_pairs(tree.root, tmp_path)
    before = manifests_of(tmp_path)
    for key, pairs in before.items():
        for pair in pairs:
            for path, known in ((pair.source, pair.source_digest), (pair.target, pair.target_digest)):
                assert known == (hashlib.sha256((tree.root / path).read_bytes()).hexdigest() if path else ""), key
    for path, keep_time in (("test/sar2eo/7.png", False), (before["sar2rgb", "train"][0].source, True)):
        old = manifests_of(tmp_path)
        status, data = (tree.root / path).stat(), bytearray((tree.root / path).read_bytes())
        data[-30] ^= 1
        (tree.root / path).write_bytes(data)
        if keep_time:
            os.utime(tree.root / path, ns=(status.st_atime_ns, status.st_mtime_ns))
            assert (tree.root / path).stat().st_mtime_ns == status.st_mtime_ns
        build_pairs(tree.root, tmp_path)
        changed = {key for key, pairs in manifests_of(tmp_path).items() if pairs != old[key]}
        assert (
            changed == {key for key, pairs in old.items() if any(path in (p.source, p.target) for p in pairs)} != set()
        )
        assert {key for key in changed if pairs_digest(manifests_of(tmp_path)[key]) == pairs_digest(old[key])} == set()


def test_a_touched_or_copied_root_makes_the_same_manifests(tree: Tree, tmp_path: Path) -> None:
    tree.location("A", "one")
    tree.location("A", "two")
    build_pairs(tree.root, tmp_path / "m")
    before = manifests_of(tmp_path / "m")
    shutil.copytree(tree.root, tmp_path / "copy", copy_function=shutil.copyfile)
    for path in tree.root.rglob("*.tiff"):
        os.utime(path)
    build_pairs(tree.root, tmp_path / "m")
    assert manifests_of(tmp_path / "m") == before
    build_pairs(tmp_path / "copy", tmp_path / "m")
    assert manifests_of(tmp_path / "m") == before


def test_nearest_dates_come_first(tree: Tree, tmp_path: Path) -> None:
    for date in ("20200101", "20200601"):
        tree.tiff(f"A/one/{date}_GEC.tiff")
        tree.tiff(f"A/one/{date}_x_rgb.tiff", 3)
    build_pairs(tree.root, tmp_path / "m", rules=Rules(sampling="nearest-date", pairs_per_location=2))
    pairs = manifests_of(tmp_path / "m")["sar2rgb", "train"]
    assert [pair.source_date == pair.target_date != "" for pair in pairs] == [True, True]


def test_sar2eo_is_held_out_by_scene_where_there_is_no_validation_folder(tree: Tree, tmp_path: Path) -> None:
    for number in range(40):
        for modality in ("SAR", "EO"):
            tree.png(f"design_data/{modality}/train/Gotcha_{number}.png")
    build_pairs(tree.root, tmp_path / "m", crops_per_scene=4)
    manifests = manifests_of(tmp_path / "m")
    scenes = [{pair.location for pair in manifests["sar2eo", split]} for split in ("train", "val")]
    assert not scenes[0] & scenes[1]
    assert len(scenes[1]) == 2
    assert len(manifests["sar2eo", "val"]) == 8


def test_names_are_safe_and_unique_whatever_the_files_are_called(tree: Tree, tmp_path: Path) -> None:
    for name in ("Zürich ü", "zurich", "x" * 120):
        tree.location("A", name, sar=1)
        tree.tiff(f"A/{name}/S0 (1)_GEC.tiff")
        tree.tiff(f"A/{name}/{'long' * 20}_GEC.tiff")
    build_pairs(tree.root, tmp_path / "m")
    for pairs in manifests_of(tmp_path / "m").values():
        assert all(pair.name.isascii() and len(pair.name) <= 150 and "/" not in pair.name for pair in pairs)
        assert len({pair.name.lower() for pair in pairs}) == len(pairs)


def test_images_that_cannot_be_used_are_listed_and_the_rest_is_used(tree: Tree, tmp_path: Path) -> None:
    tree.location("A", "one")
    tree.location("A", "two")
    for number in range(3):
        for modality in ("SAR", "EO"):
            tree.png(f"design_data/{modality}/train/{number}.png")
    (tree.root / "design_data/EO/train/0.png").unlink()
    tree.png("design_data/EO/train/1.png", (8, 16))
    (tree.root / "A/one/empty_GEC.tiff").write_bytes(b"")
    whole = (tree.root / "A/one/a_rgb.tiff").read_bytes()
    (tree.root / "A/one/cut_rgb.tiff").write_bytes(whole[: len(whole) // 2])
    (tree.root / "A/one/text_GEC.tiff").write_text("no image")
    (tree.root / "A/one/._a_rgb.tiff").write_bytes(b"junk")
    tree.tiff("A/one/wide_GEC.tiff", size=(8, 32))
    summary = build_pairs(tree.root, tmp_path / "m", rules=Rules(sampling="all"))
    reasons = unused(tmp_path / "m")
    assert "no EO image" in reasons["design_data/SAR/train/0.png"]
    assert "differ" in reasons["design_data/SAR/train/1.png"]
    assert "empty" in reasons["A/one/empty_GEC.tiff"]
    assert "A/one/cut_rgb.tiff" in reasons
    assert "A/one/text_GEC.tiff" in reasons
    assert "footprint" in reasons["A/one/wide_GEC.tiff"]
    assert summary.junk == 1
    assert summary.pairs["sar2rgb"]["train"] == 2


def test_no_root_and_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PBVS_DATA", raising=False)
    with pytest.raises(UsageError, match="does not exist"):
        find_root(tmp_path / "gone")
    with pytest.raises(UsageError, match="--data"):
        find_root(None, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(PbvsError, match="no image"):
        build_pairs(tmp_path / "empty", tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_the_root_is_found_again_from_the_manifests(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PBVS_DATA", raising=False)
    build_pairs(demo, tmp_path)
    assert find_root(None, tmp_path) == demo.resolve()
    monkeypatch.setenv("PBVS_DATA", str(tmp_path))
    assert find_root(None, tmp_path) == tmp_path


def test_a_location_changes_no_other_location(tree: Tree, tmp_path: Path) -> None:
    for name in ("one", "two", "three", "four"):
        tree.location("A", name, bases=("x", "y", "z"), sar=3)
    build_pairs(tree.root, tmp_path / "before", rules=Rules(pairs_per_location=2), share=0)
    shutil.rmtree(tree.root / "A/two")
    build_pairs(tree.root, tmp_path / "after", rules=Rules(pairs_per_location=2), share=0)
    before, after = (manifests_of(tmp_path / name)["sar2rgb", "train"] for name in ("before", "after"))
    assert after == [pair for pair in before if pair.location != "two"]


def test_the_stand_in_has_pairs_for_every_task(standin: Path, tmp_path: Path) -> None:
    summary = build_pairs(standin, tmp_path)
    assert {task: counts["test"] for task, counts in summary.pairs.items()} == {
        "sar2eo": 40, "sar2rgb": 16, "sar2ir": 6, "rgb2ir": 26,
    }  # fmt: skip
    assert summary.pairs["sar2eo"] == {"train": 320, "val": 40, "test": 40}
    assert all(counts["train"] > 0 and counts["val"] > 4 for counts in summary.pairs.values())
    assert summary.junk == 2


def test_predict_stops_at_an_image_that_changed_and_goes_on_after_build_pairs(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pbvs.pipeline import Request, predict

    root, manifests = tmp_path / "data", tmp_path / "m"
    shutil.copytree(demo, root)
    build_pairs(root, manifests)
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "gray.toml"
    recipe.write_text('name = "gray"\nevaluation_size = "native"\n[stages.rgb2ir]\nmethod = "grayscale"\n')
    options = {"run": "gray", "root": root, "manifests": manifests, "splits": ("test",)}
    predict(Request(recipe, **options))
    pair = manifests_of(manifests)["rgb2ir", "test"][0]
    made = tmp_path / f"submissions/gray/predictions/test/rgb2ir/{pair.name}.png"
    before = made.read_bytes()
    write_tiff(root / pair.source, read_image(root / pair.source)[::-1])
    with pytest.raises(PbvsError, match=f"{pair.source} has changed since the manifests were made; run `pbvs build-"):
        predict(Request(recipe, **options))
    assert made.read_bytes() == before
    build_pairs(root, manifests)
    predict(Request(recipe, **options))
    assert made.read_bytes() != before
