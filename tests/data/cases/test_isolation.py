"""One bad item costs itself, by name and reason; what is said leads to the cause; memory goes by what is used."""

from __future__ import annotations

import errno
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image

from pbvs.data import headers as headers_module
from pbvs.data.headers import read_header
from pbvs.data.images import read_image, read_samples
from pbvs.errors import PbvsError, ReadError
from tests.data.cases.world import UTM, World, grid, peak_and_seconds, png_chunk, scene, tif, u8

GIBIBYTE = 1 << 30


@pytest.mark.parametrize("extra", [b"\0", b"\n", b"x" * 70_000])
def test_bytes_after_the_end_of_a_png_are_no_truncation(tmp_path: Path, extra: bytes) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(u8(scene(bands=3))).save(path)
    expected = np.asarray(Image.open(path))
    with path.open("ab") as file:
        file.write(extra)
    assert read_header(path).bands == 3
    np.testing.assert_array_equal(read_image(path), expected)


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.99])
def test_a_png_without_its_end_is_truncated(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(u8(scene(bands=3))).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(PbvsError, match="truncated"):
        read_header(path)


def test_when_nothing_can_be_paired_unused_csv_is_there_with_the_reasons(world: World) -> None:
    tif(world.location() / "S_GEC.tiff", u8(scene()), UTM, grid())
    tif(world.location() / "A_rgb.tiff", u8(scene(bands=3)), UTM, grid(600000))
    with pytest.raises(PbvsError, match=r"unused.csv says why: .*covers 0.00"):
        world.build()
    assert "covers 0.00" in world.unused()


def test_when_nothing_can_be_read_the_reasons_are_said(world: World) -> None:
    for name in ("A_rgb.tiff", "S_GEC.tiff"):
        (world.location() / name).write_bytes(b"II*\0 broken")
    with pytest.raises(PbvsError, match=r"None of the 2 images .* cannot be read"):
        world.build()


@pytest.mark.parametrize("suffix", [".bmp", ".webp", ".gif", ".img", ".nc"])
def test_formats_that_are_not_read_are_listed(world: World, suffix: str) -> None:
    tif(world.location() / "S_GEC.tiff", u8(scene()))
    tif(world.location() / "A_rgb.tiff", u8(scene(bands=3)))
    (world.location() / f"B_rgb{suffix}").write_bytes(b"anything")
    (world.location() / "readme.txt").write_bytes(b"anything")
    world.build()
    (line,) = world.unused().splitlines()[1:]
    assert f"B_rgb{suffix}" in line
    assert "is not read" in line


@pytest.mark.parametrize("suffix", ["jpg", "jp2"])
def test_jpeg_and_jpeg_2000_are_used(world: World, suffix: str) -> None:
    tif(world.location() / "A_ir.tiff", u8(scene()))
    Image.fromarray(u8(scene(bands=3))).save(world.location() / f"A_rgb.{suffix}")
    Image.fromarray(u8(scene())[:, :, 0]).save(world.location() / f"quicklook.{suffix}")
    world.build()
    assert [pair.source.rpartition("/")[2] for pair in world.pairs("rgb2ir")] == [f"A_rgb.{suffix}"]
    assert "modality" in world.unused()


def test_two_archives_with_one_folder_name_are_two_locations(world: World) -> None:
    for archive, x in (("A_SAR_IR_RGB", 500000), ("B_SAR_IR_RGB", 700000)):
        folder = world.location("tile_1", archive)
        for number in range(3):
            tif(folder / f"S_2020010{number + 1}_GEC.tiff", u8(scene(seed=number)), UTM, grid(x))
        name = "mosaic_rgb.tiff" if x == 500000 else "A_20200101_rgb.tiff"
        tif(folder / name, u8(scene(seed=9, bands=3)), UTM, grid(x))
    world.build()
    assert len(world.pairs("sar2rgb")) == 6
    assert {pair.target.split("/")[0] for pair in world.pairs("sar2rgb")} == {"A_SAR_IR_RGB", "B_SAR_IR_RGB"}


def test_files_that_come_beside_an_image_later_are_seen(world: World) -> None:
    path = tif(world.location() / "S_GEC.tiff", u8(scene()))
    tif(world.location() / "A_rgb.tiff", u8(scene(bands=3)), UTM, grid())
    world.build()
    assert world.pairs("sar2rgb")[0].alignment == "footprint"
    path.with_suffix(".tfw").write_text("1\n0\n0\n-1\n500000.5\n5199999.5\n")
    path.with_suffix(".prj").write_text(rasterio.crs.CRS.from_string(UTM).to_wkt())
    world.build()
    assert world.pairs("sar2rgb")[0].alignment == "georeference"


# --- The disk's faults are not the file's.


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "jp2"])
def test_a_file_that_is_gone_is_no_damaged_file(tmp_path: Path, suffix: str) -> None:
    for read in (read_header, read_image):
        with pytest.raises(ReadError, match="There is no image"):
            read(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "jp2"])
@pytest.mark.parametrize("number", ["EIO", "EACCES", "ESTALE"])
def test_an_error_of_the_system_is_said_as_one_and_not_remembered(
    world: World, monkeypatch: pytest.MonkeyPatch, suffix: str, number: str
) -> None:
    path = world.location() / f"A_rgb.{suffix}"
    Image.fromarray(u8(scene(bands=3))).save(path)
    tif(world.location() / "A_ir.tiff", u8(scene()))

    reason = os.strerror(getattr(errno, number))

    def failing(*_: object, **__: object) -> object:
        raise OSError(getattr(errno, number), reason)

    with monkeypatch.context() as patch:
        patch.setattr(headers_module, "open_image", failing)
        patch.setattr(headers_module.os, "pread", failing)
        with pytest.raises(ReadError, match=rf"loc1/A_.*\({reason}\)"):
            world.build()
    world.build()
    assert len(world.pairs("rgb2ir")) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_file_without_permission_is_no_damaged_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(u8(scene(bands=3))).save(path)
    path.chmod(0)
    with pytest.raises(ReadError, match="Permission"):
        read_image(path)


# --- Memory and time go by what is used and by what the bytes can hold.


def sparse(path: Path, side: int, count: int, dtype: str, **options: object) -> Path:
    profile = {"driver": "GTiff", "height": side, "width": side, "count": count, "dtype": dtype, **options}
    with rasterio.open(path, "w", SPARSE_OK=True, **profile):
        pass
    return path


def blank_png(path: Path, width: int, height: int, depth: int, kind: int) -> Path:
    bands = {0: 1, 2: 3, 6: 4}[kind]
    packer = zlib.compressobj(9)
    row = bytes(1 + (width * bands * depth + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([depth, kind, 0, 0, 0])
    chunks = png_chunk(b"IHDR", head) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


HOSTILE = {
    "16 bands of complex128": lambda folder: sparse(folder / "a.tif", 6300, 16, "complex128", tiled=True),
    "16 bands of complex128, pixel by pixel": lambda folder: sparse(
        folder / "a.tif", 4000, 16, "complex128", tiled=True, interleave="pixel"
    ),
    "16 bands of float64": lambda folder: sparse(folder / "a.tif", 6300, 16, "float64", tiled=True, compress="deflate"),
    "one tile": lambda folder: sparse(
        folder / "a.tif", 8000, 1, "uint8", tiled=True, blockxsize=32768, blockysize=32768
    ),
    "small image, one tile": lambda folder: sparse(
        folder / "a.tif", 64, 1, "uint8", tiled=True, blockxsize=32768, blockysize=32768
    ),
    "blank PNG of 8 bits": lambda folder: blank_png(folder / "a.png", 6300, 6300, 8, 2),
    "blank PNG of 16 bits": lambda folder: blank_png(folder / "a.png", 6300, 6300, 16, 6),
    "blank PNG of 1 bit": lambda folder: blank_png(folder / "a.png", 6300, 6300, 1, 0),
    "many pages": lambda folder: many_pages(folder / "a.tif"),
}


def many_pages(path: Path) -> Path:
    with tifffile.TiffWriter(path) as file:
        for _ in range(3000):
            file.write(np.zeros((4, 4), np.uint8), photometric="minisblack", metadata=None)
    return path


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_take_little_memory_and_time(tmp_path: Path, name: str) -> None:
    path = HOSTILE[name](tmp_path)
    assert path.stat().st_size < 2_000_000
    size, seconds = peak_and_seconds(
        f"try: read_raster(Path({str(path)!r}), load_challenge().modalities['rgb'], 'full')\nexcept PbvsError: pass"
    )
    assert size < GIBIBYTE
    assert seconds < 10


def test_only_the_bands_that_are_used_are_in_memory(tmp_path: Path) -> None:
    """3 of 16 bands of float64, 3000 pixels a side: 27 million numbers as float32, some copies of them."""
    path = sparse(tmp_path / "a.tif", 3000, 16, "float64", tiled=True, compress="deflate")
    size, _ = peak_and_seconds(f"read_raster(Path({str(path)!r}), load_challenge().modalities['rgb'], 'full')")
    assert size < 500_000_000
    assert read_samples(path, lambda _: [2], side=100).values.shape == (100, 100, 1)


def test_a_large_image_that_its_bytes_can_hold_is_read(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4500, 4500), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png", compress_level=1)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[:, :, 0], noise)
