"""build-pairs on a tree in the archives' proportions, beside a bare walk that reads each file's header once."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from pathlib import Path

from tests.benchmarks.harness import Row, compare, cost, in_turns, row_of
from tests.data.full_size import write_full_size

PART = "build_pairs"


def bare_walk(root: Path) -> int:
    """Walk the tree and read every header once: Pillow for PNG, rasterio for TIFF, as the tool's own libraries."""
    import rasterio
    from PIL import Image

    count = 0
    with warnings.catch_warnings(), rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
        warnings.simplefilter("ignore")
        for folder, _, names in os.walk(root):
            for name in names:
                path = f"{folder}/{name}"
                if name.endswith(".png"):
                    with Image.open(path, formats=["PNG"]) as image:
                        count += bool(image.size and image.mode)
                else:
                    with rasterio.open(path, driver="GTiff") as file:
                        count += bool(file.width and file.crs and file.transform and file.dtypes)
    return count


def run(quick: bool) -> list[Row]:
    from pbvs.data.build import build_pairs

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scale = 0.06 if quick else 0.12
        count = write_full_size(folder / "root", scale)
        fresh = folder / "manifests"

        def first() -> None:
            shutil.rmtree(fresh, ignore_errors=True)
            build_pairs(folder / "root", fresh)

        what = f"{count} files, first run / bare header walk"
        rows = [compare(PART, what, first, lambda: bare_walk(folder / "root"), repeats=2 if quick else 4,
                        bound="<= 1.5")]  # fmt: skip
        rows.append(again(folder / "root", fresh, first, quick))
    return rows


def again(root: Path, manifests: Path, first: object, quick: bool) -> Row:
    """Return the row of a second run with nothing changed: its headers are remembered."""
    from pbvs.data.build import build_pairs

    assert callable(first)
    costs = in_turns(
        lambda: cost(lambda: build_pairs(root, manifests)), lambda: cost(first), 2 if quick else 3, warm=0
    )  # fmt: skip
    costs = (costs[0][1:], costs[1][:-1])  # the second run after each first one
    return row_of(PART, "nothing changed: first run / second", costs[0], costs[1], bound=">= 5")
