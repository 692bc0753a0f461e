"""Validation by the protocol, the choice of the epoch, and a network beside it that no loss has seen."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import nn

from pbvs.challenge.model import load_challenge
from pbvs.data.manifest import Pair
from pbvs.errors import PbvsError
from pbvs.metrics.judge import Judge
from pbvs.metrics.protocol import load_protocol
from pbvs.metrics.weights import look
from pbvs.seeds import generator
from pbvs.training import validation
from pbvs.training.step import Schedule
from pbvs.training.validation import MOST_PIXELS, Validator, compared_size, make_judge
from tests.training.little import little_trainer

Array = NDArray[np.float32]
WEIGHTS = None  # where PBVS_WEIGHTS or torch keep them
CHALLENGE = load_challenge("mavic-t-2026")


class Opened:
    """A random pair."""

    def __init__(self, number: int, side: int = 40):
        self.source, self.target = generator(number, "pair").random((2, side, side, 1), dtype=np.float32)


def identity(network: nn.Module, images: Sequence[Array]) -> list[Array]:
    return list(images)


def validator(judge: Judge, **changes: object) -> Validator:
    pairs = [Pair(str(number), "sar2eo", "val", "location", "source") for number in range(3)]
    return Validator(pairs, lambda pair: Opened(int(pair.name)), identity, judge, **changes)  # type: ignore[arg-type]


def test_a_pair_without_a_target_is_an_error_and_not_a_perfect_image() -> None:
    measure = validator(Judge(load_protocol(terms=["rmse"], shown=["rmse"])))
    opened = Opened(2)
    opened.target = None
    measure.open_pair = lambda pair: opened if pair.name == "2" else Opened(int(pair.name))  # type: ignore[assignment]
    with pytest.raises(PbvsError, match="2 has no target to validate against"):
        measure(nn.Identity(), 1)


@pytest.mark.parametrize(("terms", "size"), [(["rmse"], None), (["l1"], None), (["rmse"], 20)])
def test_numbers_are_means_over_the_pairs_at_the_evaluation_size(terms: list[str], size: int | None) -> None:
    judge = Judge(load_protocol(terms=terms, shown=["rmse"]))
    found = validator(judge, size=size)(nn.Identity(), 1)
    scores = []
    for number in range(3):
        source, target = Opened(number).source, Opened(number).target
        if size:
            source, target = (validation.resize(image, size, size) for image in (source, target))
        difference = np.rint(source * 255) / 255 - target
        scores.append(np.sqrt(np.mean(difference**2)) if terms == ["rmse"] else np.mean(np.abs(difference)))
    assert found["score"] == pytest.approx(float(np.mean(scores)), rel=1e-5)
    assert found["lpips"] is None and found["unseen"] is None


def test_large_targets_are_compared_within_a_bound_of_memory() -> None:
    height, width = compared_size(3157, 3240)
    assert height * width <= MOST_PIXELS * 1.001
    assert height / width == pytest.approx(3157 / 3240, rel=1e-3)
    seen: list[tuple[int, ...]] = []

    class Spy(Judge):
        def score_images(self, predictions, targets, keys=()):  # type: ignore[no-untyped-def]
            seen.extend(image.shape for image in (*predictions, *targets))
            return super().score_images(predictions, targets, keys)

    spy = Spy(load_protocol(terms=["rmse"], shown=["rmse"]))
    large = Validator([Pair("0", "sar2eo", "val", "location", "source")], lambda pair: Opened(0, 2000), identity, spy)
    large(nn.Identity(), 1)
    assert seen == [(1536, 1536, 1)] * 2


def test_the_default_rule_takes_the_losss_net_and_others_their_own() -> None:
    judge, unseen = make_judge("auto", CHALLENGE, ["random"], "auto", None, "cpu")
    assert judge.protocol.resolve("lpips") == "lpips-random"
    assert unseen == ""
    judge, _ = make_judge("auto", CHALLENGE, [], "none", Path("nowhere"), "cpu")
    assert set(judge.columns) >= {"rmse"}
    if look("vgg", WEIGHTS) is None:
        pytest.skip("needs VGG-16's weights")
    judge, _ = make_judge("mavic-t-2026", CHALLENGE, [], "none", WEIGHTS, "cpu")
    assert judge.protocol.resolve("lpips") == "lpips-vgg"
    assert [term.metric for term in judge.protocol.terms] == ["lpips", "l1"]  # no image has an FID


@pytest.mark.skipif(look("alex") is None or look("squeeze") is None, reason="needs AlexNet's and SqueezeNet's weights")
def test_epochs_are_chosen_by_the_first_net_that_is_here_and_a_training_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [look(net) for net in ("squeeze", "alex")]
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("PBVS_WEIGHTS", raising=False)

    def net(before: str | None = None, choose_by: str = "auto", loss: Sequence[str] = ()) -> str:
        return make_judge(choose_by, CHALLENGE, loss, "none", tmp_path, "cpu", before)[0].lpips_net

    assert (net(), net("squeeze"), net("")) == ("", "", "")  # no weights: RMSE alone
    for path in found:
        assert path
        shutil.copy(path, tmp_path)
        taken = "squeeze" if path == found[0] else "alex"
        assert net() == net(choose_by="l2-lpips") == taken
        assert f"LPIPS is of {taken} and not of vgg" in capsys.readouterr().err
        assert net("") == ""  # which began without
        assert net("squeeze") == "squeeze" and not capsys.readouterr().err
        assert net(loss=["random"]) == "random"
    assert net("vgg") == "alex"
    assert "chosen by LPIPS of vgg, whose weights are not here: from now on by alex" in capsys.readouterr().err


@pytest.mark.skipif(look("vgg", WEIGHTS) is None or look("squeeze", WEIGHTS) is None, reason="needs weights")
def test_the_unseen_net_is_one_that_neither_loss_nor_rule_know() -> None:
    judge, unseen = make_judge("mavic-t-2026", CHALLENGE, ["alex", "vgg"], "auto", WEIGHTS, "cpu")
    assert unseen == "lpips-squeeze"
    found = validator(judge, unseen=unseen)(nn.Identity(), 1)
    assert found["unseen"] is not None and found["unseen"] > 0
    assert found["unseen"] != found["lpips"]


def numbers(score: float, unseen: float | None = None) -> dict[str, float | None]:
    return {"rmse": None, "lpips": None, "unseen": unseen, "score": score}


def test_a_better_score_that_an_unseen_net_denies_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = iter([numbers(0.5, 0.40), numbers(0.4, 0.41), numbers(0.3, 0.50), numbers(0.35, 0.60)])
    published = []
    little_trainer(
        tmp_path,
        schedule=Schedule(1e-3, 4),
        validate=lambda network, epoch: next(found),
        publish=lambda network, metadata: published.append((metadata["epoch"], metadata["parted"])),
    ).run()
    warnings = [line for line in capsys.readouterr().err.splitlines() if "not trained on" in line]
    assert len(warnings) == 1
    assert "epoch 3 scores best" in warnings[0] and "25% further" in warnings[0]
    assert published == [(1, False), (2, False), (3, True)]


def test_a_score_that_rises_is_chosen_by_its_highest(tmp_path: Path) -> None:
    found = iter([numbers(20.0), numbers(25.0), numbers(22.0)])
    published = []
    trainer = little_trainer(
        tmp_path,
        higher_is_better=True,
        validate=lambda network, epoch: next(found),
        publish=lambda network, metadata: published.append(metadata["epoch"]),
    )
    trainer.run()
    assert published == [1, 2]
    assert trainer.progress.best_score == 25.0


def test_another_number_of_samples_a_step_is_refused(tmp_path: Path) -> None:
    little_trainer(tmp_path, schedule=Schedule(1e-3, 1)).run()
    state = (tmp_path / "state.safetensors").read_bytes()
    other = little_trainer(tmp_path, batch_size=3)
    with pytest.raises(PbvsError, match="took 2 samples a step until step 3, and would now take 3"):
        other.run()
    assert (tmp_path / "state.safetensors").read_bytes() == state


def test_ctrl_c_says_at_which_step_it_will_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = little_trainer(tmp_path, save_minutes=10.0)
    plain, steps = trainer.method.step, [0]

    def step(rate: float) -> None:
        steps[0] += 1
        if steps[0] == 5:
            raise KeyboardInterrupt
        plain(rate)

    trainer.method.step = step  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert "stopped at step 4; it will go on from step 3." in capsys.readouterr().err
