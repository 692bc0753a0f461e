"""A synthetic piece of land: what grows and stands where, and how RGB, near infrared and SAR would see it.

Made for trying the tool out, not for training: the statistics are plausible, the places do not exist.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pbvs.data.images import resize_freely

Picture = NDArray[np.float32]

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
    lush: Picture  # (H, W), about 1
    walls: NDArray[np.bool_]  # (H, W)
    shadow: NDArray[np.bool_]  # (H, W)

    def optical(self, rng: np.random.Generator, season: float = 1.0, light: float = 1.0) -> Picture:
        """Return (H, W, 4) red, green, blue and near infrared in [0, 1]; `season` scales how green plants are."""
        bands = REFLECTANCE[self.ground]
        plants = ((self.ground == FIELD) | (self.ground == FOREST))[:, :, None]
        green = np.array([1 / season, 1.0, 1 / season, season], np.float32)
        bands = np.where(plants, bands * self.lush[:, :, None] ** np.array([-0.4, 0.3, -0.1, 1.0]) * green, bands)
        bands = bands * np.where(self.shadow, 0.45, 1.0)[:, :, None] * light
        noisy = bands * (1 + 0.04 * rng.standard_normal(bands.shape)) + 0.005 * rng.standard_normal(bands.shape)
        return noisy.clip(0, 1).astype(np.float32)

    def radar(self, rng: np.random.Generator) -> Picture:
        """Return (H, W, 1) amplitude on a logarithmic scale in [0, 1]: multiplicative speckle, bright corners."""
        amplitude = BACKSCATTER[self.ground] * np.where(self.ground == FIELD, self.lush, 1.0)
        amplitude = np.where(self.shadow, 0.04, amplitude)
        amplitude = np.where(self.walls, 2.5, amplitude)
        speckle = np.sqrt(rng.gamma(LOOKS, 1 / LOOKS, amplitude.shape))
        decibels = 20 * np.log10(amplitude * speckle + 1e-3)
        scaled: Picture = ((decibels + 32) / 40).clip(0, 1).astype(np.float32)[:, :, None]
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
    size: int, rng: np.random.Generator, row: Picture, column: Picture
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Fields as the cells nearest to random centres, each as lush as it is."""
    centres = rng.uniform(0, size, (14, 2)).astype(np.float32)
    distance = (row[None] - centres[:, 0, None, None]) ** 2 + (column[None] - centres[:, 1, None, None]) ** 2
    nearest = distance.argmin(axis=0)
    lush = rng.uniform(0.65, 1.35, len(centres))[nearest] * (1 + 0.12 * _smooth_noise(size, rng, 24))
    return nearest, lush


def _smooth_noise(size: int, rng: np.random.Generator, cells: int) -> Picture:
    """Noise of unit deviation whose details are size / cells wide."""
    noise = resize_freely(rng.standard_normal((cells, cells)).astype(np.float32), size, size)
    smooth: Picture = noise / noise.std()
    return smooth


def _river(size: int, rng: np.random.Generator, row: Picture, column: Picture) -> NDArray[np.bool_]:
    if rng.random() < 0.35:
        return np.zeros((size, size), np.bool_)
    phase, middle, width = rng.uniform(0, 6.3), rng.uniform(0.2, 0.8) * size, rng.uniform(5, 14)
    bend = middle + 0.12 * size * np.sin(row / size * 5 + phase)
    river: NDArray[np.bool_] = np.abs(column - bend) < width
    return river.T if rng.random() < 0.5 else river


def _band(rng: np.random.Generator, size: int, row: Picture, column: Picture, half_width: float) -> NDArray[np.bool_]:
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
