"""One command at a time on a run: what writes into it, or reads what another writes, is refused while it is used."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pbvs import pipeline
from pbvs.errors import PbvsError
from pbvs.evaluation import evaluate as scorer
from pbvs.experiments import bundle, calibrate
from pbvs.files import read_json, write_json
from pbvs.recipe import dump_recipe
from pbvs.run import Run, locked
from pbvs.submission import package as archive
from pbvs.submission import package as plan
from tests.faults.points import tree
from tests.faults.scenarios import CALIBRATE, GRAY, PACKAGE, PREDICT, SCORE, _gray, pbvs

COMMANDS = {
    "predict": (PREDICT, pipeline, "predict_pairs"),
    "score": (SCORE, scorer, "summarise"),
    "package": (PACKAGE, archive, "check"),
    "calibrate": (CALIBRATE, calibrate, "fit"),
    "export": ("export r", bundle, "atomic_path"),
}
RUN = Run("r")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that is predicted, in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PBVS_CACHE", "cache")
    _gray()()
    pbvs(PREDICT)
    return tmp_path


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_who_holds_the_run_and_changes_nothing(
    place: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(place)
    with locked(RUN.folder), pytest.raises(SystemExit) as stop:
        pbvs(COMMANDS[name][0])
    assert stop.value.code == 1
    assert f"is in use by process {os.getpid()} on " in capsys.readouterr().err
    assert tree(place) == before


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_holds_the_run_while_it_works(place: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    line, module, function = COMMANDS[name]
    if name == "predict":
        Path("r.toml").write_text(GRAY.format(0.7))  # so that there is something to do
        line += " --change-recipe"
    tried = []

    def watched(*arguments: Any, **named: Any) -> Any:
        with pytest.raises(PbvsError, match="is in use by process"), locked(RUN.folder):
            pass
        tried.append(name)
        return original(*arguments, **named)

    original: Callable[..., Any] = getattr(module, function)
    monkeypatch.setattr(module, function, watched)
    pbvs(line)
    assert tried
    with locked(RUN.folder):  # and lets go of it
        pass


def test_two_scores_at_once_leave_the_scores_of_one(place: Path) -> None:
    pbvs(SCORE)
    expected = tree(RUN.scores)
    for path in [path for path in RUN.scores.rglob("*") if path.is_file()]:
        path.unlink()
    command = [sys.executable, "-m", "pbvs", *SCORE.split()]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in both]
    codes = {process.returncode for process in both}
    assert codes <= {0, 1} and 0 in codes, said
    assert codes == {0} or any("is in use by " in text for text in said), said
    assert tree(RUN.scores) == expected


def test_predictions_made_anew_after_planning_are_not_packaged(place: Path) -> None:
    inputs = archive.inputs_of(Path("data_manifests"), Path("data"))
    planned = plan.make_plan(RUN, inputs, tasks=["rgb2ir"])
    record = RUN.prediction_folder("test", "rgb2ir").with_name("rgb2ir.json")
    write_json(record, {**read_json(record), "made_from": "another model"})
    with pytest.raises(PbvsError, match="were made again meanwhile"):
        archive.write_package(planned, inputs)
    assert not RUN.archive.exists()


def test_packaging_holds_every_run_that_it_takes_from(place: Path) -> None:
    inputs = archive.inputs_of(Path("data_manifests"), Path("data"))
    Run("mixed").write_recipe(RUN.recipe())
    planned = plan.make_plan(Run("mixed"), inputs, tasks=["rgb2ir"], others={"rgb2ir": RUN})
    with locked(RUN.folder), pytest.raises(PbvsError, match="submissions/r is in use"):
        archive.write_package(planned, inputs)


def test_calibration_keeps_what_another_command_wrote_until_it_had_the_lock(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def late(folder: Path) -> Iterator[None]:
        changed = RUN.recipe().model_copy(update={"description": "written meanwhile"})
        RUN.recipe_file.write_text(dump_recipe(changed))
        with locked(folder):
            yield

    monkeypatch.setattr(calibrate, "locked", late)
    pbvs(CALIBRATE)
    assert RUN.recipe().description == "written meanwhile"
    assert RUN.recipe().stages["rgb2ir"].model_dump()["intensity"] != 1.3


def test_no_run_is_made_by_scoring_one_that_is_not_there(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        pbvs(SCORE.replace("--run r", "--run none"))
    assert "There is no run 'none'" in capsys.readouterr().err
    assert not Run("none").folder.exists()
