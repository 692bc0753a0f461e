"""Scoring beside a loop over the `lpips` package, as rows of the table; the measuring itself is in bench_scoring."""

from __future__ import annotations

from tests.benchmarks.harness import Row


def run(quick: bool) -> list[Row]:
    from tests.benchmarks import bench_scoring

    found = bench_scoring.run(repeats=2 if quick else 5)
    return [
        Row("scoring", row["name"], row["ratio_median"], row["ratio_min"], row["ratio_max"], f">= {row['bound']:g}",
            repeats=2 if quick else 5, note=row["note"])
        for row in found
    ]  # fmt: skip
