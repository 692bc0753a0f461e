"""A small data root made on the spot: scenes, files as people have them, and what the commands make of them."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from pbvs.challenge import load_challenge
from pbvs.data.align import Opened, open_pair
from pbvs.data.build import Summary, build_pairs
from pbvs.data.manifest import Pair, manifest_path, read_manifest
from pbvs.data.pairing import Rules
from pbvs.recipe import Radiometry

Array = NDArray[Any]
MODALITIES = load_challenge().modalities
UTM = "EPSG:32614"
ARCHIVE = "Train_Data_X_SAR_IR_RGB"


def grid(x: float = 500000, y: float = 5200000, pixel: float = 1.0) -> Any:
    """Return the transform of a north-up grid."""
    return rasterio.Affine(pixel, 0, x, 0, -pixel, y)


def scene(height: int = 64, width: int = 64, seed: int = 0, bands: int = 1) -> Array:
    """Return smooth noise (H, W, C) whose least value is 0 and whose largest is 1 in every band."""
    random = np.random.default_rng(seed)
    image = np.stack([gaussian_filter(random.standard_normal((height, width)), 3) for _ in range(bands)], 2)
    low, high = image.min((0, 1)), image.max((0, 1))
    return np.asarray((image - low) / (high - low))


def u8(image: Array) -> Array:
    """Return [0, 1] as 0..255."""
    return np.rint(image * 255).astype(np.uint8)


def tif(
    path: Path,
    image: Array,
    crs: Any = None,
    transform: Any = None,
    dtype: str = "",
    after: Callable[[Any], None] | None = None,
    **options: Any,
) -> Path:
    """Write (H, W) or (H, W, C) as a TIFF with GDAL's options."""
    image = image[:, :, None] if image.ndim == 2 else image
    path.parent.mkdir(parents=True, exist_ok=True)
    profile: dict[str, Any] = {"driver": "GTiff", "dtype": dtype or image.dtype.name, **options}
    profile |= {"height": image.shape[0], "width": image.shape[1], "count": image.shape[2]}
    if crs:
        profile["crs"] = crs
    if transform is not None:
        profile["transform"] = transform
    with rasterio.open(path, "w", **profile) as file:
        file.write(np.moveaxis(image, 2, 0))
        if after:
            after(file)
    return path


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Return a PNG's chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(path: Path, image: Array, depth: int = 8, *between: bytes) -> Path:
    """Write (H, W, 1 to 4) as a PNG of 8 or 16 bits; `between` are chunks before the pixels."""
    height, width, bands = image.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[bands]
    rows = b"".join(b"\0" + image[row].astype(">u2" if depth == 16 else "u1").tobytes() for row in range(height))
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + b"".join(between)
        + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    )  # fmt: skip
    return path


class World:
    """A data root and the manifests made from it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.root.mkdir()
        self.manifests = folder / "manifests"

    def location(self, name: str = "loc1", archive: str = ARCHIVE) -> Path:
        """Return the folder of a location."""
        folder = self.root / archive / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def inputs(self, task: str = "rgb2ir") -> Path:
        """Return the folder of the test inputs of a task."""
        folder = self.root / "test" / task
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def build(self, radiometry: Radiometry | None = None, **choices: Any) -> Summary:
        """Run build-pairs without a validation split."""
        return build_pairs(
            self.root, self.manifests, share=0, rules=Rules(**choices), radiometry=radiometry or Radiometry()
        )

    def pairs(self, task: str, split: str = "train") -> list[Pair]:
        """Return a manifest's rows."""
        return list(read_manifest(manifest_path(self.manifests, task, split)))

    def open(self, task: str, split: str = "train", number: int = 0) -> tuple[Pair, Opened]:
        """Return a row and its images, as training and prediction see them."""
        pair = self.pairs(task, split)[number]
        return pair, open_pair(pair, self.root)

    def unused(self) -> str:
        """Return unused.csv."""
        return (self.manifests / "unused.csv").read_text(encoding="utf-8")


def peak_and_seconds(code: str) -> tuple[int, float]:
    """Return the most memory (bytes) above an idle one's and the processor's seconds of a program of its own.

    Memory is that of the program alone: what getrusage says begins with its parent's.
    """
    before = "import resource, sys\nfrom pathlib import Path\nimport rasterio.warp\nfrom pbvs.data.images import *\n"
    before += "from pbvs.data.align import read_raster\nfrom pbvs.challenge import load_challenge\n"
    before += "from pbvs.errors import PbvsError\nload_challenge()\n"
    before += "def peak():\n    lines = Path('/proc/self/status').read_text().splitlines()\n"
    before += "    return next(int(line.split()[1]) for line in lines if line.startswith('VmHWM'))\n"
    measure = "peak(), resource.getrusage(resource.RUSAGE_SELF)"
    script = f"{before}least, start = {measure}\n{code}\nmost, end = {measure}\n"
    script += "print((most - least) * 1024, end.ru_utime + end.ru_stime - start.ru_utime)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    size, seconds = done.stdout.split()[-2:]
    return int(size), float(seconds)


def likeness(first: Array, second: Array) -> float:
    """Return the correlation of two images."""
    return float(np.corrcoef(np.asarray(first, float).ravel(), np.asarray(second, float).ravel())[0, 1])
