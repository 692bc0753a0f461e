"""`python -m tests.faults --minutes N`: break every command at every point, and count what was lost."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.faults.changing import CHAIN, ChangeBench
from tests.faults.points import Bench, Count, run_points
from tests.faults.reading import ReadBench, start_again_with_the_library
from tests.faults.scenarios import READ_ONLY, SCENARIOS


def main() -> int:
    """Go through the scenarios until the time is over, or SIGTERM comes; return 1 when anything was lost."""
    chosen = _arguments()
    reads = chosen.reading or chosen.changing
    if reads and (reason := start_again_with_the_library()):
        print(f"skipped: {reason}")
        return 0
    bench = ChangeBench if chosen.changing else ReadBench if chosen.reading else Bench
    end = time.monotonic() + 60 * chosen.minutes
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))

    def over() -> bool:
        return bool(told) or time.monotonic() > end

    total = Count()
    done: list[dict[str, Any]] = []
    every = SCENARIOS if chosen.reading else [name for name in SCENARIOS if name not in READ_ONLY]
    names = chosen.only or (CHAIN if chosen.changing else every)
    for name in sorted(names, key=lambda name: SCENARIOS[name].torch):  # so that few forks have torch
        if SCENARIOS[name].torch:
            import torch

            torch.set_num_threads(1)
        start = time.monotonic()
        count = run_points(SCENARIOS[name], chosen.limit, chosen.seed, over, bench)
        total.add(count)
        done.append({"scenario": name, "seconds": round(time.monotonic() - start), **vars(count)})
        _tell(done[-1])
        if chosen.counts:
            chosen.counts.write_text(json.dumps(done, indent=1))
        if over():
            break
    modes = ", ".join(f"{mode} {number}" for mode, number in sorted(total.modes.items()))
    print(f"points tried: {total.tried} ({modes}); lost: {len(total.lost)}")
    return bool(total.lost)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run_all.sh faults", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="stop after so long")
    parser.add_argument("--reading", action="store_true", help="break what is read instead of what is written")
    parser.add_argument("--changing", action="store_true", help="change the data before and during the command instead")
    parser.add_argument("--only", action="append", choices=list(SCENARIOS), help="only this scenario (repeatable)")
    parser.add_argument("--limit", type=int, help="at most so many points of each scenario, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--counts", type=Path, help="a JSON file that is written after each scenario")
    return parser.parse_args()


def _tell(done: dict[str, Any]) -> None:
    lost = done["lost"]
    print(
        f"{done['scenario']:<30}{done['tried']:>6} of {done['known']} points, lost {len(lost)}, {done['seconds']} s",
        flush=True,
    )
    for line in lost[:5]:
        print(f"   {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
