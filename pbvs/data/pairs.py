"""A pair as two pictures on one grid, in [0, 1], with the pixels that both of them know."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pbvs.data.align import Raster, move, read_raster, resample, warp
from pbvs.data.geometry import Window, overlap_window
from pbvs.data.headers import Header, read_header
from pbvs.data.manifest import Pair
from pbvs.data.radiometry import Picture
from pbvs.data.settings import Radiometry
from pbvs.errors import PbvsError
from pbvs.files import inside
from pbvs.tasks import get_task


class Opened(NamedTuple):
    """A pair's pictures on the target's grid; without a target, the source on its own."""

    source: Picture  # (H, W, C) float32 in [0, 1]
    target: Picture | None  # (H, W, C) float32 in [0, 1]
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


def open_source(pair: Pair, root: Path, radiometry: Radiometry | None = None) -> Picture:
    """Read the source alone, (H, W, C) in [0, 1]: on the target's grid when the pair has one, else on its own."""
    return _source(pair, root, radiometry or Radiometry()).pixels


def open_target(pair: Pair, root: Path, radiometry: Radiometry | None = None) -> Picture:
    """Read the target alone, (H, W, C) in [0, 1], cropped as `open_pair` does; raise PbvsError when there is none."""
    if not pair.target:
        raise PbvsError(f"The pair {pair.name} of {pair.task} has no target; only its input is known.")
    return _target(pair, root, radiometry or Radiometry()).pixels


def check_files(pairs: list[Pair], root: Path) -> None:
    """Raise PbvsError naming the first file that the manifest names and that is gone."""
    for pair in pairs:
        for relative in (pair.source, pair.target):
            if relative and not inside(root, relative).is_file():
                raise PbvsError(
                    f"{relative}, named by the {pair.task} {pair.split} manifest, is not in {root}; "
                    "run `pbvs build-pairs` again or give the right --data."
                )


def _source(pair: Pair, root: Path, radiometry: Radiometry) -> Raster:
    modality = get_task(pair.task).source
    source = read_raster(inside(root, pair.source), modality, radiometry.rule(modality, pair.source_rule))
    if not pair.target:
        return source
    target = read_header(inside(root, pair.target))
    if pair.alignment == "georeference":
        return warp(source, target, _window(pair, source.header, target), _shift(pair))
    return move(resample(source, target.height, target.width), *_shift(pair))


def _target(pair: Pair, root: Path, radiometry: Radiometry) -> Raster:
    modality = get_task(pair.task).target
    target = read_raster(inside(root, pair.target), modality, radiometry.rule(modality, pair.target_rule))
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
