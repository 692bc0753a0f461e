"""Headers are read once, remembered while files stay what they were, and found alike however many read them."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest

from pbvs.data import catalog as catalog_module
from pbvs.data.build import build_pairs
from pbvs.data.cache import CACHE_NAME, FileCache
from pbvs.data.catalog import scan
from pbvs.data.headers import Header, read_header
from pbvs.devices import in_chunks, use_backend
from pbvs.errors import UsageError
from tests.data.conftest import Tree
from tests.data.full_size import write_full_size


@pytest.fixture(scope="module")
def small_full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("full") / "data"
    write_full_size(root, 0.01)
    return root


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the paths whose headers are read."""
    seen: list[str] = []
    real = catalog_module.read_headers

    def recorded(root: Path, files: list[tuple[str, int]]) -> list[Header | str]:
        seen.extend(path for path, *_ in files)
        return real(root, files)

    monkeypatch.setattr(catalog_module, "read_headers", recorded)
    return seen


def everything(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_second_run_reads_no_header_and_writes_the_same(
    small_full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = reads(monkeypatch)
    build_pairs(small_full, tmp_path)
    assert len(seen) == sum(1 for path in small_full.rglob("*") if path.is_file())
    first = everything(tmp_path)
    seen.clear()
    build_pairs(small_full, tmp_path)
    assert seen == []
    assert everything(tmp_path) == first
    (tmp_path / CACHE_NAME).unlink()
    build_pairs(small_full, tmp_path)
    assert everything(tmp_path) == first


def test_only_what_changed_is_read_again(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.location("A", "one")
    tree.location("A", "two")
    (tree.root / "A/two/broken_GEC.tiff").write_text("nothing")
    build_pairs(tree.root, tmp_path)
    seen = reads(monkeypatch)
    tree.tiff("A/one/a_rgb.tiff", 3, size=(20, 20))
    tree.tiff("A/one/new_GEC.tiff")
    (tree.root / "A/two/s0_GEC.tiff").unlink()
    status = (tree.root / "A/two/s1_GEC.tiff").stat()
    os.utime(tree.root / "A/two/s1_GEC.tiff", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    catalog = scan(tree.root, FileCache(tmp_path / CACHE_NAME, tree.root))
    assert sorted(seen) == ["A/one/a_rgb.tiff", "A/one/new_GEC.tiff", "A/two/s1_GEC.tiff"]
    assert {entry.path: entry.header.width for entry in catalog.entries}["A/one/a_rgb.tiff"] == 20
    assert [path for path, _ in catalog.unused] == ["A/two/broken_GEC.tiff"]
    assert "two/s0" not in (tmp_path / CACHE_NAME).read_text()


@pytest.mark.parametrize(
    "text", ["", "headers 0\n", "kind,path,stamp,value\n,A/one/a_rgb.tiff\n", "\x00\x01", "kind,path\n,,,\n"]
)
def test_a_damaged_memory_is_only_forgotten(tree: Tree, tmp_path: Path, text: str) -> None:
    tree.location("A", "one")
    (tmp_path / CACHE_NAME).write_text(text)
    assert len(scan(tree.root, FileCache(tmp_path / CACHE_NAME, tree.root)).entries) == 4
    assert len(scan(tree.root, FileCache(tmp_path / CACHE_NAME, tree.root)).entries) == 4


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_jobs_and_backends_find_the_same(small_full: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pbvs.devices.FEW", 1)
    with use_backend(backend):
        assert scan(small_full, None, 2).entries == scan(small_full).entries


def test_results_come_in_order_in_whatever_chunks() -> None:
    with use_backend("threading"):
        for chunk in (1, 7, 1000):
            assert list(in_chunks(doubled, range(100), 2, few=1, chunk=chunk)) == list(range(0, 200, 2))


def doubled(numbers: range) -> list[int]:
    return [2 * number for number in numbers]


def test_dask_that_is_not_installed_is_one_sentence() -> None:
    try:
        importlib.import_module("distributed")
    except ImportError:
        with use_backend("dask"), pytest.raises(UsageError, match="dask"):
            list(in_chunks(doubled, range(10), 2, few=1))
    else:
        pytest.skip("dask is installed here")


def test_headers_of_the_stand_in_agree_with_its_description(standin: Path) -> None:
    catalog = scan(standin)
    assert len(catalog.entries) == 1149
    assert catalog.junk == 2
    crs = {entry.info.source.split("_")[2]: entry.header.crs for entry in catalog.entries if "Train" in entry.path}
    assert crs["NAIP"] == "EPSG:26914"
    sentinel = [entry.header for entry in catalog.entries if "Sentinel_" in entry.path]
    assert {header.nodata for header in sentinel if header.bands == 1} == {0.0}
    assert {header.crs for header in sentinel if header.bands == 3} == {"EPSG:3395"}


def test_a_truncated_png_is_seen_by_its_head_and_tail(tree: Tree) -> None:
    from pbvs.errors import PbvsError

    path = tree.png("design_data/SAR/train/0.png")
    assert read_header(path) == Header(16, 16, 1, "uint8")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(PbvsError, match="truncated"):
        read_header(path)
