"""Run the parts one after the other, each in a process of its own, and print one table."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks import table
from tests.benchmarks.harness import Row

PARTS = (
    "startup", "build_pairs", "check_data", "input", "prediction", "scoring", "package", "training_step", "growth",
)  # fmt: skip
DESCRIPTION = """\
Measures pbvs against what a user would do otherwise, in turns, in one run. Without names all parts are measured,
which ends within ten minutes on two cores. `ratio` is ours / plain under a bound "<=", plain / ours under ">=".
"""


def main() -> int:
    """Measure, print, and compare with the last measurement kept; return 1 when a part failed."""
    arguments = parse()
    if arguments.child:
        return child(arguments.child, arguments.quick, arguments.json)
    last, start, began = table.read_last(), table.machine(), time.perf_counter()
    rows: list[Row] = []
    failed = []
    for part in arguments.parts or PARTS:
        found = measure(part, arguments.quick)
        rows += found or []
        if found is None:
            failed.append(part)
    print(table.as_table(rows, last))
    result = table.as_json(rows, time.perf_counter() - began, start, arguments.quick)
    print(f"\n{result['seconds']} s on {start['cores']} cores; load {start['load']} to {table.load()}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    if arguments.save:
        kept = table.merged(last, result)
        table.LAST.write_text(json.dumps(kept, indent=1) + "\n")
        table.PAGE.write_text(table.put_figures(table.PAGE.read_text(), table.as_page(kept, PARTS)))
    for part in failed:
        print(f"{part} could not be measured; see above.", file=sys.stderr)
    return 1 if failed else 0


def parse() -> argparse.Namespace:
    """Return the command line's choices."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=DESCRIPTION)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="part", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="fewer repetitions and smaller sizes, for a first look")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    parser.add_argument("--save", action="store_true", help=f"keep them as {table.LAST.name}, and in docs/speed.md")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(part: str, quick: bool) -> list[Row] | None:
    """Measure one part in a process of its own; None when that fails."""
    print(f"measuring {part} ...", file=sys.stderr, flush=True)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "tests.benchmarks", "--child", part, "--json", str(file)]
        if subprocess.run(command + ["--quick"] * quick, check=False).returncode:
            return None
        rows = [Row(**row) for row in json.loads(file.read_text())]
    print(f"  {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return rows


def child(part: str, quick: bool, file: Path) -> int:
    """Measure a part in this process and leave its rows in `file`."""
    rows = importlib.import_module(f"tests.benchmarks.{part}").run(quick)
    file.write_text(json.dumps([vars(row) for row in rows]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
