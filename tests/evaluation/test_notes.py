"""Scores say on which images epochs were chosen, which nets disagreed and what inputs were brought to."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pbvs.cli import main
from pbvs.files import read_json, write_json
from pbvs.lineage import training_notes
from pbvs.run import Run

KEPT = Path(__file__).parents[1] / "kept_run"
GRID = {"least": 40.0, "most": 56.4, "whole": False}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a run of version 0.1: its records say nothing of all this, its recipe does."""
    shutil.copytree(KEPT / "submissions", tmp_path / "submissions")
    return Run("kept", tmp_path / "submissions")


def _say(path: Path, **more: Any) -> None:
    write_json(path, {**read_json(path), **more})


def test_an_epoch_chosen_on_the_scored_images_is_said(run: Run) -> None:
    (said,) = training_notes(run, "val", ["sar2eo", "sar2ir", "rgb2ir"])
    assert said.startswith("The epoch of sar2eo, sar2rgb was chosen on the split val, which is scored here")
    assert training_notes(run, "test", ["sar2eo"]) == ["The epoch of sar2eo was chosen on the split val."]
    assert training_notes(run, "val", ["rgb2ir"]) == []  # nothing of it is learnt
    _say(run.model_metadata_file("sar2eo"), training={"epoch": 2, "chosen_on": "train", "parted": False})
    (said,) = training_notes(run, "val", ["sar2eo"])
    assert "chosen on training locations that were kept from learning" in said
    _say(run.model_metadata_file("sar2eo"), training={"epoch": 2, "chosen_on": None, "parted": False})
    assert training_notes(run, "val", ["sar2eo"]) == []


def test_a_net_that_disagreed_is_said(run: Run) -> None:
    assert not [note for note in training_notes(run, "val", ["sar2ir"]) if "parted" in note]
    _say(run.model_metadata_file("sar2rgb"), training={"epoch": 1, "chosen_on": None, "parted": True})
    (said,) = training_notes(run, "val", ["sar2ir"])  # the cascade translates with it
    assert said.startswith("sar2rgb: to a net that training did not see") and "`parted`" in said


def test_what_inputs_were_brought_to_is_said(run: Run) -> None:
    _say(run.prediction_metadata_file("val", "sar2eo"), input_grid=GRID)
    _say(run.prediction_metadata_file("val", "sar2ir"), input_grid=None)
    _say(run.prediction_metadata_file("val", "rgb2ir"), input_grid=None)
    brought, native = training_notes(run, "val", ["sar2eo", "sar2ir", "rgb2ir"])[1:]
    assert brought.endswith("in pixels a side: sar2eo 40 to 56.") and "sar2ir" not in brought
    assert native == "Inputs of sar2ir were translated at their own size (`input_grid`)."


@pytest.mark.parametrize(
    ("setting", "chosen", "words"),
    [
        ("choose_on=train", "train", "kept from learning"),
        ("keep=last", None, ""),
        ("choose_on=val", "val", "which is scored here"),
    ],
)
def test_training_records_it_and_score_and_report_say_it(
    tmp_path: Path, setting: str, chosen: str | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("data", "data_manifests"):
        shutil.copytree(KEPT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    data = "--data data --jobs 1 --device cpu"
    recipe = KEPT / "kept.toml"
    for line in (
        f"predict --task sar2eo --run new --recipe {recipe} --set stages.sar2eo.{setting} {data}",
        f"score --run new --lpips-net random {data}",
    ):
        with pytest.raises(SystemExit) as stop:
            main(line.split())
        assert not stop.value.code
    run = Run("new", tmp_path / "submissions")
    assert read_json(run.model_metadata_file("sar2eo"))["training"]["chosen_on"] == chosen
    (summary,) = run.scores.rglob("summary.json")
    notes = [note for note in read_json(summary)["notes"] if "The epoch of" in note]
    assert len(notes) == bool(words) and all(words in note for note in notes)
    page = run.report_file.read_text(encoding="utf-8")
    assert ("The epoch of sar2eo was chosen on" in page) == bool(words)
    assert "in pixels a side: sar2eo 32." in page and "<td>32</td>" in page
