"""`pbvs demo-data`: a small synthetic data set in the archives' layout, made from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pbvs.data.images import resize, to_uint8, write_png, write_tiff
from pbvs.data.scene import Scene, make_scene
from pbvs.errors import UsageError
from pbvs.files import UNFINISHED, is_unfinished, unfinished, write_text
from pbvs.progress import track
from pbvs.seeds import generator

README = """\
SYNTHETIC DATA. None of these places exists.

Written by `pbvs demo-data` (seed {seed}) to try the tool out: fields, forest, water, roads and buildings are drawn by
a random generator and rendered as RGB, near infrared and SAR. Scores reached on these pictures say nothing about the
challenge. The folders are those of the MAVIC-T archives, in both spellings that are in use.
"""

CHIP = 128  # pixels a side of a SAR/EO chip
SIDE = 160  # pixels a side of a location's RGB and IR
MARGIN = 24  # metres that SAR covers beyond them
UTM, NAD = "EPSG:32612", "EPSG:26912"  # SAR and optical come in different systems, as in the archives
EAST, NORTH = 424_000.0, 4_270_000.0

Grid = tuple[str, tuple[float, ...]]  # CRS and transform
Step = tuple[str, NDArray[np.generic], Grid | None]  # path, pixels, and where they lie


@dataclass(frozen=True)
class Amounts:
    """How much of everything there is."""

    scenes: int = 40
    validation_scenes: int = 4
    test_scenes: int = 3
    locations: int = 8  # of each of the two towns
    inputs: int = 5  # of each task in val; in test one more


def write_demo(folder: Path, seed: int = 2024, amounts: Amounts | None = None) -> int:
    """Write the data set into `folder`, which must be new or empty; return the number of pictures.

    About 10 MB. The same seed gives the same pictures. Raises UsageError when `folder` holds something already.
    """
    folder = Path(folder)
    if folder.exists() and not is_unfinished(folder) and (not folder.is_dir() or _holds_something(folder)):
        raise UsageError(f"{folder} exists and is not empty; give a new folder for the synthetic data.")
    count = 0
    with unfinished(folder):
        for path, pixels, grid in track(_pictures(seed, amounts or Amounts()), "drawing", unit="picture"):
            if path.endswith(".png"):
                write_png(folder / path, to_uint8(pixels.astype(np.float32)))
            else:
                stored = pixels if pixels.dtype == np.uint16 else to_uint8(pixels.astype(np.float32))
                write_tiff(folder / path, stored, *(grid or ()))
            count += 1
        write_text(folder / "README.txt", README.format(seed=seed))
    return count


def _holds_something(folder: Path) -> bool:
    return any(not path.name.startswith(UNFINISHED, 1) and path.name != UNFINISHED for path in folder.iterdir())


def _pictures(seed: int, amounts: Amounts) -> Iterator[Step]:
    yield from _chips(seed, amounts)
    for town in range(2):
        for number in range(amounts.locations):
            yield from _location(seed, town, number)
    yield from _inputs(seed, amounts)


def _chips(seed: int, amounts: Amounts) -> Iterator[Step]:
    """SAR and EO chips of equal names; four of one scene have consecutive ids; of test scenes the SAR only."""
    trained = amounts.scenes + amounts.validation_scenes
    for number in range(trained + amounts.test_scenes):
        rng = generator(seed, "demo chips", number)
        scene = make_scene(2 * CHIP, rng)
        for crop in range(4):
            part = scene.cut(CHIP * (crop // 2), CHIP * (crop % 2), CHIP, CHIP)
            name = f"{4 * number + crop}.png"
            if number >= trained:
                yield f"test/sar2eo/{name}", _shifted_radar(part, rng), None
                continue
            split = "train" if number < amounts.scenes else "validation"
            yield f"Train_Data_and_Validation_EO_SAR/SAR/{split}/{name}", _shifted_radar(part, rng), None
            grey = part.optical(rng)[:, :, :3].mean(axis=2, keepdims=True) * 0.6
            yield f"Train_Data_and_Validation_EO_SAR/EO/{split}/{name}", grey, None


def _location(seed: int, town: int, number: int) -> Iterator[Step]:
    """Town 0 is georeferenced, its SAR in another system and over more ground; town 1 is not, and has mosaics."""
    rng = generator(seed, "demo location", town, number)
    scene = make_scene(SIDE + 2 * MARGIN, rng)
    inner = scene.cut(MARGIN, MARGIN, SIDE, SIDE)
    east, north = EAST + 400.0 * (number % 4), NORTH - 400.0 * (number // 4)
    if town == 0:
        folder = f"Train_Data_Demo_City_SAR_IR_RGB/{_coordinate(east, north)}"
    else:
        folder = f"demo_town_merged_chips_stacks/stack_{number:02d}"
    yield from _optical(folder, inner, rng, town, number, (NAD, (1.0, 0.0, east, 0.0, -1.0, north)))
    for date in ("20230412", "20230718")[: 2 if number % 2 else 1]:
        if town == 0:
            side = round((SIDE + 2 * MARGIN) * 0.8)
            sar = resize(_shifted_radar(scene, rng), side, side)
            grid = (UTM, (1.25, 0.0, east - MARGIN, 0.0, -1.25, north + MARGIN))
            yield f"{folder}/{date}_SYNTH_GEC.tiff", sar, grid
        else:
            yield f"{folder}/{date}_SYNTH_GEC.tif", _shifted_radar(inner, rng), None


def _optical(
    folder: str, scene: Scene, rng: np.random.Generator, town: int, number: int, grid: tuple[str, tuple[float, ...]]
) -> Iterator[Step]:
    views = []
    for date, season in (("20230501", 0.85), ("20230721", 1.1)):
        bands = scene.optical(rng, season, light=float(rng.uniform(0.9, 1.1)))
        views.append(bands)
        where = grid if town == 0 else None
        deep = town == 1 and number % 4 == 0  # some of the archives' pictures have 16 bits
        rgb = np.rint(bands[:, :, :3] * 65535).astype(np.uint16) if deep else bands[:, :, :3]
        yield f"{folder}/{date}_SYNTH_rgb.tiff", rgb, where
        yield f"{folder}/{date}_SYNTH_ir.tiff", bands[:, :, 3:], where
    if town == 1 and number % 2:
        mosaic = np.mean(views, axis=0)
        yield f"{folder}/mosiac_rgb.tiff", mosaic[:, :, :3], None
        yield f"{folder}/mosiac_ir.tiff", mosaic[:, :, 3:], None


def _inputs(seed: int, amounts: Amounts) -> Iterator[Step]:
    """Inputs of val and test, whose targets nobody is given."""
    for split, count in (("val", amounts.inputs), ("test", amounts.inputs + 1)):
        for number in range(count):
            rng = generator(seed, "demo input", split, number)
            scene = make_scene(SIDE, rng)
            yield f"{split}/rgb2ir/{number}.tiff", scene.optical(rng)[:, :, :3], None
            sar = _shifted_radar(scene, rng)
            yield f"{split}/sar2rgb/{number}.tiff", sar, None
            yield f"{split}/sar2ir/{number}.tiff", sar, None


def _shifted_radar(scene: Scene, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the scene's SAR, up to a pixel off: a small misregistration as real pairs have it."""
    down, across = rng.integers(-1, 2, 2)
    shifted: NDArray[np.float32] = np.roll(scene.radar(rng), (int(down), int(across)), axis=(0, 1))
    return shifted


def _coordinate(east: float, north: float) -> str:
    """Return a folder's name as the archives have it: latitude and longitude of the top left corner."""
    from rasterio.crs import CRS
    from rasterio.warp import transform

    longitude, latitude = transform(CRS.from_user_input(NAD), CRS.from_epsg(4326), [east], [north])
    return f"{latitude[0]:.6f}_{longitude[0]:.6f}"
