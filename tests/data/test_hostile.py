"""Files that are not what they say: none crashes, each is listed, the rest is used."""

from __future__ import annotations

import os
import struct
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from pbvs.data.align import open_pair
from pbvs.data.build import build_pairs
from pbvs.data.chips import prepare
from pbvs.data.headers import read_header
from pbvs.data.images import read_image, write_tiff
from pbvs.data.manifest import Pair, manifest_path, read_manifest
from pbvs.data.pairing import Rules
from pbvs.errors import PbvsError
from pbvs.preflight import check_inputs
from pbvs.recipe import Chips, Radiometry
from tests.data.conftest import Tree
from tests.data.test_build import unused

SECRET = "secret.tiff"


def vrt(target: Path) -> str:
    return (
        '<VRTDataset rasterXSize="16" rasterYSize="16"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f'<SourceFilename relativeToVRT="0">{target}</SourceFilename><SourceBand>1</SourceBand>'
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def tiff_claiming(side: int, path: Path) -> None:
    """A small TIFF whose width and height tags are overwritten."""
    data = bytearray(path.read_bytes())
    start = struct.unpack("<I", data[4:8])[0]
    for index in range(struct.unpack("<H", data[start : start + 2])[0]):
        at = start + 2 + 12 * index
        if struct.unpack("<H", data[at : at + 2])[0] in (256, 257):
            data[at + 2 : at + 12] = struct.pack("<HII", 4, 1, side)
    path.write_bytes(bytes(data))


def unknown_crs(path: Path) -> None:
    """A GeoTIFF whose projected system is a code that nobody has given out."""
    data = path.read_bytes()
    known, unknown = struct.pack("<4H", 3072, 0, 1, 32612), struct.pack("<4H", 3072, 0, 1, 30999)
    assert data.count(known) == 1
    path.write_bytes(data.replace(known, unknown))


@pytest.fixture
def hostile(tree: Tree, tmp_path: Path) -> Tree:
    for name in ("one", "two"):
        tree.location("A", name)
    write_tiff(tmp_path / SECRET, tree.pixels(16, 16, 1))
    folder = tree.root / "A/one"
    (folder / "vrt_rgb.tiff").write_text(vrt(tmp_path / SECRET))
    (folder / "eps_rgb.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")
    (folder / "eps_GEC.tiff").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")
    (folder / "empty_GEC.tiff").write_bytes(b"")
    (folder / "header_GEC.tiff").write_bytes(b"II*\x00\xff\xff\xff\x7f")
    (folder / "bomb_rgb.png").write_bytes(png_claiming(100_000, 100_000))
    tree.tiff("A/one/bands_GEC.tiff", 17)
    tree.tiff("A/one/huge_GEC.tiff")
    tiff_claiming(100_000, folder / "huge_GEC.tiff")
    tree.tiff("A/one/nowhere_GEC.tiff", crs="EPSG:32612", transform=(1.0, 0, 4e5, 0, -1.0, 4e6))
    unknown_crs(folder / "nowhere_GEC.tiff")
    tree.tiff("A/one/s0_GEC.tif")
    (folder / "broken_GEC.tiff").symlink_to(folder / "nothing")
    (tree.root / "A/loop").symlink_to(tree.root, target_is_directory=True)
    return tree


EXPECTED = {
    "A/one/vrt_rgb.tiff": "cannot be read",
    "A/one/eps_rgb.png": "no PNG",
    "A/one/eps_GEC.tiff": "cannot be read",
    "A/one/empty_GEC.tiff": "empty",
    "A/one/header_GEC.tiff": "cannot be read",
    "A/one/bomb_rgb.png": "100000 x 100000",
    "A/one/bands_GEC.tiff": "17 bands",
    "A/one/huge_GEC.tiff": "100000 x 100000",
    "A/one/nowhere_GEC.tiff": "not known to PROJ",
    "A/one/s0_GEC.tiff": "the same name as A/one/s0_GEC.tif",
    "A/one/broken_GEC.tiff": "broken link",
    "A/loop": "scanned already",
}


def test_each_is_listed_and_the_rest_is_used(hostile: Tree, tmp_path: Path) -> None:
    summary = build_pairs(hostile.root, tmp_path / "m", rules=Rules(sampling="all"))
    reasons = unused(tmp_path / "m")
    for path, words in EXPECTED.items():
        assert words in reasons.get(path, ""), path
    assert set(reasons) == set(EXPECTED)
    assert summary.pairs["sar2rgb"]["train"] + summary.pairs["sar2rgb"]["val"] == 4


def test_no_reason_says_where_the_data_lie(hostile: Tree, tmp_path: Path) -> None:
    build_pairs(hostile.root, tmp_path / "m", rules=Rules(sampling="all"))
    assert str(hostile.root) not in (tmp_path / "m/unused.csv").read_text()


def test_a_vrt_is_never_followed(hostile: Tree) -> None:
    for read in (read_header, read_image):
        with pytest.raises(PbvsError, match="cannot be read"):
            read(hostile.root / "A/one/vrt_rgb.tiff")


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes are Linux's")
def test_names_in_unicode_are_used_and_names_of_no_encoding_are_listed(tree: Tree, tmp_path: Path) -> None:
    for name in ("Zürich", "東京", "two words, a 'quote'"):
        tree.location("Städte", name)
    folder = os.fsencode(tree.root / "Städte/東京")
    Path(os.fsdecode(folder + b"/bad\xff_GEC.tiff")).write_bytes(b"x")
    (tree.root / "Städte/東京/new\nline_GEC.tiff").write_bytes(b"x")
    summary = build_pairs(tree.root, tmp_path / "m", rules=Rules(sampling="all"))
    reasons = unused(tmp_path / "m")
    assert len(reasons) == 2
    assert all("cannot be written down" in reason for reason in reasons.values())
    assert summary.pairs["sar2rgb"]["train"] + summary.pairs["sar2rgb"]["val"] == 6
    pairs = read_manifest(manifest_path(tmp_path / "m", "sar2rgb", "train"))
    assert all(open_pair(pair, tree.root).valid.all() for pair in pairs)


def test_a_manifest_naming_a_gone_file_is_one_sentence(tree: Tree, tmp_path: Path) -> None:
    tree.location("A", "one")
    tree.location("A", "two")
    build_pairs(tree.root, tmp_path / "m")
    pairs = read_manifest(manifest_path(tmp_path / "m", "sar2rgb", "train"))
    (tree.root / pairs[0].source).unlink()
    with pytest.raises(PbvsError, match="build-pairs"):
        check_inputs(pairs, tree.root)
    with pytest.raises(PbvsError, match="There is no image"):
        open_pair(pairs[0], tree.root)


def test_a_pair_that_leaves_the_root_is_refused(tree: Tree) -> None:
    tree.location("A", "one")
    pair = Pair("x", "sar2rgb", "train", "one", "../secret_GEC.tiff", "A/one/a_rgb.tiff", alignment="footprint")
    with pytest.raises(PbvsError, match="leaves"):
        open_pair(pair, tree.root)


def test_a_image_damaged_after_pairing_is_a_bad_chip_and_no_crash(tree: Tree, tmp_path: Path) -> None:
    tree.location("A", "one", sar=3)
    tree.location("A", "two", sar=3)
    build_pairs(tree.root, tmp_path / "m")
    pairs = read_manifest(manifest_path(tmp_path / "m", "sar2rgb", "train"))
    whole = (tree.root / pairs[0].source).read_bytes()
    (tree.root / pairs[0].source).write_bytes(whole[: len(whole) - 40])
    with pytest.raises(PbvsError, match=f"{pairs[0].source} has changed since the manifests were made; run `pbvs bu"):
        prepare(pairs, tree.root, Radiometry(), Chips(), 16, tmp_path / "cache")
    # A manifest of an earlier version does not say what the bytes were.
    older = [replace(pair, source_digest="", target_digest="") for pair in pairs]
    prepared = prepare(older, tree.root, Radiometry(), Chips(), 16, tmp_path / "cache")
    assert [bool(item.reason) for item in prepared] == [True, False, False]


def test_a_georeference_without_extent_is_refused(tree: Tree) -> None:
    path = tree.tiff("A/one/flat_GEC.tiff", crs="EPSG:32612", transform=(1e-20, 0, 4e5, 0, -1e-20, 4e6))
    with pytest.raises(PbvsError, match="no extent"):
        read_header(path)
