"""Each challenge from files to a checked zip by the commands alone: build-pairs, predict, score, package, check."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
from PIL import Image

from pbvs.cli import main

Numbers = np.ndarray[Any, Any]

ONE_FILE = """
name = "deep"
title = "Depth and heat"
protocol = "error"

[modalities.depth]
dtype = "uint16"
range = [0, 1000]

[modalities.thermal]
kind = "thermal"

[modalities.color]
channels = 3
kind = "optical"

[tasks.depth2thermal]
source = "depth"
target = "thermal"
size = 48
inputs = { test = 3 }

[tasks.color2depth]
source = "color"
target = "depth"
size = "native"
folder = "range-maps"

[layout.files.training]
glob = "shots/{id}.{modality}.png"

[layout.files.testing]
glob = "hidden/{task}/{id}.png"
role = "input"
split = "test"

[hold_out]
share = 0.25

[outputs]
container = "png"
path = "{task}/{id}"

[submission]
readme = [{ label = "Seconds", kind = "runtime" }, { label = "Team", kind = "text", value = "us" }]
a_day = 2

[protocols.error]
terms = [{ metric = "rmse", weight = 2.0 }]
shown = ["rmse", "psnr"]
"""

HDR_LIKE = """
name = "hdr-like"
title = "Frames of sequences"
protocol = "hdr"

[modalities.short]
dtype = "uint16"
range = [0, 65535]

[modalities.long]
dtype = "uint16"
range = [0, 65535]

[tasks.merge]
source = "short"
target = "long"
size = "native"

[layout.files.frames]
glob = "{split}/{modality}/{location}/{id}.png"

[outputs]
container = "png"
dtype = "uint16"
channels = "gray"
path = "{location}/{id}"

[protocols.hdr]
terms = [
    { metric = "psnr" },
    { metric = "ssim", transform = "log", base = 1.2 },
    { metric = "rmse", weight = -1.0 },
]
reduction = "sum"
shown = ["psnr", "ssim", "rmse"]
missing_counts = 0.0
"""

PROBA_LIKE = """
name = "proba-like"
title = "Several small images to one large"
protocol = "cpsnr"

[modalities.low]
dtype = "uint16"
range = [0, 16383]

[modalities.high]
dtype = "uint16"
range = [0, 16383]
mask = ["HR.png", "SM.png"]

[tasks.upscale]
source = "low"
target = "high"
size = "native"
scale = 3
pairing = "location"

[layout.files.low]
glob = "{split}/*/{location}/LR{id}.png"
modality = "low"

[layout.files.high]
glob = "{split}/*/{location}/HR.png"
modality = "high"

[layout.files.masks]
glob = "**/{base}M*.png"
modality = "high"
role = "mask"

[outputs]
dtype = "uint16"
range = [0, 16383]
path = "{location}_{id}"

# The baseline's PSNR over the submission's, after brightness was brought to the target's, over clear pixels alone,
# the best of all shifts up to 3 pixels.
[protocols.cpsnr]
terms = [{ metric = "psnr", transform = "inverse-ratio", baseline = 40.0 }]
shown = ["psnr"]
pixels = "valid"
border = 3
shifts = 3
bias = true
"""


def scene(seed: int, side: int = 48) -> Numbers:
    """Soft structure in [0, 1], (side, side)."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.random((6, 6), dtype=np.float32))
    return np.asarray(small.resize((side, side), Image.Resampling.BICUBIC)).clip(0, 1)


def png(path: Path, image: Numbers, top: float = 255, dtype: str = "uint8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint(image * top).astype(dtype)).save(path)


def tiff(path: Path, image: Numbers) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = image[None] if image.ndim == 2 else np.moveaxis(image, 2, 0)
    profile = {"driver": "GTiff", "height": bands.shape[1], "width": bands.shape[2], "count": len(bands)}
    with rasterio.open(path, "w", dtype="uint8", **profile) as file:
        file.write(np.rint(bands * 255).astype("uint8"))


def colour(image: Numbers) -> Numbers:
    return np.stack([image, image**2, 1 - image], axis=2)


def deep(root: Path) -> None:
    for number in range(8):
        image = scene(number)
        png(root / f"shots/{number}.depth.png", image, 1000, "uint16")
        png(root / f"shots/{number}.thermal.png", image * 0.8)
        png(root / f"shots/{number}.color.png", colour(image))
    for number in range(3):
        png(root / f"hidden/depth2thermal/{number}.png", scene(50 + number), 1000, "uint16")
        png(root / f"hidden/color2depth/{number}.png", colour(scene(60 + number)))


def hdr(root: Path) -> None:
    for split, sequences in (("train", 4), ("val", 1), ("test", 2)):
        for sequence in range(1, sequences + 1):
            for frame in range(2):
                image = scene(100 * sequence + frame)
                png(root / f"{split}/short/{sequence}/{frame:05}.png", image * 0.5, 65535, "uint16")
                if split != "test":
                    png(root / f"{split}/long/{sequence}/{frame:05}.png", image * 0.6, 65535, "uint16")


def proba(root: Path) -> None:
    for split, places in (("train", 4), ("test", 2)):
        for place in range(places):
            folder = root / split / "NIR" / f"imgset{place:04}"
            image = scene(place, 96)
            low = np.asarray(Image.fromarray(image.astype(np.float32)).resize((32, 32), Image.Resampling.BOX))
            for number in range(2):
                png(folder / f"LR{number:03}.png", low * 0.5, 16383, "uint16")
                png(folder / f"QM{number:03}.png", np.ones((32, 32)))
            if split == "train":
                spoilt = image * 0.5
                spoilt[40:50] = 1.0  # a cloud, which the mask leaves out
                mask = np.ones((96, 96))
                mask[40:50] = 0
                png(folder / "HR.png", spoilt, 16383, "uint16")
                png(folder / "SM.png", mask)


def multiearth(root: Path) -> None:
    for place in range(4):
        folder = root / f"-4.{place}0_-55.20"
        for day in ("2019_05_27", "2019_06_08"):
            tiff(folder / f"Sentinel1_{day}_GEC.tiff", scene(place, 64))
        tiff(folder / "Sentinel2_2019_06_11_rgb.tiff", colour(scene(place, 64)))
        tiff(folder / "Landsat8_2020_07_10_ir.tiff", scene(place, 64))
    tiff(root / "named/Sentinel1_VV_-55.30_-4.90_2020-07-10.tiff", scene(9, 64))
    tiff(root / "named/Sentinel2_RGB_-55.30_-4.90_2020-07-12.tiff", colour(scene(9, 64)))
    for number in range(2):
        tiff(root / f"test/Sentinel1_VV_-55.40_-4.{number}0_2021-01-01.tiff", scene(20 + number, 64))


def nir(root: Path) -> None:
    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        for number in range(count):
            png(root / f"{split}/rgb/{number}.png", colour(scene(number)))
            if split != "test":
                png(root / f"{split}/nir/{number}.png", scene(number), 65535, "uint16")


CHALLENGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "deep": (ONE_FILE, deep, "gray"),
    "hdr-like": (HDR_LIKE, hdr, "gray"),
    "proba-like": (PROBA_LIKE, proba, "gray"),
    "multiearth-sar2eo": ("", multiearth, "gray"),
    "rgb2nir": ("", nir, "small"),
}


class Walk:
    """One challenge's way through the commands, in a folder of its own."""

    def __init__(self, folder: Path, name: str):
        text, fill, self.recipe = CHALLENGES[name]
        self.folder, self.name = folder, name
        self.data, self.manifests, self.runs = folder / "data", folder / "manifests", folder / "runs"
        fill(self.data)
        if text:
            self.name = str(folder / f"{name}.toml")
            Path(self.name).write_text(text)

    def __call__(self, *arguments: str) -> None:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        assert ended.value.code in (0, None), arguments

    def whole(self) -> None:
        """From files to a checked zip."""
        where = ["--data", str(self.data)]
        manifests, runs = ["--manifests", str(self.manifests)], ["--submissions", str(self.runs)]
        self("challenge", "check", self.name, *where)
        self("build-pairs", *where, *manifests, "--challenge", self.name, "--jobs", "1")
        self("predict", "--all", "--recipe", self.recipe, "--run", "r", *where, *manifests, *runs, "--jobs", "1")
        self("score", "--run", "r", *where, *manifests, *runs, "--jobs", "1", "--no-baselines")
        self("package", "--run", "r", *where, *manifests, *runs)
        self("check", str(self.runs / "r.zip"), *where)

    def manifest(self, task: str, split: str) -> pd.DataFrame:
        return pd.read_csv(self.manifests / f"{task}_{split}.csv", dtype=str, na_filter=False)

    @property
    def summary(self) -> dict[str, Any]:
        path = next(self.runs.glob("r/scores/val/*/summary.json"))
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    @property
    def names(self) -> list[str]:
        with zipfile.ZipFile(self.runs / "r.zip") as archive:
            return sorted(archive.namelist())


@pytest.fixture(scope="module", params=list(CHALLENGES))
def walk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Walk:
    way = Walk(tmp_path_factory.mktemp("challenge"), request.param)
    way.whole()
    return way


def test_from_files_to_a_checked_zip(walk: Walk) -> None:
    expected = {
        "deep": [f"{folder}/{number}.png" for folder in ("depth2thermal", "range-maps") for number in range(3)],
        "hdr-like": ["1/00000.png", "1/00001.png", "2/00000.png", "2/00001.png"],
        "proba-like": [f"imgset{place:04}_{number:03}.png" for place in range(2) for number in range(2)],
        "multiearth-sar2eo": [f"-55.40_-4.{number}0_2021-01-01.tiff" for number in range(2)],
        "rgb2nir": ["0.png", "1.png", "2.png"],
    }
    readme = ["readme.txt"] if Path(walk.name).stem == "deep" else []
    assert walk.names == expected[Path(walk.name).stem] + readme
    assert json.loads((walk.manifests / "summary.json").read_text())["challenge"]["name"] == Path(walk.name).stem
    assert walk.summary["partial"] is False


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Walk]:
    made: dict[str, Walk] = {}

    def get(name: str) -> Walk:
        if name not in made:
            made[name] = Walk(tmp_path_factory.mktemp("one"), name)
            made[name].whole()
        return made[name]

    return get


def stored(walk: Walk, task: str, name: str) -> Numbers:
    image = Image.open(walk.runs / f"r/predictions/val/{task}/{name}.png")
    return np.asarray(image).astype(np.float64) / 65535


def test_the_rule_of_the_frames_is_psnr_and_log_ssim_less_rmse(walks: Callable[[str], Walk]) -> None:
    walk = walks("hdr-like")
    table = pd.read_csv(next(walk.runs.glob("r/scores/val/hdr/merge.csv")))
    pairs = walk.manifest("merge", "val").set_index("name")
    for row in table.itertuples():
        target = np.asarray(Image.open(walk.data / pairs.loc[row.name, "target"])).astype(np.float64) / 65535
        error = float(np.sqrt(np.mean((stored(walk, "merge", row.name) - target) ** 2)))
        assert row.rmse == pytest.approx(error, abs=1e-6)
        assert row.psnr == pytest.approx(-20 * math.log10(error), abs=1e-4)
    task = walk.summary["tasks"]["merge"]
    means = task["psnr"] + math.log(task["ssim"], 1.2) - task["rmse"]
    assert walk.summary["combined"] == pytest.approx(means, abs=1e-6)
    assert walk.summary["higher_is_better"] is True


def cpsnr(made: Numbers, target: Numbers, clear: Numbers) -> float:
    """The Kelvins competition's cPSNR: the best over 7 x 7 shifts of the centre, brightness brought to the target's."""
    best = -math.inf
    height, width = target.shape
    inner = made[3:-3, 3:-3]
    for down in range(7):
        for across in range(7):
            seen = clear[down : height - 6 + down, across : width - 6 + across]
            part = target[down : height - 6 + down, across : width - 6 + across]
            bias = (part - inner)[seen].mean()
            best = max(best, -10 * math.log10((((part - inner - bias)[seen]) ** 2).mean()))
    return best


def test_clear_pixels_shifts_and_brightness_count_as_the_competition_has_them(walks: Callable[[str], Walk]) -> None:
    walk = walks("proba-like")
    table = pd.read_csv(next(walk.runs.glob("r/scores/val/cpsnr/upscale.csv")))
    pairs = walk.manifest("upscale", "val").set_index("name")
    found = []
    for row in table.itertuples():
        folder = (walk.data / pairs.loc[row.name, "target"]).parent
        target = np.asarray(Image.open(folder / "HR.png")).astype(np.float64) / 16383
        clear = np.asarray(Image.open(folder / "SM.png")) > 0
        found.append(cpsnr(stored(walk, "upscale", row.name), target, clear))
        assert row.psnr == pytest.approx(found[-1], abs=0.05)
    assert walk.summary["combined"] == pytest.approx(40.0 / float(np.mean(found)), abs=0.01)
    assert walk.summary["higher_is_better"] is False


def test_sixteen_bits_go_from_the_network_to_the_archive(walks: Callable[[str], Walk]) -> None:
    walk = walks("rgb2nir")
    with zipfile.ZipFile(walk.runs / "r.zip") as archive, archive.open("0.png") as file:
        packed = np.asarray(Image.open(file))
    assert packed.max() > 255
    assert len(np.unique(packed)) > 256
    kept = np.asarray(Image.open(walk.runs / "r/predictions/test/rgb2nir/0.png"))
    assert np.array_equal(packed, kept)


def test_the_run_and_the_manifests_keep_a_challenge_of_ones_own(walks: Callable[[str], Walk]) -> None:
    walk = walks("deep")
    assert (walk.manifests / "challenge.toml").is_file()
    assert (walk.runs / "r/challenge.toml").is_file()
    assert 'challenge = "challenge.toml"' in (walk.runs / "r/recipe.toml").read_text()
    with zipfile.ZipFile(walk.runs / "r.zip") as archive:
        lines = archive.read("readme.txt").decode().splitlines()
    assert [line.split(" : ")[0] for line in lines] == ["Seconds", "Team"]
    assert lines[1] == "Team : us"


def test_pairs_of_another_challenge_are_refused(
    walks: Callable[[str], Walk], capsys: pytest.CaptureFixture[str]
) -> None:
    walk = walks("deep")
    arguments = ["--data", str(walk.data), "--manifests", str(walk.manifests), "--submissions", str(walk.runs)]
    with pytest.raises(SystemExit) as ended:
        main(["predict", "--all", "--recipe", "gray", "--challenge", "rgb2nir", "--run", "other", *arguments])
    assert ended.value.code == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "were made for the challenge deep" in said
    assert "pbvs build-pairs --challenge rgb2nir" in said
    assert not (walk.runs / "other").exists()
