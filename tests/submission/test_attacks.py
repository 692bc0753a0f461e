"""Archives and folders that a stranger made: each ends in a sentence, within 1 GiB and 10 s of computing."""

from __future__ import annotations

import os
import resource
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.submission.workspace import README, noise, png_bytes, write_data

MOST_MEMORY = 1 << 30  # bytes
MOST_SECONDS = 10.0  # of the processor


def flat_png(side: int, colour: bool = False) -> bytes:
    """A black PNG, made without holding its pixels."""
    row, squeeze = b"\0" * (1 + side * (3 if colour else 1)), zlib.compressobj(9)
    data = b"".join(squeeze.compress(row) for _ in range(side)) + squeeze.flush()
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


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


ATTACKS: dict[str, tuple[Callable[[Path], None], str]] = {
    "twenty images of 40 megapixels": (twenty_large, "unpack to far more than its own size"),
    "4,000 black images": (thousands_of_flat, "unpack to far more than its own size"),
    "900 MB of zeros": (zeros, "times its size"),
    "one tile of a gigabyte": (one_tile, "its tiles have 32768 pixels"),
    "a directory of 3 GB": (huge_directory, "its directory takes 3221225472 bytes"),
    "a pipe": (pipe, "is not a regular file"),
    "an endless device": (endless, "is not a regular file"),
    "a folder": (folder, "is a directory"),
}
COMMANDS = {
    "check": ("check",),
    "score": ("score", "--targets", "targets", "--lpips-net", "random"),
    "log": ("submissions", "log"),
    "install": ("install",),
}


def run(folder: Path, *command: str) -> tuple[int, str, int, float]:
    """Return a command's status, what it printed, its peak memory in bytes and its seconds of computing."""
    script = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run([sys.executable, '-m', 'pbvs', *sys.argv[1:]], capture_output=True, text=True)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(done.returncode, used.ru_maxrss, used.ru_utime + used.ru_stime)\n"
        "print(done.stdout, done.stderr)"
    )
    command = (sys.executable, "-c", script, *command)
    wide = {**os.environ, "COLUMNS": "250"}  # no sentence is broken
    done = subprocess.run(command, cwd=folder, env=wide, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, _, said = done.stdout.partition("\n")
    status, memory, seconds = first.split()
    return int(status), said, int(memory) * 1024, float(seconds)


def bounded(memory: int, seconds: float) -> None:
    assert memory < MOST_MEMORY
    assert seconds < MOST_SECONDS


@pytest.mark.parametrize("what", ATTACKS)
def test_a_hostile_archive_costs_little(what: str, tmp_path: Path) -> None:
    make, words = ATTACKS[what]
    make(tmp_path / "a.zip")
    status, said, memory, seconds = run(tmp_path, "check", "a.zip")
    assert (status, words in said, "Traceback" in said) == (1 if make is not folder else 2, True, False), said
    bounded(memory, seconds)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("make", [pipe])
def test_what_is_no_file_is_refused_by_every_command(
    command: str, make: Callable[[Path], None], tmp_path: Path
) -> None:
    make(tmp_path / "a.zip")
    (tmp_path / "targets").mkdir()
    first, *more = COMMANDS[command]
    status, said, memory, seconds = run(tmp_path, first, *more, "a.zip")
    assert (status, "is not a regular file" in said) == (1, True), said
    bounded(memory, seconds)


def test_folders_that_hold_themselves(tmp_path: Path) -> None:
    """Links that lead back up multiply a walk's paths without end."""
    root = tmp_path / "data"
    write_data(root)
    for name in "abc":
        (root / name).symlink_to(root)
        (root / "test" / name).symlink_to(root / "test")
    archive(tmp_path / "a.zip", {f"sar2eo/{index}.png": png_bytes(noise(index, 1)) for index in range(11)})
    options = ("--data", "data", "--evaluation-size", "native")
    status, said, memory, seconds = run(tmp_path, "check", "a.zip", *options)
    assert status == 0, said
    bounded(memory, seconds)


def test_the_limits_are_measured() -> None:
    """The measuring itself works: a process that takes 200 MB is seen to."""
    script = "import numpy; numpy.ones(25_000_000); import resource; print(resource.getrusage(0).ru_maxrss)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 > 200_000_000
    assert np.ones(1).nbytes == 8 and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0
