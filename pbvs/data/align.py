"""Bring an image onto another's grid: by the georeference (rasterio), or as an equal footprint."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pbvs.challenge import Modality
from pbvs.data.formats import MAX_PIXELS
from pbvs.data.geometry import Window, control_points, overlap_window, source_window, turns
from pbvs.data.headers import Header, read_header
from pbvs.data.images import Part, open_strips, read_samples, resize, resize_strips
from pbvs.data.intensity import Image, Rule, bands_of, holds_data, sample_type, to_unit
from pbvs.data.manifest import Pair, check_bytes
from pbvs.errors import PbvsError, damage_ignored
from pbvs.files import inside
from pbvs.recipe import Radiometry
from pbvs.seeds import evenly_spaced

SEEN = 16  # files of each rule whose sample type is looked at
WHOLE = 1 << 20  # pixels up to which an image is read whole although a part of it would do: that is quicker


@dataclass(frozen=True)
class Raster:
    """An image in [0, 1] with what is known of its grid and which pixels hold data."""

    pixels: Image  # (H, W, C)
    valid: NDArray[np.bool_]  # (H, W)
    header: Header  # of the whole image
    window: Window | None = None  # of the image that the pixels are; None is all of it


def read_raster(path: Path, modality: Modality, rule: str, part: Part | None = None, side: int = 0) -> Raster:
    """Read a modality's bands of an image in [0, 1] by `rule`, and which pixels hold data.

    With `part` only the window that it names for the header is read and returned, but for a rule that takes its limits
    from the whole image; with `side` at most so many pixels each way, spread over the image.
    Raises PbvsError when the file is damaged or declares what cannot be read, ReadError when the disk fails.
    """
    whole = Rule.parse(rule).kind == "percentile"
    samples = read_samples(path, lambda header: bands_of(header, modality), side, None if whole else part)
    valid = samples.valid
    if (told := holds_data(samples.values, rule)) is not None:
        valid = valid & told
    pixels, header = to_unit(samples.values, rule, valid), samples.header
    if not (whole and part and (window := part(header))):
        return Raster(pixels, valid, header, samples.window)
    return Raster(pixels[window.slices], valid[window.slices], header, window)


def warp(source: Raster, target: Header, window: Window, shift: tuple[float, float] = (0.0, 0.0)) -> Raster:
    """Reproject an image onto a part of the target's grid, bilinearly and with antialiasing where it shrinks.

    `shift` (down, across) says by how many of the target's pixels the source lies off; it is moved back by that.
    Pixels outside the source or touched by its no-data are not valid; their value is 0.
    """
    from rasterio.enums import Resampling
    from rasterio.warp import reproject

    how = {
        "dst_crs": target.crs,
        "dst_transform": affine(target, window.top + shift[0], window.left + shift[1]),
        "resampling": Resampling.bilinear,
    }
    weight = source.valid.astype(np.float32)
    warped = np.zeros((1 + source.pixels.shape[2], window.height, window.width), np.float32)
    with _whole_grid(source, target) as put:
        for band, result in enumerate(warped):
            layer, grid = put(source.pixels[:, :, band - 1] * weight if band else weight)
            reproject(layer, result, **grid, **how)
    cover, pixels = warped[0], np.moveaxis(warped[1:], 0, 2)
    valid = cover > 0.99
    pixels = np.where(valid[:, :, None], pixels / np.maximum(cover, 1e-6)[:, :, None], 0.0).clip(0.0, 1.0)
    return Raster(pixels.astype(np.float32), valid, target)


@contextlib.contextmanager
def _whole_grid(source: Raster, target: Header) -> Iterator[Callable[[Image], tuple[Any, dict[str, Any]]]]:
    """Yield what makes of a layer of the source what `reproject` takes: the layer, and where it lies.

    Degrees are counted as the target's are, by whole turns. A layer of a window is put into a sparse file of the whole
    image's size, as the filter goes by the grid: by that of the window alone the last digits would be others.
    """
    import rasterio
    from rasterio.crs import CRS
    from rasterio.io import MemoryFile

    header, window = source.header, source.window
    turn = 360.0 * turns(header, target)
    a, b, c, *rest = header.transform
    grid: dict[str, Any] = {"src_transform": affine(header._replace(transform=(a, b, c + turn, *rest)))}
    if header.gcps:
        grid = {"gcps": control_points(header, turn)}
    if window is None:
        yield lambda layer: (layer, {"src_crs": header.crs, **grid})
        return
    profile = {"driver": "GTiff", "dtype": "float32", "count": 1, "width": header.width, "height": header.height}
    profile |= {"tiled": True, "sparse_ok": True, "transform": grid.get("src_transform")}
    profile |= {"gcps": grid["gcps"], "crs": header.crs} if header.gcps else {}
    with MemoryFile() as memory, memory.open(**profile) as file:

        def put(layer: Image) -> tuple[Any, dict[str, Any]]:
            rows, columns = window.slices
            file.write(layer, 1, window=((rows.start, rows.stop), (columns.start, columns.stop)))
            return rasterio.band(file, 1), {"SRC_SRS": CRS.from_user_input(header.crs).to_wkt()}

        yield put


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


Sized = Callable[[int, int], tuple[int, int]]  # (height, width) of an image -> of what is made of it


class Input(NamedTuple):
    """A source as a method takes it, and the size that it has on its grid."""

    pixels: Image  # (H', W', C) float32 in [0, 1]
    height: int
    width: int


def open_pair(pair: Pair, root: Path, radiometry: Radiometry | None = None) -> Opened:
    """Read a pair, aligned on the target's grid and cropped to the overlap.

    Raises PbvsError when a file is gone, damaged, or lies elsewhere than the manifest says.
    """
    radiometry = radiometry or Radiometry()
    source = _source(pair, root, radiometry)
    target = _target(pair, root, radiometry) if pair.target else None
    check_bytes(pair, root)
    if target is None:
        return Opened(source.pixels, None, source.valid)
    return Opened(source.pixels, target.pixels, source.valid & target.valid)


def open_source(pair: Pair, root: Path, radiometry: Radiometry | None = None) -> Image:
    """Read the source alone, (H, W, C) in [0, 1]: on the target's grid when the pair has one, else on its own."""
    return open_input(pair, root, radiometry or Radiometry()).pixels


def open_input(pair: Pair, root: Path, radiometry: Radiometry, sized: Sized = lambda *size: size) -> Input:
    """Read what `open_source` reads, resampled to the size that `sized` makes of its (height, width).

    An image that stands alone is resampled while it is read, so that of a large one little is in memory.
    """
    task = radiometry.challenge.task(pair.task)
    path, modality, rule = _stored(root, radiometry, task.source, pair.source, pair.source_rule)
    if pair.target or pair.more or task.further or Rule.parse(rule).kind == "percentile":
        pixels = _source(pair, root, radiometry).pixels
        height, width = pixels.shape[:2]
        pixels = resize(pixels, *sized(height, width))
    else:
        with open_strips(path, lambda header: bands_of(header, modality)) as (header, strips):
            height, width = header.height, header.width
            units = (to_unit(values, rule) for values in strips)
            pixels = resize_strips(units, (height, width, modality.channels), *sized(height, width))
    check_bytes(pair, root)
    return Input(pixels, height, width)


def open_masked_target(pair: Pair, root: Path, radiometry: Radiometry | None = None) -> tuple[Image, NDArray[np.bool_]]:
    """Read the target alone, (H, W, C) in [0, 1], cropped as `open_pair` does, and which pixels (H, W) hold data.

    What holds data its file and its mask's say. Raises PbvsError when there is no target.
    """
    radiometry = radiometry or Radiometry()
    target = _target(pair, root, radiometry)
    check_bytes(pair, root)
    challenge = radiometry.challenge
    mask = challenge.modalities[challenge.task(pair.task).target].mask
    if mask is None:
        return target.pixels, target.valid
    path = inside(root, pair.target.replace(*mask))
    size = read_header(path)
    if (size.width, size.height) != (target.header.width, target.header.height):
        raise PbvsError(f"The mask of {pair.target} is {size.width} x {size.height} pixels, its target another.")
    clear = read_samples(path, part=lambda _: target.window).values
    return target.pixels, target.valid & (clear[:, :, 0] != 0)


def source_rules(pairs: Sequence[Pair], root: Path, radiometry: Radiometry) -> dict[str, str]:
    """Return by which rule the pairs' sources are read, for each sample type; of several the one that most have."""
    groups: dict[str, list[str]] = defaultdict(list)
    for pair in pairs:
        name = radiometry.challenge.task(pair.task).source
        groups[radiometry.rule(name, pair.source_rule, pair.source)].append(pair.source)
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for rule, files in groups.items():
        for file in evenly_spaced(files, SEEN):
            path = inside(root, file)
            with damage_ignored():  # a model is not lost because an image is
                if path.is_file():
                    votes[sample_type(read_header(path))][rule] += len(files)
    return {kind: counts.most_common(1)[0][0] for kind, counts in sorted(votes.items())}


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


def _stored(root: Path, radiometry: Radiometry, name: str, path: str, rule: str) -> tuple[Path, Modality, str]:
    """Return what `read_raster` needs of an image of the modality `name`, whose manifest says `rule`."""
    return inside(root, path), radiometry.challenge.modalities[name], radiometry.rule(name, rule, path)


def _source(pair: Pair, root: Path, radiometry: Radiometry) -> Raster:
    name = radiometry.challenge.task(pair.task).source
    stored = _stored(root, radiometry, name, pair.source, pair.source_rule)
    target = read_header(inside(root, pair.target)) if pair.target else None
    if target is None or pair.alignment != "georeference":
        source = _stack(read_raster(*stored), pair, root, radiometry)
        return move(resample(source, target.height, target.width), *_shift(pair)) if target else source

    def part(header: Header) -> Window | None:
        return _needed(header, target, _window(pair, header, target), _shift(pair))

    source = _stack(read_raster(*stored, None if pair.further else part), pair, root, radiometry)
    return warp(source, target, _window(pair, source.header, target), _shift(pair))


def _needed(source: Header, target: Header, window: Window, shift: tuple[float, float] = (0.0, 0.0)) -> Window | None:
    """Return the part of a large image that `warp` needs; None for all of it, as where it saves little."""
    size = source.width * source.height
    part = source_window(source, target, window, shift) if size > WHOLE else None
    return part if part and (2 * part.height * part.width < size or size > MAX_PIXELS) else None


def _stack(first: Raster, pair: Pair, root: Path, radiometry: Radiometry) -> Raster:
    """Return the first source with the channels of the further ones behind its own, valid where all are."""
    names, images = radiometry.challenge.task(pair.task).further, pair.more
    if len(names) != len(images):
        raise PbvsError(
            f"The pair {pair.name} of {pair.task} has {1 + len(images)} sources, its task {1 + len(names)}; "
            "run `pbvs build-pairs` again."
        )
    if not images:
        return first
    rasters = [first]
    for name, image in zip(names, images, strict=True):
        stored = _stored(root, radiometry, name, image.path, image.rule)
        rasters.append(_onto(stored, first.header, image.alignment == "georeference"))
    pixels = np.concatenate([raster.pixels for raster in rasters], axis=2)
    return Raster(pixels, np.logical_and.reduce([raster.valid for raster in rasters]), first.header)


def _onto(stored: tuple[Path, Modality, str], grid: Header, warped: bool) -> Raster:
    """Read an image onto the whole grid of another."""
    whole = Window(0, 0, grid.height, grid.width)

    def part(own: Header) -> Window | None:
        return None if _same_grid(own, grid) else _needed(own, grid, whole)

    raster = read_raster(*stored, part if warped else None)
    if not warped or _same_grid(raster.header, grid):
        return resample(raster, grid.height, grid.width)
    return warp(raster, grid, whole)


def _same_grid(own: Header, grid: Header) -> bool:
    """Return whether two images that should be are on one grid; raise PbvsError when one is on none."""
    if not (own.georeferenced and grid.georeferenced):
        raise PbvsError(
            "A further source is said to be georeferenced, but it or its first source is not; "
            "run `pbvs build-pairs` again."
        )
    return (own.crs, own.transform, own.width, own.height) == (grid.crs, grid.transform, grid.width, grid.height)


def _target(pair: Pair, root: Path, radiometry: Radiometry) -> Raster:
    if not pair.target:
        raise PbvsError(f"The pair {pair.name} of {pair.task} has no target; only its input is known.")
    stored = _stored(root, radiometry, radiometry.challenge.task(pair.task).target, pair.target, pair.target_rule)
    if pair.alignment != "georeference":
        return read_raster(*stored)
    source = read_header(inside(root, pair.source))
    return read_raster(*stored, lambda header: _window(pair, source, header))


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
