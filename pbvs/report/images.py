"""Images for a page: thumbnails as data URIs, error maps, and what goes into one strip."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pbvs.data.images import read_image, resize, to_uint8
from pbvs.data.manifest import Pair
from pbvs.errors import PbvsError
from pbvs.recipe import Recipe
from pbvs.run import Run

SIDE = 288  # pixels of a thumbnail's longer side
QUALITY = 86
ERROR_END = 0.5  # an error of this size, or a larger one, gets the last colour
# Anchors of the error map's colours from none to large: dark to bright, so that it also reads in grey and in print.
ERROR_COLOURS = np.array(
    [[12, 10, 30], [70, 20, 110], [160, 45, 110], [235, 105, 60], [252, 190, 70], [253, 250, 210]], np.float64
)
ImageArray = NDArray[np.float32]


@dataclass(frozen=True)
class Opened:
    """The images of one pair as far as they could be had; `problem` says what could not and why."""

    source: ImageArray | None = None
    prediction: ImageArray | None = None
    target: ImageArray | None = None
    problem: str = ""


@dataclass(frozen=True)
class Tile:
    """A thumbnail, or the words that stand in its place."""

    caption: str
    uri: str = ""
    width: int = SIDE
    height: int = SIDE
    absent: str = ""


def open_images(run: Run, recipe: Recipe, pair: Pair, root: Path | None) -> Opened:
    """Open a pair's input, target (where known) and prediction (where made); never raises for an image."""
    problems: list[str] = []
    source = target = prediction = None
    if root is not None:
        try:
            source, target = _open_data(pair, root, recipe)
        except PbvsError as error:
            problems.append(str(error))
    path = run.prediction(pair.split, pair.task, pair.name)
    if path.is_file():
        try:
            prediction = read_prediction(path)
        except PbvsError as error:
            problems.append(str(error))
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


def error_of_opened(opened: Opened) -> ImageArray | None:
    """Return the coloured error where both images are there."""
    if opened.prediction is None or opened.target is None:
        return None
    return error_map(error_of(opened.prediction, opened.target))


def error_map(error: NDArray[np.float32]) -> ImageArray:
    """Colour an error (H, W): the scale is the same in every image of every report, 0 to `ERROR_END`."""
    place = np.clip(error / ERROR_END, 0.0, 1.0) * (len(ERROR_COLOURS) - 1)
    anchors = np.arange(len(ERROR_COLOURS))
    bands = [np.interp(place, anchors, ERROR_COLOURS[:, band]) for band in range(3)]
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
    for place, image in enumerate(found):
        if image is not None:
            small = shrink(image, side)
            top, left = (side - small.shape[0]) // 2, side * place + (side - small.shape[1]) // 2
            sheet[top : top + small.shape[0], left : left + small.shape[1]] = small
    return sheet


def strip(opened: Opened, has_target: bool) -> list[Tile]:
    """Return input and prediction, and where there is a target also it and the error map."""
    tiles = [tile("Input", opened.source, "no data folder given"), tile("Prediction", opened.prediction)]
    if not has_target:
        return tiles
    tiles.append(tile("Target", opened.target, "no data folder given"))
    return [*tiles, tile("Error", error_of_opened(opened))]


def level_counts(image: ImageArray, bins: int = 64) -> NDArray[np.int64]:
    """Count, for each channel, the pixels in each of `bins` equal bins of [0, 1]; returns (C, bins)."""
    clipped = np.clip(np.nan_to_num(image), 0.0, 1.0)
    rows = [np.histogram(clipped[:, :, i], bins=bins, range=(0.0, 1.0))[0] for i in range(image.shape[2])]
    counts: NDArray[np.int64] = np.stack(rows).astype(np.int64)
    return counts
