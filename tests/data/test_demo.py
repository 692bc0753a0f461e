"""The synthetic data: the same from the same seed, in the archives' layout, physically plausible, labelled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pbvs.cli import cli
from pbvs.data.catalog import scan
from pbvs.data.synthetic import FIELD, FOREST, ROOF, WATER, make_scene, write_demo
from pbvs.errors import UsageError
from tests.data.conftest import SMALL


def test_the_same_seed_gives_the_same_images(demo: Path, tmp_path: Path) -> None:
    write_demo(tmp_path / "again", seed=5, amounts=SMALL)
    write_demo(tmp_path / "other", seed=6, amounts=SMALL)
    files, again = (
        sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
        for root in (demo, tmp_path / "again")
    )
    assert files == again
    assert all((demo / path).read_bytes() == (tmp_path / "again" / path).read_bytes() for path in files)
    assert (demo / "README.txt").read_bytes() != (tmp_path / "other/README.txt").read_bytes()


def test_it_says_that_it_is_synthetic(demo: Path, tmp_path: Path) -> None:
    assert "SYNTHETIC" in (demo / "README.txt").read_text(encoding="utf-8")
    assert all("SYNTH" in path.name for path in demo.rglob("*_GEC.tif*"))


def test_it_has_every_wart_of_the_archives(demo: Path) -> None:
    catalog = scan(demo)
    headers = [entry.header for entry in catalog.entries]
    assert catalog.unused == []
    assert {header.dtype for header in headers} == {"uint8", "uint16"}
    assert {header.crs for header in headers} == {"", "EPSG:32612", "EPSG:26912"}
    assert any(entry.info.role == "mosaic" for entry in catalog.entries)
    assert not any(path.is_dir() for path in (demo / "test").rglob("*target*"))


def test_the_ground_looks_as_it_should() -> None:
    rng = np.random.default_rng(0)
    scenes = [make_scene(200, np.random.default_rng(seed)) for seed in range(6)]
    optical = np.concatenate([scene.optical(rng).reshape(-1, 4) for scene in scenes])
    radar = np.concatenate([scene.radar(rng).ravel() for scene in scenes])
    ground = np.concatenate([scene.ground.ravel() for scene in scenes])
    shade = np.concatenate([scene.shadow.ravel() for scene in scenes])
    for plant in (FIELD, FOREST):
        seen = optical[(ground == plant) & ~shade]
        assert seen[:, 3].mean() > 2 * seen[:, 0].mean()
    water = optical[ground == WATER]
    assert water[:, 3].mean() < 0.1
    assert radar[ground == WATER].mean() < radar[ground == FIELD].mean() < radar[ground == ROOF].mean()
    assert radar[ground == FIELD].std() > 0.04


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        write_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_commands_say_what_they_did(tmp_path: Path) -> None:
    runner = CliRunner()
    made = runner.invoke(cli, ["demo-data", str(tmp_path / "demo"), "--seed", "1"], catch_exceptions=False)
    assert "synthetic" in made.output
    built = runner.invoke(
        cli,
        ["build-pairs", "--data", str(tmp_path / "demo"), "--manifests", str(tmp_path / "m"), "--jobs", "1"],
        catch_exceptions=False,
    )
    assert built.exit_code == 0
    assert "sar2eo 160 16 12" in " ".join(built.output.split())
