"""Submissions of other challenges: flat or deeper archives, 16 bits and floats, other readmes or none, limits."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from pbvs.api import package
from pbvs.challenge import Challenge, dump_challenge
from pbvs.challenge.model import Outputs
from pbvs.data.manifest import Pair, manifest_path
from pbvs.errors import PbvsError, UsageError
from pbvs.files import digest, write_json, write_text
from pbvs.lineage import Lineage
from pbvs.recipe import parse_recipe
from pbvs.run import Run
from pbvs.submission.check import check
from pbvs.submission.images import (
    ImageError,
    as_prediction,
    decode,
    decode_stored,
    encode,
    from_numbers,
    inspect_image,
    to_numbers,
)
from pbvs.submission.inputs import OutputNames, from_data
from pbvs.submission.package import inputs_of
from pbvs.submission.zips import rejected
from tests.manifests import write_manifest
from tests.submission.workspace import noise, png_bytes

SIDE = 24


def tables(**changes: Any) -> dict[str, Any]:
    """A challenge of two tasks whose inputs lie in a folder a sequence."""
    found: dict[str, Any] = {
        "name": "depth-to-heat",
        "modalities": {"depth": {"channels": 1}, "heat": {"channels": 1, "kind": "thermal"}},
        "tasks": {"day": {"source": "depth", "target": "heat"}, "night": {"source": "depth", "target": "heat"}},
        "layout": {
            "files": {
                "inputs": {
                    "regex": r"eval/(?P<task>day|night)/(?P<location>[^/]+)/(?P<id>[^/]+)\.png",
                    "role": "input",
                    "split": "test",
                }
            }
        },
        "outputs": {"container": "png", "dtype": "uint16", "path": "{location}-{id}-{task}"},
        "submission": {"readme": []},
    }
    for key, value in changes.items():
        found[key] = {**found[key], **value}
    return found


@dataclass
class Workspace:
    """A data root, manifests and a finished run for a challenge."""

    folder: Path
    challenge: Challenge

    @property
    def root(self) -> Path:
        return self.folder / "data"

    @property
    def manifests(self) -> Path:
        return self.folder / "manifests"

    def run(self) -> Run:
        own = self.folder / "own.toml"
        write_text(own, dump_challenge(self.challenge))
        run = Run("r", self.folder / "submissions")
        stages = {task: {"method": "grayscale"} for task in self.challenge.tasks}
        run.write_recipe(parse_recipe({"name": "r", "challenge": str(own), "stages": stages}, "test"))
        for number, task in enumerate(self.challenge.tasks):
            pairs = []
            for index, (sequence, id) in enumerate((("a", "1"), ("a", "2"), ("b", "1"))):
                source = self.root / "eval" / task / sequence / f"{id}.png"
                source.parent.mkdir(parents=True, exist_ok=True)
                source.write_bytes(png_bytes(noise(index, 1, SIDE)))
                relative = source.relative_to(self.root).as_posix()
                pairs.append(Pair(f"{sequence}_{id}", task, "test", sequence, relative, origin="official"))
            write_manifest(manifest_path(self.manifests, task, "test"), pairs)
            for index, pair in enumerate(pairs):
                path = run.prediction("test", task, pair.name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(png_bytes(noise(100 + 10 * number + index, 1, SIDE)))
            parts = Lineage(run, run.recipe(), self.manifests).prediction_parts(task, "test")
            said = {"made_from": digest(parts), "parts": parts, "images": 3, "seconds": 0.3, "device": "cpu"}
            write_json(run.prediction_metadata_file("test", task), {**said, "evaluation_size": "challenge"})
        return run


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Workspace]:
    return lambda **changes: Workspace(tmp_path, Challenge.model_validate(tables(**changes)))


def pack(workspace: Workspace, run: Run, **options: Any) -> Path:
    return package(run, manifests=workspace.manifests, data=workspace.root, **options)


def names(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return sorted(archive.namelist())


def test_a_flat_archive_of_16_bits_without_a_readme(make: Callable[..., Workspace]) -> None:
    workspace = make()
    run = workspace.run()
    path = pack(workspace, run)
    sequences = ("a-1", "a-2", "b-1")
    assert names(path) == sorted(f"{sequence}-{task}.png" for task in ("day", "night") for sequence in sequences)
    with zipfile.ZipFile(path) as archive:
        data = archive.read("b-1-night.png")
    with rasterio.MemoryFile(data) as memory, memory.open() as file:
        assert (file.driver, file.dtypes[0], file.count) == ("PNG", "uint16", 1)
        assert np.array_equal(file.read(1), noise(112, 1, SIDE).astype(np.uint16) * 257)
    assert pack(workspace, run).read_bytes() == path.read_bytes()
    inputs = inputs_of(workspace.manifests, workspace.root, challenge=workspace.challenge)
    for known in (inputs, from_data(workspace.root, challenge=workspace.challenge)):
        assert check(path, inputs=known) == []


def test_faults_of_a_flat_archive(make: Callable[..., Workspace], tmp_path: Path) -> None:
    workspace = make()
    path = pack(workspace, workspace.run())
    inputs = from_data(workspace.root, challenge=workspace.challenge)
    with zipfile.ZipFile(path) as archive:
        good = {name: archive.read(name) for name in archive.namelist()}

    def rules(items: dict[str, bytes]) -> set[tuple[str, str]]:
        with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
            for name, data in items.items():
                archive.writestr(name, data)
        found = check(tmp_path / "b.zip", inputs=inputs)
        return {(finding.rule, finding.file) for finding in found if finding.level == "error"}

    assert rules(good) == set()
    assert rules({f"all/{name}": data for name, data in good.items()}) == {("enclosing-folder", "all/")}
    missing = {name: data for name, data in good.items() if name != "a-2-day.png"}
    assert rules(missing) == {("missing-image", "a-2-day.png"), ("count", "day")}
    assert rules({**good, "a-3-day.png": good["a-2-day.png"]}) == {("extra-image", "a-3-day.png"), ("count", "day")}
    assert rules({**good, "readme.txt": b"hello"}) == {("stray-file", "readme.txt")}
    assert rules({**good, "a-1-day.png": png_bytes(noise(1, 1, SIDE))}) == {("mode", "a-1-day.png")}
    assert rules({**good, "sub/c-1-day.png": good["a-1-day.png"]}) == {("nested-folder", "sub/c-1-day.png")}


def test_a_folder_a_sequence_below_each_task(make: Callable[..., Workspace]) -> None:
    workspace = make(
        tasks={"night": {"source": "depth", "target": "heat", "folder": "by-night"}},
        outputs={"container": "tiff", "dtype": "float32", "range": [-1, 1], "path": "{task}/{location}/{id}"},
        submission={"readme_name": "info.md", "readme": [{"label": "Method", "kind": "description"}]},
    )
    path = pack(workspace, workspace.run(), description="a plain mean")
    assert names(path)[:2] == ["by-night/a/1.tiff", "by-night/a/2.tiff"] and "day/b/1.tiff" in names(path)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("info.md") == b"Method : a plain mean\n"
        with rasterio.MemoryFile(archive.read("day/a/1.tiff")) as memory, memory.open() as file:
            assert np.allclose(file.read(1), noise(100, 1, SIDE) / 255.0 * 2 - 1, atol=1e-6)
    inputs = from_data(workspace.root, challenge=workspace.challenge)
    assert not rejected(check(path, inputs=inputs))
    shallow = path.with_name("shallow.zip")
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(shallow, "w") as target:
        for name in archive.namelist():
            target.writestr(name.replace("day/a/", "day/"), archive.read(name))
    wrong = [finding for finding in check(shallow, inputs=inputs) if finding.rule == "nested-folder"]
    assert wrong[0].message == "it does not lie in the folder it should"
    assert wrong[0].hint == "Predictions are called <task>/<location>/<id>.tiff."


def test_limits_are_errors(make: Callable[..., Workspace]) -> None:
    limits = {"max_bytes": 1000, "max_files": 4, "max_file_bytes": 100, "tasks": "all"}
    workspace = make(submission={"readme": [], **limits})
    run = workspace.run()
    with pytest.raises(PbvsError, match="would be rejected") as refused:
        pack(workspace, run)
    assert {finding.rule for finding in refused.value.findings} == {"size", "files", "file-size"}  # type: ignore[attr-defined]
    with pytest.raises(PbvsError, match="the task has no predictions"):
        pack(workspace, run, tasks=["day"])


def test_formats_that_the_challenge_takes(make: Callable[..., Workspace]) -> None:
    workspace = make(outputs={"container": "npy", "accepts": ["tiff"], "dtype": "float32", "path": "{name}_{task}"})
    run = workspace.run()
    path = pack(workspace, run)
    with zipfile.ZipFile(path) as archive:
        array = np.load(io.BytesIO(archive.read("a_1_day.npy")))
    assert array.dtype == np.float32 and np.allclose(array, noise(100, 1, SIDE) / 255.0, atol=1e-7)
    assert "a_1_day.tiff" in names(pack(workspace, run, form="tiff"))
    with pytest.raises(UsageError, match="takes no png files; --format may be npy, tiff"):
        pack(workspace, run, form="png")


def test_names_that_meet_are_refused(make: Callable[..., Workspace]) -> None:
    workspace = make(outputs={"dtype": "uint8", "path": "{task}/{id}"})
    with pytest.raises(PbvsError, match=r"gives several day predictions one name; add \{name\}"):
        pack(workspace, workspace.run())


@pytest.mark.parametrize(
    "path", ["{task}/{id}", "{id}", "{task}/{location}/{id}", "{id}_{task}", "out/{location}.{id}"]
)
def test_names_are_read_as_they_are_written(path: str) -> None:
    out = OutputNames(Challenge.model_validate(tables(outputs={"path": path})))
    for task in ("day", "night"):
        key = out.key(task, "7", "s_7", "s")
        found = out.read(out.path(task, key, ".png"), {task: {key: ""}})
        assert found is not None and (found.task, found.key, found.suffix) == (task, key, ".png")
        assert out.read(f"{out.path(task, key)}.txt") is None
        assert out.read(f"deep/er/{out.path(task, key)}.png") is None


@pytest.mark.parametrize("form", ["png", "tiff", "npy"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("bands", [1, 3])
def test_numbers_survive_every_format(form: str, dtype: str, bands: int) -> None:
    if form == "png" and dtype == "float32":
        return  # PNG has no such
    outputs = Outputs(dtype=dtype, range=(10, 200))  # type: ignore[arg-type]
    stored = noise(3, bands, SIDE)
    numbers = to_numbers(stored, outputs)
    assert numbers.dtype == dtype and numbers.min() >= 10 and numbers.max() <= 200
    data, expected = encode(numbers, form), {"png": "PNG", "tiff": "TIFF", "npy": "NPY"}[form]
    assert encode(numbers, form) == data
    assert np.array_equal(decode(data, expected, outputs), numbers)
    assert np.allclose(from_numbers(numbers, outputs), stored / 255.0, atol=0.5 / 190 + 1e-6)
    back = decode_stored(as_prediction(data, expected, outputs))
    scale = np.iinfo(back.dtype).max
    assert np.allclose(back / scale, stored / 255.0, atol=0.5 / 190 + 0.5 / 255 + 1e-6)
    stats, _ = inspect_image(data, expected, outputs)
    assert (stats.mode, stats.width) == ("L" if bands == 1 else "RGB", SIDE)
    assert abs(np.mean(stats.mean) - stored.mean()) < 1.0


def test_arrays_that_lie(tmp_path: Path) -> None:
    outputs = Outputs(dtype="float32")

    def npy(array: np.ndarray, **options: Any) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, array, **options)
        return buffer.getvalue()

    good = npy(np.zeros((4, 4), np.float32))
    assert decode(good, "NPY", outputs).shape == (4, 4)
    huge = good.replace(b"(4, 4)", b"(9999999, 99999)")
    for data, words in (
        (good[:-3], "its length"),
        (huge, "cannot be decoded"),
        (npy(np.array([{}], object), allow_pickle=True), "cannot be decoded"),
        (npy(np.full((4, 4), np.nan, np.float32)), "not finite"),
        (npy(np.zeros((4, 4, 4), np.float32)), "4 channels"),
        (npy(np.zeros((4, 4))), "float64 numbers, not float32"),
        (npy(np.zeros(7, np.float32)), "the shape"),
    ):
        with pytest.raises(ImageError, match=words):
            decode(data, "NPY", outputs)
