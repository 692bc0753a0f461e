"""What doing nothing scores stands beside a score, is computed once, and a net that was learnt is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pbvs.data.images import read_image, write_png
from pbvs.errors import PbvsError
from pbvs.evaluation import evaluate
from pbvs.evaluation.evaluate import paper_factor, trained_nets, unseen_net
from pbvs.evaluation.leaderboard import board_text, our_boards
from pbvs.evaluation.results import score_table
from pbvs.evaluation.summary import _learnt_nets
from pbvs.files import write_text
from pbvs.metrics.protocol import load_protocol
from pbvs.recipe import load_recipe
from tests.evaluation.hand_made import Place
from tests.tasks import TASKS


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path).make().spoil()


def gray(place: Place, n: int) -> np.ndarray:
    source = read_image(place.folder / "data" / "in" / "rgb2ir" / f"{n}.png") / 255.0
    return source.mean(2, keepdims=True)


def test_the_input_as_it_is_and_its_gray_are_scored(place: Place) -> None:
    scores = place.score(baselines=True)
    targets = [read_image(place.target("rgb2ir", n)) / 255.0 for n in range(4)]

    def rmse(factor: float) -> float:
        made = [np.rint((gray(place, n) * factor).clip(0, 1) * 255) / 255 for n in range(4)]
        return float(np.mean([np.sqrt(np.square(a - b).mean()) for a, b in zip(made, targets, strict=True)]))

    found = {kind: said["tasks"]["rgb2ir"]["rmse"] for kind, said in scores["baselines"].items()}
    assert found["input"] == pytest.approx(rmse(1.0), abs=1e-4)
    assert found["gray"] == pytest.approx(rmse(paper_factor("rgb2ir")), abs=1e-4)
    assert paper_factor("rgb2ir") == 1.3 and paper_factor("sar2eo") == 1.0
    text = score_table(scores)
    assert "input as it is" in text and "its gray" in text and max(map(len, text.splitlines())) <= 80
    board = board_text(our_boards(place.run.submissions))
    assert "(input as it is)" in board and "(its gray)" in board


def test_a_target_that_is_gone_for_a_while_is_no_number(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It vanishes once its baseline is begun, and is back for the next command."""
    cache = tmp_path / "cache"
    target, plain = place.target("sar2eo", 1), evaluate.score_task

    def vanishing(judge, task, **how):
        if task.predict is not None and task.name == "sar2eo":
            target.rename(target.with_suffix(".gone"))
        return plain(judge, task, **how)

    with monkeypatch.context() as patch, pytest.raises(PbvsError, match=f"There is no image .*{target.name}"):
        patch.setattr(evaluate, "score_task", vanishing)
        place.score(baselines=True, cache=cache)
    target.with_suffix(".gone").rename(target)
    found, wanted = (place.score(baselines=True, cache=where)["baselines"] for where in (cache, None))
    for kind, said in wanted.items():
        assert found[kind]["combined"] == pytest.approx(said["combined"], abs=1e-6)


def test_a_score_below_doing_nothing_is_said(place: Place) -> None:
    for n in range(4):
        image = read_image(place.folder / "data" / "in" / "sar2eo" / f"{n}.png")
        write_png(place.target("sar2eo", n), image)
    assert any(
        "sar2eo scores" in note and "worse than its input" in note for note in place.score(baselines=True)["notes"]
    )


def test_baselines_are_computed_once(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    first = place.score(baselines=True, cache=cache)
    calls: list[str] = []
    plain = evaluate.score_task

    def counted(judge, task, **how):
        calls.append(task.name)
        return plain(judge, task, **how)

    monkeypatch.setattr(evaluate, "score_task", counted)
    second = place.score(baselines=True, cache=cache)
    assert calls == list(TASKS)  # the predictions alone
    for kind, said in first["baselines"].items():
        assert second["baselines"][kind]["combined"] == pytest.approx(said["combined"], abs=1e-9)
    write_png(place.target("sar2eo", 0), np.zeros((48, 48, 1), np.uint8))
    calls.clear()
    place.score(baselines=True, cache=cache)
    assert calls.count("sar2eo") == 2 and len(calls) == len(TASKS) + 1


def test_a_term_may_be_divided_by_the_inputs_own_number(place: Place, tmp_path: Path) -> None:
    write_text(
        tmp_path / "ratio.toml",
        'name = "ratio"\nshown = []\n[[terms]]\nmetric = "rmse"\ntransform = "ratio"\nbaseline = "input"\n',
    )
    scores = place.score(protocol=tmp_path / "ratio.toml")
    plain = place.score(baselines=True)
    table = scores.table("rgb2ir")
    assert table["score"].tolist() == pytest.approx((table["rmse"] / table["baseline:rmse"]).tolist())
    assert scores.task("rgb2ir")["score"] == pytest.approx(table["score"].mean())
    assert table["baseline:rmse"].mean() == pytest.approx(plain["baselines"]["input"]["tasks"]["rgb2ir"]["rmse"])


def test_nets_that_were_trained_on_and_one_that_was_not(tmp_path: Path) -> None:
    recipe = load_recipe("demo")
    nets = trained_nets(recipe)
    assert nets["sar2eo"] and nets["sar2ir"] == nets["sar2rgb"] and nets["rgb2ir"] == set()
    trained = next(iter(nets["sar2eo"]))
    for name in ("alexnet", "squeezenet1_1", "vgg16"):
        (tmp_path / f"{name}-features.safetensors").write_bytes(b"")
    assert unseen_net(recipe, load_protocol(lpips_net=trained), tmp_path) not in (trained, None)
    other = next(net for net in ("alex", "squeeze", "vgg") if net != trained)
    assert unseen_net(recipe, load_protocol(lpips_net=other), tmp_path) is None


@pytest.mark.parametrize(("unseen", "said"), [(0.45, True), (0.30, False)])
def test_a_net_that_was_learnt_rather_than_the_images_is_told(unseen: float, said: bool) -> None:
    tasks = {"sar2eo": {"lpips": 0.30, "lpips-squeeze": unseen}}
    inputs = {"tasks": {"sar2eo": {"lpips": 0.40, "lpips-squeeze": 0.40}}}
    notes = _learnt_nets(load_protocol(lpips_net="alex"), tasks, inputs, {"sar2eo": {"alex"}})
    assert bool(notes) is said
    assert not said or ("LPIPS alex" in notes[0] and "LPIPS squeeze does not" in notes[0])


def test_scores_are_tables(place: Place) -> None:
    scores = place.score()
    assert isinstance(scores.images, pd.DataFrame) and len(scores.images) == 16
    assert list(scores.tasks.index) == list(TASKS)
    assert scores.tasks.loc["sar2eo", "score"] == pytest.approx(scores.table("sar2eo")["score"].mean())
    assert scores.combined == scores["combined"] == pytest.approx(scores.tasks["score"].mean())
