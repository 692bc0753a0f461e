"""`python -m tests.faults --minutes N`: break every command at every point, and count what was lost."""

from __future__ import annotations

import argparse
import sys
import time

from tests.faults.points import Count, run_points
from tests.faults.scenarios import SCENARIOS, warm


def main() -> int:
    """Go through the scenarios until the time is over; return 1 when anything was lost."""
    parser = argparse.ArgumentParser(prog="run_all.sh faults", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="stop after so long")
    parser.add_argument("--only", action="append", choices=list(SCENARIOS), help="only this scenario (repeatable)")
    parser.add_argument("--limit", type=int, help="at most so many points of each scenario")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    end = time.monotonic() + 60 * chosen.minutes
    total = Count()
    for name in sorted(chosen.only or SCENARIOS, key=lambda name: SCENARIOS[name].torch):
        warm(SCENARIOS[name].torch)
        start = time.monotonic()
        count = run_points(SCENARIOS[name], chosen.limit, chosen.seed, lambda: time.monotonic() > end)
        total.add(count)
        print(
            f"{name:<30}{count.tried:>7} points, lost {len(count.lost)}, {time.monotonic() - start:.0f} s", flush=True
        )
        for line in count.lost[:5]:
            print(f"   {line}", flush=True)
        if time.monotonic() > end:
            break
    modes = ", ".join(f"{mode} {number}" for mode, number in sorted(total.modes.items()))
    print(f"points tried: {total.tried} ({modes}); lost: {len(total.lost)}")
    return bool(total.lost)


if __name__ == "__main__":
    sys.exit(main())
