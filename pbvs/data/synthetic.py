"""`pbvs demo-data`: a small synthetic data set in the archives' layout, made from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pbvs.challenge import load_challenge
from pbvs.data.images import resampled, resize, to_uint8, write_png, write_tiff
from pbvs.errors import UsageError
from pbvs.files import UNFINISHED, is_unfinished, unfinished, write_text
from pbvs.logs import track
from pbvs.seeds import generator

README = """\
SYNTHETIC DATA. None of these places exists.

Written by `pbvs demo-data` (seed {seed}) to try the tool out: fields, forest, water, roads and buildings are drawn by
a random generator and rendered as RGB, near infrared and SAR. Scores reached on these images say nothing about the
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
    """Write the data set into `folder`, which must be new or empty; return the number of images.

    About 10 MB. The same seed gives the same images. Raises UsageError when `folder` holds something already.
    """
    folder = Path(folder)
    names = [path.name for path in folder.iterdir()] if folder.is_dir() and not is_unfinished(folder) else []
    if folder.is_file() or any(not name.startswith(UNFINISHED, 1) and name != UNFINISHED for name in names):
        raise UsageError(f"{folder} exists and is not empty; give a new folder for the synthetic data.")
    count = 0
    with unfinished(folder):
        for path, pixels, grid in track(_images(seed, amounts or Amounts()), "drawing", unit="image"):
            if path.endswith(".png"):
                write_png(folder / path, to_uint8(pixels.astype(np.float32)))
            else:
                stored = pixels if pixels.dtype == np.uint16 else to_uint8(pixels.astype(np.float32))
                write_tiff(folder / path, stored, *(grid or ()))
            count += 1
        write_text(folder / "README.txt", README.format(seed=seed))
    return count


def _images(seed: int, amounts: Amounts) -> Iterator[Step]:
    yield from _chips(seed, amounts)
    for town in range(2):
        for number in range(amounts.locations):
            yield from _location(seed, town, number)
    yield from _inputs(seed, amounts)


def _chips(seed: int, amounts: Amounts) -> Iterator[Step]:
    """SAR and EO chips of equal names; four of one scene have consecutive ids; of test scenes the SAR only."""
    trained = amounts.scenes + amounts.validation_scenes
    (chips,) = (name for name, task in load_challenge().tasks.items() if task.pairing == "name")
    for number in range(trained + amounts.test_scenes):
        rng = generator(seed, "demo chips", number)
        scene = make_scene(2 * CHIP, rng)
        for crop in range(4):
            part = scene.cut(CHIP * (crop // 2), CHIP * (crop % 2), CHIP, CHIP)
            name = f"{4 * number + crop}.png"
            if number >= trained:
                yield f"test/{chips}/{name}", _shifted_radar(part, rng), None
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
    side = round((SIDE + 2 * MARGIN) * 0.8)
    for date in ("20230412", "20230718")[: 2 if number % 2 else 1]:
        if town == 0:
            grid = (UTM, (1.25, 0.0, east - MARGIN, 0.0, -1.25, north + MARGIN))
            yield f"{folder}/{date}_SYNTH_GEC.tiff", resize(_shifted_radar(scene, rng), side, side), grid
        else:
            yield f"{folder}/{date}_SYNTH_GEC.tif", _shifted_radar(inner, rng), None


def _optical(folder: str, scene: Scene, rng: np.random.Generator, town: int, number: int, grid: Grid) -> Iterator[Step]:
    views = []
    where = grid if town == 0 else None
    for date, season in (("20230501", 0.85), ("20230721", 1.1)):
        bands = scene.optical(rng, season, light=float(rng.uniform(0.9, 1.1)))
        views.append(bands)
        deep = town == 1 and number % 4 == 0  # some of the archives' images have 16 bits
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
            colour = scene.optical(rng)[:, :, :3]
            radar = _shifted_radar(scene, rng)
            for name, task in load_challenge().tasks.items():
                if task.pairing != "name":
                    yield f"{split}/{name}/{number}.tiff", colour if task.source_channels == 3 else radar, None


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


# --- A synthetic piece of land: what grows and stands where, and how RGB, near infrared and SAR would see it.

Image = NDArray[np.float32]

FIELD, FOREST, WATER, ROAD, ROOF, SOIL = range(6)
# Reflectance in red, green, blue and near infrared (vegetation is dark in red and bright in near infrared, water dark
# in all), and radar backscatter as an amplitude, for each kind of ground.
REFLECTANCE = np.array(
    [
        [0.26, 0.34, 0.20, 0.62],
        [0.10, 0.19, 0.10, 0.50],
        [0.06, 0.11, 0.17, 0.03],
        [0.38, 0.37, 0.36, 0.36],
        [0.60, 0.52, 0.46, 0.46],
        [0.48, 0.40, 0.30, 0.44],
    ],
    np.float32,
)
BACKSCATTER = np.array([0.26, 0.38, 0.05, 0.10, 0.46, 0.20], np.float32)
LOOKS = 4  # independent looks that SAR speckle is averaged over


@dataclass(frozen=True)
class Scene:
    """A square of land: the kind of ground, how lush it is, and where walls face the radar or the sun's shadow lies."""

    ground: NDArray[np.uint8]  # (H, W), one of the kinds above
    lush: Image  # (H, W), about 1
    walls: NDArray[np.bool_]  # (H, W)
    shadow: NDArray[np.bool_]  # (H, W)

    def optical(self, rng: np.random.Generator, season: float = 1.0, light: float = 1.0) -> Image:
        """Return (H, W, 4) red, green, blue and near infrared in [0, 1]; `season` scales how green plants are."""
        bands = REFLECTANCE[self.ground]
        plants = ((self.ground == FIELD) | (self.ground == FOREST))[:, :, None]
        green = np.array([1 / season, 1.0, 1 / season, season], np.float32)
        bands = np.where(plants, bands * self.lush[:, :, None] ** np.array([-0.4, 0.3, -0.1, 1.0]) * green, bands)
        bands = bands * np.where(self.shadow, 0.45, 1.0)[:, :, None] * light
        noisy = bands * (1 + 0.04 * rng.standard_normal(bands.shape)) + 0.005 * rng.standard_normal(bands.shape)
        return noisy.clip(0, 1).astype(np.float32)

    def radar(self, rng: np.random.Generator) -> Image:
        """Return (H, W, 1) amplitude on a logarithmic scale in [0, 1]: multiplicative speckle, bright corners."""
        amplitude = BACKSCATTER[self.ground] * np.where(self.ground == FIELD, self.lush, 1.0)
        amplitude = np.where(self.shadow, 0.04, amplitude)
        amplitude = np.where(self.walls, 2.5, amplitude)
        speckle = np.sqrt(rng.gamma(LOOKS, 1 / LOOKS, amplitude.shape))
        decibels = 20 * np.log10(amplitude * speckle + 1e-3)
        scaled: Image = ((decibels + 32) / 40).clip(0, 1).astype(np.float32)[:, :, None]
        return scaled

    def cut(self, top: int, left: int, height: int, width: int) -> Scene:
        """Return a part of the scene."""
        part = (slice(top, top + height), slice(left, left + width))
        return Scene(self.ground[part], self.lush[part], self.walls[part], self.shadow[part])


def make_scene(size: int, rng: np.random.Generator) -> Scene:
    """Return a scene of `size` metres a side, one metre a pixel."""
    row, column = np.mgrid[0:size, 0:size].astype(np.float32)
    parcels, lush = _parcels(size, rng, row, column)
    ground = np.where(parcels % 5 == 0, SOIL, FIELD).astype(np.uint8)
    ground[_smooth_noise(size, rng, 6) > 0.75] = FOREST
    ground[_river(size, rng, row, column)] = WATER
    for _ in range(int(rng.integers(1, 4))):
        ground[_band(rng, size, row, column, half_width=float(rng.uniform(2, 4)))] = ROAD
    roofs = _roofs(size, rng, ground)
    ground[roofs] = ROOF
    walls = roofs & ~np.roll(roofs, 1, axis=1)
    shadow = np.roll(roofs, (2, 4), axis=(0, 1)) & ~roofs
    return Scene(ground, lush.astype(np.float32), walls, shadow)


def _parcels(
    size: int, rng: np.random.Generator, row: Image, column: Image
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Fields as the cells nearest to random centres, each as lush as it is."""
    centres = rng.uniform(0, size, (14, 2)).astype(np.float32)
    distance = (row[None] - centres[:, 0, None, None]) ** 2 + (column[None] - centres[:, 1, None, None]) ** 2
    nearest = distance.argmin(axis=0)
    lush = rng.uniform(0.65, 1.35, len(centres))[nearest] * (1 + 0.12 * _smooth_noise(size, rng, 24))
    return nearest, lush


def _smooth_noise(size: int, rng: np.random.Generator, cells: int) -> Image:
    """Noise of unit deviation whose details are size / cells wide."""
    coarse, noise = rng.standard_normal((cells, cells, 1)).astype(np.float32), np.empty((size, size, 1), np.float32)
    for index, part in resampled([coarse], coarse.shape, size, size):
        noise[index] = part
    smooth: Image = noise[:, :, 0] / noise.std()
    return smooth


def _river(size: int, rng: np.random.Generator, row: Image, column: Image) -> NDArray[np.bool_]:
    if rng.random() < 0.35:
        return np.zeros((size, size), np.bool_)
    phase, middle, width = rng.uniform(0, 6.3), rng.uniform(0.2, 0.8) * size, rng.uniform(5, 14)
    bend = middle + 0.12 * size * np.sin(row / size * 5 + phase)
    river: NDArray[np.bool_] = np.abs(column - bend) < width
    return river.T if rng.random() < 0.5 else river


def _band(rng: np.random.Generator, size: int, row: Image, column: Image, half_width: float) -> NDArray[np.bool_]:
    angle, offset = rng.choice([0.1, 1.67, 0.8, 2.4]) + rng.normal(0, 0.05), rng.uniform(0.15, 0.85) * size
    across = (column - size / 2) * np.cos(angle) + (row - size / 2) * np.sin(angle)
    band: NDArray[np.bool_] = np.abs(across - (offset - size / 2)) < half_width
    return band


def _roofs(size: int, rng: np.random.Generator, ground: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Rows of rectangular buildings around a few centres, none on water or roads."""
    roofs = np.zeros((size, size), np.bool_)
    for _ in range(int(rng.integers(1, 4))):
        top, left = rng.integers(0, size - 60, 2)
        for house in range(int(rng.integers(4, 12))):
            y, x = int(top) + 20 * (house // 4), int(left) + 18 * (house % 4)
            height, width = rng.integers(7, 15, 2)
            plot = ground[y : y + height, x : x + width]
            if plot.shape == (height, width) and not np.isin(plot, (WATER, ROAD)).any():
                roofs[y : y + height, x : x + width] = True
    return roofs
