"""`python -m tests.faults.long_training --steps 10000`: memory, open files and processes of a long training."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from pbvs.training.step import Feed, Schedule
from tests.training.little import LittleChips, little_method, little_trainer

STEPS = 200  # of an epoch


def main() -> int:
    """Train; print a line each twentieth of the way; return 1 when the second half took more than the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    epochs = chosen.steps // STEPS
    seen: list[tuple[float, int, int]] = []

    def validate(network: Any, epoch: int) -> dict[str, float | None]:
        seen.append((memory(), len(list(Path("/proc/self/fd").iterdir())), len(multiprocessing.active_children())))
        if epoch % max(1, epochs // 20) == 0:
            print("step {:>6}: {:.1f} MiB, {} open files, {} workers".format(epoch * STEPS, *seen[-1]), flush=True)
        return {"rmse": 1 / epoch, "lpips": None, "score": 1 / epoch}

    with tempfile.TemporaryDirectory() as folder:
        little_trainer(
            Path(folder),
            little_method(),
            chips=LittleChips(2 * STEPS),
            schedule=Schedule(1e-5, epochs),
            feed=Feed(workers=chosen.workers),
            save_minutes=10.0,
            validate=validate,
        ).run()
    left = multiprocessing.active_children()
    half = max(item[0] for item in seen[: len(seen) // 2])
    growth = max(item[0] for item in seen) - half
    files = seen[-1][1] - seen[1][1]
    print(f"{chosen.steps} steps: memory grew by {growth:.1f} MiB in the second half, open files by {files}, "
          f"{len(left)} processes left")  # fmt: skip
    return bool(growth > 20 or files > 2 or left)


def memory() -> float:
    """Return the memory that this process holds now, in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    sys.exit(main())
