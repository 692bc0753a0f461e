"""Checks of the commands on the device: training, going on after a kill, several processes, scoring, speed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.gpu.lab import RECIPE, REPOSITORY, Lab

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


def demo_data(lab: Lab) -> dict[str, Any]:
    """Demo data and their pairs."""
    (lab.folder / "gpu.toml").write_text(RECIPE, encoding="utf-8")
    (lab.folder / "small.toml").write_text(_small(), encoding="utf-8")
    made, said, seconds = lab.run("demo-data", "demo")
    paired, more, _ = lab.run("build-pairs", "--data", "demo")
    return {"ok": made == paired == 0, "seconds": seconds, "said": (said + more)[-300:] if made or paired else ""}


def _small() -> str:
    first = RECIPE.split("[stages.sar2rgb]")[0].replace('"gpu"', '"small"')
    return first.replace("epochs = 2\nhalf_rate_epochs = 1", "epochs = 1\nhalf_rate_epochs = 0\nvgg_weight = 0.0")


def training(lab: Lab) -> dict[str, Any]:
    """`pbvs predict --all` with four loading processes: losses fall, models say where they were made."""
    status, said, seconds = lab.train("plain")
    if status:
        return {"ok": False, "status": status, "said": said[-800:]}
    logs = {path.parent.name: list(csv.DictReader(path.open())) for path in lab.model("plain", "").glob("*/log.csv")}
    falls = {task: [float(rows[0]["lpips"]), float(rows[-1]["lpips"])] for task, rows in logs.items()}
    device = json.loads(lab.model("plain", "sar2eo", "done.json").read_text())["device"]
    images = len(list((lab.folder / "submissions/plain/predictions").rglob("*.png")))
    ok = all(last < first for first, last in falls.values()) and images > 0 and device.startswith(lab.kind)
    warned = [line for line in said.splitlines() if "Warning" in line][:3]
    return {"ok": ok, "seconds": seconds, "lpips": falls, "device": device, "images": images, "warnings": warned}


def resuming(lab: Lab) -> dict[str, Any]:
    """With --deterministic, a training that is killed and goes on ends in the same tensors as an undisturbed one."""
    status, said, seconds = lab.train("whole", "--deterministic")
    if status:
        return {"ok": False, "status": status, "said": said[-800:]}
    kills = sum(_killed(lab, max(6.0, seconds * share)) for share in (0.35, 0.5, 0.65))
    status, said, _ = lab.train("broken", "--deterministic")
    if status:
        return {"ok": False, "status": status, "said": said[-800:]}
    different = _differing(lab, "whole", "broken")
    return {"ok": not different and kills > 0, "kills": kills, "seconds": seconds, "different": different}


def _killed(lab: Lab, after: float) -> bool:
    """Start the training of the run `broken` and kill it; return False when it had ended before."""
    words = ("predict", "--all", "--recipe", "gpu.toml", "--run", "broken", "--data", "demo", "--deterministic")
    command = [sys.executable, "-m", "pbvs", *words, "--device", lab.device, "--jobs", "4"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=lab.folder, env=lab.environment(), start_new_session=True, **quiet)
    try:
        process.wait(after)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True


def _differing(lab: Lab, one: str, other: str) -> dict[str, int]:
    """Return how many tensors of each model file two runs do not agree on."""
    import torch
    from safetensors.torch import load_file

    found = {}
    for path in sorted(lab.model(one, "").glob("*/*.safetensors")):
        mine, theirs = load_file(path), load_file(lab.model(other, path.parent.name, path.name))
        different = [key for key, value in mine.items() if not torch.equal(value, theirs[key])]
        if different:
            found[f"{path.parent.name}/{path.name}"] = len(different)
    return found


def moving(lab: Lab) -> dict[str, Any]:
    """A training that began on the CPU goes on on the device."""
    words = ("predict", "--task", "sar2eo", "--run", "moved", "--data", "demo", "--jobs", "2")
    first, _, _ = lab.run(*words, "--recipe", "gpu.toml", "--device", "cpu")
    (lab.folder / "more.toml").write_text(RECIPE.replace("epochs = 2\n", "epochs = 3\n", 1), encoding="utf-8")
    second, said, _ = lab.run(*words, "--recipe", "more.toml", "--device", lab.device)
    return {"ok": first == second == 0 and "going on after step" in said, "said": said.strip().splitlines()[:3]}


def scoring(lab: Lab) -> dict[str, Any]:
    """`pbvs score` on the device gives the CPU's numbers, with FID, and the same again from the cache."""
    tables = {}
    for name, device, cache in (("cpu", "cpu", "a"), ("ours", lab.device, "b"), ("again", lab.device, "b")):
        words = ("score", "--run", "plain", "--data", "demo", "--device", device, "--lpips-net", "alex", "--fid")
        status, said, _ = lab.run(*words, PBVS_CACHE=f".cache/{cache}")
        if status:
            return {"ok": False, "status": status, "said": said[-600:]}
        tables[name] = _scores(lab.folder / "submissions/plain/scores")
    pixel = _furthest(tables["cpu"], tables["ours"], "rmse")
    lpips, cached = (
        _furthest(tables["cpu"], tables["ours"], "lpips"),
        _furthest(tables["ours"], tables["again"], "lpips"),
    )
    ok = pixel == 0 and lpips < 2e-5 and cached < 1e-6
    return {"ok": ok, "images": len(tables["cpu"]), "rmse": pixel, "lpips": f"{lpips:.1e}", "cached": f"{cached:.1e}"}


def _scores(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    files = [path for path in folder.rglob("*.csv") if "baseline" not in path.parts]
    return {(path.stem, row["name"]): row for path in files for row in csv.DictReader(path.open()) if row.get("lpips")}


def _furthest(one: dict[Any, dict[str, str]], other: dict[Any, dict[str, str]], column: str) -> float:
    assert one and one.keys() == other.keys()
    return max(abs(float(row[column]) - float(other[key][column])) for key, row in one.items())


def processes(lab: Lab) -> dict[str, Any]:
    """Two processes on the CPU beside a GPU; as many as there are GPUs; one more than that is refused in a sentence."""
    import torch

    def start(count: int, run: str, device: str) -> tuple[int, str]:
        words = ("predict", "--all", "--recipe", "small.toml", "--run", run, "--data", "demo", "--device", device)
        status, said, _ = lab.run(*words, "--jobs", "1", launch=(*TORCHRUN, str(count), "-m", "--", "pbvs"))
        return status, said

    gpus = torch.cuda.device_count() if lab.on_gpu else 0
    on_cpu, said = start(2, "cpu2", "cpu")
    found: dict[str, Any] = {"ok": on_cpu == 0, "cpu": on_cpu, "said": _errors(said)}
    if gpus:
        group, said = start(gpus, "group", "auto")
        too_many, refused = start(gpus + 1, "many", "auto")
        sentence = "Error:" in refused and "fault of pbvs" not in refused
        found |= {"gpus": gpus, "group": group, "too_many": too_many, "said": _errors(said) + _errors(refused)}
        found["ok"] &= group == 0 and too_many != 0 and sentence
    return found


def _errors(said: str) -> list[str]:
    return [line for line in said.splitlines() if "rror" in line][:2]


def missing_device(lab: Lab) -> dict[str, Any]:
    """A device that is not there is refused with status 2, and no run is left behind."""
    status, said, _ = lab.train("none", recipe="small.toml", device="cuda:99")
    left = (lab.folder / "submissions/none").exists()
    return {"ok": status == 2 and not left, "status": status, "left": left, "said": _errors(said)}


def paper_speed(lab: Lab) -> dict[str, Any]:
    """The paper's networks at 512 px in bfloat16 beside the textbook's step in float32: seconds and peak memory."""
    if not lab.on_gpu:
        return {"ok": None, "why": "only on a GPU"}
    from dataclasses import asdict

    sys.path.insert(0, str(REPOSITORY))
    from tests.benchmarks.training_step import on_gpu

    row = on_gpu()
    ours, book = row.facts["peak_bytes"]
    ratio = (row.plain or 0.0) / (row.ours or 1.0)
    return {
        "ok": ratio >= 3 and ours <= 0.6 * book,
        "ratio": round(ratio, 2),
        "memory": round(ours / book, 2),
        **asdict(row),
    }


def profile(lab: Lab) -> dict[str, Any]:
    """Where the time of the paper's step goes: by the clock, in kernels, how many they are, the ten that take most."""
    from time import perf_counter

    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    sys.path.insert(0, str(REPOSITORY))
    from tests.benchmarks.training_step import ours

    step = ours(64, 512, "cuda", half=True) if lab.on_gpu else ours(8, 64)
    step()
    start = perf_counter()
    for _ in range(3):
        step()  # it ends when its losses are known
    clock = (perf_counter() - start) / 3
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if lab.on_gpu else [])]
    with record(activities=activities) as recorded:
        step()
    kind, key = ("CUDA", "self_device_time_total") if lab.on_gpu else ("CPU", "self_cpu_time_total")
    kernels = [row for row in recorded.key_averages() if row.device_type.name == kind]
    spent = sorted(((getattr(row, key) / 1e3, row.key) for row in kernels), reverse=True)
    return {
        "ok": clock > 0 and len(spent) >= 10,
        "step": round(clock * 1e3, 1),
        "in_kernels": round(sum(time for time, _ in spent), 1),
        "kernels": sum(row.count for row in kernels),
        "milliseconds": {f"{place} {name[:60]}": round(time, 2) for place, (time, name) in enumerate(spent[:10], 1)},
    }
