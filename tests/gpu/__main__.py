"""Prove the CUDA side on one GPU in at most eight minutes: `./run_all.sh gpu`, without a network.

    python -m tests.gpu                  # on the GPU; writes gpu.json into $OUT or the current folder
    python -m tests.gpu --device cpu     # rehearse the script where there is no GPU

Each line is PASS, FAIL or SKIP with numbers; the exit status is 1 when a check failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.gpu import commands, networks
from tests.gpu.lab import Lab

CHECKS: tuple[tuple[Callable[[Lab], dict[str, Any]], float], ...] = (  # with the seconds that must be left for it
    (networks.parity, 20),
    (networks.half_precision, 40),
    (networks.recomputing, 20),
    (networks.deterministic, 20),
    (networks.enhancer, 20),
    (networks.data_parallel, 20),
    (networks.frozen_networks, 20),
    (networks.translating, 20),
    (commands.profile, 20),
    (commands.paper_speed, 90),
    (commands.demo_data, 30),
    (commands.training, 60),
    (commands.scoring, 60),
    (commands.processes, 60),
    (commands.missing_device, 20),
    (commands.moving, 40),
    (commands.resuming, 90),
)


def main() -> int:
    """Run the checks and write what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=465.0)
    parser.add_argument("--only", default="", help="names of checks, with commas between")
    words = parser.parse_args()
    rows = [environment(words.device)]
    with tempfile.TemporaryDirectory(prefix="pbvs-gpu-") as folder:
        lab = Lab(words.device, Path(folder), words.seconds)
        os.environ["PBVS_WEIGHTS"] = str(lab.weights)
        wanted = set(filter(None, words.only.split(",")))
        for check, seconds in CHECKS:
            if not wanted or check.__name__ in wanted:
                rows.append(run(check, seconds, lab))
    out = Path(os.environ.get("OUT", ".")) / "gpu.json"
    out.write_text(json.dumps(rows, indent=1, default=str) + "\n", encoding="utf-8")
    failed = sum(row["verdict"] == "FAIL" for row in rows)
    print(f"{len(rows)} checks, {failed} failed, {words.seconds - lab.left:.0f} seconds; written: {out}")
    return 1 if failed else 0


def environment(device: str) -> dict[str, Any]:
    """Say what the numbers were measured on."""
    import torch

    facts = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda}
    if device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise SystemExit("There is no CUDA device here; rehearse with --device cpu.")
        facts |= {"gpu": torch.cuda.get_device_name(0), "gpus": torch.cuda.device_count()}
    return say("PASS", "environment", 0.0, facts)


def run(check: Callable[[Lab], dict[str, Any]], seconds: float, lab: Lab) -> dict[str, Any]:
    """Run a check, unless there is too little time left for it."""
    at = lab.seconds - lab.left
    if lab.left < seconds:
        return say("SKIP", check.__name__, at, {"why": "no time left"})
    try:
        found = check(lab)
    except Exception as error:  # one check that fails must not hide the others
        trace = traceback.format_exc().splitlines()[-6:]
        return say("FAIL", check.__name__, at, {"error": f"{type(error).__name__}: {error}"[:400], "trace": trace})
    ok = found.pop("ok")
    return say("SKIP" if ok is None else "PASS" if ok else "FAIL", check.__name__, at, found)


def say(verdict: str, check: str, at: float, found: dict[str, Any]) -> dict[str, Any]:
    """Print a row and return it."""
    facts = " ".join(f"{key}={value}" for key, value in found.items())
    print(f"{verdict} [{at:6.1f} s] {check}  {facts}", flush=True)
    return {"verdict": verdict, "check": check, "at": round(at, 1), **found}


if __name__ == "__main__":
    sys.exit(main())
