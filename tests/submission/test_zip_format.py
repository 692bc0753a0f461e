"""Our zip files are byte for byte those of Python's zipfile, and whatever it writes we read as it does."""

from __future__ import annotations

import io
import random
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbvs.errors import PbvsError
from pbvs.submission import storedzip
from pbvs.submission.directory import find_end, read_directory
from pbvs.submission.storedzip import write_zip
from pbvs.submission.zips import SafeZip, room_for

NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"), min_size=1, max_size=20)


def _by_zipfile(path: Path, items: list[tuple[str, bytes]]) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # of a name that is there twice
        for name, data in items:
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o100644 << 16
            archive.writestr(info, data)


@settings(max_examples=150, deadline=None)
@given(items=st.lists(st.tuples(NAMES, st.binary(max_size=300)), max_size=5))
def test_it_writes_the_bytes_of_zipfile(
    tmp_path_factory: pytest.TempPathFactory, items: list[tuple[str, bytes]]
) -> None:
    folder = tmp_path_factory.mktemp("zips")
    _by_zipfile(folder / "theirs.zip", items)
    write_zip(folder / "ours.zip", items)
    assert (folder / "ours.zip").read_bytes() == (folder / "theirs.zip").read_bytes()


@pytest.mark.parametrize("count", [65_535, 65_536])
def test_more_entries_than_16_bits_hold(tmp_path: Path, count: int) -> None:
    items = [(f"{number}", b"") for number in range(count)]
    _by_zipfile(tmp_path / "theirs.zip", items)
    write_zip(tmp_path / "ours.zip", items)
    assert (tmp_path / "ours.zip").read_bytes() == (tmp_path / "theirs.zip").read_bytes()
    with SafeZip(tmp_path / "ours.zip", room_for(count)) as archive:
        assert archive.safe and len(archive.entries) == count and archive.entries[count - 1].name == f"{count - 1}"


def test_an_archive_that_32_bits_cannot_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storedzip, "LARGEST", 1000)
    with pytest.raises(PbvsError, match="larger than 4 GiB, at second"):
        write_zip(tmp_path / "a.zip", [("first", bytes(900)), ("second", bytes(100))])


class _Unseekable(io.RawIOBase):
    """A pipe: zipfile then writes sizes behind the bytes instead of before them."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.data += data
        return len(data)


def _zips() -> Iterator[tuple[str, bytes]]:
    rng = random.Random(0)
    contents = {"a.txt": b"a" * 5000, "sar2eo/ä.png": rng.randbytes(3000), "empty": b"", "folder/": b""}

    def made(target: object = None, comment: bytes = b"", large: bool = False, method: int = ZIP_DEFLATED) -> bytes:
        buffer = io.BytesIO() if target is None else target
        with zipfile.ZipFile(buffer, "w", method) as archive:  # type: ignore[call-overload]
            archive.comment = comment
            for name, data in contents.items():
                with archive.open(name, "w", force_zip64=large) as file:
                    file.write(data)
        return bytes(buffer.data if isinstance(buffer, _Unseekable) else buffer.getvalue())  # type: ignore[attr-defined]

    yield "deflated", made()
    yield "stored", made(method=ZIP_STORED)
    yield "of a pipe", made(_Unseekable())
    yield "64-bit local headers", made(large=True)
    yield "a comment", made(comment=b"a word about it" * 3)
    yield "bytes before it", b"#!/bin/sh\n" + made()
    yield "64-bit sizes in the directory", _widened(made())
    yield "nothing in it", struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0, 0, 0, 0, 0)


def _widened(data: bytes) -> bytes:
    """Move sizes and offsets of a directory into its extra fields, as tools for large files do."""
    at = data.rindex(b"PK\x05\x06")
    size, start = struct.unpack_from("<2L", data, at + 12)
    directory, place = b"", start
    while place < start + size:
        record = bytearray(data[place : place + 46])
        packed, length = struct.unpack_from("<2L", record, 20)
        named, extra, said = struct.unpack_from("<3H", record, 28)
        (offset,) = struct.unpack_from("<L", record, 42)
        struct.pack_into("<2L", record, 20, 0xFFFFFFFF, 0xFFFFFFFF)
        struct.pack_into("<H", record, 30, 28)
        struct.pack_into("<L", record, 42, 0xFFFFFFFF)
        directory += bytes(record) + data[place + 46 : place + 46 + named]
        directory += struct.pack("<2H3Q", 1, 24, length, packed, offset)
        place += 46 + named + extra + said
    end = bytearray(data[at : at + 22])
    struct.pack_into("<L", end, 12, len(directory))
    return data[:start] + directory + bytes(end)


ZIPS = dict(_zips())


@pytest.mark.parametrize("kind", ZIPS)
def test_it_reads_what_zipfile_reads(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.zip").write_bytes(ZIPS[kind])
    with zipfile.ZipFile(tmp_path / "a.zip") as theirs, SafeZip(tmp_path / "a.zip") as ours:
        assert ours.safe
        assert [(entry.name, entry.size, entry.packed, entry.crc) for entry in ours.entries] == [
            (info.filename, info.file_size, info.compress_size, info.CRC) for info in theirs.infolist()
        ]
        assert [ours.read(entry) for entry in ours.files] == [
            theirs.read(info) for info in theirs.infolist() if not info.is_dir()
        ]


def _read_by(read: Callable[[], object]) -> object:
    try:
        return read()
    except Exception:
        return None


@settings(max_examples=400, deadline=None)
@given(kind=st.sampled_from(sorted(ZIPS)), seed=st.integers(0, 2**32))
def test_damaged_bytes_are_never_read_otherwise(tmp_path_factory: pytest.TempPathFactory, kind: str, seed: int) -> None:
    """Whatever we read of a damaged archive, zipfile reads the same; what it refuses, we refuse."""
    rng, data = random.Random(seed), bytearray(ZIPS[kind])
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(data)) if rng.random() < 0.5 else max(0, len(data) - rng.randrange(1, 400))
        data[place] = rng.choice((0, 1, 0xFF, data[place] ^ (1 << rng.randrange(8)), rng.randrange(256)))
    path = tmp_path_factory.mktemp("damaged") / "a.zip"
    path.write_bytes(data)
    with SafeZip(path) as ours:
        if not ours.safe:
            return
        found = {entry.name: data for entry in ours.files if (data := _read_by(lambda: ours.read(entry))) is not None}  # noqa: B023
    with zipfile.ZipFile(path) as theirs:
        for name, content in found.items():
            assert theirs.read(name) == content


def test_a_directory_that_is_not_where_it_should_be(tmp_path: Path) -> None:
    data = bytearray(ZIPS["deflated"])
    struct.pack_into("<L", data, data.rindex(b"PK\x05\x06") + 12, 10_000_000)
    end = find_end(io.BytesIO(data))
    assert end is not None
    with pytest.raises(BadZipFile, match="not where its end says"):
        read_directory(io.BytesIO(data), end)
