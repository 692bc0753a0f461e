"""What grows with the number of images must stay small: the rows of a manifest, and what waits to be read."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pbvs.data.align import Input
from pbvs.data.manifest import Pair, read_manifest
from pbvs.evaluation.evaluate import table_of_images
from pbvs.evaluation.results import TaskScores, write_scores
from pbvs.evaluation.summary import task_summary
from pbvs.metrics.judge import Judge
from pbvs.metrics.protocol import load_protocol
from pbvs.run import Run
from pbvs.submission import zips as safezip
from pbvs.submission.check import check
from pbvs.submission.images import encode
from pbvs.submission.inputs import Inputs
from pbvs.submission.inspection import inspect_archive
from pbvs.submission.zips import SafeZip, write_zip
from pbvs.translators.base import predict_pairs
from tests.faults.scenarios import PACKAGE, PREDICT, _gray, pbvs
from tests.manifests import write_manifest

ROWS = 4000


def _pair(number: int) -> Pair:
    return Pair(
        f"{number:06}", "rgb2ir", "test", f"place{number % 50}", f"in/{number:06}.png", f"out/{number:06}.png",
        "2023-01-02", "2023-01-03", "archive", "georeference", "0.93", "full", "percentile:1:99",
    )  # fmt: skip


def _grown(work: Callable[[], Any]) -> tuple[int, int, Any]:
    """Return what `work` allocated and kept, what it had at most, in bytes, and what it returned.

    The least of three times: tables of the interpreter grow now and then, by megabytes.
    """
    found = []
    for _ in range(3):
        tracemalloc.start()
        try:
            kept = work()
            found.append(tracemalloc.get_traced_memory())
        finally:
            tracemalloc.stop()
    return min(now for now, _ in found), min(most for _, most in found), kept


def test_a_row_of_a_manifest_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "rgb2ir_test.csv"
    rows = [_pair(number) for number in range(ROWS)]
    write_manifest(path, rows)
    now, most, pairs = _grown(lambda: read_manifest(path))
    assert pairs == rows
    assert now / ROWS < 450 and most / ROWS < 1500  # bytes: 100,000 rows are far from 1 GiB
    assert pairs[0].task is pairs[1].task and pairs[0].target_rule is pairs[1].target_rule
    assert not hasattr(pairs[0], "__dict__")


def test_a_score_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "rgb2ir_test.csv"
    write_manifest(path, [_pair(number) for number in range(ROWS)])
    pairs = read_manifest(path)

    judge = Judge(load_protocol(lpips_net="random"))
    run = Run("r", tmp_path)

    def score() -> TaskScores:
        numbers = pd.DataFrame(np.full((len(pairs), len(judge.columns)), 0.25), columns=judge.columns)
        scores = TaskScores(table_of_images(pairs, [("ok", "")] * len(pairs), numbers))
        write_scores(run, tmp_path, {}, {"rgb2ir": scores.table})
        return scores

    now, most, scores = _grown(score)
    assert len(scores.table) == ROWS
    assert now / ROWS < 400 and most / ROWS < 2500  # bytes: 250 MB for 100,000 pairs
    assert task_summary(judge, scores)["images"] == ROWS


def test_a_image_of_an_archive_takes_little_memory(tmp_path: Path) -> None:
    image, path = encode(np.full((2, 2), 7, np.uint8), "png"), tmp_path / "a.zip"
    items = [(f"rgb2ir/{number:06}.png", image) for number in range(1000)]
    _, most, _ = _grown(lambda: write_zip(path, iter(items)))
    assert most / 1000 < 500  # bytes

    def read() -> Any:
        with SafeZip(path) as archive:
            return inspect_archive(archive, "a.zip", Inputs(), "native")

    now, _, inspection = _grown(read)
    assert len(inspection.images["rgb2ir"]) == 1000 and inspection.images["rgb2ir"][999].stats.mean == (7.0,)
    assert now / 1000 < 2000  # bytes: 200 MB for 100,000 images


def test_predicting_keeps_no_image(tmp_path: Path) -> None:
    read = []

    class Same:
        def render(self, images: list[Any]) -> list[Any]:
            return images

    image = np.zeros((64, 64, 1), np.float32)  # 16 KiB
    pairs = [replace(_pair(number), target="") for number in range(400)]

    def load(pair: Pair) -> Any:
        read.append(pair.name)
        return Input(image.copy(), 64, 64)

    target = tmp_path / "x.png"
    _, most, outcome = _grown(
        lambda: predict_pairs(Same(), pairs, load, lambda pair: target, size=None, what="x")  # type: ignore[arg-type]
    )
    assert 3 * outcome.images == len(read) == 3 * len(pairs)
    assert most < len(pairs) * image.nbytes / 3
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


def test_an_archive_may_be_as_large_as_its_inputs_are_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's archive has at most 20,000 files; one for inputs that are known may have as many as they are."""
    monkeypatch.chdir(tmp_path)
    _gray()()
    pbvs(PREDICT)
    monkeypatch.setattr(safezip, "LIMITS", safezip.Limits(entries=2, directory_bytes=100))
    pbvs(PACKAGE)
    assert [finding.rule for finding in check(Path("submissions/r.zip"))] == ["too-many-entries"]
    most = safezip.room_for(100_000)
    assert most.entries > 100_001 and most.directory_bytes > 100_001 * (46 + 250)
