"""A run that is killed anywhere goes on to the same last bit."""

from __future__ import annotations

import multiprocessing
import random
import time
from pathlib import Path
from typing import Any

import pytest

from pbvs.errors import PbvsError
from pbvs.training import checkpoint
from pbvs.training.step import Batch, Schedule
from pbvs.training.validation import read_log
from pbvs.translators.unet.translator import Cosine
from tests.training.little import LittleChips, equal, little_method, little_trainer, random_lpips, weights_of
from tests.training.process import main as train

KILLS = 20


class StopError(Exception):
    """What stands for a kill inside a process."""


def stopping_method(steps: int, **changes: object):
    """A method that is interrupted before its step number `steps`."""
    method = little_method(**changes)
    plain, done = method.step, [0]

    def step(rate: float) -> None:
        if done[0] == steps:
            raise StopError
        done[0] += 1
        plain(rate)

    method.step = step
    return method


@pytest.mark.parametrize("stop", [1, 4, 5, 8])
def test_going_on_gives_the_same_bits(tmp_path: Path, stop: int) -> None:
    whole = little_trainer(tmp_path / "whole", little_method(perceptual=random_lpips()), chips=LittleChips(side=32))
    whole.run()
    options = {"chips": LittleChips(side=32)}
    with pytest.raises(StopError):
        little_trainer(tmp_path / "cut", stopping_method(stop, perceptual=random_lpips()), **options).run()
    resumed = little_trainer(tmp_path / "cut", little_method(perceptual=random_lpips()), **options)
    resumed.run()
    assert equal(weights_of(whole), weights_of(resumed))
    logs = [(tmp_path / name / "log.csv").read_text().splitlines() for name in ("whole", "cut")]
    without_seconds = [[row.split(",")[:2] + row.split(",")[3:] for row in log] for log in logs]
    assert without_seconds[0] == without_seconds[1]


def test_going_on_inside_the_fixed_phase_and_over_its_end(tmp_path: Path) -> None:
    from pbvs.networks.pix2pixhd import GeneratorConfig

    options = {"config": GeneratorConfig(1, 1, 4, 1, 1, 1, 1), "fix_global_epochs": 2}
    whole = little_trainer(tmp_path / "whole", little_method(**options))
    whole.run()
    for stop in (2, 3):
        with pytest.raises(StopError):
            little_trainer(tmp_path / "cut", stopping_method(stop, **options)).run()
    resumed = little_trainer(tmp_path / "cut", little_method(**options))
    resumed.run()
    assert equal(weights_of(whole), weights_of(resumed))


def test_a_longer_schedule_goes_on_from_a_finished_run(tmp_path: Path) -> None:
    little_trainer(tmp_path / "a", schedule=Schedule(1e-3, 2)).run()
    longer = little_trainer(tmp_path / "a", schedule=Schedule(1e-3, 4))
    longer.run()
    at_once = little_trainer(tmp_path / "b", schedule=Schedule(1e-3, 4))
    at_once.run()
    assert equal(weights_of(longer), weights_of(at_once))


def test_the_epochs_added_to_a_finished_training_are_the_same_bits_after_a_kill(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three epochs of three steps, then three more with a curve of their own, stopped in each of these."""
    for name in ("whole", "cut"):
        little_trainer(tmp_path / name, schedule=Cosine(1e-3, 3)).run()
    whole = little_trainer(tmp_path / "whole", schedule=Cosine(1e-3, 6))
    whole.run()
    assert "goes on from epoch 3 to 6" in capsys.readouterr().err
    for stop in (2, 3, 1):
        with pytest.raises(StopError):
            little_trainer(tmp_path / "cut", stopping_method(stop), schedule=Cosine(1e-3, 6)).run()
    resumed = little_trainer(tmp_path / "cut", schedule=Cosine(1e-3, 6))
    resumed.run()
    assert equal(weights_of(whole), weights_of(resumed))
    rates = [read_log(tmp_path / name / "log.csv")["learning_rate"].tolist() for name in ("whole", "cut")]
    assert rates[0] == rates[1] == [Cosine(1e-3, 3).at(epoch) for epoch in (1, 2, 3, 1, 2, 3)]
    at_once = little_trainer(tmp_path / "at-once", schedule=Cosine(1e-3, 6))
    at_once.run()
    assert not equal(weights_of(at_once), weights_of(whole))


def test_a_training_that_is_asked_for_more_before_it_ended_keeps_its_curve(tmp_path: Path) -> None:
    with pytest.raises(StopError):
        little_trainer(tmp_path / "cut", stopping_method(4), schedule=Cosine(1e-3, 3)).run()
    little_trainer(tmp_path / "cut", schedule=Cosine(1e-3, 5)).run()
    little_trainer(tmp_path / "whole", schedule=Cosine(1e-3, 3)).run()
    little_trainer(tmp_path / "whole", schedule=Cosine(1e-3, 5)).run()
    states = [checkpoint.read_tensors(tmp_path / name / "state.safetensors") for name in ("cut", "whole")]
    assert equal(states[0][0], states[1][0])
    assert states[0][1]["ends"] == states[1][1]["ends"] == [3, 5]


@pytest.mark.parametrize(("schedule", "least"), [(Schedule(1e-3, 1), 2), (Cosine(1e-3, 2), 3)])
def test_fewer_epochs_than_were_made_are_refused(tmp_path: Path, schedule: Schedule, least: int) -> None:
    """A rate that depends on the number of epochs takes no fewer than were planned."""
    with pytest.raises(StopError):
        little_trainer(tmp_path, stopping_method(4), schedule=type(schedule)(1e-3, 3)).run()
    before = (tmp_path / "state.safetensors").read_bytes()
    with pytest.raises(
        PbvsError, match=f"at epoch 2 of 3, and the recipe asks for {schedule.epochs} .* for {least} or"
    ):
        little_trainer(tmp_path, schedule=schedule).run()
    assert (tmp_path / "state.safetensors").read_bytes() == before


def _scores(*values: float):
    scores = iter(values)
    return lambda network, epoch: {"rmse": None, "lpips": None, "score": next(scores)}


def test_more_epochs_replace_the_kept_network_only_by_a_better_one(tmp_path: Path) -> None:
    published: list[int] = []
    options = {"publish": lambda network, metadata: published.append(metadata["epoch"]), "patience": 1}
    little_trainer(tmp_path, schedule=Cosine(1e-3, 3), validate=_scores(0.5, 0.3, 0.4), **options).run()
    longer = little_trainer(tmp_path, schedule=Cosine(1e-3, 6), validate=_scores(0.29, 0.25, 0.26), **options)
    longer.run()  # patience had run out, and begins again
    assert published == [1, 2, 4, 5]
    assert longer.progress.best_score == 0.25
    little_trainer(tmp_path, schedule=Cosine(1e-3, 8), validate=_scores(0.26), **options).run()
    assert published == [1, 2, 4, 5]


def test_where_epochs_are_compared_otherwise_the_kept_network_is_measured_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published: list[int] = []
    kept: list[str] = []

    def options(choice: str, validate: Any) -> dict[str, Any]:
        return {
            "choice": choice,
            "validate": validate,
            "publish": lambda network, metadata: published.append(metadata["epoch"]),
            "kept": lambda: kept.append(choice),
        }

    little_trainer(tmp_path, schedule=Schedule(1e-3, 2), **options("a", _scores(0.3, 0.1))).run()
    little_trainer(tmp_path, schedule=Schedule(1e-3, 4), **options("b", _scores(30.0, 31.0, 29.0))).run()
    assert published == [1, 2, 4]
    assert "validates on other images or by another measure" in capsys.readouterr().err
    assert kept == ["b"]  # measured first, 30, under which the third epoch is no better than the second
    little_trainer(tmp_path, schedule=Schedule(1e-3, 4), **options("b", _scores())).run()
    assert kept == ["b"]


def test_a_state_that_does_not_note_its_pairs_is_not_said_to_have_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Earlier versions noted neither which images a state was trained on nor which of their bytes it validates on."""
    early: dict[str, Any] = {"data": "a", "stage": {"width": 8}}
    little_trainer(tmp_path, identity=early, choice="a", schedule=Schedule(1e-3, 2), validate=_scores(0.3, 0.1)).run()
    now = {"identity": {**early, "pairs": "digest"}, "choice": "b", "schedule": Schedule(1e-3, 3)}
    little_trainer(tmp_path, validate=_scores(0.1, 0.2), **now).run()
    said = capsys.readouterr().err
    assert "begun by a version that did not note which images it validates on" in said
    assert "validates on other images" not in said
    more = {**now, "choice": "c", "schedule": Schedule(1e-3, 4)}  # of a state that notes them
    little_trainer(tmp_path, validate=_scores(0.1, 0.2), **more).run()
    assert "validates on other images or by another measure" in capsys.readouterr().err


def test_a_state_whose_settings_had_other_names_is_gone_on_with(tmp_path: Path) -> None:
    identity = {"network": {"width": 8, "residual": "grey"}, "stage": {}, "pairs": "digest"}
    little_trainer(tmp_path, identity=identity).run()
    again = little_trainer(tmp_path, identity={**identity, "network": {"width": 8, "residual": "gray"}})
    again.method.accumulate = None  # would raise when called
    again.run()
    assert again.progress.step == again.last_step
    assert not (tmp_path / "superseded.safetensors").exists()


def test_a_finished_run_does_nothing_more(tmp_path: Path) -> None:
    little_trainer(tmp_path).run()
    again = little_trainer(tmp_path)
    again.method.accumulate = None  # would raise when called
    again.run()
    assert again.progress.step == again.last_step


def test_a_state_of_other_settings_is_put_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    little_trainer(tmp_path, identity={"data": "a"}).run()
    other = little_trainer(tmp_path, identity={"data": "b"})
    other.run()
    assert "superseded" in capsys.readouterr().err
    assert (tmp_path / "superseded.safetensors").is_file()
    assert other.progress.step == other.last_step


def test_a_truncated_state_is_said(tmp_path: Path) -> None:
    little_trainer(tmp_path).run()
    path = tmp_path / "state.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(PbvsError, match="damaged"):
        little_trainer(tmp_path).run()


def test_what_is_no_number_stops_the_run_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    method = little_method()
    plain, steps = method.accumulate, [0]

    def poisoned(data: Batch, share: float, last: bool):
        steps[0] += 1
        if steps[0] == 5:
            data = Batch(data.source * float("nan"), data.target, data.valid)
        return plain(data, share, last)

    method.accumulate = poisoned
    with pytest.raises(PbvsError, match="step 5: the loss generator is not a number"):
        little_trainer(tmp_path, method).run()
    tensors, metadata = checkpoint.read_tensors(tmp_path / "state.safetensors")
    assert metadata["progress"]["step"] == 4
    assert all(bool(value.isfinite().all()) for value in tensors.values())


def test_divergence_stops_the_run(tmp_path: Path) -> None:
    trainer = little_trainer(tmp_path)
    trainer.progress.lowest = 1e-4
    plain = trainer.restore
    trainer.restore = lambda: (plain(), setattr(trainer.progress, "lowest", 1e-4))
    with pytest.raises(PbvsError, match="diverged"):
        trainer.run()


def test_training_stops_when_validation_no_longer_improves(tmp_path: Path) -> None:
    scores = iter([0.5, 0.4, 0.45, 0.41, 0.1])
    published = []
    trainer = little_trainer(
        tmp_path,
        schedule=Schedule(1e-3, 5),
        patience=2,
        validate=lambda network, epoch: {"rmse": None, "lpips": None, "score": next(scores)},
        publish=lambda network, metadata: published.append(metadata["epoch"]),
    )
    trainer.run()
    assert trainer.progress.step == 4 * trainer.plan.steps
    assert published == [1, 2]
    assert trainer.progress.best_score == 0.4
    again = little_trainer(tmp_path, schedule=Schedule(1e-3, 5), patience=2)
    again.method.accumulate = None
    again.run()


def test_keeping_the_last_publishes_every_validation(tmp_path: Path) -> None:
    published = []
    little_trainer(
        tmp_path,
        keep="last",
        validate=lambda network, epoch: {"rmse": None, "lpips": None, "score": float(epoch)},
        publish=lambda network, metadata: published.append(metadata["epoch"]),
    ).run()
    assert published == [1, 2, 3]


def test_the_average_follows_its_formula(tmp_path: Path) -> None:
    trainer = little_trainer(tmp_path, ema_decay=0.3, schedule=Schedule(1e-3, 1))
    name = "model.1.weight"
    expected = trainer.method.network.state_dict()[name].double().clone()
    plain = trainer.average.update

    def update(step: int) -> None:
        nonlocal expected
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * trainer.method.network.state_dict()[name].double()
        plain(step)

    trainer.average.update = update
    trainer.run()
    assert (trainer.average.network.state_dict()[name].double() - expected).abs().max() < 1e-6


def test_twenty_kills_at_random_moments_change_no_bit(tmp_path: Path) -> None:
    """Killed by SIGKILL before, between and in the middle of writes; the forked server has torch loaded already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.process"])
    rng, states = random.Random(7), tmp_path / "cut.states"

    def start(name: str, most: int | None = None) -> multiprocessing.process.BaseProcess:
        (tmp_path / name).mkdir(exist_ok=True)
        process = context.Process(target=train, args=(tmp_path / name, 2, 18, 1, most))
        process.start()
        return process

    whole = start("whole")
    for _ in range(KILLS):
        count = rng.randint(0, 3)
        states.write_bytes(b"")
        process = start("cut", count + 2)  # so that the training does not end before it was killed so often
        while states.stat().st_size < count and process.is_alive():
            time.sleep(0.0005)
        time.sleep(rng.uniform(0.0, 0.03))
        assert process.is_alive()
        process.kill()
        process.join()
    last = start("cut")
    for process in (whole, last):
        process.join()
        assert process.exitcode == 0
    states = [checkpoint.read_tensors(tmp_path / name / "state.safetensors") for name in ("whole", "cut")]
    assert equal(states[0][0], states[1][0])
    assert states[0][1]["progress"]["best_score"] == states[1][1]["progress"]["best_score"]
    logs = [read_log(tmp_path / name / "log.csv") for name in ("whole", "cut")]
    assert logs[0].drop(columns="seconds").equals(logs[1].drop(columns="seconds"))
