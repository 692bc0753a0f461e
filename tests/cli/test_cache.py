"""`pbvs cache`: what it counts is what is on the disk, and it removes nothing but its own."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from pbvs.cli import cli
from pbvs.data import chips
from pbvs.data.build import build_pairs
from pbvs.data.synthetic import write_demo
from pbvs.evaluation.evaluate import score
from pbvs.pipeline import Request, predict
from pbvs.recipe import parse_recipe
from tests.pipeline.test_runner import NETWORK

DIGEST = "ab" * 32


def du(paths: list[Path]) -> int:
    """What `du` says that these files hold, in bytes."""
    command = ["du", "--apparent-size", "--block-size=1", "--total", *map(str, paths)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1].split()[0])


def put(path: Path, size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with one file of each kind in its cache."""
    monkeypatch.chdir(tmp_path)
    cache = tmp_path / ".cache" / "pbvs"
    put(cache / "ab" / f"{DIGEST}.npy", 1000)
    put(cache / "ab" / f"{DIGEST}.json", 17)
    put(cache / "digests.csv", 300)
    put(cache / "bad_sar2eo_train.jsonl", 5)
    put(cache / "features" / "ab" / f"{DIGEST}.safetensors", 4000)
    put(cache / "baselines" / f"{DIGEST}.json", 50)
    put(cache / "targets" / "ab" / f"{DIGEST}.lpips-122a339e25d94c81.npy", 700)
    return cache


def shown() -> dict[str, dict[str, int]]:
    done = CliRunner().invoke(cli, ["cache", "show", "--json"])
    assert done.exit_code == 0, done.output
    return {
        kind: {key: part[key] for key in ("files", "bytes")} for kind, part in json.loads(done.stdout)["kinds"].items()
    }


def test_each_kind_is_counted_once_and_clearing_leaves_what_is_not_ours(folder: Path) -> None:
    strange = [put(folder / "ab" / "notes.txt", 9), put(folder / "mine.npy", 9), put(folder / "features" / "x.bin", 9)]
    assert {kind: part["bytes"] for kind, part in shown().items()} == {
        "chips": 1322,
        "features": 4000,
        "baselines": 50,
        "targets": 700,
    }
    done = CliRunner().invoke(cli, ["cache", "clear", "targets", "--yes"])
    assert (done.exit_code, (folder / "targets").exists()) == (0, False)
    assert sum(part["bytes"] for part in shown().values()) == 5372
    assert CliRunner().invoke(cli, ["cache", "clear", "--yes"]).exit_code == 0
    assert sorted(path for path in folder.rglob("*") if path.is_file()) == sorted(strange)
    assert "nothing to clear" in CliRunner().invoke(cli, ["cache", "clear"]).stdout


def test_clearing_asks_first(folder: Path) -> None:
    before = shown()
    done = CliRunner().invoke(cli, ["cache", "clear"], input="n\n")
    assert done.exit_code == 1
    assert "Remove 7 files" in done.stdout
    assert shown() == before


def test_no_link_is_followed(folder: Path, tmp_path: Path) -> None:
    other = put(tmp_path / "other" / f"{DIGEST}.npy", 11)
    (folder / "cd").symlink_to(other.parent)
    (folder / "ab" / f"{'cd' * 32}.npy").symlink_to(other)
    assert shown()["chips"] == {"files": 4, "bytes": 1322}
    assert CliRunner().invoke(cli, ["cache", "clear", "--yes"]).exit_code == 0
    assert other.read_bytes() == b"x" * 11
    assert (folder / "cd").is_symlink()


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_table_fits_the_terminal(folder: Path, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = CliRunner().invoke(cli, ["cache", "show"]).stdout.splitlines()
    assert max(map(len, lines)) <= columns


def test_what_training_and_scoring_keep_is_all_known_and_as_large_as_du_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_demo(tmp_path / "data", seed=3)
    build_pairs(tmp_path / "data", tmp_path / "manifests")
    recipe = parse_recipe({"name": "r", "stages": {"sar2eo": NETWORK}}, "r")
    places = {"root": tmp_path / "data", "manifests": tmp_path / "manifests"}
    run = predict(Request(recipe, splits=["val"], device="cpu", **places))
    score(run, lpips_net="random", **places)
    files = [path for path in (tmp_path / ".cache" / "pbvs").rglob("*") if path.is_file()]
    found = shown()
    assert sum(part["files"] for part in found.values()) == len(files)
    assert sum(part["bytes"] for part in found.values()) == du(files)
    assert min(found[kind]["files"] for kind in ("chips", "features", "baselines")) > 0
    assert CliRunner().invoke(cli, ["cache", "clear", "--yes"]).exit_code == 0
    assert [path for path in (tmp_path / ".cache" / "pbvs").rglob("*") if path.is_file()] == []


def test_the_chips_used_longest_ago_make_room_and_none_of_the_last_week(tmp_path: Path) -> None:
    now = time.time()
    ages = {"aa": 30, "bb": 20, "cc": 10, "dd": 1}  # days
    for name, days in ages.items():
        file = put(tmp_path / name / f"{name * 32}.npy", 100)
        os.utime(file, (now, now - days * 86400))

    def there() -> set[str]:
        return {path.parent.name for path in tmp_path.glob("*/*.npy")}

    assert chips.make_room(tmp_path, capacity=400) == 0
    assert chips.make_room(tmp_path, capacity=300, keep={tmp_path / "aa" / f"{'aa' * 32}.npy"}) == 1
    assert there() == {"aa", "cc", "dd"}
    assert chips.make_room(tmp_path, capacity=0) == 2
    assert there() == {"dd"}


def test_a_chip_that_is_read_counts_as_used(tmp_path: Path) -> None:
    file = put(tmp_path / "a.npy", 1)
    os.utime(file, (0, 0))
    chips.mark_used(file)
    assert time.time() - file.stat().st_mtime < 60
