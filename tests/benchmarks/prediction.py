"""Predicting a folder: grayscale beside bare decode and encode, a network's beside the network alone; memory."""

from __future__ import annotations

import io
import shutil
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Row, compare, cost
from tests.benchmarks.trees import images, input_pairs, scene
from tests.benchmarks.worker import Worker

PART = "prediction"
JOBS = 2


def grayscale_stream(root: str, target: str, count: int) -> Callable[[], int]:
    """Return our prediction of `count` images below `root`."""
    from pbvs.data.align import open_input
    from pbvs.devices import resolve_device
    from pbvs.recipe import Radiometry
    from pbvs.translators.base import predict_pairs
    from pbvs.translators.grayscale import GrayscaleStage
    from pbvs.translators.grayscale.translator import Grayscale
    from tests.tasks import TASKS

    resolve_device("cpu")  # as the runner does: freed memory is kept
    translator = Grayscale(TASKS["rgb2ir"], GrayscaleStage(method="grayscale", intensity=1.3))
    paths = sorted(Path(root).glob("*.png"))[:count]
    pairs = input_pairs("rgb2ir", Path(root), paths)
    radiometry = Radiometry()

    def once() -> int:
        return predict_pairs(
            translator, pairs, lambda pair: open_input(pair, Path(root), radiometry),
            lambda pair: Path(target) / f"{pair.name}.png", size=1024, what="grayscale", jobs=JOBS,
        ).images  # fmt: skip

    return once


def bare(paths: list[Path], target: Path) -> None:
    """Decode each file and encode it as grey with the codec that we use, in as many threads, and nothing more."""
    from PIL import Image

    def one(path: Path) -> None:
        with Image.open(path, formats=["PNG"]) as image:
            image.convert("L").save(target / path.name, compress_level=1, compress_type=3)

    with ThreadPoolExecutor(JOBS) as pool:
        list(pool.map(one, paths))


def run(quick: bool) -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = images(folder / "in", 24, 1024)
        for target in ("ours", "plain"):
            (folder / target).mkdir()
        ours = grayscale_stream(str(folder / "in"), str(folder / "ours"), 24)
        rows = [
            compare(PART, "grayscale, 24 of 1024 px / decode, encode", ours, lambda: bare(paths, folder / "plain"),
                    repeats=3 if quick else 7, bound="<= 1.25", note=f"{JOBS} threads each, the same codec and level"),
            network(folder, quick),
            memory(folder, 96),
        ]  # fmt: skip
    return [*rows, *codecs(quick)]


def network(folder: Path, quick: bool) -> Row:
    """Return the row of a network's prediction beside the network alone on the same batches."""
    from pbvs.devices import resolve_device

    resolve_device("cpu")
    import torch

    from pbvs.data.align import open_input
    from pbvs.networks.pix2pixhd import build_generator
    from pbvs.recipe import Radiometry
    from pbvs.translators.base import predict_pairs
    from pbvs.translators.pix2pixhd import Pix2PixHDStage
    from pbvs.translators.pix2pixhd.translator import Pix2PixHD
    from tests.tasks import TASKS

    width, count = (32, 4) if quick else (64, 6)
    translator = Pix2PixHD(TASKS["sar2eo"], Pix2PixHDStage(method="pix2pixhd", generator_width=width))
    generator = build_generator(translator.config, torch.Generator().manual_seed(0)).eval()
    translator.network = generator
    root = folder / "sar"
    pairs = input_pairs("sar2eo", root, images(root, count, 256, 1))
    batch = torch.rand(count, 1, 256, 256)

    def ours() -> None:
        predict_pairs(
            translator, pairs, lambda pair: open_input(pair, root, Radiometry(), translator.input_size),
            lambda pair: folder / "eo" / f"{pair.name}.png", size=256, what="network", jobs=JOBS, batch=count,
        )  # fmt: skip

    def alone() -> None:
        with torch.inference_mode():
            generator(batch)

    what, note = f"network, {count} of 256 px / network alone", f"generator of width {width}, one batch"
    return compare(PART, what, ours, alone, repeats=3 if quick else 5, bound="<= 1.1", note=note)


def memory(folder: Path, count: int) -> Row:
    """Return the ratio of the peaks of memory after four times the files and after enough to fill all buffers."""
    root = folder / "many"
    images(root, count, 1024)
    peaks = []
    with Worker(f"{__name__}:grayscale_stream", root=str(root), target=str(folder / "ours"), count=count) as one:
        for _ in range(4):
            one.turn()
            peaks.append(one.peak)
    shutil.rmtree(root)
    ratio = peaks[-1] / peaks[0]
    note = f"peak after each {count} images of 1024 px: {', '.join(f'{peak:.0f}' for peak in peaks)} MiB"
    return Row(PART, f"memory, {4 * count} files / {count}", ratio, ratio, ratio, "<= 1.1", note=note)


def codecs(quick: bool) -> list[Row]:
    """Return how long our PNG takes and how large it is, beside Pillow's default, by kind of image."""
    grey = scene(1, 1024, 1)
    kinds = {"RGB": scene(0, 1024, 3), "grey": grey[:, :, 0], "R=G=B": grey.repeat(3, axis=2)}
    return [codec(kind, image, 2 if quick else 5) for kind, image in kinds.items()]


def codec(kind: str, image: Any, repeats: int) -> Row:
    """Return the row of one kind: our way and others of Pillow, seconds and bytes."""
    from PIL import Image

    from pbvs.data.images import equal_bands, png_options

    ours, image = png_options(image.ndim == 3 and equal_bands(image)), Image.fromarray(image)
    ways: dict[str, dict[str, int]] = {
        "ours": ours, "default": {}, "level 1": {"compress_level": 1},
        "level 1 RLE": {"compress_level": 1, "compress_type": 3},
    }  # fmt: skip
    taken: dict[str, list[float]] = {way: [] for way in ways}
    size = {}
    for _ in range(repeats):
        for way, options in ways.items():
            buffer = io.BytesIO()
            taken[way].append(cost(lambda buffer=buffer, options=options: image.save(buffer, "PNG", **options)).cpu)
            size[way] = len(buffer.getvalue())
    middle = {way: statistics.median(times) for way, times in taken.items()}
    ratios = sorted(b / a for a, b in zip(taken["ours"], taken["default"], strict=True))
    note = ", ".join(f"{way} {middle[way] * 1e3:.0f} ms {size[way] / 1024:.0f} KiB" for way in ways)
    row = Row(PART, f"PNG {kind}, 1024 px: Pillow's default / ours", statistics.median(ratios), ratios[0], ratios[-1])
    row.ours, row.plain, row.note, row.repeats = middle["ours"], middle["default"], note, repeats
    row.facts = {"bytes": size, "seconds": middle}
    return row
