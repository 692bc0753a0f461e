"""What a training tells: a table with a row an epoch, TensorBoard events, a line an epoch, curves as an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pbvs.data.images import resize, to_uint8, write_png
from pbvs.errors import PbvsError
from pbvs.files import write_text
from pbvs.logs import duration

FIRST = ("epoch", "step", "seconds", "learning_rate")
VALIDATION = ("val_rmse", "val_lpips", "val_unseen", "val_score")


class Log:
    """Rows of numbers in `log.csv`; a resumed run drops the rows that it will write again."""

    def __init__(self, folder: Path, step: int, losses: tuple[str, ...]):
        self.path = folder / "log.csv"
        self.columns = [*FIRST, *losses, *VALIDATION]
        before = read_log(self.path).reindex(columns=self.columns)
        self.table = before[before["step"] <= step] if step else before[:0]
        self._events = _events(folder, step)

    def add(self, row: Mapping[str, float | int | None]) -> None:
        """Append a row and show it to TensorBoard where that is installed."""
        new = pd.DataFrame([row], columns=self.columns)
        self.table = new if self.table.empty else pd.concat([self.table, new], ignore_index=True)
        self.table = self.table.astype({"epoch": int, "step": int})
        write_text(self.path, self.table.to_csv(index=False, lineterminator="\n"))
        if self._events is not None:
            for key in self.columns[3:]:
                value = row.get(key)
                if value is not None:
                    self._events.add_scalar(key.replace("val_", "validation/"), value, int(row["step"] or 0))
            self._events.flush()

    def column(self, name: str) -> list[tuple[float, float]]:
        """Return (epoch, value) of the rows that have this column's value."""
        known = self.table[["epoch", name]].dropna().astype(float)
        return list(known.itertuples(index=False, name=None))

    def close(self) -> None:
        """Finish the events file."""
        if self._events is not None:
            self._events.close()


def read_log(path: Path) -> pd.DataFrame:
    """Return a log's table, an empty one when there is none; raise PbvsError when it is no table of numbers.

    Numbers come back to the last bit; what an epoch did not measure is NaN.
    """
    table: pd.DataFrame = pd.DataFrame(columns=[*FIRST])
    if not path.is_file():
        return table
    try:
        table = pd.read_csv(path, dtype=str).astype(float).astype({"epoch": int, "step": int})
    except (ValueError, KeyError) as error:  # pandas' parser errors are ValueErrors
        reason = " ".join(str(error).split())[:120]
        raise PbvsError(f"{path} is no log of a training ({reason}); move it away, training goes on without.") from None
    return table


def _events(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "events"), purge_step=step)


def epoch_line(
    what: str,
    epoch: tuple[int, int],
    step: int,
    loss: float,
    score: float | None,
    best: tuple[float, int] | None,
    left: float,
    left_in_all: float,
) -> str:
    """Return an epoch in one line of at most 80 columns; `epoch` is (number, of how many), times are in seconds.

    >>> epoch_line("sar2eo", (3, 40), 480, 0.51234, 0.27123, (0.265, 2), 754.0, 4000.0)
    'sar2eo 3/40 step 480 loss 0.512 val 0.2712 best 0.2650 @2 left 13 min of 67 min'
    """
    words = [f"{what[:12]} {epoch[0]}/{epoch[1]}", f"step {step}", f"loss {loss:.3g}"]
    if score is not None:
        words.append(f"val {score:.4f}")
    if best is not None:
        words.append(f"best {best[0]:.4f} @{best[1]}")
    words.append(f"left {duration(left)}")
    if left_in_all > left + 60:
        words[-1] += f" of {duration(left_in_all)}"
    while len(" ".join(words)) > 80 and len(words) > 2:
        words.pop(1)
    return " ".join(words)


# --- What a training looks like: loss curves, and strips of input, prediction and target; drawn with Pillow alone.

Points = Sequence[tuple[float, float]]
COLOURS = ("#1f6f8b", "#d1495b", "#66a182", "#edae49", "#5c4d7d", "#8d6a4f", "#333333", "#b56576", "#2a9d8f")
PANEL = (320, 200)
STRIP_SIDE = 192
UNITS = {
    "l2": "RMSE, of [0, 1]",
    "val_rmse": "RMSE, of [0, 1]",
    "lpips": "LPIPS, weighted",
    "val_lpips": "LPIPS",
    "val_unseen": "LPIPS of a net not trained on",
    "val_score": "score of the protocol",
    "learning_rate": "per step",
}


def write_curves(path: Path, curves: Mapping[str, Points], across: str = "epoch", unit: str = "loss") -> None:
    """Draw one small panel for each curve that says something (a loss without weight is always 0), three in a row."""
    shown = {name: points for name, points in curves.items() if any(value for _, value in points)}
    if not shown:
        return
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    sheet = Image.new("RGB", (PANEL[0] * columns, PANEL[1] * rows), "white")
    for number, (name, points) in enumerate(shown.items()):
        panel = _panel(name, points, COLOURS[number % len(COLOURS)], across, UNITS.get(name, unit))
        sheet.paste(panel, (PANEL[0] * (number % columns), PANEL[1] * (number // columns)))
    write_png(path, np.asarray(sheet))


def _panel(name: str, points: Points, colour: str, across: str, unit: str) -> Image.Image:
    """Return a curve with its name, unit and last value above it, and values and what is `across` along its axes."""
    image = Image.new("RGB", PANEL, "white")
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = 56, 36, PANEL[0] - 14, PANEL[1] - 36
    values, epochs = [value for _, value in points], [epoch for epoch, _ in points]
    low, high = min(values), max(values)
    width, height = (epochs[-1] - epochs[0]) or 1.0, (high - low) or 1.0
    draw.rectangle((left, top, right, bottom), outline="#bbbbbb")
    draw.text((left, 4), f"{name}  {values[-1]:.4g}", fill="black")
    draw.text((left, 18), unit, fill="#555555")
    for share in (0.0, 0.5, 1.0):
        y = bottom - (bottom - top) * share
        draw.line((left - 4, y, left, y), fill="#bbbbbb")
        draw.text((4, y - 6), f"{low + height * share:.4g}", fill="#555555")
        x = left + (right - left) * share
        draw.line((x, bottom, x, bottom + 4), fill="#bbbbbb")
        draw.text((x - 3, bottom + 6), f"{epochs[0] + width * share:.4g}", fill="#555555")
    draw.text(((left + right) / 2 - 16, bottom + 20), across, fill="#555555")
    line = [
        (left + (right - left) * (x - epochs[0]) / width, bottom - (bottom - top) * (y - low) / height)
        for x, y in points
    ]
    if len(line) > 1:
        draw.line(line, fill=colour, width=2)
    for x, y in line if len(line) < 40 else line[-1:]:
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
    return image


def write_strip(path: Path, rows: Sequence[Sequence[NDArray[np.float32]]]) -> None:
    """Write a row of equally large images for each of `rows`: input, prediction, target; (H, W, 1 or 3) in [0, 1]."""
    if not rows:
        return
    write_png(path, np.concatenate([np.concatenate([_thumbnail(p) for p in row], axis=1) for row in rows], axis=0))


def _thumbnail(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    three = image if image.shape[2] == 3 else np.repeat(image[:, :, :1], 3, axis=2)
    return to_uint8(resize(np.ascontiguousarray(three), STRIP_SIDE, STRIP_SIDE))
