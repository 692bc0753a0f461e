"""Manifests written by hand, as `pbvs build-pairs` writes those that it makes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pbvs.data.manifest import Pair, pairs_table
from pbvs.text import write_table


def write_manifest(path: Path, pairs: Iterable[Pair]) -> None:
    """Write pairs as CSV, one row per pair, in the order given."""
    write_table(path, pairs_table(pairs))
