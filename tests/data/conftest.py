"""What the tests of the data share: a small synthetic tree, and images made on the spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pbvs.data.build import build_pairs
from pbvs.data.images import write_png, write_tiff
from pbvs.data.synthetic import Amounts, write_demo

SMALL = Amounts(scenes=4, validation_scenes=1, test_scenes=1, locations=3, inputs=1)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "demo"
    write_demo(folder, seed=5, amounts=SMALL)
    return folder


@pytest.fixture(scope="session")
def standin_manifests(standin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("manifests")
    build_pairs(standin, folder)
    return folder


class Tree:
    """Makes images below a root, for tests that need a tree of their own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.count = 0

    def pixels(self, height: int, width: int, bands: int) -> np.ndarray:
        self.count += 1
        return np.random.default_rng(self.count).integers(1, 255, (height, width, bands), dtype=np.uint8)

    def png(self, path: str, size: tuple[int, int] = (16, 16)) -> Path:
        write_png(self.root / path, self.pixels(*size, 1))
        return self.root / path

    def tiff(
        self, path: str, bands: int = 1, size: tuple[int, int] = (16, 16), crs: str = "",
        transform: tuple[float, ...] = (),
    ) -> Path:  # fmt: skip
        write_tiff(self.root / path, self.pixels(*size, bands), crs, transform)
        return self.root / path

    def location(self, archive: str, name: str, bases: tuple[str, ...] = ("a",), sar: int = 2) -> None:
        for base in bases:
            self.tiff(f"{archive}/{name}/{base}_rgb.tiff", 3)
            self.tiff(f"{archive}/{name}/{base}_ir.tiff")
        for number in range(sar):
            self.tiff(f"{archive}/{name}/s{number}_GEC.tiff")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "root")
