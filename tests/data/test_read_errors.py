"""That an image could not be read is no fact about it: commands stop with its name, and the next one is right."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbvs.data.build import build_pairs
from pbvs.data.cache import CACHE_NAME, FileCache, digests
from pbvs.data.chips import prepare
from pbvs.data.images import read_image
from pbvs.data.inspection import inspect_data
from pbvs.data.manifest import manifest_path, read_manifest
from pbvs.errors import PbvsError, ReadError
from pbvs.recipe import Chips, Radiometry
from tests.data.conftest import Tree

NOBODY = 65534


@pytest.fixture
def open_tree() -> Iterator[Tree]:
    """A tree in a folder that every user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="pbvs-test-"))
    folder.chmod(0o777)
    tree = Tree(folder / "root")
    for name in ("one", "two"):
        tree.location("A", name)
    for number in range(3):
        tree.png(f"test/sar2eo/{number}.png")
    yield tree
    shutil.rmtree(folder)


@contextlib.contextmanager
def as_an_ordinary_user() -> Iterator[None]:
    """Work as a user whom permissions concern."""
    if os.getuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("path", ["test/sar2eo/1.png", "A/one/s0_GEC.tiff", "A/two/a_rgb.tiff", "A/two", "test"])
def test_what_may_not_be_read_stops_build_pairs_by_name_and_is_read_the_next_time(open_tree: Tree, path: str) -> None:
    root, manifests = open_tree.root, open_tree.root.parent / "data_manifests"
    build_pairs(root, manifests)
    inspect_data(root, manifests, shifts=False)
    manifests.chmod(0o777)
    for file in manifests.iterdir():
        file.chmod(0o666)
    before = {file.name: file.read_bytes() for file in manifests.glob("[a-z]*.csv")}
    mode = (root / path).stat().st_mode
    (root / path).chmod(0)
    try:
        with (
            as_an_ordinary_user(),
            pytest.raises(ReadError, match=f"{root / path} cannot be read.* .Permission denied"),
        ):
            build_pairs(root, manifests)
        assert {file.name: file.read_bytes() for file in manifests.glob("[a-z]*.csv")} == before
        with as_an_ordinary_user():  # check-data lists it and goes on
            wrong = dict(inspect_data(root, manifests, shifts=False).wrong)
        assert "(Permission denied)" in wrong[path]
    finally:
        (root / path).chmod(mode)
    build_pairs(root, manifests)
    assert {file.name: file.read_bytes() for file in manifests.glob("[a-z]*.csv")} == before
    assert inspect_data(root, manifests, shifts=False).wrong == []


def test_a_damaged_image_is_a_fact_and_is_remembered(tree: Tree, tmp_path: Path) -> None:
    tree.location("A", "one")
    (tree.root / "A/one/text_GEC.tiff").write_text("no image")
    for _ in range(2):
        build_pairs(tree.root, tmp_path)
        assert "A/one/text_GEC.tiff" in (tmp_path / "unused.csv").read_text()
    assert "text_GEC.tiff" in (tmp_path / CACHE_NAME).read_text()


def test_an_image_that_is_gone_is_no_damaged_one(tree: Tree, tmp_path: Path) -> None:
    tree.location("A", "one")
    tree.location("A", "two")
    build_pairs(tree.root, tmp_path / "m", share=0)
    pairs = read_manifest(manifest_path(tmp_path / "m", "sar2rgb", "train"))
    kept = (tree.root / pairs[0].source).read_bytes()
    (tree.root / pairs[0].source).unlink()
    with pytest.raises(ReadError, match=f"{pairs[0].source} cannot be read .No such file"):
        prepare(pairs, tree.root, Radiometry(), Chips(), 16, tmp_path / "cache")
    (tree.root / pairs[0].source).write_bytes(kept)
    assert not any(item.reason for item in prepare(pairs, tree.root, Radiometry(), Chips(), 16, tmp_path / "cache"))


def test_reading_fails_with_the_reason_of_the_system_or_of_the_bytes(tree: Tree) -> None:
    for path in (tree.png("a.png"), tree.tiff("a.tiff")):
        path.write_bytes(path.read_bytes()[:60])
        with pytest.raises(PbvsError) as damaged:
            read_image(path)
        assert not isinstance(damaged.value, ReadError)
        path.unlink()
        with pytest.raises(ReadError, match="There is no image"):
            read_image(path)
        path.mkdir()
        with pytest.raises(ReadError, match="Is a directory"):
            read_image(path)


def test_digests_are_remembered_by_size_and_times(tree: Tree, tmp_path: Path) -> None:
    import hashlib

    path = tree.png("a.png")
    cache = FileCache(tmp_path / "c.csv", tree.root)
    first = digests(["a.png"], cache)
    assert first == {"a.png": hashlib.sha256(path.read_bytes()).hexdigest()}
    cache.write()
    status = path.stat()
    while path.stat().st_ctime_ns == status.st_ctime_ns:  # the system's clock goes in steps of some milliseconds
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # size and time of writing are as they were
    again = digests(["a.png"], FileCache(tmp_path / "c.csv", tree.root))
    assert again == {"a.png": hashlib.sha256(path.read_bytes()).hexdigest()} != first


def test_a_digest_in_the_cache_is_taken_and_a_damaged_one_is_not(tree: Tree, tmp_path: Path) -> None:
    tree.png("a.png")
    for text, taken in (("0" * 64, True), ("0" * 10, False)):
        cache = FileCache(tmp_path / "c.csv", tree.root)
        cache.put("sha256", "a.png", cache.stamp("a.png"), text)
        cache.write()
        assert (digests(["a.png"], FileCache(tmp_path / "c.csv", tree.root))["a.png"] == text) is taken


def test_another_roots_file_of_the_same_path_is_another_file(tree: Tree, tmp_path: Path) -> None:
    path = tree.png("a.png")
    (tmp_path / "other").mkdir()
    os.link(path, tmp_path / "other/a.png")
    cache = FileCache(tmp_path / "c.csv", tree.root)
    cache.put("kind", "a.png", cache.stamp("a.png"), "value")
    cache.write()
    assert FileCache(tmp_path / "c.csv", tree.root).get("kind", "a.png", cache.stamp("a.png")) == "value"
    other = FileCache(tmp_path / "c.csv", tmp_path / "other")
    assert other.get("kind", "a.png", other.stamp("a.png")) is None
