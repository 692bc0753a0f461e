"""How a training goes: held-out pairs measured by the protocol that the score goes by, the log, and the curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import nn

from pbvs.challenge.model import Challenge
from pbvs.data.align import Opened
from pbvs.data.images import resize, to_uint8, write_png
from pbvs.data.manifest import Pair
from pbvs.devices import rank, world_size
from pbvs.errors import PbvsError
from pbvs.files import write_text
from pbvs.logs import duration, say
from pbvs.metrics.judge import Judge
from pbvs.metrics.perceptual import unseen_net
from pbvs.metrics.protocol import DEFAULT, Protocol, choose_protocol, load_protocol
from pbvs.metrics.weights import look
from pbvs.training import distributed

STRIPS = 4  # images shown of each validation
MOST_PIXELS = 1536**2  # larger images are reduced: VGG-16 holds 1.4 KB a pixel, which is 14 GiB at 3157 x 3240
NAMES = ("rmse", "lpips", "unseen", "score")

ImageArray = NDArray[np.float32]
Translate = Callable[[nn.Module, Sequence[ImageArray]], list[ImageArray]]


@dataclass
class Validator:
    """Measures a network on `pairs`, which have targets; each process takes its share, and all get the same numbers.

    `unseen` names the metric of a network that no loss has seen. Images are compared at `size` pixels a side, None
    for the targets' own size.
    """

    pairs: Sequence[Pair]
    open_pair: Callable[[Pair], Opened]
    translate: Translate
    judge: Judge
    unseen: str = ""
    size: int | None = None
    samples: Path | None = None  # folder of the strips
    strips: list[tuple[ImageArray, ImageArray, ImageArray]] = field(default_factory=list)

    @property
    def identity(self) -> list[Any]:
        """What the scores depend on beside the network: the protocol, the pairs, and the size of comparison."""
        return [self.judge.protocol.model_dump(mode="json"), [pair.files for pair in self.pairs], self.size]

    def __call__(self, network: nn.Module, epoch: int) -> dict[str, float | None]:
        """Return the means of `NAMES` over all pairs; None for what the protocol does not measure."""
        self.strips = []
        values = torch.zeros(len(self.pairs), len(NAMES), dtype=torch.float64)
        for index in range(rank(), len(self.pairs), world_size()):
            values[index] = torch.tensor(self._measure(network, index), dtype=torch.float64)
        means = distributed.total(values).mean(dim=0).tolist()
        if self.samples is not None and distributed.is_main():
            write_strip(self.samples / f"{epoch:04d}.png", self.strips)
        return {name: None if np.isnan(mean) else mean for name, mean in zip(NAMES, means, strict=True)}

    def _measure(self, network: nn.Module, index: int) -> list[float]:
        opened = self.open_pair(self.pairs[index])
        if opened.target is None:
            raise PbvsError(f"{self.pairs[index].name} has no target to validate against; name pairs that have one.")
        made = self.translate(network, [opened.source])[0]
        height, width = compared_size(opened.target.shape[0], opened.target.shape[1], self.size)
        prediction = np.rint(resize(made, height, width) * 255) / np.float32(255)
        target = resize(opened.target, height, width)
        if len(self.strips) < STRIPS:
            self.strips.append((opened.source, prediction, target))
        numbers = self.judge.score_images([prediction], [target]).iloc[0]
        named = {"rmse": numbers.get("rmse"), "lpips": numbers.get("lpips"), "score": numbers["score"]}
        named["unseen"] = numbers.get(self.unseen)
        return [float("nan") if named[name] is None else float(named[name]) for name in NAMES]


def make_judge(
    choose_by: str,
    challenge: Challenge,
    nets: Sequence[str],
    watch: str,
    weights: Path | None,
    device: str,
    before: str | None = None,
) -> tuple[Judge, str]:
    """Return what measures epochs, and the metric of a network that no loss has seen ("" for none).

    `choose_by` names a protocol, or is "auto": the challenge's. Where it leaves the net of LPIPS open, that is
    `before`, by which this training chose until now ("" for none); else the first whose weights are found. With "auto"
    it is random where one of `nets`, those of the loss, is, and without any weights `l2-lpips` is RMSE alone. `watch`
    names the unseen net, or is "auto": the first one with weights that is in neither.
    """
    auto = choose_by == "auto"
    protocol = choose_protocol(challenge, None if auto else choose_by)
    if not isinstance(protocol.lpips_net, str):
        wired = auto and "random" in nets
        protocol = protocol.settle("random") if wired else _settled(protocol, before, weights, auto)
    protocol = protocol.of_images().model_copy(update={"shown": ("rmse",)})
    known = {*nets, *(protocol.resolve(term.metric).removeprefix("lpips-") for term in protocol.terms)}
    if watch == "auto":
        watch = "" if "random" in known else unseen_net(known, weights)
    unseen = f"lpips-{watch}" if watch not in ("", "none") else ""
    return Judge(protocol, weights, device, extra=(unseen,) if unseen else ()), unseen


def _settled(rule: Protocol, before: str | None, weights: Path | None, auto: bool) -> Protocol:
    """Return the protocol with the net that its training's epochs are compared by, and say where that is another."""
    kept = before if before in rule.lpips_net and look(str(before), weights) else None
    found = rule.settle(kept, weights)
    if auto and rule.name == DEFAULT and (before == "" or look(found.net, weights) is None):
        return load_protocol(rule, terms=["rmse"], lpips_net="alex")
    said = rule.other_net(found) if not before else ""
    if before and before != found.net:
        said = f"Epochs were chosen by LPIPS of {before}, whose weights are not here: from now on by {found.net}."
    if said and distributed.is_main():
        say(said)
    return found


def compared_size(height: int, width: int, size: int | None = None) -> tuple[int, int]:
    """Return the size at which a target of (height, width) is compared: `size` a side, its own, or less of it.

    >>> compared_size(256, 300), compared_size(256, 300, 1024), compared_size(3072, 3072)
    ((256, 300), (1024, 1024), (1536, 1536))
    """
    if size:
        height = width = size
    scale = min(1.0, (MOST_PIXELS / (height * width)) ** 0.5)
    return round(height * scale), round(width * scale)


# --- What a training tells: a table with a row an epoch, TensorBoard events, a line an epoch, curves as an image.


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
