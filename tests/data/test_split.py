"""Hold-out goes by ground: locations that show some of the same ground are on one side, whatever their archive."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest

from pbvs.data.build import build_pairs
from pbvs.data.geometry import Footprints
from pbvs.data.headers import Header
from pbvs.data.inspection import inspect_data
from pbvs.data.manifest import Pair, manifest_path, read_manifest
from pbvs.data.pairing import Rules
from pbvs.data.registration import RECORD
from pbvs.data.split import find_ground, find_neighbours, hold_out, split_for_tuning
from tests.data.conftest import Tree

UTM = "EPSG:32612"
TASKS = ("sar2rgb", "sar2ir", "rgb2ir")


def square(east: float, north: float = 4_270_000.0, side: float = 160.0, crs: str = UTM) -> Header:
    """A footprint of 16 x 16 pixels whose upper left corner is given in metres."""
    return Header(16, 16, 1, "uint8", crs, (side / 16, 0.0, east, 0.0, -side / 16, north))


def neighbours_of(easts: dict[str, float]) -> dict[str, set[str]]:
    headers = {name: [square(east)] for name, east in easts.items()}
    return find_neighbours(headers, Footprints(header for images in headers.values() for header in images))


def place(tree: Tree, archive: str, name: str, east: float, north: float = 4_270_000.0, **kinds: int) -> None:
    """A location's images on 160 m of ground; `kinds` says how many of which."""
    transform = (10.0, 0.0, east, 0.0, -10.0, north)
    for kind, count in (kinds or {"GEC": 2, "rgb": 1, "ir": 1}).items():
        for number in range(count):
            bands = 3 if kind.endswith("rgb") else 1
            tree.tiff(f"{archive}/{name}/x{number}_{kind}.tiff", bands, crs=UTM, transform=transform)


def pairs_of(folder: Path, split: str) -> list[Pair]:
    return [pair for task in TASKS for pair in read_manifest(manifest_path(folder, task, split))]


def unused(folder: Path) -> dict[str, str]:
    with (folder / "unused.csv").open(encoding="utf-8", newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def test_neighbours_are_those_that_share_more_than_a_border() -> None:
    found = neighbours_of({"a": 424_000, "b": 424_080, "touching": 424_240.5, "c": 424_300, "far": 430_000})
    assert found == {"a": {"b"}, "b": {"a"}, "touching": {"c"}, "c": {"touching"}, "far": set()}
    # Also in another coordinate system, and where one lies inside the other.
    headers = {
        "a": [square(424_000)],
        "nad": [square(424_040, side=32.0, crs="EPSG:26912")],
        "none": [Header(9, 9, 1, "")],
    }
    found = find_neighbours(headers, Footprints(header for images in headers.values() for header in images))
    assert found == {"a": {"nad"}, "nad": {"a"}, "none": set()}


def test_ground_is_a_chain_of_neighbours() -> None:
    found = find_ground(neighbours_of({"b": 424_000, "a": 424_080, "c": 424_180, "d": 426_000}))
    assert found == {"a": "a", "b": "a", "c": "a", "d": "d"}


def disjoint(names: set[str], held: set[str], neighbours: dict[str, set[str]], left_out: set[str]) -> bool:
    """Whether no location outside `held` and `left_out` is a neighbour of one inside."""
    return not any(neighbours[name] & held for name in names - held - left_out)


@pytest.mark.parametrize("seed", range(12))
def test_neighbours_are_held_out_together_and_an_archive_keeps_some(seed: int) -> None:
    easts = {f"{number}{half}": 424_000 + 1000 * number + 80 * (half == "y") for number in range(10) for half in "xy"}
    neighbours = neighbours_of(easts)
    names = {("A" if int(name[:-1]) < 5 else "B", name) for name in easts}
    held, between = hold_out(sorted(names), 0.2, seed, neighbours)
    assert between == set() and disjoint(set(easts), held, neighbours, set())
    for archive in "AB":
        own = {name for owner, name in names if owner == archive}
        assert len(own & held) == 2  # 0.2 of ten, one pair of neighbours


def test_a_piece_of_ground_in_two_archives_is_held_out_of_both() -> None:
    easts = {f"a{number}": 424_000.0 + 1000 * number for number in range(8)}
    easts |= {f"b{number}": 424_080.0 + 1000 * number for number in range(8)}
    for seed in range(12):
        held, _ = hold_out([(name[0], name) for name in easts], 0.15, seed, neighbours_of(easts))
        assert held and {name[1] for name in held if name[0] == "a"} == {name[1] for name in held if name[0] == "b"}


@pytest.mark.parametrize("seed", range(6))
def test_where_all_lie_together_some_are_held_out_and_those_around_them_are_on_neither_side(seed: int) -> None:
    easts = {f"{number:02}": 424_000.0 + 120 * number for number in range(20)}  # each covers a quarter of the next
    neighbours = neighbours_of(easts)
    held, between = hold_out([("A", name) for name in easts], 0.15, seed, neighbours)
    assert len(held) == 3 and 1 <= len(between) <= 2
    assert disjoint(set(easts), held, neighbours, between)
    numbers = sorted(int(name) for name in held)
    assert numbers[-1] - numbers[0] == 2  # they lie together


def test_locations_alone_are_chosen_as_ever_and_no_other_changes_them() -> None:
    names = [("A", f"loc{number}") for number in range(40)] + [("B", "single")]
    held, _ = hold_out(names, 0.15, 2024)
    assert len(held) == 6 and "single" not in held
    fewer, _ = hold_out([name for name in names if name[1] not in ("loc7", "loc8")], 0.15, 2024)
    assert len(held ^ (fewer | ({"loc7", "loc8"} & held))) <= 2  # only the last in the ranking may come or go
    assert hold_out(names, 0.0, 2024) == (set(), set())


def test_build_pairs_keeps_overlapping_locations_on_one_side(tree: Tree, tmp_path: Path) -> None:
    for number in range(8):
        place(tree, "A_SAR_IR_RGB", f"west{number}", 424_000 + 1000 * number)
        place(tree, "B_SAR_IR_RGB", f"east{number}", 424_100 + 1000 * number)
    build_pairs(tree.root, tmp_path)
    train, val = ({pair.location[-1] for pair in pairs_of(tmp_path, split)} for split in ("train", "val"))
    assert len(val) == 1 and not train & val and train | val == set("01234567")
    grounds = defaultdict(set)
    for pair in pairs_of(tmp_path, "train") + pairs_of(tmp_path, "val"):
        grounds[pair.ground].add(pair.location)
    assert sorted(map(sorted, grounds.values())) == [[f"east{number}", f"west{number}"] for number in range(8)]


def test_what_lies_between_both_sides_is_listed(tree: Tree, tmp_path: Path) -> None:
    for number in range(8):
        place(tree, "A", f"{number}", 424_000 + 120 * number)
    summary = build_pairs(tree.root, tmp_path)
    assert len(summary.held_out) == 1
    left_out = {path.split("/")[1] for path in unused(tmp_path)}
    reason = f"its ground is that of {summary.held_out[0]}, which is held out, and of other locations, which are not"
    assert set(unused(tmp_path).values()) == {reason}
    used = {pair.location for split in ("train", "val") for pair in pairs_of(tmp_path, split)}
    assert used | left_out == set("01234567") and not used & left_out
    held = int(summary.held_out[0])
    assert left_out == {str(number) for number in (held - 1, held + 1) if 0 <= number < 8}


# --- Folders of one name in two archives.


def counts(folder: Path, task: str) -> dict[str, int]:
    pairs = [pair for split in ("train", "val") for pair in read_manifest(manifest_path(folder, task, split))]
    archives = [pair.source.split("/")[0] for pair in pairs]
    return {archive: archives.count(archive) for archive in sorted(set(archives))}


def test_two_archives_with_one_folder_name_stay_two_locations(tree: Tree, tmp_path: Path) -> None:
    """One has a mosaic; the other's SAR keeps its own RGB images as targets."""
    place(tree, "A_SAR_IR_RGB", "tile_1", 500_000, GEC=3)
    place(tree, "A_SAR_IR_RGB", "tile_1", 500_000, x_rgb=1)
    tree.tiff(
        "A_SAR_IR_RGB/tile_1/mosaic_rgb.tiff", 3, crs=UTM, transform=(10.0, 0.0, 500_000, 0.0, -10.0, 4_270_000.0)
    )
    place(tree, "B_SAR_IR_RGB", "tile_1", 700_000, GEC=3, rgb=1)
    build_pairs(tree.root, tmp_path, share=0)
    assert counts(tmp_path, "sar2rgb") == {"A_SAR_IR_RGB": 3, "B_SAR_IR_RGB": 3}
    pairs = read_manifest(manifest_path(tmp_path, "sar2rgb", "train"))
    assert {pair.location for pair in pairs} == {"A_SAR_IR_RGB/tile_1", "B_SAR_IR_RGB/tile_1"}
    assert all(pair.source.split("/")[0] == pair.target.split("/")[0] for pair in pairs)
    assert len({pair.name for pair in pairs}) == 6


def test_one_folder_name_on_one_ground_is_one_location(tree: Tree, tmp_path: Path) -> None:
    place(tree, "A", "tile", 500_000, GEC=2)
    place(tree, "B", "tile", 500_016, rgb=1, ir=1)
    place(tree, "B", "other", 600_000)
    build_pairs(tree.root, tmp_path, share=0)
    pairs = [pair for pair in pairs_of(tmp_path, "train") if pair.location == "tile" and pair.task == "sar2rgb"]
    assert [(pair.source[0], pair.target[0], pair.overlap) for pair in pairs] == [("A", "B", "0.9000")] * 2


def test_folders_of_one_name_that_may_be_one_place_are_on_one_side(tree: Tree, tmp_path: Path) -> None:
    for archive in ("A", "B"):
        for number in range(6):
            tree.location(archive, f"loc{number}", sar=1)  # without a georeference
    build_pairs(tree.root, tmp_path)
    train, val = ({pair.location.split("/")[-1] for pair in pairs_of(tmp_path, split)} for split in ("train", "val"))
    assert val and not train & val
    assert len(pairs_of(tmp_path, "train") + pairs_of(tmp_path, "val")) == 36
    for pair in pairs_of(tmp_path, "train") + pairs_of(tmp_path, "val"):
        assert pair.source.split("/")[0] == pair.target.split("/")[0] == pair.location.split("/")[0]


# --- A part of the training pairs to choose epochs by.


def training_pairs(locations: Sequence[str], each: int = 3) -> list[Pair]:
    return [
        Pair(f"{name}{number}", "sar2rgb", "train", name, "s", "t", ground=name[0])
        for number in range(each)
        for name in locations
    ]


def test_the_tuning_part_is_whole_pieces_of_ground() -> None:
    pairs = training_pairs([f"{letter}{number}" for letter in "abcdefghijklmnopqrst" for number in (1, 2)])
    train, tune = split_for_tuning(pairs, 0.1, seed=3)
    assert sorted(train + tune, key=pairs.index) == pairs and len({pair.ground for pair in tune}) == 2
    assert not {pair.ground for pair in train} & {pair.ground for pair in tune}
    assert [pair for pair in pairs if pair in tune] == tune
    again = split_for_tuning(pairs[::-1], 0.1, seed=3)
    assert {pair.name for pair in again[1]} == {pair.name for pair in tune}
    assert {pair.name for pair in split_for_tuning(pairs, 0.1, seed=4)[1]} != {pair.name for pair in tune}


def test_the_tuning_part_of_little_and_of_older_manifests() -> None:
    one = training_pairs(["a1"])
    assert split_for_tuning(one) == (one, [])
    old = [Pair(f"{name}", "sar2rgb", "train", name, "s", "t") for name in ("x", "y", "x2")]
    train, tune = split_for_tuning(old, 0.1)
    assert len(train) == 2 and len(tune) == 1
    assert split_for_tuning(old, 0.0) == (old, [])


def test_the_summary_says_which_are_held_out(tree: Tree, tmp_path: Path) -> None:
    for number in range(4):
        place(tree, "A", f"loc{number}", 424_000 + 1000 * number)
    build_pairs(tree.root, tmp_path, rules=Rules(seed=1))
    held = json.loads((tmp_path / "summary.json").read_text())["held_out"]
    assert {pair.location for pair in pairs_of(tmp_path, "val")} == set(held) and len(held) == 1


def test_check_data_says_which_locations_overlap(tree: Tree, tmp_path: Path) -> None:
    for number in range(8):
        place(tree, "A_SAR_IR_RGB", f"west{number}", 424_000 + 1000 * number)
    assert inspect_data(tree.root, shifts=False).ground == []
    for number in range(3):
        place(tree, "B_SAR_IR_RGB", f"east{number}", 424_100 + 1000 * number)
    (line,) = inspect_data(tree.root, shifts=False).ground
    assert line.startswith("6 locations overlap with others, on 3 pieces of ground; ")


def test_the_misregistration_measured_before_is_kept_and_shown(standin: Path, tmp_path: Path) -> None:
    measured = inspect_data(standin, tmp_path).shifts
    record = (tmp_path / RECORD).read_bytes()
    assert measured
    again = inspect_data(standin, tmp_path, shifts=False).shifts
    assert (tmp_path / RECORD).read_bytes() == record
    assert {name: shift.as_json() for name, shift in again.items()} == {
        name: shift.as_json() for name, shift in measured.items()
    }
    assert inspect_data(standin, tmp_path, rules=Rules(min_overlap=0.9999), shifts=False).shifts == {}  # of other pairs
    (tmp_path / RECORD).write_text('{"made_from": 3}')
    assert inspect_data(standin, tmp_path, shifts=False).shifts == {}
