"""Two processes see and learn what one with the doubled batch does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pbvs.training import distributed, state
from tests.conftest import REPOSITORY
from tests.training.process import main as train


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
    one, two = (json.loads((tmp_path / name / "validation.json").read_text()) for name in ("one", "two"))
    assert len(one) == len(two) == 3
    for alone, together in zip(one, two, strict=True):
        assert together == pytest.approx(alone, rel=1e-3)
    weights = [state.read_tensors(tmp_path / name / "state.safetensors")[0] for name in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()
    logs = [(tmp_path / name / "log.csv").read_text().splitlines()[1].split(",")[4:] for name in ("one", "two")]
    numbers = [[float(value) for value in log] for log in logs]
    assert numbers[1] == pytest.approx(numbers[0], rel=1e-3, abs=1e-6)
