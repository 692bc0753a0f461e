"""A tree of the size of the official archives, of tiny images: 90,000 PNG and 16,000 GeoTIFF, for measuring.

Counts from the challenge's description: 3,586 SAR2EO test chips, 60 inputs for each other task in val and test, and
the stacks of four cities.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from pbvs.data.images import write_png, write_tiff

CHIP_PAIRS, CHIP_TESTS = 43_207, 3_586
CITIES = {  # locations, RGB, IR, SAR
    "Bingham": (119, 119, 119, 1821),
    "Centerfield": (843, 843, 844, 6126),
    "Manhattan": (382, 382, 660, 904),
    "UC_Davis": (929, 929, 941, 1977),
}
EAST, NORTH = 424_000.0, 4_270_000.0


def write_full_size(root: Path, scale: float = 1.0) -> int:
    """Write the tree, or about `scale` of it; return the number of images."""
    count = _chips(root, round(CHIP_PAIRS * scale), round(CHIP_TESTS * scale))
    for number, (city, amounts) in enumerate(CITIES.items()):
        count += _city(root, city, number, [max(1, round(amount * scale)) for amount in amounts])
    return count + _inputs(root, max(1, round(60 * scale)))


def _chips(root: Path, pairs: int, tests: int) -> int:
    write_png(root / "chip.png", np.arange(64, dtype=np.uint8).reshape(8, 8, 1))
    data = (root / "chip.png").read_bytes()
    (root / "chip.png").unlink()
    folders = {root / "design_data" / modality / "train": pairs for modality in ("SAR", "EO")}
    for folder, amount in {**folders, root / "test/sar2eo": tests}.items():
        folder.mkdir(parents=True)
        for number in range(amount):
            (folder / f"{number}.png").write_bytes(data)
    return 2 * pairs + tests


def _city(root: Path, city: str, number: int, amounts: list[int]) -> int:
    locations, *images = amounts
    count = 0
    for kind, crs, bands, amount in zip(
        ("rgb", "ir", "GEC"), ("EPSG:26912", "EPSG:26912", "EPSG:32612"), (3, 1, 1), images, strict=True
    ):
        template = _template(root, bands, crs)
        for item in range(amount):
            place = item % locations
            east, north = EAST + 200 * (place % 40), NORTH + 50_000 * number + 200 * (place // 40)
            folder = root / f"Train_Data_{city}_SAR_IR_RGB" / f"{north:.0f}_{east:.0f}"
            folder.mkdir(parents=True, exist_ok=True)
            date = f"2023{1 + item // locations % 12:02d}{1 + item // locations % 28:02d}"
            (folder / f"{date}_{item // locations}_{kind}.tiff").write_bytes(_moved(template, east, north))
            count += 1
    return count


def _inputs(root: Path, amount: int) -> int:
    for split in ("val", "test"):
        for task, bands in (("rgb2ir", 3), ("sar2ir", 1), ("sar2rgb", 1)):
            data = _template(root, bands, "EPSG:26912")
            folder = root / split / task
            folder.mkdir(parents=True)
            for number in range(amount):
                (folder / f"{number}.tiff").write_bytes(data)
    return 6 * amount


def _template(root: Path, bands: int, crs: str) -> bytes:
    path = root / "template.tiff"
    pixels = np.arange(64 * bands, dtype=np.uint8).reshape(8, 8, bands)
    write_tiff(path, pixels, crs, (25.0, 0.0, EAST, 0.0, -25.0, NORTH))
    data = path.read_bytes()
    path.unlink()
    return data


def _moved(template: bytes, east: float, north: float) -> bytes:
    """Return the file with another tie point; its six numbers are 0 0 0, east, north, 0."""
    before, after = struct.pack("<2d", EAST, NORTH), struct.pack("<2d", east, north)
    assert template.count(before) == 1
    return template.replace(before, after)
