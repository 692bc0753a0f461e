"""Faults from outside, on real commands in processes of their own: signals, full disks, dead workers, two at once."""

from __future__ import annotations

import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pbvs.files import UNFINISHED
from tests.faults.points import differences, is_temporary, tree, whole
from tests.faults.scenarios import GRAY, _data, pbvs

SENTENCE = "the same command goes on from there"
GROUP = "Another process of the group ended"
RECIPE = GRAY.format(1.3)
PREDICT = ("predict", "--all", "--recipe", "r.toml", "--data", "data", "--jobs", "2")
TRAIN = """name = "r"
evaluation_size = "native"
[stages.sar2eo]
method = "pix2pixhd"
size = 32
epochs = 500
generator_width = 4
discriminator_width = 4
downsamplings = 1
residual_blocks = 1
vgg_weight = 0.0
lpips_net = "random"
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    here = Path.cwd()
    os.chdir(folder)
    try:
        _data()
        pbvs("build-pairs --data data")
    finally:
        os.chdir(here)
    (folder / "r.toml").write_text(RECIPE)
    return folder


def _start(place: Path, *arguments: str, **options: object) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PBVS_CACHE": "cache"}
    command = [sys.executable, "-m", "pbvs", *arguments]
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        command, cwd=place, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options
    )


def _finish(place: Path, *arguments: str) -> str:
    process = _start(place, *arguments)
    said: str = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    return said


def _only(place: Path, run: str) -> dict[str, str]:
    found = tree(place / "submissions" / run)
    return {name: value for name, value in found.items() if name not in ("provenance.json", "recipe.toml")}


def _check_whole(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and not is_temporary(path) and path.name not in (".lock", "log.txt", UNFINISHED):
            assert whole(path), path


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_any_moment_loses_nothing(place: Path, number: signal.Signals) -> None:
    _finish(place, *PREDICT, "--run", "whole")
    rng = random.Random(int(number))
    run = f"cut{int(number)}"
    for _ in range(int(os.environ.get("PBVS_SIGNALS", "4"))):
        process = _start(place, *PREDICT, "--run", run)
        time.sleep(rng.uniform(0.05, 1.5))
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
        # While Python itself was starting, or importing us: before there is anything that could say a sentence.
        early = "KeyboardInterrupt" in said and not re.search(r'cli/__init__\.py", line \d+, in main', said)
        assert early or process.returncode in (0, -number, 128 + number), said
        assert early or "Traceback" not in said, said
        if process.returncode == 128 + number:
            assert SENTENCE in said
        _check_whole(place / "submissions")
    _finish(place, *PREDICT, "--run", run)
    assert _only(place, run) == _only(place, "whole"), differences(_only(place, "whole"), _only(place, run))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_training_ends_with_a_sentence_and_leaves_no_process(place: Path, number: signal.Signals) -> None:
    (place / "train.toml").write_text(TRAIN)
    run = place / "submissions" / f"t{int(number)}"
    process = _start(
        place, "predict", "--all", "--recipe", "train.toml", "--data", "data", "--jobs", "3", "--run", run.name
    )
    wait_for(lambda: (run / "models/sar2eo/state.safetensors").is_file() or process.poll() is not None, 200)
    assert process.poll() is None, process.communicate()[1]
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number, said
    assert SENTENCE in said
    wait_for(lambda: not any(Path(f"/proc/{child}/exe").exists() for child in children), 20)
    assert f"ended with status {128 + number}" in (run / "log.txt").read_text()


def wait_for(condition: object, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def test_work_that_does_not_listen_is_left(tmp_path: Path) -> None:
    """A call that never comes back to Python, as a long one in torch does not, ends all the same."""
    script = (
        "import ctypes, click, pbvs.cli as c\n"
        "@click.command()\n"
        "def stuck():\n"
        "    print('ready', flush=True)\n"
        "    ctypes.CDLL(None).sleep(60) or ctypes.CDLL(None).sleep(60) or ctypes.CDLL(None).pause()\n"
        "c.LazyGroup.get_command = lambda *a: stuck\n"
        "c.main(['doctor'])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=30)[1]
    assert process.returncode == 143
    assert SENTENCE in said


def test_a_file_size_limit_is_a_sentence_and_the_next_run_goes_on(place: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    process = _start(place, *PREDICT, "--run", "limited", preexec_fn=limit)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 1, said
    assert "cannot be written" in said and "Traceback" not in said
    _finish(place, *PREDICT, "--run", "whole")
    _finish(place, *PREDICT, "--run", "limited")
    assert _only(place, "limited") == _only(place, "whole")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_disk_that_fills_is_a_sentence_and_the_next_run_goes_on(place: Path, tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(tmp_path)], check=False)
    if mounted.returncode:
        pytest.skip("this root may not mount")
    try:
        options = ("--submissions", str(tmp_path), "--run", "full")
        process = _start(place, *PREDICT, *options)
        said = process.communicate(timeout=120)[1]
        assert process.returncode == 1, said
        assert "disk is full" in said and "Traceback" not in said
        _check_whole(tmp_path)
        subprocess.run(["mount", "-o", "remount,size=4m", str(tmp_path)], check=True)
        _finish(place, *PREDICT, *options)
        _finish(place, *PREDICT, "--run", "whole")
        names = {path.name for path in (tmp_path / "full/predictions/test/rgb2ir").iterdir()}
        assert names == {path.name for path in (place / "submissions/whole/predictions/test/rgb2ir").iterdir()}
    finally:
        subprocess.run(["umount", str(tmp_path)], check=False)


def test_two_commands_on_one_run_do_not_mix(place: Path) -> None:
    first = _start(place, *PREDICT, "--run", "both")
    second = _start(place, *PREDICT, "--run", "both")
    said = [process.communicate(timeout=120)[1] for process in (first, second)]
    codes = {first.returncode, second.returncode}
    assert codes <= {0, 1} and 0 in codes, said
    # For a moment the first one has the lock and has not written its name yet.
    in_use = r"Error: submissions/both is in use by (process \d+ on \S+ \(pbvs predict --all\)|another process); wait"
    assert codes == {0} or any(re.search(in_use, text) for text in said), said
    _finish(place, *PREDICT, "--run", "both")
    _finish(place, *PREDICT, "--run", "whole")
    assert _only(place, "both") == _only(place, "whole")


def test_a_clock_set_back_changes_nothing(place: Path) -> None:
    _finish(place, *PREDICT, "--run", "clock")
    before = {path: path.stat().st_mtime_ns for path in (place / "submissions/clock/predictions").rglob("*.png")}
    for path in (place / "submissions/clock").rglob("*"):
        os.utime(path, (10**9 * 4, 10**9 * 4))  # as written by a clock that was ahead by decades
    _finish(place, *PREDICT, "--run", "clock")
    assert {path.stat().st_ino for path in before} == {path.stat().st_ino for path in before}
    _finish(place, *PREDICT, "--run", "whole")
    assert _only(place, "clock") == _only(place, "whole")


def test_a_worker_that_dies_is_a_sentence(tmp_path: Path) -> None:
    script = (
        "import pbvs.cli as c, click, os\n"
        "from joblib import Parallel, delayed\n"
        "@click.command()\n"
        "def work():\n"
        "    Parallel(n_jobs=2)(delayed(os._exit)(9) for _ in range(4))\n"
        "c.LazyGroup.get_command = lambda *a: work\n"
        "c.main(['doctor'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1, done.stderr
    assert "worker process ended" in done.stderr and "Traceback" not in done.stderr


def _ranks(launcher: int) -> dict[int, int]:
    """Return rank -> process id of what torchrun has started."""
    found = {}
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        for entry in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            if entry.startswith(b"RANK="):
                found[int(entry[5:])] = int(child)
    return found


def _steps(model: Path) -> int:
    """Return the step that the last epoch in a training's log ended with."""
    log = model / "log.csv"
    rows = log.read_text().splitlines() if log.is_file() else []
    return int(rows[-1].split(",")[1]) if len(rows) > 1 else 0


@pytest.mark.slow
def test_a_rank_that_dies_under_torchrun_ends_the_command_and_the_next_one_goes_on(place: Path) -> None:
    (place / "short.toml").write_text(TRAIN.replace("epochs = 500", "epochs = 12\nhalf_rate_epochs = 2"))
    arguments = ("predict", "--all", "--recipe", "short.toml", "--data", "data", "--device", "cpu", "--jobs", "1")
    # After `--` torchrun leaves the words alone; without it --run is taken for its own --run-path, and refused.
    launch = (
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "--",
        "pbvs",
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PBVS_CACHE": "cache"}

    def start(run: str) -> subprocess.Popen[str]:
        command = [*launch, *arguments, "--run", run]
        return subprocess.Popen(
            command, cwd=place, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    model = place / "submissions/ranks/models/sar2eo"
    for rank in (1, 0):  # one that only computes, then the one that writes and holds the lock
        cut, before = start("ranks"), _steps(model)
        wait_for(lambda cut=cut, before=before: _steps(model) > before or cut.poll() is not None, 300)
        assert cut.poll() is None, cut.communicate()[1][-3000:]
        os.kill(_ranks(cut.pid)[rank], signal.SIGKILL)
        said = cut.communicate(timeout=120)[1]
        assert cut.returncode != 0
        assert SENTENCE in said or GROUP in said, said[-3000:]
        assert "fault of pbvs" not in said, said[-3000:]
        assert not (model / "done.json").exists(), "the training was over too early"
        _check_whole(place / "submissions/ranks")
    for run in ("ranks", "ranks-whole"):
        process = start(run)
        said = process.communicate(timeout=590)[1]
        assert process.returncode == 0, said[-3000:]
        assert ("going on after step" in said) == (run == "ranks")
    assert _only(place, "ranks") == _only(place, "ranks-whole"), differences(
        _only(place, "ranks-whole"), _only(place, "ranks")
    )
