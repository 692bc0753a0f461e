"""The log, the curves and the strips of a training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pbvs.data.images import read_image
from pbvs.errors import PbvsError
from pbvs.logs import duration
from pbvs.training.validation import PANEL, STRIP_SIDE, Log, epoch_line, read_log, write_curves, write_strip

LOSSES = ("generator", "l2")


def row(epoch: int, **values: float | None) -> dict[str, float | int | None]:
    return {"epoch": epoch, "step": 10 * epoch, "seconds": 1.5, "learning_rate": 2e-4, "generator": 0.1, **values}


def test_numbers_come_back_exactly_and_gaps_stay_empty(tmp_path: Path) -> None:
    log = Log(tmp_path, 0, LOSSES)
    log.add(row(1, l2=1 / 3, val_rmse=0.1 + 0.2, val_lpips=None))
    log.close()
    found = read_log(tmp_path / "log.csv")
    assert len(found) == 1
    assert found["l2"][0] == 1 / 3
    assert found["val_rmse"][0] == 0.1 + 0.2
    assert found[["val_lpips", "val_score"]].isna().all(axis=None)
    assert list(found)[:4] == ["epoch", "step", "seconds", "learning_rate"]


def test_a_resumed_log_drops_what_will_be_written_again(tmp_path: Path) -> None:
    first = Log(tmp_path, 0, LOSSES)
    for epoch in (1, 2, 3):
        first.add(row(epoch))
    first.close()
    resumed = Log(tmp_path, 25, LOSSES)
    resumed.add(row(3, l2=7.0))
    resumed.close()
    found = read_log(tmp_path / "log.csv")
    assert found["epoch"].tolist() == [1, 2, 3]
    assert found["l2"].isna().tolist() == [True, True, False]
    assert found["l2"][2] == 7.0


def test_events_hold_losses_and_validation(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = Log(tmp_path, 0, LOSSES)
    log.add(row(1, val_score=0.25))
    log.close()
    events = accumulator.EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert {"generator", "learning_rate", "validation/score"} <= set(events.Tags()["scalars"])
    assert events.Scalars("validation/score")[0].value == 0.25


def test_curves_are_drawn_for_what_changes(tmp_path: Path) -> None:
    curves = {"a": [(1, 0.5), (2, 0.4)], "b": [(1, 3.0)], "zero": [(1, 0.0), (2, 0.0)], "none": []}
    write_curves(tmp_path / "curves.png", curves)
    image = read_image(tmp_path / "curves.png")
    assert image.shape == (PANEL[1], 2 * PANEL[0], 3)
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 5
    write_curves(tmp_path / "nothing.png", {"none": []})
    assert not (tmp_path / "nothing.png").exists()


def test_strips_put_grey_and_colour_side_by_side(tmp_path: Path) -> None:
    grey, colour = np.full((10, 20, 1), 0.5, np.float32), np.zeros((10, 20, 3), np.float32)
    write_strip(tmp_path / "strip.png", [(grey, colour, colour), (grey, grey, colour)])
    image = read_image(tmp_path / "strip.png")
    assert image.shape == (2 * STRIP_SIDE, 3 * STRIP_SIDE, 3)
    assert set(np.unique(image[:, :STRIP_SIDE])) == {128}


def test_a_log_that_is_no_table_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(b"\x00\xff not a table")
    with pytest.raises(PbvsError, match="is no log of a training"):
        read_log(tmp_path / "log.csv")
    assert read_log(tmp_path / "none.csv").empty


def test_an_epochs_line_fits_a_terminal_whatever_its_numbers() -> None:
    usual = epoch_line("sar2eo", (3, 40), 480, 0.512, 0.2712, (0.265, 2), 754.0, 4000.0)
    assert usual == "sar2eo 3/40 step 480 loss 0.512 val 0.2712 best 0.2650 @2 left 13 min of 67 min"
    assert len(usual) <= 80
    longest = epoch_line("x" * 60, (9999, 10000), 123456789, 1.23456e-7, 123.4567, (123.4567, 9998), 9e8, 9e9)
    assert len(longest) <= 80
    for part in ("9999/10000", "best", "left"):
        assert part in longest


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (89, "89 s"), (90, "2 min"), (5000, "83 min"), (5400, "1.5 h"), (2e5, "2.3 days")]
)
def test_times_are_said_as_people_do(seconds: float, text: str) -> None:
    assert duration(seconds) == text
