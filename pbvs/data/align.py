"""Bring an image onto another's grid: by the georeference (rasterio), or as an equal footprint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pbvs.challenge import Modality
from pbvs.data.geometry import Window, overlap_window, turns
from pbvs.data.headers import Header, read_header
from pbvs.data.images import read_image, read_samples, resize
from pbvs.data.intensity import Image, bands_of, holds_data, to_unit
from pbvs.data.manifest import Pair
from pbvs.errors import PbvsError
from pbvs.files import inside
from pbvs.recipe import Radiometry


@dataclass(frozen=True)
class Raster:
    """An image in [0, 1] with what is known of its grid and which pixels hold data."""

    pixels: Image  # (H, W, C)
    valid: NDArray[np.bool_]  # (H, W)
    header: Header

    def cut(self, window: Window) -> Raster:
        """Return a part of the image."""
        rows = slice(window.top, window.top + window.height)
        columns = slice(window.left, window.left + window.width)
        return Raster(self.pixels[rows, columns], self.valid[rows, columns], self.header)


def read_raster(path: Path, modality: Modality, rule: str) -> Raster:
    """Read a modality's bands of an image in [0, 1] by `rule`, and which pixels hold data.

    Raises PbvsError when the file is damaged or declares what cannot be read, ReadError when the disk fails.
    """
    samples = read_samples(path, lambda header: bands_of(header, modality))
    valid = samples.valid
    if (told := holds_data(samples.values, rule)) is not None:
        valid = valid & told
    return Raster(to_unit(samples.values, rule, valid), valid, samples.header)


def warp(source: Raster, target: Header, window: Window, shift: tuple[float, float] = (0.0, 0.0)) -> Raster:
    """Reproject an image onto a part of the target's grid, bilinearly and with antialiasing where it shrinks.

    `shift` (down, across) says by how many of the target's pixels the source lies off; it is moved back by that.
    Pixels outside the source or touched by its no-data are not valid; their value is 0.
    """
    from rasterio.enums import Resampling
    from rasterio.warp import reproject

    shape = (window.height, window.width)
    how = {
        **_grid_of(source.header, target),
        "dst_crs": target.crs,
        "dst_transform": affine(target, window.top + shift[0], window.left + shift[1]),
        "resampling": Resampling.bilinear,
    }
    weight = source.valid.astype(np.float32)
    cover = np.zeros(shape, np.float32)
    reproject(weight, cover, **how)
    pixels = np.zeros((*shape, source.pixels.shape[2]), np.float32)
    for band in range(pixels.shape[2]):
        reproject(source.pixels[:, :, band] * weight, pixels[:, :, band], **how)
    valid = cover > 0.99
    pixels = np.where(valid[:, :, None], pixels / np.maximum(cover, 1e-6)[:, :, None], 0.0).clip(0.0, 1.0)
    return Raster(pixels.astype(np.float32), valid, target)


def _grid_of(source: Header, target: Header) -> dict[str, Any]:
    """Return where the source lies in rasterio's words; degrees are counted as the target's are, by whole turns."""
    from rasterio.control import GroundControlPoint

    turn = 360.0 * turns(source, target)
    if not source.gcps:
        transform = source.transform
        moved = source._replace(transform=(*transform[:2], transform[2] + turn, *transform[3:]))
        return {"src_crs": source.crs, "src_transform": affine(moved)}
    points = [source.gcps[index : index + 4] for index in range(0, len(source.gcps), 4)]
    return {"src_crs": source.crs, "gcps": [GroundControlPoint(row, col, x + turn, y) for col, row, x, y in points]}


def resample(source: Raster, height: int, width: int) -> Raster:
    """Resample an image that has the same footprint to a new size with antialiasing."""
    if source.pixels.shape[:2] == (height, width):
        return source
    valid = resize(source.valid[:, :, None].astype(np.float32), height, width)[:, :, 0] > 0.99
    return Raster(resize(source.pixels, height, width), valid, source.header)


def move(source: Raster, down: float, across: float) -> Raster:
    """Return an image moved back by a shift in pixels; what comes in from outside is not valid."""
    if not down and not across:
        return source
    from scipy.ndimage import shift

    pixels = shift(source.pixels, (-down, -across, 0), order=1, mode="constant")
    cover = shift(source.valid.astype(np.float32), (-down, -across), order=1, mode="constant")
    valid = cover > 0.99
    return Raster(np.where(valid[:, :, None], pixels, np.float32(0)), valid, source.header)


def affine(header: Header, down: float = 0.0, across: float = 0.0) -> Any:
    """Return rasterio's transform of an image's grid, moved by so many of its pixels."""
    from rasterio.transform import Affine

    a, b, c, d, e, f = header.transform
    return Affine(a, b, c + a * across + b * down, d, e, f + d * across + e * down)


# --- A pair as two images on one grid, in [0, 1], with the pixels that both of them know.


class Opened(NamedTuple):
    """A pair's images on the target's grid; without a target, the source on its own."""

    source: Image  # (H, W, C) float32 in [0, 1], the channels of all sources in the task's order
    target: Image | None  # (H, W, C) float32 in [0, 1]
    valid: NDArray[np.bool_]  # (H, W): pixels with data in both


def open_pair(pair: Pair, root: Path, radiometry: Radiometry | None = None) -> Opened:
    """Read a pair, aligned on the target's grid and cropped to the overlap.

    Raises PbvsError when a file is gone, damaged, or lies elsewhere than the manifest says.
    """
    radiometry = radiometry or Radiometry()
    source = _source(pair, root, radiometry)
    if not pair.target:
        return Opened(source.pixels, None, source.valid)
    target = _target(pair, root, radiometry)
    return Opened(source.pixels, target.pixels, source.valid & target.valid)


def open_source(pair: Pair, root: Path, radiometry: Radiometry | None = None) -> Image:
    """Read the source alone, (H, W, C) in [0, 1]: on the target's grid when the pair has one, else on its own."""
    return _source(pair, root, radiometry or Radiometry()).pixels


def open_target(pair: Pair, root: Path, radiometry: Radiometry | None = None) -> Image:
    """Read the target alone, (H, W, C) in [0, 1], cropped as `open_pair` does; raise PbvsError when there is none."""
    if not pair.target:
        raise PbvsError(f"The pair {pair.name} of {pair.task} has no target; only its input is known.")
    return _target(pair, root, radiometry or Radiometry()).pixels


def open_masked_target(pair: Pair, root: Path, radiometry: Radiometry | None = None) -> tuple[Image, NDArray[np.bool_]]:
    """Read what `open_target` does, and which of its pixels (H, W) hold data, as its file and its mask's say."""
    if not pair.target:
        raise PbvsError(f"The pair {pair.name} of {pair.task} has no target; only its input is known.")
    radiometry = radiometry or Radiometry()
    target = _target(pair, root, radiometry)
    challenge = radiometry.challenge
    mask = challenge.modalities[challenge.task(pair.task).target].mask
    if mask is None:
        return target.pixels, target.valid
    clear = read_image(inside(root, pair.target.replace(*mask)))[:, :, 0] != 0
    if clear.shape != target.valid.shape:
        raise PbvsError(f"The mask of {pair.target} is {clear.shape[1]} x {clear.shape[0]} pixels, its target another.")
    return target.pixels, target.valid & clear


def pair_size(pair: Pair, root: Path) -> tuple[int, int]:
    """Return the width and height that `open_source` brings the source to; raises as `open_source` does."""
    source = read_header(inside(root, pair.source))
    if not pair.target:
        return source.width, source.height
    target = read_header(inside(root, pair.target))
    if pair.alignment != "georeference":
        return target.width, target.height
    window = _window(pair, source, target)
    return window.width, window.height


def _source(pair: Pair, root: Path, radiometry: Radiometry) -> Raster:
    name = radiometry.challenge.task(pair.task).source
    modality, rule = radiometry.challenge.modalities[name], radiometry.rule(name, pair.source_rule, pair.source)
    source = _stack(read_raster(inside(root, pair.source), modality, rule), pair, root, radiometry)
    if not pair.target:
        return source
    target = read_header(inside(root, pair.target))
    if pair.alignment == "georeference":
        return warp(source, target, _window(pair, source.header, target), _shift(pair))
    return move(resample(source, target.height, target.width), *_shift(pair))


def _stack(first: Raster, pair: Pair, root: Path, radiometry: Radiometry) -> Raster:
    """Return the first source with the channels of the further ones behind its own, valid where all are."""
    names, images = radiometry.challenge.task(pair.task).further, pair.more
    if len(names) != len(images):
        raise PbvsError(
            f"The pair {pair.name} of {pair.task} has {1 + len(images)} sources, its task {1 + len(names)}; "
            "run `pbvs build-pairs` again."
        )
    rasters = [first]
    for name, image in zip(names, images, strict=True):
        rule = radiometry.rule(name, image.rule, image.path)
        raster = read_raster(inside(root, image.path), radiometry.challenge.modalities[name], rule)
        rasters.append(_onto(raster, first, image.alignment))
    if len(rasters) == 1:
        return first
    pixels = np.concatenate([raster.pixels for raster in rasters], axis=2)
    return Raster(pixels, np.logical_and.reduce([raster.valid for raster in rasters]), first.header)


def _onto(raster: Raster, first: Raster, alignment: str) -> Raster:
    """Return an image on the whole grid of another."""
    (height, width), own, grid = first.valid.shape, raster.header, first.header
    same = (own.crs, own.transform, own.width, own.height) == (grid.crs, grid.transform, grid.width, grid.height)
    if alignment != "georeference" or same:
        return resample(raster, height, width)
    if not (own.georeferenced and grid.georeferenced):
        raise PbvsError(
            "A further source is said to be georeferenced, but it or its first source is not; "
            "run `pbvs build-pairs` again."
        )
    return warp(raster, grid, Window(0, 0, height, width))


def _target(pair: Pair, root: Path, radiometry: Radiometry) -> Raster:
    name = radiometry.challenge.task(pair.task).target
    modality, rule = radiometry.challenge.modalities[name], radiometry.rule(name, pair.target_rule, pair.target)
    target = read_raster(inside(root, pair.target), modality, rule)
    if pair.alignment != "georeference":
        return target
    return target.cut(_window(pair, read_header(inside(root, pair.source)), target.header))


def _shift(pair: Pair) -> tuple[float, float]:
    if not pair.shift:
        return 0.0, 0.0
    try:
        down, across = map(float, pair.shift.split())
    except ValueError:
        raise PbvsError(
            f"The pair {pair.name} of {pair.task} has the shift {pair.shift!r}, which is no 'down across'; "
            "run `pbvs build-pairs` again."
        ) from None
    return down, across


def _window(pair: Pair, source: Header, target: Header) -> Window:
    if not (source.georeferenced and target.georeferenced):
        raise PbvsError(
            f"The pair {pair.name} of {pair.task} is said to be georeferenced, but {pair.source} or {pair.target} "
            "is not; run `pbvs build-pairs` again."
        )
    return overlap_window(source, target)
