"""Fixtures for packing and checking: a data root, its manifests, and zips of given entries."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pbvs.submission.inputs import Inputs, from_data
from pbvs.submission.zips import write_zip
from tests.submission.workspace import Workspace, entries, write_data, write_manifests


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    found = Workspace(tmp_path / "data", tmp_path / "manifests", tmp_path / "submissions")
    write_data(found.root)
    write_manifests(found.root, found.manifests)
    (found.manifests / "summary.json").write_text(json.dumps({"root": str(found.root)}))
    return found


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_data(root)
    return root


@pytest.fixture(scope="session")
def inputs(data_root: Path) -> Inputs:
    return from_data(data_root)


@pytest.fixture
def good() -> dict[str, bytes]:
    return entries()


@pytest.fixture
def zipped(tmp_path: Path) -> Callable[[dict[str, bytes]], Path]:
    def write(items: dict[str, bytes]) -> Path:
        path = tmp_path / "upload.zip"
        write_zip(path, items.items())
        return path

    return write
