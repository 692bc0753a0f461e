"""`pbvs challenge`: list, show, check and init."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pbvs.challenge import CHALLENGES, load_challenge
from pbvs.cli import main
from pbvs.data.recognition import propose, try_layout
from pbvs.errors import PbvsError, UsageError
from tests.challenge.test_end_to_end import deep, hdr, nir
from tests.challenge.test_model import SMALL


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_list_and_show_name_what_ships(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("challenge", "list") == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in listed if not line.startswith(" ")] == CHALLENGES.names
    assert call("challenge", "show", "mavic-t-2026") == 0
    shown = capsys.readouterr().out
    assert "sar2eo" in shown
    assert "10 a day, 60 in all" in shown
    assert "CPU[1] / GPU[0]" in shown


def test_show_gives_the_file_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("challenge", "show", "rgb2nir", "--toml") == 0
    path = tmp_path / "again.toml"
    path.write_text(capsys.readouterr().out)
    assert load_challenge(path) == load_challenge("rgb2nir")


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)


def test_check_says_what_each_pattern_took(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train/depth/1", "train/thermal/1", "val/depth/2", "elsewhere/3"):
        image(tmp_path / f"data/{name}.png")
    (tmp_path / "c.toml").write_text(SMALL)
    assert call("challenge", "check", str(tmp_path / "c.toml"), "--data", str(tmp_path / "data")) == 0
    said = capsys.readouterr().out
    assert re.search(r"^all +3$", said, re.MULTILINE)
    assert "Not used: 1 files, no pattern of the challenge's layout takes it (elsewhere 1)" in said


def test_a_file_taken_twice_is_named_with_the_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image(tmp_path / "data/train/depth/1.png")
    (tmp_path / "c.toml").write_text(SMALL + '\n[layout.files.more]\nglob = "train/**"\nmodality = "thermal"\n')
    assert call("challenge", "check", str(tmp_path / "c.toml"), "--data", str(tmp_path / "data")) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "layout.files.more: it takes 1 files that layout.files.all takes too, such as train/depth/1.png" in said


def test_a_term_that_no_metric_has_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = SMALL.replace('name = "small"', 'name = "small"\nprotocol = "own"')
    (tmp_path / "c.toml").write_text(text + '\n[protocols.own]\nterms = ["rsme"]\n')
    assert call("challenge", "check", str(tmp_path / "c.toml")) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "terms.0: there is no metric 'rsme'" in said


@pytest.mark.parametrize("fill", [deep, hdr, nir])
def test_what_init_writes_takes_every_file(fill: object, tmp_path: Path) -> None:
    fill(tmp_path / "data")  # type: ignore[operator]
    path = tmp_path / "first.toml"
    path.write_text(propose(tmp_path / "data", "first"))
    trial = try_layout(load_challenge(path), tmp_path / "data")
    files = sum(1 for file in (tmp_path / "data").rglob("*.png"))
    assert sum(trial.taken.values()) == files
    assert (trial.twice, trial.unused) == ([], {})


def test_init_recognises_modalities_splits_and_channels(tmp_path: Path) -> None:
    nir(tmp_path / "data")
    path = tmp_path / "first.toml"
    path.write_text(propose(tmp_path / "data", "first"))
    found = load_challenge(path)
    assert {name: modality.channels for name, modality in found.modalities.items()} == {"nir": 1, "rgb": 3}
    assert found.modalities["nir"].kind == "thermal"
    assert [(task.source, task.target, task.pairing) for task in found.tasks.values()] == [("rgb", "nir", "name")]


def test_init_quotes_what_a_folder_is_called(tmp_path: Path) -> None:
    data = tmp_path / 'da"ta \\ of\nmine'
    nir(data)
    path = tmp_path / "first.toml"
    path.write_text(propose(data, "first"))
    assert load_challenge(path).layout.description == f"the layout of {data.name}"
    assert sum(try_layout(load_challenge(path), data).taken.values()) == sum(1 for _ in data.rglob("*.png"))


def test_init_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nir(tmp_path / "data")
    path = tmp_path / "mine.toml"
    path.write_text("x = 1\n")
    assert call("challenge", "init", str(tmp_path / "data"), "--output", str(path)) == 2
    assert path.read_text() == "x = 1\n"
    assert call("challenge", "init", str(tmp_path / "data"), "--output", str(path), "--force") == 0
    assert "pbvs challenge check" in capsys.readouterr().out


def test_init_needs_images(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(PbvsError, match="holds no PNG or TIFF"):
        propose(tmp_path / "empty", "x")
    with pytest.raises(UsageError, match="There is no data folder"):
        propose(tmp_path / "none", "x")
