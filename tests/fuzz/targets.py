"""What reads files that strangers wrote: each reader, with valid files to start from and its own kinds of damage."""

from __future__ import annotations

import io
import json
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz import mutate
from tests.fuzz.mutate import Mutation


@dataclass(frozen=True)
class Target:
    """A reader, the name its file has, valid files, and how they are damaged."""

    name: str
    file: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[Path], Any]
    mutations: tuple[Mutation, ...]
    heavy: bool = False  # imports torch


def _png_seeds() -> list[bytes]:
    from PIL import Image

    rng = np.random.default_rng(0)
    images = [
        Image.fromarray(rng.integers(0, 255, (20, 30), np.uint8)),
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)),
        Image.fromarray(rng.integers(0, 65535, (20, 30), np.uint16)),
        Image.fromarray(rng.integers(0, 255, (20, 30, 4), np.uint8)),
        Image.fromarray(rng.integers(0, 255, (20, 30), np.uint8)).convert("P"),
        Image.fromarray(rng.integers(0, 255, (20, 30), np.uint8)).convert("1"),
    ]
    return [_saved(image) for image in images]


def _saved(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _tiff_seeds() -> list[bytes]:
    from rasterio.io import MemoryFile
    from rasterio.transform import from_origin

    rng = np.random.default_rng(0)
    seeds = []
    for bands, dtype, extra in (
        (1, "uint8", {}),
        (3, "uint16", {"crs": "EPSG:32612", "transform": from_origin(4e5, 4e6, 10, 10), "compress": "deflate"}),
        (4, "float32", {"crs": "EPSG:4326", "transform": from_origin(-110, 40, 1e-4, 1e-4), "nodata": -9999}),
        (1, "int16", {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "lzw"}),
    ):
        with MemoryFile() as memory:
            profile = {"driver": "GTiff", "width": 30, "height": 20, "count": bands, "dtype": dtype, **extra}
            with memory.open(**profile) as file:
                file.write(rng.integers(0, 255, (bands, 20, 30)).astype(dtype))
            seeds.append(memory.read())

    return seeds


def _read_image(path: Path) -> None:
    from pbvs.data.images import read_image

    read_image(path)


def _read_header(path: Path) -> None:
    from pbvs.data.headers import read_header

    read_header(path)


def _manifest_seeds() -> list[bytes]:
    from pbvs.data.manifest import COLUMNS

    row = ["a", "rgb2ir", "val", "x", "a/b.png", "a/c.png", "2023-01-01", "", "held-out", "none", "1.0"]
    row += ["full", "window:0:255"]
    lines = [",".join(COLUMNS), *(",".join([f"n{i}", *row[1:]] + [""] * (len(COLUMNS) - len(row))) for i in range(3))]
    return ["\n".join(lines).encode()]


def _read_manifest(path: Path) -> None:
    from pbvs.data.manifest import read_manifest
    from pbvs.files import inside

    for pair in read_manifest(path):
        place = inside(path.parent, pair.source)
        assert path.parent in place.parents
        if pair.target:
            inside(path.parent, pair.target)


def _recipe_seeds() -> list[bytes]:
    from pbvs.recipe import RECIPES

    return [path.read_bytes() for path in sorted(RECIPES.folder.glob("*.toml"))]


def _read_recipe(path: Path) -> None:
    from pbvs.files import read_toml
    from pbvs.recipe import dump_recipe, load_recipe, parse_recipe

    recipe = load_recipe(path)
    recipe.order()
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    assert parse_recipe(read_toml(path), "again") == recipe


def _protocol_seeds() -> list[bytes]:
    from pbvs.metrics.protocol import PROTOCOLS

    return [path.read_bytes() for path in sorted(PROTOCOLS.folder.glob("*.toml"))]


def _read_protocol(path: Path) -> None:
    from pbvs.metrics.protocol import load_protocol

    protocol = load_protocol(path)
    protocol.combined({"sar2eo": protocol.task_score({"l1": 0.1, "rmse": 0.1, "mse": 0.01, "lpips": 0.2, "fid": 30.0})})


def _generator() -> Any:
    from pbvs.networks.pix2pixhd import GeneratorConfig, make_generator

    config = GeneratorConfig(source_channels=1, target_channels=1, width=2, downsamplings=1, blocks=1)
    return make_generator(config), config


def _safetensors_seeds() -> list[bytes]:
    import tempfile

    from pbvs.training.checkpoint import write_model, write_tensors

    network, config = _generator()
    with tempfile.TemporaryDirectory() as folder:
        model, state = Path(folder, "m.safetensors"), Path(folder, "s.safetensors")
        write_model(model, network, config, {"task": "sar2eo"})
        tensors = {f"module/generator/{name}": value for name, value in network.state_dict().items()}
        identity = {"kind": "generator", "network": asdict(config)}
        write_tensors(state, tensors, {"progress": {"step": 3}, "identity": identity})
        return [model.read_bytes(), state.read_bytes()]


def _safetensors_header(rng: random.Random, data: bytes) -> bytes:
    """Change words of the header, and state its length rightly."""
    (size,) = struct.unpack("<Q", data[:8])
    header = mutate.tokens(rng, data[8 : 8 + size])
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def _safetensors_config(rng: random.Random, data: bytes) -> bytes:
    """Change a value of the configuration in the metadata."""
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    facts = json.loads(header["__metadata__"]["pbvs"])
    values = (0, -1, 1, 3, 10**6, 10**9, 10**30, 1.5, "x", None, [], {}, True)
    table = rng.choice([part for part in (facts, facts.get("config"), facts.get("identity")) if part])
    table[rng.choice(sorted(table))] = rng.choice(values)
    header["__metadata__"]["pbvs"] = json.dumps(facts)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def _read_checkpoint(path: Path) -> None:
    from pbvs.translators.pix2pixhd.published import describe_file, export_checkpoint

    describe_file(path)
    export_checkpoint(path, path.with_name("out.safetensors"))


def _read_trunk(path: Path) -> None:
    from pbvs.metrics.weights import read_tensors

    read_tensors(path)


def _pth_seeds() -> list[bytes]:
    import torch

    seeds = []
    for network in (_generator()[0],):
        buffer = io.BytesIO()
        torch.save(network.state_dict(), buffer)
        seeds.append(buffer.getvalue())
        buffer = io.BytesIO()
        torch.save(network.state_dict(), buffer, _use_new_zipfile_serialization=False)
        seeds.append(buffer.getvalue())
    return seeds


def _import_pth(path: Path) -> None:
    from pbvs.translators.pix2pixhd.published import import_checkpoint

    import_checkpoint(path, path.with_name("out.safetensors"))


def _zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _archive_seeds() -> list[bytes]:
    image = _png_seeds()[0]
    readme = b"runtime per image [s] : 0.1\nCPU[1] / GPU[0] : 1\nExtra Data [1] / No Extra Data [0] : 0\nOther : x\n"
    return [_zip({"readme.txt": readme, "sar2eo/0.png": image, "rgb2ir/1.png": image})]


def _zip_entries(rng: random.Random, data: bytes) -> bytes:
    """Write the archive again with one entry renamed, damaged, doubled or added."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = [(name, archive.read(name)) for name in archive.namelist()]
    at = rng.randrange(len(files))
    name, body = files[at]
    action = rng.randrange(4)
    evil = rng.choice(
        ("../x", "/etc/x", "a\\b", "sar2eo/../../x", "sar2eo/" + "a" * 300, "C:/x", "x\n", "x\x00", "sar2eo/")
    )
    if action == 0:
        files[at] = (evil, body)
    elif action == 1:
        files[at] = (name, rng.choice(mutate.BLIND)(rng, body))
    elif action == 2:
        files.append((name, body))
    else:
        files.append((evil, b"\0" * rng.choice((0, 10, 10**7))))
    buffer = io.BytesIO()
    import warnings

    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
        warnings.simplefilter("ignore")
        for entry, content in files:
            out.writestr(entry, content)
    return buffer.getvalue()


def _check_archive(path: Path) -> None:
    from pbvs.submission.check import check

    check(path, evaluation_size="native")


def _bundle_seeds() -> list[bytes]:
    import hashlib

    recipe = b'name = "r"\n[stages.rgb2ir]\nmethod = "grayscale"\nintensity = 1.3\n'
    files = {
        "recipe.toml": recipe,
        "models/rgb2ir/done.json": b'{"made_from": "x"}',
        "models/rgb2ir/model.json": b'{"method": "grayscale", "intensity": 1.3}',
    }
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    listing = {"format": 1, "run": "r", "files": digests}
    return [_zip({"bundle.json": json.dumps(listing).encode(), **files})]


def _install(path: Path) -> None:
    from pbvs.experiments.bundle import install

    runs = path.parent / "runs"
    shutil.rmtree(runs, ignore_errors=True)
    runs.mkdir()
    try:
        install(path, runs)
    finally:
        outside = {item.name for item in path.parent.iterdir()} - {path.name, "runs", "out.safetensors"}
        assert not outside, outside


def _json_seeds() -> list[bytes]:
    score = {"images": 1, "expected": 1, "score": 0.2, "rmse": 0.1, "lpips": 0.3, "locations": {"a": {"score": 0.1}}}
    summary = {
        "run": "r", "split": "val", "protocol": {"name": "l2-lpips", "terms": ["pixel", "lpips"], "pixel": "rmse"},
        "lpips": {"net": "alex", "is_lpips": True}, "combined": 0.4, "interval": [0.1, 0.5],
        "tasks": {"rgb2ir": {"status": "scored", **score}}, "sensitivity": [{"reading": "x", "combined": 0.1}],
        "notes": ["x"],
    }  # fmt: skip
    return [json.dumps(summary, indent=1).encode()]


def _read_results(path: Path) -> None:
    from pbvs.evaluation.results import read_scores
    from pbvs.report.run_page import write_report
    from pbvs.run import Run

    folder = path.parent / "runs" / "r"
    (folder / "scores").mkdir(parents=True, exist_ok=True)
    (folder / "recipe.toml").write_bytes(b'name = "r"\n[stages.rgb2ir]\nmethod = "grayscale"\nintensity = 1.3\n')
    shutil.copy(path, folder / "scores" / "summary.json")
    run = Run("r", path.parent / "runs")
    write_report(run, root=None, manifests=path.parent)
    read_scores(run)


def _csv_seeds() -> list[bytes]:
    head = "epoch,step,seconds,learning_rate,generator,val_rmse,val_lpips,val_score\n"
    return [(head + "1,10,1.5,0.0002,1.0,0.1,0.2,0.15\n2,20,3,0.0002,0.9,,,\n").encode()]


def _read_training_log(path: Path) -> None:
    from pbvs.report.run_page import read_log as of_report
    from pbvs.training.validation import read_log

    read_log(path)
    of_report(path)


def _readme_seeds() -> list[bytes]:
    return [b"runtime per image [s] : 0.10\nCPU[1] / GPU[0] : 1\nExtra Data : 0\nOther description : x\n"]


def _read_readme(path: Path) -> None:
    from pbvs.challenge import load_challenge
    from pbvs.submission.readme import ReadmeError, order_faults, parse_readme

    lines = load_challenge().submission.readme
    text = path.read_text(encoding="utf-8", errors="replace")
    order_faults(text, lines)
    try:
        parse_readme(text, lines)
    except ReadmeError:
        return


_SAFE = (*mutate.BLIND, _safetensors_header, _safetensors_header, _safetensors_config, _safetensors_config)
_ZIP = (*mutate.BLIND, _zip_entries, _zip_entries, _zip_entries)
TARGETS = {
    target.name: target
    for target in (
        Target("png", "x.png", _png_seeds, _read_image, (*mutate.BLIND, mutate.png_chunks, mutate.png_chunks)),
        Target("tiff", "x.tif", _tiff_seeds, _read_image, mutate.BLIND),
        Target("png header", "x.png", _png_seeds, _read_header, (*mutate.BLIND, mutate.png_chunks)),
        Target("tiff header", "x.tif", _tiff_seeds, _read_header, mutate.BLIND),
        Target("manifest", "rgb2ir_val.csv", _manifest_seeds, _read_manifest, mutate.TEXT),
        Target("recipe", "x.toml", _recipe_seeds, _read_recipe, mutate.TEXT),
        Target("protocol", "x.toml", _protocol_seeds, _read_protocol, mutate.TEXT),
        Target("readme", "readme.txt", _readme_seeds, _read_readme, mutate.TEXT),
        Target("archive", "x.zip", _archive_seeds, _check_archive, _ZIP),
        Target("bundle", "x.pbvs", _bundle_seeds, _install, _ZIP),
        Target("scores", "x.json", _json_seeds, _read_results, (*mutate.TEXT, *3 * (mutate.json_values,))),
        Target("training log", "log.csv", _csv_seeds, _read_training_log, mutate.TEXT, heavy=True),
        Target("safetensors", "x.safetensors", _safetensors_seeds, _read_checkpoint, _SAFE, heavy=True),
        Target("trunk", "x.safetensors", _safetensors_seeds, _read_trunk, _SAFE, heavy=True),
        Target("checkpoint", "x.pth", _pth_seeds, _import_pth, mutate.BLIND, heavy=True),
    )
}
