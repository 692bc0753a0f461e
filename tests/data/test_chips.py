"""Prepared chips: made once, kept by content, bad ones named; and samples that depend on nothing but their place."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pbvs.data import chips as chips_module
from pbvs.data.build import build_pairs
from pbvs.data.chips import Prepared, bad_chip, prepare
from pbvs.data.dataset import ChipDataset
from pbvs.data.manifest import Pair, manifest_path, read_manifest
from pbvs.devices import use_backend
from pbvs.errors import PbvsError
from pbvs.recipe import Augmentation, Chips, Radiometry, Sampling
from tests.data.conftest import Tree


@pytest.fixture(scope="module")
def pairs(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    folder = tmp_path_factory.mktemp("manifests")
    build_pairs(demo, folder)
    return list(read_manifest(manifest_path(folder, "sar2rgb", "train")))


def ready(pairs: list[Pair], root: Path, cache: Path, **changes: object) -> list[Prepared]:
    return prepare(pairs, root, Radiometry(), Chips.model_validate(changes), 64, cache)


def test_a_second_preparation_makes_nothing(pairs: list[Pair], demo: Path, tmp_path: Path) -> None:
    first = ready(pairs, demo, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert ready(pairs, demo, tmp_path) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_interrupted_preparation_goes_on(
    pairs: list[Pair], demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ready(pairs, demo, tmp_path / "whole")
    made: list[Pair] = []
    make = chips_module._make

    def stop_at_third(pair: Pair, *rest: Any) -> Prepared:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(pair)
        return make(pair, *rest)

    monkeypatch.setattr(chips_module, "_make", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        ready(pairs, demo, tmp_path / "cut")
    monkeypatch.setattr(chips_module, "_make", lambda pair, *rest: made.append(pair) or make(pair, *rest))
    again = ready(pairs, demo, tmp_path / "cut")
    assert len(made) == len({pair.name for pair in made}) == len(pairs)
    for one, other in zip(whole, again, strict=True):
        assert one.file.read_bytes() == other.file.read_bytes()


def test_a_changed_image_or_rule_is_prepared_anew(pairs: list[Pair], tree: Tree, tmp_path: Path) -> None:
    tree.tiff("A/one/s_GEC.tiff", size=(64, 64))
    path = tree.tiff("A/one/a_rgb.tiff", 3, size=(64, 64))
    pair = Pair("x", "sar2rgb", "train", "one", "A/one/s_GEC.tiff", "A/one/a_rgb.tiff", alignment="footprint")
    (first,) = ready([pair], tree.root, tmp_path / "cache")
    (moved,) = prepare([pair], tree.root, Radiometry(rgb="percentile:2:98"), Chips(), 64, tmp_path / "cache")
    os.utime(path, (1, 1))
    (touched,) = ready([pair], tree.root, tmp_path / "cache")
    tree.tiff("A/one/a_rgb.tiff", 3, size=(64, 64))
    (changed,) = ready([pair], tree.root, tmp_path / "cache")
    assert first.file == touched.file
    assert len({first.file, moved.file, changed.file}) == 3


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_jobs_and_backends_change_nothing(pairs: list[Pair], demo: Path, tmp_path: Path, backend: str) -> None:
    many = (pairs * 12)[:36]
    one = prepare(many, demo, Radiometry(), Chips(), 64, tmp_path / "one")
    with use_backend(backend):
        two = prepare(many, demo, Radiometry(), Chips(), 64, tmp_path / "two", 2)
    assert [item.file.name for item in one] == [item.file.name for item in two]
    assert one[0].file.read_bytes() == two[0].file.read_bytes()


def test_large_images_are_reduced_and_windows_cover_everything(pairs: list[Pair], demo: Path, tmp_path: Path) -> None:
    reduced = ready(pairs[:1], demo, tmp_path, max_side=80)[0]
    assert max(reduced.height, reduced.width) == 80
    assert (ready(pairs[:1], demo, tmp_path, mode="whole")[0].height) == 64
    windows = ready(pairs[:1], demo, tmp_path, mode="windows", stride=50)[0]
    seen = np.zeros((windows.height, windows.width), np.bool_)
    for top, left in windows.windows:
        seen[top : top + 64, left : left + 64] = True
    assert seen.all()


CHIP = np.random.default_rng(0).integers(1, 255, (5, 64, 64), dtype=np.uint8)
CHIP[-1] = 255


@pytest.mark.parametrize(
    ("band", "value", "part", "reason"),
    [
        (4, 0, 0.6, "no data"),
        (0, 0, 0.7, "source is black"),
        (slice(1, 4), 255, 0.7, "target is at full scale"),
        (slice(1, 4), 9, 1.0, "target is flat"),
        (0, 0, 0.1, ""),
    ],
)
def test_bad_chips_are_named(band: int | slice, value: int, part: float, reason: str) -> None:
    chip = CHIP.copy()
    chip[band, : round(64 * part)] = value
    assert (reason in bad_chip(chip, 1, Chips())) if reason else bad_chip(chip, 1, Chips()) == ""


def test_bad_pairs_are_left_out_and_listed(tree: Tree, tmp_path: Path) -> None:
    from pbvs.data.images import write_tiff

    rows = []
    for name in ("one", "two"):
        tree.tiff(f"A/{name}/s_GEC.tiff", size=(64, 64))
        tree.tiff(f"A/{name}/a_rgb.tiff", 3, size=(64, 64))
        source, target = f"A/{name}/s_GEC.tiff", f"A/{name}/a_rgb.tiff"
        rows.append(Pair(name, "sar2rgb", "train", name, source, target, alignment="footprint"))
    write_tiff(tree.root / "A/two/a_rgb.tiff", np.zeros((64, 64, 3), np.uint8))
    ds = ChipDataset(rows, tree.root, size=32, seed=1, cache=tmp_path / "cache")
    assert len(ds) == 1
    (line,) = (tmp_path / "cache/bad_sar2rgb_train.jsonl").read_text().splitlines()
    assert json.loads(line) == {"pair": "two", "task": "sar2rgb", "reason": "100% of the target is black"}
    with pytest.raises(PbvsError, match="None of the 1 pairs"):
        ChipDataset(rows[1:], tree.root, size=32, seed=1, cache=tmp_path / "cache")


def dataset(pairs: list[Pair], demo: Path, cache: Path, **changes: Any) -> ChipDataset:
    settings: dict[str, Any] = {"size": 64, "seed": 3, "augmentation": Augmentation(), **changes}
    return ChipDataset(pairs, demo, cache=cache, **settings)


def test_a_sample_depends_on_seed_epoch_and_position_alone(pairs: list[Pair], demo: Path, tmp_path: Path) -> None:
    one, other = dataset(pairs, demo, tmp_path / "a"), dataset(pairs, demo, tmp_path / "b")
    forwards = [one[2, position] for position in range(len(one))]
    backwards = [other[2, position] for position in reversed(range(len(other)))][::-1]
    for a, b in zip(forwards, backwards, strict=True):
        assert all(bool((x == y).all()) for x, y in zip(a, b, strict=True))
    changed = dataset(pairs, demo, tmp_path / "a", seed=4)
    assert any(bool((one[2, i].source != changed[2, i].source).any()) for i in range(len(one)))
    assert any(bool((one[2, i].source != one[3, i].source).any()) for i in range(len(one)))


def test_shapes_types_and_small_images(pairs: list[Pair], demo: Path, tmp_path: Path) -> None:
    sample = dataset(pairs, demo, tmp_path, size=256)[0, 0]
    assert [tuple(part.shape) for part in sample] == [(1, 256, 256), (3, 256, 256), (1, 256, 256)]
    assert {str(part.dtype) for part in sample} == {"torch.uint8"}


def test_without_augmentation_every_epoch_is_the_same(pairs: list[Pair], demo: Path, tmp_path: Path) -> None:
    ds = dataset(pairs, demo, tmp_path, augmentation=None)
    assert len(ds) == len(pairs)
    assert all(bool((ds[0, i].target == ds[7, i].target).all()) for i in range(len(ds)))


def located(ds: ChipDataset, epoch: int) -> list[str]:
    return [ds.items[int(index)].prepared.pair.name for index in ds._epoch(epoch)]


def test_a_location_gives_no_more_than_its_share_and_all_in_turn(tree: Tree, tmp_path: Path) -> None:
    rows = []
    for name, count in (("big", 12), ("small", 2)):
        tree.tiff(f"A/{name}/a_rgb.tiff", 3, size=(32, 32))
        for number in range(count):
            source = f"A/{name}/2020{number + 1:02d}01_GEC.tiff"
            tree.tiff(source, size=(32, 32))
            rows.append(
                Pair(
                    f"{name}{number}", "sar2rgb", "train", name, source, f"A/{name}/a_rgb.tiff",
                    source_date=f"2020-{number + 1:02d}-01", target_date="2020-05-03", alignment="footprint",
                )
            )  # fmt: skip
    sampling = Sampling(policy="random", pairs_per_location=3)
    ds = dataset(rows, tree.root, tmp_path, size=32, sampling=sampling)
    assert len(ds) == 5
    epochs = [located(ds, epoch) for epoch in range(30)]
    assert all(sum(name.startswith("big") for name in epoch) == 3 for epoch in epochs)
    assert len({name for epoch in epochs for name in epoch}) == 14
    nearest = dataset(
        rows, tree.root, tmp_path, size=32, sampling=Sampling(policy="nearest-date", pairs_per_location=3)
    )
    assert all("big4" in located(nearest, epoch) for epoch in range(5))
    everything = dataset(rows, tree.root, tmp_path, size=32, sampling=Sampling(policy="all"))
    assert len(everything) == 14


def many(tree: Tree, count: int = 100, limit: str = "4", black: frozenset[int] = frozenset()) -> list[Pair]:
    """Pairs of one location, each with a SAR image of its own; a few of them are black."""
    from pbvs.data.images import write_tiff

    tree.tiff("A/big/a_rgb.tiff", 3, size=(32, 32))
    rows = []
    for number in range(count):
        source = f"A/big/{number}_GEC.tiff"
        if number in black:
            write_tiff(tree.root / source, np.zeros((32, 32, 1), np.uint8))
        else:
            tree.tiff(source, size=(32, 32))
        row = Pair(
            f"{number}", "sar2rgb", "train", "big", source, "A/big/a_rgb.tiff", alignment="footprint", limit=limit
        )
        rows.append(row)
    return rows


def prepared_in(cache: Path) -> int:
    return sum(1 for _ in cache.glob("*/*.npy"))


@pytest.mark.parametrize("policy", ["random", "all"])
def test_an_epoch_draws_from_all_candidates_again(tree: Tree, tmp_path: Path, policy: str) -> None:
    rows = many(tree)
    sampling = Sampling(policy=policy, pairs_per_location=9)  # the manifest's limit of 4 is less
    ds = dataset(rows, tree.root, tmp_path / "cache", size=32, sampling=sampling, epochs=8)
    epochs = [located(ds, epoch) for epoch in range(8)]
    assert len(ds) == 4 and all(len(set(epoch)) == 4 for epoch in epochs)
    seen = {name for epoch in epochs for name in epoch}
    assert len(seen) > 16  # of 32 draws from 100
    assert prepared_in(tmp_path / "cache") == len(seen)  # no more than is drawn
    assert set(located(ds, 30)) <= {row.name for row in rows}  # an epoch that nobody had announced


def test_what_is_drawn_does_not_depend_on_what_is_prepared(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = many(tree, 40, black=frozenset({3, 17, 25}))
    whole = dataset(rows, tree.root, tmp_path / "whole", size=32, epochs=5)
    monkeypatch.setattr("pbvs.data.dataset.LARGE", 10)
    few = dataset(rows, tree.root, tmp_path / "few", size=32, epochs=5)
    more = dataset(rows, tree.root, tmp_path / "more", size=32, epochs=12)
    assert prepared_in(tmp_path / "few") < prepared_in(tmp_path / "more") <= prepared_in(tmp_path / "whole") == 37
    assert len(whole) == len(few) == len(more) == 4
    for epoch in range(5):
        assert located(whole, epoch) == located(few, epoch) == located(more, epoch)
        assert not {"3", "17", "25"} & set(located(few, epoch))
        for position in range(4):
            samples = [ds[epoch, position] for ds in (whole, few, more)]
            assert all(bool((x == y).all()) for other in samples[1:] for x, y in zip(samples[0], other, strict=True))


def test_pairs_drawn_once_are_those_of_every_epoch(tree: Tree, tmp_path: Path) -> None:
    rows = many(tree, 80)
    sampling = Sampling(draw="once", pairs_per_location=0)
    ds = dataset(rows, tree.root, tmp_path / "cache", size=32, sampling=sampling, epochs=6)
    assert {frozenset(located(ds, epoch)) for epoch in range(6)} == {frozenset(located(ds, 0))}
    assert prepared_in(tmp_path / "cache") == len(ds) == 4
    assert len({tuple(located(ds, epoch)) for epoch in range(6)}) > 1  # in another order


def test_without_a_limit_all_are_seen_and_validation_knows_none(tree: Tree, tmp_path: Path) -> None:
    rows = many(tree, 70, limit="")
    ds = dataset(rows, tree.root, tmp_path / "cache", size=32, sampling=Sampling(pairs_per_location=0))
    assert len(ds) == 70
    limited = many(tree, 70)
    assert len(dataset(limited, tree.root, tmp_path / "cache", size=32, augmentation=None)) == 70


def test_windows_are_of_pairs_that_are_drawn_once(tree: Tree, tmp_path: Path) -> None:
    rows = many(tree, 80)
    chips = Chips(mode="windows", stride=16)
    ds = dataset(rows, tree.root, tmp_path, size=16, chips=chips, sampling=Sampling(policy="all"), epochs=3)
    assert len(ds) == 16  # four windows of each of four pairs
    assert len({frozenset(located(ds, epoch)) for epoch in range(3)}) == 1
    fewer = dataset(rows, tree.root, tmp_path, size=16, chips=chips, sampling=Sampling(pairs_per_location=5), epochs=3)
    assert len(fewer) == 5


def test_bad_windows_are_listed_by_their_place(tree: Tree, tmp_path: Path) -> None:
    from pbvs.data.images import write_tiff

    pixels = tree.pixels(64, 128, 3)
    pixels[:, 64:] = 0
    write_tiff(tree.root / "A/one/a_rgb.tiff", pixels)
    tree.tiff("A/one/s_GEC.tiff", size=(64, 128))
    pair = Pair("one", "sar2rgb", "train", "one", "A/one/s_GEC.tiff", "A/one/a_rgb.tiff", alignment="footprint")
    chips = Chips(mode="windows", stride=64)
    ds = ChipDataset([pair], tree.root, chips=chips, size=64, seed=1, cache=tmp_path)
    assert [item.corner for item in ds.items] == [(0, 0)]
    (line,) = (tmp_path / "bad_sar2rgb_train.jsonl").read_text().splitlines()
    assert json.loads(line)["left"] == 64
    again = ChipDataset([pair], tree.root, chips=chips, size=64, seed=1, cache=tmp_path)
    assert again.items == ds.items


def test_a_damaged_chip_is_prepared_again(pairs: list[Pair], demo: Path, tmp_path: Path) -> None:
    first = ready(pairs[:1], demo, tmp_path)
    whole = first[0].file.read_bytes()
    first[0].file.write_bytes(whole[:100])
    (tmp_path / "digests.csv").write_text("digests 1\nnonsense\n")
    assert ready(pairs[:1], demo, tmp_path) == first
    assert first[0].file.read_bytes() == whole
