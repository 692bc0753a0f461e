"""Bundles: models and recipe arrive whole and unchanged, or nothing does."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pbvs.errors import PbvsError, UsageError
from pbvs.experiments import bundle
from pbvs.files import read_json, write_json
from pbvs.run import Run
from pbvs.submission.zips import write_zip
from pbvs.tensors import check_safetensors
from tests.submission.workspace import Workspace
from tests.tasks import TASKS

Entries = dict[str, bytes]


@pytest.fixture
def trained(workspace: Workspace) -> Run:
    run = workspace.run()
    for task in TASKS:
        write_json(run.model(task) / "model.json", {"method": "grayscale", "intensity": 1.3})
        write_json(run.model(task) / "done.json", {"made_from": task * 3})
    save_file(
        {"w": np.ones((3, 2), np.float32), "b": np.zeros(2, np.float32)}, run.model("sar2eo") / "model.safetensors"
    )
    save_file({"w": np.ones(50, np.float32)}, run.model("sar2eo") / "state.safetensors")
    write_json(run.provenance_file, {"format": 1, "data": {"root": "/home/me/data", "digest": "abc"}})
    return run


def entries(path: Path) -> Entries:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_bundle_arrives_as_it_left(trained: Run, tmp_path: Path) -> None:
    run = bundle.install(bundle.export(trained), tmp_path / "theirs")
    assert run.name == "hand"
    assert run.recipe() == trained.recipe()
    for task in TASKS:
        assert (run.model(task) / "model.json").read_bytes() == (trained.model(task) / "model.json").read_bytes()
        assert read_json(run.model(task) / "done.json") == {"made_from": task * 3, "installed": True}
    weights = "model.safetensors"
    assert (run.model("sar2eo") / weights).read_bytes() == (trained.model("sar2eo") / weights).read_bytes()


def test_a_bundle_holds_models_and_recipe_only(trained: Run) -> None:
    found = entries(bundle.export(trained))
    assert "models/sar2eo/model.safetensors" in found
    assert not any("state" in name or "predictions" in name for name in found)
    assert b"/home/me" not in b"".join(found.values())
    assert json.loads(found["bundle.json"])["provenance"]["data"] == {"digest": "abc"}


def test_the_same_models_make_the_same_bytes(trained: Run, tmp_path: Path) -> None:
    first, second = bundle.export(trained, tmp_path / "a.zip"), bundle.export(trained, tmp_path / "b.zip")
    assert first.read_bytes() == second.read_bytes()


def test_unfinished_models_are_not_exported(trained: Run) -> None:
    (trained.model("sar2rgb") / "done.json").unlink()
    with pytest.raises(PbvsError, match="no finished model of sar2rgb"):
        bundle.export(trained)


def test_a_run_is_not_overwritten(trained: Run, workspace: Workspace) -> None:
    path = bundle.export(trained)
    with pytest.raises(UsageError, match="already"):
        bundle.install(path, workspace.submissions)
    assert bundle.install(path, workspace.submissions, "copy").exists()
    assert bundle.install(path, workspace.submissions, "copy").exists()
    with pytest.raises(UsageError, match="cannot be used"):
        bundle.install(path, workspace.submissions, "../evil")


def relisted(change: Callable[[dict[str, object]], object]) -> Callable[[Entries], object]:
    def edit(items: Entries) -> None:
        listing = json.loads(items["bundle.json"])
        change(listing)
        items["bundle.json"] = json.dumps(listing).encode()

    return edit


def header(length: int, text: bytes = b"{}") -> bytes:
    return struct.pack("<Q", length) + text


WEIGHTS = "models/sar2eo/model.safetensors"
SPANS = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
FAULTS: dict[str, tuple[Callable[[Entries], object], str]] = {
    "a pickle": (lambda items: items.update({"models/sar2eo/model.pth": b"x"}), "which no bundle has"),
    "a script": (lambda items: items.update({"setup.py": b"x"}), "which no bundle has"),
    "a path outside": (lambda items: items.update({"../evil": b"x"}), "not opened"),
    "an unknown task": (lambda items: items.update({"models/eo2sar/model.json": b"x"}), "does not hold the files"),
    "a missing list": (lambda items: items.pop("bundle.json"), "no bundle.json"),
    "a missing recipe": (lambda items: items.pop("recipe.toml"), "no recipe.toml"),
    "a missing file": (lambda items: items.pop("models/rgb2ir/model.json"), "does not hold the files"),
    "other weights": (lambda items: items.update({WEIGHTS: b"x" * 50}), "is not what its bundle.json says"),
    "another format": (relisted(lambda listing: listing.update(format=9)), "no bundle of format 1"),
    "no list in it": (lambda items: items.update({"bundle.json": b"[" * 5000}), "not valid JSON"),
    "a huge recipe": (lambda items: items.update({"recipe.toml": b"#" * 2_000_000}), "2000000 bytes"),
    "an evil name": (relisted(lambda listing: listing.update(run="../../evil")), "cannot be used"),
}


@pytest.mark.parametrize("what", FAULTS)
def test_what_is_no_bundle_is_refused_and_leaves_nothing(what: str, trained: Run, tmp_path: Path) -> None:
    change, words = FAULTS[what]
    items = entries(bundle.export(trained))
    change(items)
    path, folder = tmp_path / "bad.zip", tmp_path / "theirs"
    write_zip(path, items.items())
    with pytest.raises(PbvsError, match=words):
        bundle.install(path, folder)
    assert not folder.exists() or not [file for file in folder.rglob("*") if file.is_file()]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        header(2) + b"more",
        header(1 << 60),
        header(9, b"not json!"),
        header(len(SPANS), SPANS) + b"\0" * 7,
        header(len(SPANS), SPANS) + b"\0" * 9,
        header(2, b"[]"),
        header(12, b'{"a": "str"}'),
    ],
)
def test_safetensors_that_are_none(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(PbvsError, match="no safetensors file"):
        check_safetensors(path)


def test_good_safetensors_pass(trained: Run) -> None:
    check_safetensors(trained.model("sar2eo") / "model.safetensors")
