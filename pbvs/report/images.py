"""Images for a page: thumbnails, error maps, and every image as a row that a reader sorts, filters and opens."""

from __future__ import annotations

import base64
import heapq
import io
import itertools
import math
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from pbvs.data.images import read_image, resize, to_uint8
from pbvs.data.manifest import Pair, manifest_path, read_manifest
from pbvs.devices import ahead
from pbvs.errors import PbvsError, of_data
from pbvs.files import digest, sweep, write_bytes
from pbvs.recipe import Recipe
from pbvs.run import Run

SIDE = 288  # pixels of a thumbnail's longer side
QUALITY = 86
ERROR_END = 0.5  # an error of this size, or a larger one, gets the last colour
# Anchors of the error map's colours from none to large: dark to bright, so that it also reads in grey and in print.
ERROR_COLOURS = np.array(
    [[12, 10, 30], [70, 20, 110], [160, 45, 110], [235, 105, 60], [252, 190, 70], [253, 250, 210]], np.float64
)
NO_DATA = "no data folder given"
ImageArray = NDArray[np.float32]


@dataclass(frozen=True)
class Opened:
    """The images of one pair as far as they could be had; `problem` says what could not and why."""

    source: ImageArray | None = None
    prediction: ImageArray | None = None
    target: ImageArray | None = None
    problem: str = ""

    @property
    def error(self) -> ImageArray | None:
        """The coloured error, where prediction and target are there."""
        if self.prediction is None or self.target is None:
            return None
        return error_map(error_of(self.prediction, self.target))


@dataclass(frozen=True)
class Tile:
    """A thumbnail, or the words that stand in its place."""

    caption: str
    uri: str = ""
    width: int = SIDE
    height: int = SIDE
    absent: str = ""


def pairs_of(manifests: Path, task: str, split: str) -> dict[str, Pair]:
    """Return a task's pairs of a split by their names; none where there is no manifest."""
    path = manifest_path(manifests, task, split)
    return {pair.name: pair for pair in read_manifest(path)} if path.is_file() else {}


def open_images(run: Run, recipe: Recipe, pair: Pair, root: Path | None) -> Opened:
    """Open a pair's input, target (where known) and prediction (where made).

    An image that is gone or damaged becomes a sentence; one that the disk does not give now raises ReadError.
    """
    problems: list[str] = []
    source = target = prediction = None
    if root is not None:
        try:
            source, target = _open_data(pair, root, recipe)
        except PbvsError as error:  # a page does without an image that was taken away, not without a failing disk's
            gone = not all((root / path).is_file() for path in pair.paths)
            problems.append(str(error) if gone else of_data(error))
    path = run.prediction(pair.split, pair.task, pair.name)
    if path.is_file():
        try:
            prediction = read_prediction(path)
        except PbvsError as error:
            problems.append(of_data(error))
    return Opened(source, prediction, target, " ".join(problems))


def _open_data(pair: Pair, root: Path, recipe: Recipe) -> tuple[ImageArray, ImageArray | None]:
    from pbvs.data.align import open_pair, open_source

    first = recipe.radiometry.challenge.task(pair.task).first_channels  # of several sources the first is shown
    if not pair.target:
        return open_source(pair, root, recipe.radiometry)[:, :, :first], None
    opened = open_pair(pair, root, recipe.radiometry)
    return opened.source[:, :, :first], opened.target


def read_prediction(path: Path) -> ImageArray:
    """Read a predicted 8-bit image as (H, W, C) float32 in [0, 1]; raise PbvsError when it cannot be read."""
    pixels = read_image(path)
    scale = 65535.0 if pixels.dtype == np.uint16 else 255.0
    image: ImageArray = (pixels[:, :, :3] if pixels.shape[2] > 3 else pixels).astype(np.float32) / np.float32(scale)
    return image


def error_of(prediction: ImageArray, target: ImageArray) -> NDArray[np.float32]:
    """Return the mean over the channels of |prediction - target|, (H, W), on the prediction's grid."""
    fitted = resize(target, *prediction.shape[:2])
    if fitted.shape[2] != prediction.shape[2]:
        fitted, prediction = fitted.mean(axis=2, keepdims=True), prediction.mean(axis=2, keepdims=True)
    error: NDArray[np.float32] = np.abs(prediction - fitted).mean(axis=2)
    return error


def error_map(error: NDArray[np.float32]) -> ImageArray:
    """Colour an error (H, W): the scale is the same in every image of every report, 0 to `ERROR_END`."""
    position = np.clip(error / ERROR_END, 0.0, 1.0) * (len(ERROR_COLOURS) - 1)
    anchors = np.arange(len(ERROR_COLOURS))
    bands = [np.interp(position, anchors, ERROR_COLOURS[:, band]) for band in range(3)]
    colours: ImageArray = np.stack(bands, axis=2).astype(np.float32) / np.float32(255.0)
    return colours


def tile(caption: str, image: ImageArray | None, absent: str = "not there", side: int = SIDE) -> Tile:
    """Make a thumbnail of an image in [0, 1], or an empty tile that says why there is none."""
    if image is None or not image.size:
        return Tile(caption, absent=absent)
    small = shrink(image, side)
    return Tile(caption, data_uri(encode(small)), small.shape[1], small.shape[0])


def shrink(image: ImageArray, side: int) -> ImageArray:
    """Fit an image into a square of `side` pixels; a smaller one stays as it is."""
    height, width = image.shape[:2]
    factor = side / max(height, width)
    if factor >= 1.0:
        return image
    return resize(np.ascontiguousarray(image), max(1, round(height * factor)), max(1, round(width * factor)))


def encode(image: ImageArray, lossless: bool = False) -> bytes:
    """Encode an image in [0, 1] as JPEG, or as PNG."""
    pixels = to_uint8(image)
    shown = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
    buffer = io.BytesIO()
    if lossless:
        shown.save(buffer, "PNG", compress_level=1)
    else:
        # Pillow's `optimize` fails on very noisy images when it writes to memory, so it stays off.
        shown.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return buffer.getvalue()


def data_uri(data: bytes) -> str:
    """Return an encoded image as text that a page can hold."""
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64," + base64.b64encode(data).decode("ascii")


def side_by_side(found: Sequence[ImageArray | None], side: int) -> ImageArray:
    """Return images of any sizes in one row of squares of `side` pixels; an absent one leaves mid gray."""
    sheet = np.full((side, side * len(found), 3), 0.5, np.float32)
    for index, image in enumerate(found):
        if image is not None:
            small = shrink(image, side)
            top, left = (side - small.shape[0]) // 2, side * index + (side - small.shape[1]) // 2
            sheet[top : top + small.shape[0], left : left + small.shape[1]] = small
    return sheet


def tiles(opened: Opened, has_target: bool) -> list[Tile]:
    """Return input and prediction, and where there is a target also it and the error map."""
    found = [tile("Input", opened.source, NO_DATA), tile("Prediction", opened.prediction)]
    if has_target:
        found += [tile("Target", opened.target, NO_DATA), tile("Error", opened.error)]
    return found


def strip(pair: Pair, tiles: Sequence[Tile], problem: str, heading: str = "", note: str = "") -> dict[str, Any]:
    """Return a pair's tiles with what stands above them, for the template's macro `strip`."""
    said = {"heading": heading, "note": note, "problem": problem}
    return {**said, "location": pair.location, "name": pair.name, "tiles": tiles}


def level_counts(image: ImageArray, bins: int = 64) -> NDArray[np.int64]:
    """Count, for each channel, the pixels in each of `bins` equal bins of [0, 1]; returns (C, bins)."""
    clipped = np.clip(np.nan_to_num(image), 0.0, 1.0)
    rows = [np.histogram(clipped[:, :, i], bins=bins, range=(0.0, 1.0))[0] for i in range(image.shape[2])]
    counts: NDArray[np.int64] = np.stack(rows).astype(np.int64)
    return counts


# --- Every image of a page as a row that a reader sorts, filters and opens.

MOST_ROWS = 10_000  # images of a task that a page lists, the worst; a browser bears no more
THUMBNAIL = 96  # pixels; the panes of a row lie side by side in one file
LARGEST = 1024  # longer side of an image at full size
PIXELS = 64e6  # of each task's images at full size, unless more are asked for
INLINE_PIXELS = 2e6  # the same where everything goes into the page itself
TITLES = {name: name.upper() for name in ("rmse", "mse", "l1", "psnr", "ssim")} | {"ms_ssim": "MS-SSIM"}
HIGHER_IS_BETTER = frozenset({"psnr", "ssim", "ms_ssim"})
BRIGHTNESS = "brightness"  # of the input
_KEY = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True)
class Panes:
    """The images of a row, None where one could not be had; `problem` says why."""

    images: Sequence[ImageArray | None]
    problem: str = ""


@dataclass(frozen=True)
class Item:
    """An image that a page lists: what was measured, and how its panes are read when their turn comes."""

    name: str
    location: str
    values: Mapping[str, float | None]
    read: Callable[[], Panes]
    note: str = ""


@dataclass(frozen=True)
class Shown:
    """What the page keeps of an item: files (or data URIs), and what was measured on its pixels."""

    item: Item
    thumb: str = ""
    full: Sequence[str] = ()
    problem: str = ""
    brightness: float | None = None  # mean of the first pane, in [0, 1]
    levels: NDArray[np.float64] | None = None  # (2, C, bins): prediction and target, each image counting the same


@dataclass
class Gallery:
    """The tasks of a page and where their images go: a folder beside the page, or into the page itself.

    `key` is anything that changes when the images do: images of one key lie in a folder of their own, so that a page
    never shows a part of the old and a part of the new.
    """

    page: Path
    panes: Sequence[str]
    metrics: Sequence[str]  # the first is what "worst" means
    key: Any
    is_lpips: bool = True  # what is called so among `metrics`
    inline: bool = False
    all_images: bool = False
    jobs: int = 1
    tasks: list[dict[str, Any]] = field(default_factory=list)
    limited: int = 0  # images of which a thumbnail alone is kept
    left_out: int = 0  # images that the page does not list

    def __post_init__(self) -> None:
        if self.files.is_symlink():
            raise PbvsError(f"{self.files} is a link to another folder; remove it and try again.")
        sweep(self.files)

    @property
    def files(self) -> Path:
        """The folder beside the page, as browsers name it when they save one."""
        return self.page.with_name(f"{self.page.stem}_files")

    @property
    def folder(self) -> Path:
        """Where the images of this writing of the page lie."""
        return self.files / digest(self.key)[:12]

    def show(self, task: str, title: str, items: Iterable[Item]) -> list[Shown]:
        """Read the items' images, keep what the page needs of them, and return that; the worst come first."""
        numbers = itertools.count()
        worst = heapq.nsmallest(MOST_ROWS, zip(items, numbers, strict=False), key=lambda it: self._badness(it[0]))
        ordered = [item for item, _ in worst]
        self.left_out += next(numbers) - len(ordered)
        if not ordered:
            return []
        first = ordered[0].read().images
        sizes = [min(image.shape[0] * image.shape[1], LARGEST**2) for image in first if image is not None]
        area = float(max([1, *sizes]))
        count = len(ordered) if self.all_images else max(4, int((INLINE_PIXELS if self.inline else PIXELS) / area))
        self.limited += max(0, len(ordered) - count)

        def keep(numbered: tuple[int, Item]) -> Shown:
            index, item = numbered
            return self._keep(item, item.read(), self.folder / task / f"{index:05d}", full=index < count)

        with ThreadPoolExecutor(self.jobs) as pool:
            shown = list(ahead(pool, keep, enumerate(ordered), 2 * self.jobs))
        self.tasks.append({"name": task, "title": title, "rows": [self._row(each) for each in shown]})
        return shown

    def _badness(self, item: Item) -> tuple[float, str]:
        first = self.metrics[0] if self.metrics else ""
        value = item.values.get(first)
        sign = 1.0 if first in HIGHER_IS_BETTER else -1.0
        return (math.inf if value is None else sign * value, item.name)

    def _keep(self, item: Item, panes: Panes, stem: Path, full: bool) -> Shown:
        found = [image if image is not None and image.size else None for image in panes.images]
        if not any(image is not None for image in found):
            return Shown(item, problem=panes.problem or item.note)
        thumb = self._save(stem.with_name(f"{stem.name}.jpg"), encode(side_by_side(found, THUMBNAIL)))
        kept = [self._save_whole(stem, pane, image) for pane, image in enumerate(found)] if full else []
        brightness = None if found[0] is None else float(found[0].mean())
        levels = _levels(*found[1:3]) if len(found) == 4 else None  # prediction and target of one run
        return Shown(item, thumb, kept, panes.problem or item.note, brightness, levels)

    def _save_whole(self, stem: Path, pane: int, image: ImageArray | None) -> str:
        if image is None:
            return ""
        title = re.sub(r"\W+", "-", self.panes[pane].lower()).strip("-")
        # A prediction's fine pattern is what people look for.
        lossless = not (self.inline or title.startswith(("input", "target", "error")))
        shown = shrink(image, LARGEST)
        path = stem.with_name(f"{stem.name}-{title[:40]}{'.png' if lossless else '.jpg'}")
        return self._save(path, encode(shown, lossless=lossless))

    def _save(self, path: Path, data: bytes) -> str:
        if self.inline:
            return data_uri(data)
        write_bytes(path, data)
        return quote(path.relative_to(self.page.parent).as_posix())

    def _row(self, shown: Shown) -> dict[str, Any]:
        values = [*(shown.item.values.get(metric) for metric in self.metrics), shown.brightness]
        return {
            "name": shown.item.name,
            "location": shown.item.location,
            "values": [None if value is None or not math.isfinite(value) else round(value, 6) for value in values],
            "thumb": shown.thumb,
            "full": list(shown.full),
            "note": shown.problem,
        }

    def view(self) -> dict[str, Any] | None:
        """Return what the template needs, None when there is no image."""
        if not any(task["rows"] for task in self.tasks):
            return None
        columns = [
            {
                "title": title_of(metric, self.is_lpips),
                "digits": 2 if metric == "psnr" else 4,
                "worst": "low" if metric in HIGHER_IS_BETTER else "high",
            }
            for metric in self.metrics
        ]
        columns.append({"title": BRIGHTNESS, "digits": 3, "worst": "low"})
        partly = f"Of {self.limited} images a thumbnail alone is kept; --images all keeps all." if self.limited else ""
        if self.left_out:
            partly = f"The {self.left_out:,} best images are not listed: the run's CSV files name all. {partly}".strip()
        data = {"panes": list(self.panes), "columns": columns, "tasks": self.tasks}
        return {"data": data, "script": script(), "partly": partly}

    def finish(self) -> None:
        """Remove the images of earlier writings of this page; called when the page that shows the new ones is there."""
        if not self.files.is_dir():
            return
        for old in self.files.iterdir():
            if _KEY.fullmatch(old.name) and not old.is_symlink() and (self.inline or old != self.folder):
                shutil.rmtree(old, ignore_errors=True)
        if not any(self.files.iterdir()):
            self.files.rmdir()


def title_of(metric: str, is_lpips: bool = True) -> str:
    """Return a metric's name as people write it; `is_lpips` says whether that of "lpips" has a net with weights."""
    first, _, net = metric.partition("-")
    if first == "lpips":
        known = net != "random" if net else is_lpips
        return f"{'' if known else 'not '}LPIPS{f' ({net})' if net else ''}"
    return TITLES.get(metric, metric.replace("_", " "))


def script() -> Markup:
    """Return the page's own script; nothing of the data is in it."""
    return Markup((Path(__file__).parent / "templates" / "explore.js").read_text(encoding="utf-8"))


def levels_of(shown: Iterable[Shown]) -> tuple[NDArray[np.float64], int] | None:
    """Add up the levels of the images that have both prediction and target; return (2, C, bins) and how many."""
    found = [each.levels for each in shown if each.levels is not None]
    if not found:
        return None
    channels = max({each.shape[1] for each in found}, key=lambda c: sum(each.shape[1] == c for each in found))
    alike = [each for each in found if each.shape[1] == channels]
    return np.sum(alike, axis=0), len(alike)


def _levels(*pair: ImageArray | None) -> NDArray[np.float64] | None:
    first, second = pair if len(pair) == 2 else (None, None)
    if first is None or second is None or first.shape[2] != second.shape[2]:
        return None
    shares = [level_counts(image) / (image.shape[0] * image.shape[1]) for image in (first, second)]
    return np.stack(shares)
