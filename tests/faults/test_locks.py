"""One command at a time on a run: what writes into it, or reads what another writes, is refused while it is used."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
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
from pbvs.files import atomic_path, fcntl, held, read_json, remove_abandoned, sweep, write_json
from pbvs.recipe import dump_recipe
from pbvs.run import Run, locked
from pbvs.submission import package as archive
from pbvs.submission import package as plan
from tests.faults.points import run_in_child, tree
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


def at_once(*lines: str) -> list[int]:
    """Run commands in processes that begin at the same moment; return their statuses."""
    wait, start = os.pipe()
    children = []
    for number, line in enumerate(lines):
        child = os.fork()
        if child == 0:
            os.close(start)
            os.read(wait, 1)  # until the other end is closed
            run_in_child(lambda line=line: pbvs(line), Path.cwd(), Path(f"said{number}.txt"))  # type: ignore[misc]
        children.append(child)
    os.close(start)
    os.close(wait)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


INSTALL = "install submissions/r/r.pbvs.zip --run "


@pytest.mark.parametrize("count", [2, 4])
def test_installs_of_one_bundle_at_once_leave_one_whole_run(place: Path, count: int) -> None:
    for line in ("export r", f"{INSTALL}alone"):
        pbvs(line)
    expected = tree(Run("alone").folder)
    for _ in range(80):
        assert at_once(*[f"{INSTALL}both"] * count) == [0] * count
        assert tree(Run("both").folder) == expected
        assert {path.name for path in Path("submissions").iterdir()} == {"r", "alone", "both"}
        shutil.rmtree(Run("both").folder)


def calls_of_the_system(work: Callable[[], object], at: int, between: Callable[[], object]) -> int:
    """Let `between` happen before the call of the system with number `at`; return how many calls `work` makes."""
    count = 0

    def before(_: object, event: str, function: Any) -> None:
        nonlocal count
        if event == "c_call" and getattr(function, "__module__", "") == "posix":
            count += 1
            if count == at + 1:
                sys.setprofile(None)
                between()
                sys.setprofile(before)

    sys.setprofile(before)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_another_install_may_come_between_any_two_calls_of_the_system(place: Path) -> None:
    """Rounds of real processes meet such a moment by chance only: here the other install is tried in each of them."""

    def install() -> Run:
        return bundle.install(Path("submissions/r/r.pbvs.zip"), Path("submissions"), "both")

    pbvs("export r")
    points = calls_of_the_system(install, -1, lambda: None)
    expected = tree(Run("both").folder)
    assert points > 50
    for point in range(points):
        shutil.rmtree(Run("both").folder)
        calls_of_the_system(install, point, install)
        assert tree(Run("both").folder) == expected, point
        assert {path.name for path in Path("submissions").iterdir()} == {"r", "both"}, point


def test_of_two_bundles_for_one_name_one_is_installed_whole(place: Path) -> None:
    pbvs("export r")
    shutil.copytree(RUN.folder, Run("s").folder)
    Run("s").write_recipe(RUN.recipe().model_copy(update={"description": "another"}))
    pbvs("export s")
    for name in "rs":
        pbvs(f"install submissions/{name}/{name}.pbvs.zip --run {name}-alone")
    whole = [tree(Run(f"{name}-alone").folder) for name in "rs"]
    for _ in range(40):
        lines = (f"install submissions/{name}/{name}.pbvs.zip --run both" for name in "rs")
        assert sorted(at_once(*lines)) == [0, 2]
        assert tree(Run("both").folder) in whole
        shutil.rmtree(Run("both").folder)


def before_the_first_lock(monkeypatch: pytest.MonkeyPatch, work: Callable[[], int]) -> list[int]:
    """Let another command work in the moment between a temporary file's making and its lock; return what it said."""
    real, said = fcntl.flock, list[int]()

    def flock(handle: int, how: int) -> None:
        if not said:
            said.append(0)
            said[0] = work()
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    return said


def test_a_file_swept_before_it_is_locked_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removed = before_the_first_lock(monkeypatch, lambda: sweep(tmp_path))
    write_json(tmp_path / "x.json", {"whole": 1})
    assert removed == [1]
    assert read_json(tmp_path / "x.json") == {"whole": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_a_bundle_whose_folder_is_removed_before_it_is_locked_is_unpacked_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pbvs("export r")

    def clear() -> int:
        return sum(remove_abandoned(left, shutil.rmtree) for left in Path("submissions").glob(".*.installing"))

    removed = before_the_first_lock(monkeypatch, clear)
    bundle.install(Path("submissions/r/r.pbvs.zip"), Path("submissions"), "again")
    assert removed == [1]
    assert Run("again").recipe() == RUN.recipe()
    assert {path.name for path in Path("submissions").iterdir()} == {"r", "again"}


# --- Links and names in a folder that others write into too.


def test_what_links_lead_to_stays_as_it_was(place: Path) -> None:
    thesis, photos = place / "thesis", place / "photos"
    thesis.write_text("mine")
    shutil.copytree(RUN.prediction_folder("test", "rgb2ir"), photos)
    before = {**tree(photos), "thesis": tree(place)["thesis"]}
    for folder, line in ((RUN.folder, PACKAGE), (Path("data_manifests"), "build-pairs --data data --seed 7")):
        (folder / ".lock").unlink(missing_ok=True)
        (folder / ".lock").symlink_to(thesis)
        with contextlib.suppress(SystemExit):
            pbvs(line)
        (folder / ".lock").unlink()
    shutil.rmtree(RUN.prediction_folder("test", "rgb2ir"))
    RUN.prediction_folder("test", "rgb2ir").symlink_to(photos)
    Path("r.toml").write_text(GRAY.format(0.7))
    for line in (PREDICT + " --change-recipe", PREDICT + " --change-recipe --retrain", PACKAGE, "runs rm r --yes"):
        with contextlib.suppress(SystemExit):
            pbvs(line)
    assert {**tree(photos), "thesis": tree(place)["thesis"]} == before


def test_temporary_files_of_other_programs_stay(tmp_path: Path) -> None:
    names = (
        ".tmpAb12Cd",
        ".thesis.docx.0a1b2c3d.part",
        ".x.0a1b2c3d.pbvs-part~",
        "y.0a1b2c3d.pbvs-part",
        ".z.pbvs-part",
    )
    for name in names:
        (tmp_path / name).write_text("")
    (tmp_path / ".link.0a1b2c3d.pbvs-part").symlink_to(tmp_path / names[0])
    (tmp_path / ".ours.0a1b2c3d.pbvs-part").write_text("")
    assert sweep(tmp_path, deep=False) == 1
    assert {path.name for path in tmp_path.iterdir()} == {*names, ".link.0a1b2c3d.pbvs-part"}


# --- What a network file system may do: it has no locks, or its handles are stale.


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_without_locks_a_command_says_so_and_works(
    place: Path, number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    pbvs(PACKAGE)
    wanted = RUN.archive.read_bytes()
    RUN.archive.unlink()
    monkeypatch.setattr(fcntl, "flock", refused)
    capsys.readouterr()
    pbvs(PACKAGE)
    said = capsys.readouterr().err
    assert f"submissions/r cannot be locked ({os.strerror(number)}): make sure that no second command" in said
    assert RUN.archive.read_bytes() == wanted


def test_without_locks_no_temporary_file_is_taken_for_an_abandoned_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refused)
    with atomic_path(tmp_path / "x") as part, held(part):
        part.write_text("being written")
        assert sweep(tmp_path) == 0 and part.is_file()
    assert (tmp_path / "x").read_text() == "being written"


def test_a_lock_that_fails_otherwise_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(*_: object) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(fcntl, "flock", stale)
    with pytest.raises(PbvsError, match=r"\.lock cannot be written: Stale file handle"), locked(tmp_path):
        pass


def test_a_stale_handle_while_a_file_is_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(*_: object) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    write_json(tmp_path / "x.json", {"old": 1})
    monkeypatch.setattr(os, "fsync", stale)
    with pytest.raises(PbvsError, match="cannot be written: Stale file handle"):
        write_json(tmp_path / "x.json", {"new": 1})
    assert read_json(tmp_path / "x.json") == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
