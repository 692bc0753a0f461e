"""Files that a stranger made to cost the reader memory or time: each ends in a sentence, within 1 GiB and 10 s.

`python -m tests.faults.attacks` tries all of them, each in a process of its own, and prints the table of
docs/reliability.md.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch

from pbvs.recipe import Recipe, load_recipe
from pbvs.run import Run, mark_done
from tests.submission.workspace import README, noise, png_bytes, write_data, write_manifests

MOST_MEMORY = 1 << 30  # bytes
MOST_SECONDS = 10.0  # of the processor, Python's start and imports among them
GIBI = 1 << 30


class Attack(NamedTuple):
    """A hostile file or folder, the command that meets it, and how that ends."""

    make: Callable[[Path], object]  # given the path that the command names as {path}
    command: str
    words: str  # in what it says; " | " between what torch refuses by itself and what we do where it does not
    status: int = 1

    def told(self, said: str) -> bool:
        """Whether a command said the words."""
        return any(words in said for words in self.words.split(" | "))


class Outcome(NamedTuple):
    """What a command did."""

    status: int
    said: str
    memory: int  # bytes at the most, of libraries' files only what a fork counts
    seconds: float  # of the processor
    resident: int = 0  # bytes at the most, with the pages of libraries' files


# --- Archives.


def flat_png(side: int, colour: bool = False, noisy: int = 0) -> bytes:
    """A black PNG, but for its first `noisy` rows, made without holding its pixels."""
    row, squeeze, random = b"\0" * (1 + side * (3 if colour else 1)), zlib.compressobj(9), Random(0)
    rows = (b"\0" + random.randbytes(len(row) - 1) if number < noisy else row for number in range(side))
    data = b"".join(map(squeeze.compress, rows)) + squeeze.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, 2 if colour else 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def tiled_tiff(side: int) -> bytes:
    """A TIFF of 16 x 16 pixels in one tile of `side` a side, for which a decoder would make room."""
    data = zlib.compress(bytes(1 << 20))
    tags = ((256, 16), (257, 16), (258, 8), (259, 8), (262, 1), (277, 1), (322, side), (323, side), (324, 200))
    head = struct.pack("<2sHLH", b"II", 42, 8, len(tags) + 1)
    body = b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in (*tags, (325, len(data))))
    return (head + body + bytes(4)).ljust(200, b"\0") + data


def archive(path: Path, images: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as target:
        target.writestr("readme.txt", README)
        for name, data in images.items():
            target.writestr(name, data)


def twenty_large(path: Path) -> None:
    archive(path, dict.fromkeys((f"sar2rgb/{index}.png" for index in range(20)), flat_png(6300, colour=True)))


def twenty_to_score(path: Path) -> None:
    """The same, and a target for each."""
    twenty_large(path)
    for index in range(20):
        target = path.with_name("targets") / f"sar2rgb/{index}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(png_bytes(noise(index, 3)))


def thousands_of_flat(path: Path) -> None:
    archive(path, dict.fromkeys((f"sar2rgb/{index}.png" for index in range(4_000)), flat_png(1024, colour=True)))


def zeros(path: Path) -> None:
    archive(path, dict.fromkeys((f"sar2eo/{index}.png" for index in range(60)), bytes(15 << 20)))


def one_tile(path: Path) -> None:
    archive(path, {"rgb2ir/1.tiff": tiled_tiff(32_768)})


def huge_directory(path: Path) -> None:
    """A directory that says it has 3 GB, in a sparse file."""
    with path.open("wb") as file:
        file.truncate(3 << 30)
        file.seek(0, os.SEEK_END)
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, 3 << 30, 0, 0))


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folders_in_themselves(path: Path) -> None:
    """Links that lead back up multiply a walk's paths without end."""
    root = path.with_name("data")
    write_data(root)
    for name in "abc":
        (root / name).symlink_to(".")
        (root / "test" / name).symlink_to(root)
    archive(path, {f"sar2eo/{index}.png": png_bytes(noise(index, 1)) for index in range(11)})


# --- Checkpoints: `.pth`, a zip with a pickle or, earlier, several pickles in a row; and `.safetensors`.

STEM = "model.1.weight"


class _Of:
    """Something that a pickle makes by a call."""

    def __init__(self, call: Any, *arguments: Any):
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call, self.arguments


class _Pickler(pickle._Pickler):  # type: ignore[name-defined]
    """Writes a tuple that begins with "storage" as torch writes what is kept outside of the pickle."""

    def persistent_id(self, value: Any) -> Any:
        return value if isinstance(value, tuple) and value[:1] == ("storage",) else None


def listing(numbers: int, shape: tuple[int, ...], stride: tuple[int, ...] = (1,)) -> bytes:
    """The pickle of a tensor of this shape over a storage that says it has so many numbers."""
    with tempfile.TemporaryFile() as file:
        storage = ("storage", torch.FloatStorage, "0", "cpu", numbers)
        tensor = _Of(torch._utils._rebuild_tensor_v2, storage, 0, shape, stride, False, OrderedDict())
        _Pickler(file, 2).dump({STEM: tensor})
        file.seek(0)
        return file.read()


def packed(path: Path, pickled: bytes, data: bytes = b"", method: int = zipfile.ZIP_STORED, entries: int = 1) -> None:
    """Write a checkpoint's zip by hand, the bytes of its tensors named so many times over."""
    with zipfile.ZipFile(path, "w", method) as target:
        target.writestr("archive/data.pkl", pickled)
        target.writestr("archive/version", "3\n")
        target.writestr("archive/data/0", data)
        for number in range(1, entries):
            again = copy.copy(target.filelist[2])
            again.filename = f"archive/data/{number}"
            target.filelist.append(again)


def pickled(code: bytes) -> Callable[[Path], None]:
    """A checkpoint whose pickle is a table with one key, which `code` makes."""
    return lambda path: packed(path, b"\x80\x02}" + code + b"K\x01s.")


def claimed(path: Path) -> None:
    """torch's old format, with a storage of 8 GB that is not there."""
    torch.save({STEM: torch.zeros(7)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    assert data.count(b"K\x07") == 2
    path.write_bytes(data.replace(b"K\x07", b"\x8a\x05\x00\x00\x00\x00\x02", 1))


def saved(value: Any, **options: Any) -> Callable[[Path], None]:
    """Save a value as torch does."""
    return lambda path: torch.save(value() if callable(value) else value, path, **options)


def wide(**options: Any) -> Callable[[Path], None]:
    return saved(lambda: {STEM: torch.zeros(1, dtype=torch.int8).expand(5000, 5000, 7, 7)}, **options)


def shared() -> dict[str, torch.Tensor]:
    return dict.fromkeys(map(str, range(10_000)), torch.zeros(1 << 18))


def sparse() -> torch.Tensor:
    return torch.sparse_coo_tensor(torch.zeros(4, 1, dtype=torch.long), torch.ones(1), (5000, 5000, 7, 7))


def safetensors(header: Any, data: bytes = b"0000") -> Callable[[Path], None]:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return lambda path: path.write_bytes(struct.pack("<Q", len(text)) + text + data) and None


def said_of_itself(metadata: str) -> dict[str, Any]:
    return {"__metadata__": {"pbvs": metadata}, "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}


def model(kind: str, **config: int) -> Callable[[Path], None]:
    return safetensors(said_of_itself(json.dumps({"kind": kind, "config": config})))


def trunk(path: Path) -> None:
    """A folder of weights with a hostile AlexNet."""
    path.mkdir()
    saved({"features.0.weight": sparse()})(path / "alexnet-owt-7be5be79.pth")


# --- Recipes and records.


def text(words: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(words, encoding="utf-8") and None


def recipe(line: str) -> Callable[[Path], None]:
    return text(f'name = "r"\n[stages.sar2eo]\nmethod = "unet"\n{line}\n')


def bundle(recipe_text: str) -> Callable[[Path], None]:
    """A bundle whose recipe is hostile and whose list is right."""

    def make(path: Path) -> None:
        from hashlib import sha256

        files = {"recipe.toml": sha256(recipe_text.encode()).hexdigest()}
        with zipfile.ZipFile(path, "w") as target:
            target.writestr("bundle.json", json.dumps({"format": 1, "run": "theirs", "files": files}))
            target.writestr("recipe.toml", recipe_text)

    return make


# --- Images.


def data_with(name: str, image: Callable[[Path], object]) -> Callable[[Path], None]:
    """A data folder in which one image is hostile."""

    def make(path: Path) -> None:
        write_data(path)
        image(path / name)

    return make


def sparse_tiff(path: Path, dtype: str = "complex128", side: int = 6300, bands: int = 16, padding: int = 0) -> None:
    """Sixteen bands of complex numbers, ten gigabytes, in 1.6 kB; `padding` makes the file so much larger."""
    import rasterio

    rasterio.open(
        path, "w", driver="GTiff", height=side, width=side, count=bands, dtype=dtype, SPARSE_OK="TRUE",
        compress="deflate", tiled=True, blockxsize=512, blockysize=512,
    ).close()  # fmt: skip
    with path.open("ab") as file:
        file.write(bytes(padding))


def one_block(path: Path) -> None:
    """Three bands of floats, black, in the largest block that is read, which a decoder unpacks as a whole."""
    import rasterio

    side = 5750
    profile = {"height": side, "width": side, "count": 3, "dtype": "float32", "blockysize": side}
    with rasterio.open(path, "w", driver="GTiff", compress="deflate", interleave="pixel", **profile) as file:
        for band in (1, 2, 3):
            file.write(np.zeros((side, side), np.float32), band)


NETWORK = 'method = "unet"\nwidth = 4\nlevels = 1\nstyle = 0\nlpips_net = "random"'


def inputs(
    task: str, suffix: str, image: Callable[[Path], object], count: int = 1, network: bool = False
) -> Callable[[Path], None]:
    """A data folder whose test inputs of a task are hostile, its manifests, and a recipe, with a network or gray."""

    def make(path: Path) -> None:
        write_data(path)
        folder = path / "test" / task
        for old in folder.iterdir():
            old.unlink()
        image(folder / f"0{suffix}")
        for number in range(1, count):
            (folder / f"{number}{suffix}").hardlink_to(folder / f"0{suffix}")
        write_manifests(path, path.with_name("data_manifests"))
        method = NETWORK if network else 'method = "grayscale"'
        recipe_text = f'name = "r"\nevaluation_size = "native"\n[stages.{task}]\n{method}\n'
        path.with_name("r.toml").write_text(recipe_text, encoding="utf-8")
        if network:
            write_model(Run("r", path.with_name("submissions")), load_recipe(path.with_name("r.toml")), task)

    return make


def write_model(run: Run, recipe: Recipe, task: str) -> None:
    """A network that was never trained, as one that was installed."""
    from pbvs.challenge import load_challenge
    from pbvs.training.checkpoint import make_network
    from pbvs.translators import make_translator

    translator: Any = make_translator(load_challenge().task(task), recipe.stages[task])
    grid = {"least": 64, "most": 256, "whole": False}
    translator.network, translator.metadata = make_network(translator.config), {"grid": grid}
    run.write_recipe(recipe)
    translator.save(run.model(task))
    mark_done(run.model_metadata_file(task), "0" * 64, installed=True)


def png(side: int, colour: bool = False, noisy: int = 0) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(flat_png(side, colour, noisy))


def tiff(dtype: str, **options: int) -> Callable[[Path], object]:
    return lambda path: sparse_tiff(path, dtype, **options)


CHECK = "check {path}"
PREDICT = "predict --recipe r.toml --run r --data {path} --split test --jobs 1 --device cpu --task "
MADE = "Predictions: submissions"
INSPECT = "checkpoint inspect {path}"
SHOW = "recipe show {path}"
DOTTED = ".".join("a" * 100_000) + " = 1\n"
ATTACKS: dict[str, Attack] = {
    "zip: twenty images of 40 megapixels": Attack(twenty_large, CHECK, "unpack to far more than its own size"),
    "zip: 4,000 black images": Attack(thousands_of_flat, CHECK, "unpack to far more than its own size"),
    "zip: 900 MB of zeros": Attack(zeros, CHECK, "times its size"),
    "zip: one tile of a gigabyte": Attack(one_tile, CHECK, "its tiles have 32768 pixels"),
    "zip: a directory of 3 GB": Attack(huge_directory, CHECK, "its directory takes 3221225472 bytes"),
    "zip: a pipe": Attack(os.mkfifo, CHECK, "is not a regular file"),
    "zip: a pipe that is scored": Attack(os.mkfifo, "score {path} --targets . --lpips-net random", "not a regular"),
    "zip: a pipe that is logged": Attack(os.mkfifo, "submissions log {path}", "is not a regular file"),
    "zip: a pipe that is installed": Attack(os.mkfifo, "install {path}", "is not a regular file"),
    "zip: twenty images of 40 megapixels that are scored": Attack(
        twenty_to_score, "score {path} --targets targets --lpips-net random", "Not one image"
    ),
    "zip: an endless device": Attack(endless, CHECK, "is not a regular file"),
    "zip: a folder": Attack(Path.mkdir, CHECK, "is a directory", 2),
    "data: folders that hold themselves": Attack(
        folders_in_themselves, "check {path} --data data --evaluation-size native", "No rule is broken", 0
    ),
    "data: a TIFF of 16 complex bands in 1.6 kB": Attack(
        data_with("test/sar2eo/99.tiff", sparse_tiff), "build-pairs --data {path} --jobs 1", "5 not used", 0
    ),
    "data: a TIFF with one tile of a gigabyte": Attack(
        data_with("test/sar2eo/99.tiff", lambda path: path.write_bytes(tiled_tiff(32_768))),
        "build-pairs --data {path} --jobs 1",
        "5 not used",
        0,
    ),
    "data: a pipe in an image's place": Attack(
        data_with("test/sar2eo/99.png", os.mkfifo), "build-pairs --data {path} --jobs 1", "5 not used", 0
    ),
    "data: a PNG of 40 megapixels is looked through": Attack(
        data_with("test/rgb2ir/99.png", png(6300, colour=True, noisy=30)), "check-data {path} --jobs 1", "rgb2ir", 0
    ),
    "data: a complex TIFF of 40 megapixels in 400 kB": Attack(
        data_with("test/sar2eo/99.tiff", tiff("complex64", bands=1, padding=400_000)),
        "build-pairs --data {path} --jobs 1",
        "Note: sar2eo",
        0,
    ),
    "input: a PNG of 40 megapixels": Attack(inputs("rgb2ir", ".png", png(6300, True, 30)), PREDICT + "rgb2ir", MADE, 0),
    "input: a PNG of 40 megapixels for a network": Attack(
        inputs("sar2eo", ".png", png(6300, noisy=70), network=True), PREDICT + "sar2eo", MADE, 0
    ),
    "input: a colour PNG of 40 megapixels for a network": Attack(
        inputs("rgb2ir", ".png", png(6300, True, 30), network=True), PREDICT + "rgb2ir", MADE, 0
    ),
    "input: a PNG of 40 megapixels that a network colours": Attack(
        inputs("sar2rgb", ".png", png(6300, noisy=70), network=True), PREDICT + "sar2rgb", MADE, 0
    ),
    "input: a PNG of 40 megapixels in 120 kB": Attack(
        inputs("rgb2ir", ".png", png(6300, colour=True)), PREDICT + "rgb2ir", "more than its"
    ),
    "input: five PNGs of 16 megapixels in 47 kB each": Attack(
        inputs("rgb2ir", ".png", png(4000, colour=True), 5), PREDICT + "rgb2ir", MADE, 0
    ),
    "input: a TIFF of 16 complex bands in 1.6 kB": Attack(
        inputs("rgb2ir", ".tiff", tiff("complex128")), PREDICT + "rgb2ir", "more than its"
    ),
    "input: a TIFF of 16 complex bands of 16 megapixels": Attack(
        inputs("rgb2ir", ".tiff", tiff("complex64", side=4000)), PREDICT + "rgb2ir", MADE, 0
    ),
    "input: a TIFF of 33 megapixels in one block for a network": Attack(
        inputs("rgb2ir", ".tiff", one_block, network=True), PREDICT + "rgb2ir", MADE, 0
    ),
    "input: a complex TIFF of 40 megapixels for a network": Attack(
        inputs("sar2eo", ".tiff", tiff("complex128", bands=1, padding=400_000), network=True),
        PREDICT + "sar2eo",
        MADE,
        0,
    ),
    ".pth: 1.2 GB by a stride of 0": Attack(wide(), INSPECT, "would take 1,225,000,000 bytes"),
    ".pth: the same in torch's old format": Attack(
        wide(_use_new_zipfile_serialization=False), INSPECT, "would take 1,225,000,000 bytes"
    ),
    ".pth: one tensor under 10,000 names": Attack(saved(shared), INSPECT, "would take 10,485,760,000 bytes"),
    ".pth: 600 MB of deflated zeros": Attack(
        lambda path: packed(path, listing(150 << 20, (150 << 20,)), bytes(600 << 20), zipfile.ZIP_DEFLATED),
        INSPECT,
        "unpacks to more than its",
    ),
    ".pth: entries that quote one another": Attack(
        lambda path: packed(path, listing(250_000, (250_000,)), bytes(1_000_000), entries=4000),
        INSPECT,
        "unpacks to more than its 1,",
    ),
    ".pth: a tensor larger than its storage": Attack(
        lambda path: packed(path, listing(1, (GIBI,)), bytes(4)), INSPECT, "no checkpoint of torch"
    ),
    ".pth: a storage larger than its file": Attack(
        lambda path: packed(path, listing(GIBI, (GIBI,)), bytes(4)),
        INSPECT,
        "no checkpoint of torch | would take 4,294,967,296 bytes, and it has",
    ),
    ".pth: an array of 8 GB by a call": Attack(
        lambda path: packed(path, pickle.dumps({STEM: _Of(bytearray, 8 << 30)}, 2)), INSPECT, "more than plain tensors"
    ),
    ".pth: a list of 60 MB": Attack(
        lambda path: packed(path, b"\x80\x02" + b"\x8f" * (60 << 20) + b"."), INSPECT, "lists its tensors in 62,914"
    ),
    ".pth: a key of tuples in tuples, 2^40 of them": Attack(
        pickled(b")q\x00" + b"h\x00h\x00\x86q\x00" * 40), INSPECT, "tuples in tuples"
    ),
    ".pth: a key of a million tuples in one another": Attack(
        pickled(b")" + b"\x85" * 1_000_000), INSPECT, "tuples in tuples"
    ),
    ".pth: in torch's old format, a storage larger than its file": Attack(claimed, INSPECT, "no checkpoint of torch"),
    ".pth: sparse": Attack(saved({STEM: sparse()}), INSPECT, "_rebuild_sparse_tensor"),
    ".pth: quantised": Attack(
        saved(lambda: {STEM: torch.quantize_per_tensor(torch.zeros(1), 1.0, 0, torch.qint8)}),
        INSPECT,
        "_rebuild_qtensor",
    ),
    ".pth: without bytes (meta)": Attack(
        saved({STEM: torch.empty(50_000, 50_000, device="meta")}), INSPECT, "_rebuild_meta_tensor"
    ),
    ".pth: nested": Attack(
        saved(lambda: {STEM: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])}),
        INSPECT,
        "_rebuild_nested_tensor",
    ),
    ".pth: shapes with a 0 and 2^40": Attack(
        saved({STEM: torch.zeros(0, 1 << 40, 7, 7), "model.4.weight": torch.zeros(1 << 41, 0, 3, 3)}),
        INSPECT,
        "is neither a generator nor",
    ),
    ".pth: a width of 2^20": Attack(
        saved({"scale0_layer0.0.weight": torch.zeros(1 << 20, 0, 4, 4)}), INSPECT, "a number is over 4096"
    ),
    ".pth: a number in a weight's place": Attack(saved({STEM: torch.tensor(1.0)}), INSPECT, "is neither a generator"),
    ".pth: among the weights of LPIPS": Attack(trunk, "weights verify alex --weights {path}", "does not begin with"),
    ".safetensors: says it holds 4 GB": Attack(
        safetensors({"a": {"dtype": "F32", "shape": [GIBI], "data_offsets": [0, 4 * GIBI]}}), INSPECT, "do not fill it"
    ),
    ".safetensors: a shape beyond its bytes": Attack(
        safetensors({"a": {"dtype": "F32", "shape": [GIBI], "data_offsets": [0, 4]}}), INSPECT, "no safetensors file"
    ),
    ".safetensors: a header of 90 MB": Attack(
        safetensors(b"{" + b" " * (90 << 20) + b"}"), INSPECT, "header makes no sense"
    ),
    ".safetensors: 100,000 lists deep": Attack(safetensors(said_of_itself("[" * 100_000)), INSPECT, "not valid JSON"),
    ".safetensors: 4,096 levels of 4,096 channels": Attack(
        model("unet", source_channels=1, target_channels=3, width=4096, levels=4096), INSPECT, "more than 2048 layers"
    ),
    "recipe: a key of 100,000 parts": Attack(text(DOTTED), SHOW, "more than 64 parts"),
    "recipe: a key of 1 MB": Attack(text(".".join("a" * 500_000) + " = 1\n"), SHOW, "at most 262,144 are read"),
    "recipe: a number of 5,000 digits": Attack(recipe(f"width = {'9' * 5000}"), SHOW, "is not valid TOML"),
    "recipe: infinity": Attack(recipe("learning_rate = inf"), SHOW, "inf is no number"),
    "recipe: 10^400": Attack(recipe("learning_rate = 1e400"), SHOW, "inf is no number"),
    "recipe: a width of 10^9": Attack(recipe("width = 1000000000"), SHOW, "less than or equal to 4096"),
    "recipe: 10^6 blocks": Attack(recipe("blocks = 1000000"), SHOW, "less than or equal to 256"),
    "recipe: 900 lists deep": Attack(recipe(f"width = {'[' * 900}{']' * 900}"), SHOW, "too deep"),
    "bundle: a recipe with a key of 100,000 parts": Attack(bundle(DOTTED), "install {path}", "more than 64 parts"),
    "bundle: a recipe of 10^6 blocks": Attack(
        bundle('name = "r"\n[stages.sar2eo]\nmethod = "unet"\nblocks = 1000000\n'), "install {path}", "equal to 256"
    ),
}
SUFFIXES = {"zip": ".zip", "bundle": ".pbvs.zip", "recipe": ".toml", "data": "", "input": ""}


def prepare(what: str, folder: Path) -> list[str]:
    """Make what an attack needs in `folder`; return the arguments of the command that meets it."""
    attack, kind = ATTACKS[what], what.partition(":")[0]
    suffix = ".zip" if attack.command.startswith("check ") else SUFFIXES.get(kind, kind)
    path = folder / ("theirs" if attack.make is trunk else f"hostile{suffix}")
    attack.make(path)
    return attack.command.format(path=path.name).split()


MEASURED = """
import re, sys
from pathlib import Path
from pbvs.cli import main
try:
    main(sys.argv[2:])
finally:
    status = Path("/proc/self/status")
    pages = re.search(r"RssFile:\\s+(\\d+)", status.read_text()) if status.is_file() else None
    Path(sys.argv[1]).write_text(pages[1] if pages else "0")
"""


def run(folder: Path, *command: str) -> Outcome:
    """Run a command in a process of its own and measure it.

    Its memory is the most that it had less the pages of files at its end: those are libraries, of which the system maps
    180 MiB more or less of the same torch, as they lie on the disk, and which it takes back when memory is short.
    """
    pages = folder.parent / f"{folder.name}.pages"
    script = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run([sys.executable, '-c', *sys.argv[1:]], capture_output=True, text=True)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(done.returncode, used.ru_maxrss, used.ru_utime + used.ru_stime)\n"
        "print(done.stdout, done.stderr)"
    )
    wide_terminal = {**os.environ, "COLUMNS": "250", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    line = (sys.executable, "-c", script, MEASURED, str(pages.resolve()), *command)
    done = subprocess.run(line, cwd=folder, env=wide_terminal, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(done.stderr)
    first, _, said = done.stdout.partition("\n")
    status, memory, seconds = first.split()
    own = int(memory) - int(pages.read_text())
    return Outcome(int(status), said, own * 1024, float(seconds), int(memory) * 1024)


class Forks:
    """Commands run in forks of one process that has imported everything: as `run`, but started in no time."""

    SERVER = """
import json, os, resource, sys
import torch, pandas, rasterio, safetensors.torch, lpips, skimage.metrics
import pbvs.cli, pbvs.experiments.bundle, pbvs.experiments.machine, pbvs.data.build
import pbvs.translators.pix2pixhd.translator
for line in sys.stdin:
    folder, command, out = json.loads(line)
    child = os.fork()
    if not child:
        os.chdir(folder)
        handle = os.open(out, os.O_CREAT | os.O_WRONLY)
        os.dup2(handle, 1), os.dup2(handle, 2)
        try:
            pbvs.cli.main(command)
        except SystemExit as stop:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(stop.code or 0)
        os._exit(99)
    _, status, used = os.wait4(child, 0)
    print(os.waitstatus_to_exitcode(status), used.ru_maxrss, used.ru_utime + used.ru_stime, flush=True)
"""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "COLUMNS": "250"},
        )  # fmt: skip

    def run(self, folder: Path, *command: str) -> Outcome:
        """Run a command and measure it."""
        assert self.process.stdin and self.process.stdout
        out = folder / "said.txt"
        self.process.stdin.write(json.dumps([str(folder), command, str(out)]) + "\n")
        self.process.stdin.flush()
        status, memory, seconds = self.process.stdout.readline().split()
        return Outcome(int(status), out.read_text(encoding="utf-8"), int(memory) * 1024, float(seconds))

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def main() -> None:
    """Print the table: each attack with its bytes, most memory, that with libraries' files, and processor seconds."""
    print("| what a stranger sends | its size | most memory | resident | seconds |\n| --- | --- | --- | --- | --- |")
    for what in sys.argv[1:] or ATTACKS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            command = prepare(what, folder)
            sent = (part for path in folder.glob("hostile*") for part in (path, *path.rglob("*")))
            size = sum(path.lstat().st_blocks * 512 for path in sent if path.is_file() and not path.is_symlink())
            began = time.monotonic()
            found = run(folder, *command)
            taken = time.monotonic() - began
        good = found.status == ATTACKS[what].status and ATTACKS[what].told(found.said)
        good = good and found.memory < MOST_MEMORY and found.seconds < MOST_SECONDS
        print(
            f"| {what} | {size / 1e3:,.0f} kB | {found.memory / 2**20:.0f} MiB | "
            f"{found.resident / 2**20:.0f} MiB | {found.seconds:.1f} |"
            + ("" if good else f" BAD ({taken:.0f} s): {found.said[-300:]}"),
            flush=True,
        )


if __name__ == "__main__":
    main()
