"""`python -m tests.faults.load --images 100000`: predict, score and package many small images, and their memory."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from pbvs.data.images import write_png
from pbvs.data.manifest import Pair, manifest_path
from pbvs.files import write_json
from tests.manifests import write_manifest

RECIPE = 'name = "r"\nevaluation_size = "native"\n[stages.rgb2ir]\nmethod = "grayscale"\nintensity = 1.3\n'
PROTOCOL = 'name = "l2"\nterms = ["pixel"]\n'
COMMANDS = (
    "predict --all --recipe r.toml --run r --jobs 1",
    "score --run r --split val --protocol l2.toml --lpips-net random --jobs 1",
    "package --run r --tasks rgb2ir --data data",
)


def main() -> int:
    """Run the three commands on a tenth of the images and on all, and print time and memory of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="where; else a temporary folder")
    chosen = parser.parse_args()
    for count in (chosen.images // 10, chosen.images):
        with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
            prepare(Path(folder), count)
            for line in COMMANDS:
                print(f"{count:>7} images  {measure(line, Path(folder))}  {line}", flush=True)
    return 0


def prepare(folder: Path, count: int) -> None:
    """Make `count` inputs (links to a few images) and the manifests that name them, for test and for val."""
    os.chdir(folder)
    rng = np.random.default_rng(0)
    for number in range(16):
        write_png(Path(f"data/{number}.png"), rng.integers(0, 255, (32, 32, 3)).astype(np.uint8))
        write_png(Path(f"data/{number}_ir.png"), rng.integers(0, 255, (32, 32, 1)).astype(np.uint8))
    places = [f"data/in/{number // 1000:03}" for number in range(0, count, 1000)]
    for place in places:
        Path(place).mkdir(parents=True)
    pairs = []
    for number in range(count):
        name = f"in/{number // 1000:03}/{number}.png"
        os.link(f"data/{number % 16}.png", f"data/{name}")
        pair = Pair(str(number), "rgb2ir", "test", f"place{number % 50}", name, source_rule="full", target_rule="full")
        pairs.append(pair)
    held_out = (replace(pair, split="val", target=f"{int(pair.name) % 16}_ir.png", origin="held-out") for pair in pairs)
    write_manifest(manifest_path(Path("data_manifests"), "rgb2ir", "train"), [])
    write_manifest(manifest_path(Path("data_manifests"), "rgb2ir", "test"), pairs)
    write_manifest(manifest_path(Path("data_manifests"), "rgb2ir", "val"), held_out)
    write_json(Path("data_manifests/summary.json"), {"root": str(folder / "data")})
    Path("r.toml").write_text(RECIPE)
    Path("l2.toml").write_text(PROTOCOL)


def measure(line: str, folder: Path) -> str:
    """Run a command; return its seconds and the most memory that it had, in MiB."""
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "pbvs", *line.split()], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    said = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"pbvs {line} ended with {os.waitstatus_to_exitcode(status)}: {said[-500:]}")
    seconds, cpu = time.monotonic() - start, usage.ru_utime + usage.ru_stime
    return f"{seconds:7.1f} s ({cpu:6.1f} s of processor)  {usage.ru_maxrss / 1024:7.1f} MiB"


if __name__ == "__main__":
    sys.exit(main())
