"""Training that is killed or stopped at eight kinds of moment, with and without workers, ends in the same bytes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pbvs.logs import children
from tests.faults.injector import digest_of

# what is called -> at which of its calls, before or after it, the training ends
POINTS = {
    "at the end of an epoch, before its state is saved": ("Trainer.save", 4, "before"),
    "at the end of an epoch, after its state is saved": ("Trainer.save", 4, "after"),
    "between two steps": ("Trainer._step", 6, "before"),
    "after a step, before its state is saved": ("Trainer._step", 6, "after"),
    "between the two optimisers' steps": ("Adam.step", 11, "after"),
    "before the average is updated": ("Average.update", 5, "before"),
    "in the update of the average": ("lerp", 3, "after"),
    "while the state is written": ("sync_file", 7, "before"),
}
MATRIX = [(point, workers, how) for point in POINTS for workers in (0, 2) for how in ("killed", "stopped")]
SHORT = MATRIX[::5]
WORKERS = Path("workers.txt")  # beside the training's folder: the processes that it had when it ended


def _end(how: str) -> None:
    WORKERS.write_text(" ".join(map(str, children(os.getpid()))))
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    raise KeyboardInterrupt


def _ending(function: Callable[..., Any], number: int, when: str, how: str) -> Callable[..., Any]:
    calls = [0]

    def wrapped(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == number and when == "before":
            _end(how)
        result = function(*arguments, **named)
        if calls[0] == number and when == "after":
            _end(how)
        return result

    return wrapped


def train(folder: Path, workers: int, point: str = "", how: str = "") -> None:
    """Train two little networks for three epochs of four steps; end at `point` where one is named."""
    import torch

    import pbvs.files
    from pbvs.training.step import Feed, Schedule
    from pbvs.training.trainer import Average, Trainer
    from tests.training.little import LittleChips, little_method, little_trainer

    torch.set_num_threads(1)
    # Started by a fork server, a process would start its own loaders so; those of a command are forked.
    multiprocessing.set_start_method("fork", force=True)
    owners: dict[str, tuple[Any, str]] = {
        "Trainer.save": (Trainer, "save"),
        "Trainer._step": (Trainer, "_step"),
        "Adam.step": (torch.optim.Adam, "step"),
        "Average.update": (Average, "update"),
        "lerp": (torch.Tensor, "lerp_"),
        "sync_file": (pbvs.files, "sync_file"),
    }
    if point:
        name, number, when = POINTS[point]
        owner, attribute = owners[name]
        os.chdir(folder.parent)
        setattr(owner, attribute, _ending(getattr(owner, attribute), number, when, how))
    trainer = little_trainer(
        folder,
        little_method(),
        chips=LittleChips(8),
        schedule=Schedule(1e-3, 2, 1),
        feed=Feed(workers=workers),
    )
    trainer.run()


def _run(folder: Path, *arguments: Any) -> int | None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.process"])
    process = context.Process(target=train, args=(folder, *arguments))
    process.start()
    process.join(600)
    if process.is_alive():
        process.kill()
    return process.exitcode


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("whole")
    assert _run(folder, 0) == 0
    return digest_of(folder / "state.safetensors")


def _check(tmp_path: Path, whole: str, point: str, workers: int, how: str) -> None:
    folder = tmp_path / "training"
    assert _run(folder, workers, point, how) == (-signal.SIGKILL if how == "killed" else 1)
    left = (tmp_path / WORKERS).read_text().split()
    assert len(left) >= workers
    assert _run(folder, workers) == 0
    assert digest_of(folder / "state.safetensors") == whole
    assert not list(folder.glob(".*"))
    end = time.monotonic() + 60  # a worker looks every five seconds whether its parent is there
    while alive := [worker for worker in left if Path(f"/proc/{worker}/exe").exists()]:
        assert time.monotonic() < end, f"processes left: {alive}"
        time.sleep(0.1)


@pytest.mark.parametrize(("point", "workers", "how"), SHORT)
def test_training_goes_on_to_the_same_bytes(tmp_path: Path, whole: str, point: str, workers: int, how: str) -> None:
    _check(tmp_path, whole, point, workers, how)


@pytest.mark.slow
@pytest.mark.parametrize(("point", "workers", "how"), [case for case in MATRIX if case not in SHORT])
def test_the_rest_of_the_matrix(tmp_path: Path, whole: str, point: str, workers: int, how: str) -> None:
    _check(tmp_path, whole, point, workers, how)


def test_a_longer_training_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's recipe has the new epochs by then, the model's record still the old ones."""
    from pbvs.training.trainer import Trainer
    from tests.faults.points import tree
    from tests.faults.scenarios import PREDICT, _more_epochs, pbvs

    def stopped(self: Trainer) -> None:
        raise KeyboardInterrupt

    trees = []
    for place in (tmp_path / "whole", tmp_path / "stopped"):
        place.mkdir()
        monkeypatch.chdir(place)
        _more_epochs()
        if place.name == "stopped":
            with monkeypatch.context() as patched, pytest.raises(SystemExit):
                patched.setattr(Trainer, "save", stopped)
                pbvs(PREDICT)
        pbvs(PREDICT)
        trees.append(tree(place / "submissions"))
    assert trees[0] == trees[1]
