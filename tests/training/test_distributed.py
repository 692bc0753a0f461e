"""Two processes see and learn what one with the doubled batch does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pbvs.data.images import read_image
from pbvs.recipe import dump_recipe
from pbvs.training import checkpoint, distributed
from pbvs.training.validation import read_log
from tests.conftest import REPOSITORY
from tests.manifests import write_manifest
from tests.training.process import main as train
from tests.translators.scenes import recipe_of, write_pairs


def test_one_process_needs_no_group() -> None:
    distributed.join()
    distributed.barrier()
    assert distributed.is_main()
    assert distributed.main_first(lambda: 3) == 3
    assert not distributed.dist.is_initialized()


@pytest.mark.parametrize("accumulate", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_two_processes_validate_as_one_with_the_doubled_batch(tmp_path: Path, accumulate: int) -> None:
    train(tmp_path / "one", 4 // accumulate, accumulate=accumulate)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, "-m", "tests.training.process", str(tmp_path / "two")]
    command += [str(4 // accumulate), "2", str(accumulate)]
    result = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert "Warning" not in result.stderr, "joining the processes warns at every start"
    one, two = (json.loads((tmp_path / name / "validation.json").read_text()) for name in ("one", "two"))
    assert len(one) == len(two) == 3
    for alone, together in zip(one, two, strict=True):
        assert together.pop("unseen") is alone.pop("unseen") is None
        assert together == pytest.approx(alone, rel=1e-3)
    weights = [checkpoint.read_tensors(tmp_path / name / "state.safetensors")[0] for name in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()
    logs = [(tmp_path / name / "log.csv").read_text().splitlines()[1].split(",")[4:] for name in ("one", "two")]
    numbers = [[float(value or "nan") for value in log] for log in logs]
    assert numbers[1] == pytest.approx(numbers[0], rel=1e-3, abs=1e-6, nan_ok=True)


@pytest.mark.slow
def test_the_same_command_under_torchrun_predicts_the_same_images(tmp_path: Path) -> None:
    root, manifests = tmp_path / "data", tmp_path / "manifests"
    for split, count in (("train", 4), ("val", 3), ("test", 3)):
        pairs = write_pairs(root, "sar2eo", count, split=split)
        write_manifest(manifests / f"sar2eo_{split}.csv", pairs)
    for name, batch_size in (("one", 2), ("two", 1)):
        recipe = recipe_of(batch_size=batch_size).model_copy(update={"name": name, "evaluation_size": "native"})
        (tmp_path / f"{name}.toml").write_text(dump_recipe(recipe))
    alone = [sys.executable]
    together = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, launch in (("one", alone), ("two", together)):
        options = ["--recipe", f"{name}.toml", "--data", str(root), "--manifests", str(manifests), "--device", "cpu"]
        result = subprocess.run(
            [*launch, "-m", "pbvs", "predict", "--all", *options, "--jobs", "1"],
            cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr[-2000:]
    logs = [read_log(tmp_path / "submissions" / name / "models" / "sar2eo" / "log.csv") for name in ("one", "two")]
    scores = [log["val_score"].tolist() for log in logs]
    assert scores[1] == pytest.approx(scores[0], rel=1e-3)
    for split in ("val", "test"):
        folders = [tmp_path / "submissions" / name / "predictions" / split / "sar2eo" for name in ("one", "two")]
        names = [sorted(path.name for path in folder.iterdir()) for folder in folders]
        assert names[0] == names[1]
        assert len(names[0]) == 3
        for file in names[0]:
            a, b = (read_image(folder / file).astype(int) for folder in folders)
            assert abs(a - b).max() <= 2


LATE = """
import sys, time
from pbvs import devices, lineage
from pbvs.cli import main

look = lineage.is_done

def late(record, made_from):
    if devices.rank() == 1 and record.parent.name in ("val", "test"):
        time.sleep(1.5)
    return look(record, made_from)

lineage.is_done = late
main(sys.argv[1:])
"""


def test_a_process_that_is_late_takes_the_same_way(tmp_path: Path) -> None:
    """The second looks for predictions when the first has long begun: both must still wait for each other."""
    root = tmp_path / "data"
    for split in ("train", "val", "test"):
        write_manifest(tmp_path / f"m/rgb2ir_{split}.csv", write_pairs(root, "rgb2ir", 3, split=split))
    (tmp_path / "r.toml").write_text('name = "r"\n[stages.rgb2ir]\nmethod = "grayscale"\nintensity = 1.2\n')
    (tmp_path / "late.py").write_text(LATE)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "late.py"]
    command = [*launch, "predict", "--all", "--recipe", "r.toml", "--data", str(root), "--manifests", "m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    for _ in range(2):  # again, and when all is there
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert result.returncode == 0, result.stderr[-2000:]
        for split in ("val", "test"):
            folder = tmp_path / "submissions/r/predictions" / split
            assert len(list((folder / "rgb2ir").glob("*.png"))) == 3
            assert json.loads((folder / "rgb2ir.json").read_text())["images"] == 3
            assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
