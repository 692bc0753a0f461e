"""The log of a training: a CSV file with a row an epoch, TensorBoard events, and curves as an image."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pbvs.data.images import resize, to_uint8, write_png
from pbvs.errors import PbvsError
from pbvs.files import read_text, write_text

FIRST = ("epoch", "step", "seconds", "learning_rate")


class Log:
    """Rows of numbers in `log.csv`; a resumed run drops the rows that it will write again."""

    def __init__(self, folder: Path, step: int, losses: tuple[str, ...]):
        self.path = folder / "log.csv"
        self.columns = (*FIRST, *losses, "val_rmse", "val_lpips", "val_score")
        self.rows = [row for row in read_log(self.path) if float(row.get("step") or 0) <= step] if step else []
        self._events = _events(folder, step)

    def add(self, row: Mapping[str, float | int | None]) -> None:
        """Append a row and show it to TensorBoard where that is installed."""
        self.rows.append({key: "" if row.get(key) is None else repr(row[key]) for key in self.columns})
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, self.columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, buffer.getvalue())
        if self._events is not None:
            for key in self.columns[3:]:
                value = row.get(key)
                if value is not None:
                    self._events.add_scalar(key.replace("val_", "validation/"), value, int(row["step"] or 0))
            self._events.flush()

    def column(self, name: str) -> list[tuple[float, float]]:
        """Return (epoch, value) of the rows that have this column's value."""
        return [(float(row["epoch"]), float(row[name])) for row in self.rows if row.get(name)]

    def close(self) -> None:
        """Finish the events file."""
        if self._events is not None:
            self._events.close()


def read_log(path: Path) -> list[dict[str, str]]:
    """Return the rows of a log, none when there is none; raise PbvsError when it is no CSV."""
    if not path.is_file():
        return []
    try:
        return [dict(row) for row in csv.DictReader(io.StringIO(read_text(path)))]
    except csv.Error as error:
        raise PbvsError(f"{path} is no CSV file ({error}); take it away, training goes on without it.") from None


def _events(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "events"), purge_step=step)


# --- What a training looks like: loss curves, and strips of input, prediction and target; drawn with Pillow alone.

Points = Sequence[tuple[float, float]]
COLOURS = ("#1f6f8b", "#d1495b", "#66a182", "#edae49", "#5c4d7d", "#8d6a4f", "#333333", "#b56576", "#2a9d8f")
PANEL = (320, 180)
STRIP_SIDE = 192


def write_curves(path: Path, curves: Mapping[str, Points]) -> None:
    """Draw one small panel for each curve that says something (a loss without weight is always 0), three in a row."""
    shown = {name: points for name, points in curves.items() if any(value for _, value in points)}
    if not shown:
        return
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    sheet = Image.new("RGB", (PANEL[0] * columns, PANEL[1] * rows), "white")
    for number, (name, points) in enumerate(shown.items()):
        panel = _panel(name, points, COLOURS[number % len(COLOURS)])
        sheet.paste(panel, (PANEL[0] * (number % columns), PANEL[1] * (number // columns)))
    write_png(path, np.asarray(sheet))


def _panel(name: str, points: Points, colour: str) -> Image.Image:
    image = Image.new("RGB", PANEL, "white")
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = 56, 24, PANEL[0] - 12, PANEL[1] - 24
    values = [value for _, value in points]
    places = [place for place, _ in points]
    low, high = min(values), max(values)
    draw.rectangle((left, top, right, bottom), outline="#bbbbbb")
    draw.text((left, 6), f"{name}  {values[-1]:.4g}", fill="black")
    draw.text((4, top), f"{high:.4g}", fill="#555555")
    draw.text((4, bottom - 10), f"{low:.4g}", fill="#555555")
    draw.text((left, bottom + 4), f"{places[0]:g}", fill="#555555")
    draw.text((right - 24, bottom + 4), f"{places[-1]:g}", fill="#555555")
    width, height = (places[-1] - places[0]) or 1.0, (high - low) or 1.0
    line = [
        (left + (right - left) * (x - places[0]) / width, bottom - (bottom - top) * (y - low) / height)
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
