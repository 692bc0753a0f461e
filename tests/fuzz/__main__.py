"""`python -m tests.fuzz --cases N`: damaged files for every reader, and what came out but a sentence."""

from __future__ import annotations

import argparse
import sys
import time

from tests.fuzz.run import run
from tests.fuzz.targets import TARGETS


def summary(findings: list[tuple[int, str]]) -> dict[str, list[int]]:
    """Return the findings that differ in where they came out, and the cases of each."""
    found: dict[str, list[int]] = {}
    for number, text in findings:
        places = [line.strip() for line in text.splitlines() if "/pbvs/" in line]
        found.setdefault(f"{text.strip().splitlines()[-1][:300]} {places[-1] if places else ''}", []).append(number)
    return found


def main() -> int:
    """Go through the readers; return 1 when anything but a PbvsError came out of one."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=1000, help="of each reader")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--only", action="append", choices=list(TARGETS))
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after so long")
    chosen = parser.parse_args()
    end = time.monotonic() + 60 * chosen.minutes
    tried = found = 0
    for target in sorted((TARGETS[name] for name in chosen.only or TARGETS), key=lambda target: target.heavy):
        start = time.monotonic()
        report = run(target, range(chosen.first, chosen.first + chosen.cases), lambda: time.monotonic() > end)
        tried += report.tried
        found += len(report.findings)
        seconds = time.monotonic() - start
        refused = f"{report.refused} refused with a sentence"
        print(f"{target.name:<14}{report.tried:>7} cases, {refused}, {len(report.findings)} findings, {seconds:.0f} s")
        for text, numbers in summary(report.findings).items():
            print(f"   {len(numbers)} times, first in case {numbers[0]}: {text}", flush=True)
    print(f"cases tried: {tried}; findings: {found}")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
