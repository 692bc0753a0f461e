"""check-data on a tree in the archives' proportions, beside a bare walk that reads each file's header once."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tests.benchmarks.build_pairs import bare_walk
from tests.benchmarks.harness import Row, compare
from tests.data.full_size import write_full_size

PART = "check_data"


def run(quick: bool) -> list[Row]:
    from pbvs.data.inspection import inspect_data

    with tempfile.TemporaryDirectory() as name:
        root, manifests = Path(name) / "root", Path(name) / "manifests"
        count = write_full_size(root, 0.06 if quick else 0.12)
        repeats = 2 if quick else 4

        def look() -> None:
            shutil.rmtree(manifests, ignore_errors=True)
            inspect_data(root, manifests, shifts=False)

        return [
            compare(PART, f"{count} files / bare header walk", look, lambda: bare_walk(root), repeats=repeats,
                    bound="<= 1.5", note="without the misregistration, which reads pixels"),
            compare(PART, "after build-pairs / bare header walk", lambda: inspect_data(root, manifests, shifts=False),
                    lambda: bare_walk(root), repeats=repeats),
        ]  # fmt: skip
