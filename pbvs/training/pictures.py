"""What a training looks like: loss curves, and strips of input, prediction and target; drawn with Pillow alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pbvs.data.images import resize, to_uint8, write_png

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
    """Write a row of equally large pictures for each of `rows`: input, prediction, target; (H, W, 1 or 3) in [0, 1]."""
    if not rows:
        return
    write_png(path, np.concatenate([np.concatenate([_thumbnail(p) for p in row], axis=1) for row in rows], axis=0))


def _thumbnail(picture: NDArray[np.float32]) -> NDArray[np.uint8]:
    three = picture if picture.shape[2] == 3 else np.repeat(picture[:, :, :1], 3, axis=2)
    return to_uint8(resize(np.ascontiguousarray(three), STRIP_SIDE, STRIP_SIDE))
