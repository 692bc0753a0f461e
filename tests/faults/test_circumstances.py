"""Ordinary oddities of a place: no working folder, no streams, no account, long names; and orphaned workers."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pbvs.data.manifest import read_manifest
from pbvs.text import read_table
from tests.faults.scenarios import CALIBRATE, PACKAGE, PREDICT, SCORE, _gray, pbvs

REPOSITORY = Path(__file__).parents[2]
NAMELESS = (
    "import os, sys; os.setreuid(54321, 0)\n"
    "for name in ('HOME', 'USER', 'LOGNAME', 'LNAME', 'USERNAME', 'PBVS_WEIGHTS', 'TORCH_HOME', 'XDG_CACHE_HOME'):\n"
    "    os.environ.pop(name, None)\n"
    "from pbvs.cli import main; main(sys.argv[1:])\n"
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with data, manifests and a recipe."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PBVS_CACHE", "cache")
    _gray()()
    return tmp_path


def run(
    *words: str, cwd: Path, before: Callable[[], None] | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own; `before` is called in it first, in its folder."""
    known = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "PBVS_CACHE": "cache", **environment}
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=known, preexec_fn=before, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip


def check(done: subprocess.CompletedProcess[str], statuses: set[int]) -> None:
    assert done.returncode in statuses, done.stderr
    assert "Traceback" not in done.stderr and "fault of pbvs" not in done.stderr
    assert done.returncode == 0 or "rror: " in done.stderr


@pytest.mark.parametrize(
    ("line", "statuses"),
    [("--help", {0}), ("predict --help", {0}), ("recipe list", {0}), ("runs", {0, 1}),
     ("build-pairs --data data", {1, 2}), ("package --run r", {1, 2}), ("score --run r", {1}),
     ("predict --all --device cpu", {1}), ("doctor", {1}), ("demo-data data", {1, 2})],
)  # fmt: skip
def test_a_working_folder_that_is_gone(tmp_path: Path, line: str, statuses: set[int]) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    check(run("-m", "pbvs", *line.split(), cwd=gone, before=lambda: os.rmdir(gone)), statuses)  # noqa: PTH106


def test_closed_streams_are_no_files(place: Path) -> None:
    """A file that is opened later must not be what a message is written into."""
    pbvs(PREDICT)
    for line, status in ((SCORE, 0), (PACKAGE, 0), (SCORE.replace("--run r", "--run none"), 1), ("package --no", 2)):
        done = run("-m", "pbvs", *line.split(), cwd=place, before=lambda: os.closerange(0, 3))
        assert done.returncode == status, Path("submissions/r/log.txt").read_text()
    (summary,) = Path("submissions/r/scores").rglob("summary.json")
    assert json.loads(summary.read_text())["run"] == "r"
    with zipfile.ZipFile("submissions/r.zip") as archive:
        assert archive.testzip() is None


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may take another's number")
def test_a_user_without_a_name_or_home(place: Path) -> None:
    for line in ("weights list", "recipe list"):
        check(run("-c", NAMELESS, *line.split(), cwd=place), {0})
    done = run("-c", NAMELESS, "weights", "fetch", "alex", cwd=place)
    check(done, {2})
    assert "no home folder" in done.stderr and not Path("~").exists()
    for path in (place, *place.rglob("*")):  # for whom the files must be readable
        path.chmod(0o777)
    for line, statuses in ((PREDICT, {0}), (SCORE, {0}), (PACKAGE, {0}), ("export r", {0})):
        check(run("-c", NAMELESS, *line.split(), cwd=place), statuses)
    done = run("-c", NAMELESS, "doctor", cwd=place)
    assert done.returncode == int("BAD" in done.stdout) and not done.stderr
    assert Path("submissions/r.zip").stat().st_uid == 0  # files are root's: only the name was another's


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"])
def test_an_environment_that_lies_is_named(place: Path, variable: str) -> None:
    done = run("-m", "pbvs", *PREDICT.split(), cwd=place, **{variable: "abc"})
    check(done, {0, 2} if "LOCAL" in variable else {2})
    assert done.returncode == 0 or f"{variable}='abc'" in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_cannot_show_a_name(place: Path, encoding: str) -> None:
    Path("r.toml").rename("données-東.toml")
    known = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": encoding}
    for line in ("runs", "score --run été-東", "predict --all --recipe 東.toml", "leaderboard"):
        check(run("-m", "pbvs", *line.split(), cwd=place, **known), {0, 1, 2})
    done = run("-m", "pbvs", "recipe", "show", "données-東.toml", cwd=place, **known)
    check(done, {0})
    assert 'method = "grayscale"' in done.stdout


def test_a_run_of_a_hundred_letters_goes_through_every_command(place: Path) -> None:
    name = "n" * 100
    archive = f"submissions/{name}.zip"
    lines = [
        f"{PREDICT} --run {name}",
        *(line.replace("--run r", f"--run {name}") for line in (SCORE, PACKAGE, f"{CALIBRATE} --dry-run")),
        f"report --run {name} --data data", "runs", "leaderboard",
        f"check {archive}", f"submissions log {archive}", f"export {name}",
        f"install submissions/{name}/{name}.pbvs.zip --run {'m' * 100}", f"reproduce {name} --data data --jobs 1",
        f"runs rm {name} --yes",
    ]  # fmt: skip
    for line in lines:
        with contextlib.suppress(SystemExit) if line.startswith("check ") else contextlib.nullcontext():
            pbvs(line)
    assert not list(Path("submissions").glob("n*"))


def test_names_as_long_as_a_file_system_takes_go_through_every_command(place: Path) -> None:
    """Files beside them, as `<name>.aux.xml`, cannot be there: their names would be too long."""
    shutil.rmtree("data_manifests")
    cities, crops = Path("data/Train_Data_Demo_City_SAR_IR_RGB"), Path("data/Train_Data_and_Validation_EO_SAR")
    colour = next(cities.glob("*/*_rgb.tiff"))
    colour.rename(colour.with_name(f"{colour.name[:9]}{'c' * 237}_rgb.tiff"))
    longest(colour.parent, 255)
    for path in (crops / "EO/train/0.png", crops / "SAR/train/0.png", Path("data/val/rgb2ir/0.tiff")):
        longest(path, 255)
    inputs = [longest(Path(f"data/test/rgb2ir/{n}.tiff"), size) for n, size in ((0, 255), (1, 252))]
    for line in (
        "check-data data --no-shift --jobs 1 --output x.html", "build-pairs --data data", PREDICT, SCORE, PACKAGE,
        "report --run r --data data", "check submissions/r.zip --data data", "export r",
        "reproduce r --data data --jobs 1", f"translate r rgb2ir --out out {inputs[0]}",
    ):  # fmt: skip
        pbvs(line)
    assert len(read_table(Path("data_manifests/unused.csv"))) == 0
    with zipfile.ZipFile("submissions/r.zip") as archive:
        assert {f"rgb2ir/{path.stem}.png" for path in inputs} <= set(archive.namelist())


def longest(path: Path, size: int) -> Path:
    """Give a file or folder a name of so many bytes."""
    return path.rename(path.with_name("n" * (size - len(path.suffix)) + path.suffix))


def test_a_name_that_a_file_may_have_is_taken_by_every_command(place: Path) -> None:
    test = Path("data/test/rgb2ir")
    image = next(test.iterdir())
    stem = "é" * 120
    image.rename(test / f"{stem}{image.suffix}")
    (test / f"a\\b{image.suffix}").write_bytes((test / f"{stem}{image.suffix}").read_bytes())
    pbvs("build-pairs --data data")
    names = [pair.name for pair in read_manifest(Path("data_manifests/rgb2ir_test.csv"))]
    assert stem in names and not any("\\" in name for name in names)
    unused = read_table(Path("data_manifests/unused.csv"))
    (reason,) = unused.loc[unused["path"].str.contains("\\", regex=False), "reason"]
    assert reason == "its name cannot be written down"
    (test / f"a\\b{image.suffix}").unlink()
    for line in (PREDICT, SCORE, PACKAGE, "report --run r --data data"):
        pbvs(line)
    with zipfile.ZipFile("submissions/r.zip") as archive:
        assert f"rgb2ir/{stem}.png" in archive.namelist()
    pbvs("check submissions/r.zip")


@pytest.mark.skipif(not Path("/proc/self/exe").exists(), reason="processes are looked for in /proc")
def test_workers_end_soon_after_their_parent_was_killed(tmp_path: Path) -> None:
    script = (
        "import os, time\n"
        "from pbvs.devices import run_all\n"
        "def work(_):\n"
        "    os.makedirs(f'here/{os.getpid()}', exist_ok=True)\n"
        "    while len(os.listdir('here')) < 2:\n"  # so that none does all before the other has begun
        "        time.sleep(0.02)\n"
        "    return os.getpid()\n"
        "print(*run_all(work, list(range(8)), 2), flush=True)\n"
        "time.sleep(300)\n"  # the workers are idle now, and loky would let them wait
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment
    )
    assert parent.stdout is not None
    workers = set(map(int, parent.stdout.readline().split()))
    assert len(workers) == 2 and parent.pid not in workers
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 30
    while any(Path(f"/proc/{worker}/exe").exists() for worker in workers):
        assert time.monotonic() < end, "they are still there"
        time.sleep(0.1)
