"""Zip files that we write have fixed bytes; those that other tools write are read, whatever their variety."""

from __future__ import annotations

import contextlib
import io
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbvs.errors import PbvsError
from pbvs.submission import zips
from pbvs.submission.zips import ArchiveError, SafeZip, room_for, write_zip

ITEMS = [("readme.txt", b"four lines"), ("sar2eo/1.png", bytes(range(256))), ("sar2eo/\u00e4.png", b"")]


def test_the_bytes_are_fixed(tmp_path: Path) -> None:
    """Every header as the format's specification lays it out, with nothing of the clock or the machine in it."""
    write_zip(tmp_path / "a.zip", ITEMS)
    local = directory = b""
    for name, data in ITEMS:
        stored, flags = name.encode(), 0 if name.isascii() else 0x800
        known = (flags, 0, 0, 0x21, zlib.crc32(data), len(data), len(data), len(stored), 0)  # 0x21 is 1980-01-01
        directory += struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 3, 20, 0, *known, 0, 0, 0, 0o100644 << 16, len(local))
        directory += stored
        local += struct.pack("<4s5H3L2H", b"PK\3\4", 20, *known) + stored + data
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 3, 3, len(directory), len(local), 0)
    assert (tmp_path / "a.zip").read_bytes() == local + directory + end


def test_more_entries_than_16_bits_hold(tmp_path: Path) -> None:
    count = 65_536
    write_zip(tmp_path / "a.zip", ((f"{number}", b"") for number in range(count)))
    with SafeZip(tmp_path / "a.zip", room_for(count)) as archive:
        assert archive.safe and len(archive.entries) == count
        assert archive.entries[count - 1].filename == f"{count - 1}"


def test_an_archive_that_32_bits_cannot_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zips, "LARGEST", 1000)
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


CONTENTS = {
    "a.txt": b"a" * 5000,
    "sar2eo/ä.png": random.Random(0).randbytes(3000),
    "empty": b"",
    "folder/": b"",
}


def _zips() -> Iterator[tuple[str, bytes]]:
    def made(target: object = None, comment: bytes = b"", large: bool = False, method: int = ZIP_DEFLATED) -> bytes:
        buffer = io.BytesIO() if target is None else target
        with zipfile.ZipFile(buffer, "w", method) as archive:  # type: ignore[call-overload]
            archive.comment = comment
            for name, data in CONTENTS.items():
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
    directory, here = b"", start
    while here < start + size:
        entry = bytearray(data[here : here + 46])
        packed, length = struct.unpack_from("<2L", entry, 20)
        named, extra, said = struct.unpack_from("<3H", entry, 28)
        (offset,) = struct.unpack_from("<L", entry, 42)
        struct.pack_into("<2L", entry, 20, 0xFFFFFFFF, 0xFFFFFFFF)
        struct.pack_into("<H", entry, 30, 28)
        struct.pack_into("<L", entry, 42, 0xFFFFFFFF)
        directory += bytes(entry) + data[here + 46 : here + 46 + named]
        directory += struct.pack("<2H3Q", 1, 24, length, packed, offset)
        here += 46 + named + extra + said
    end = bytearray(data[at : at + 22])
    struct.pack_into("<L", end, 12, len(directory))
    return data[:start] + directory + bytes(end)


ZIPS = dict(_zips())


@pytest.mark.parametrize("kind", ZIPS)
def test_unusual_archives_are_read(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.zip").write_bytes(ZIPS[kind])
    with SafeZip(tmp_path / "a.zip") as archive:
        assert archive.safe
        found = {entry.filename: archive.read(entry) for entry in archive.files}
    assert found == ({} if kind == "nothing in it" else {n: d for n, d in CONTENTS.items() if not n.endswith("/")})


@settings(max_examples=400, deadline=None)
@given(kind=st.sampled_from(sorted(ZIPS)), seed=st.integers(0, 2**32))
def test_damaged_bytes_are_refused_or_read_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, kind: str, seed: int
) -> None:
    """What passes the checks has the bytes that its checksum says; nothing else escapes than an ArchiveError."""
    rng, data = random.Random(seed), bytearray(ZIPS[kind])
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(data)) if rng.random() < 0.5 else max(0, len(data) - rng.randrange(1, 400))
        data[at] = rng.choice((0, 1, 0xFF, data[at] ^ (1 << rng.randrange(8)), rng.randrange(256)))
    path = tmp_path_factory.mktemp("damaged") / "a.zip"
    path.write_bytes(data)
    with SafeZip(path) as archive:
        for entry in archive.files if archive.safe else ():
            with contextlib.suppress(ArchiveError):
                content = archive.read(entry)
                assert (len(content), zlib.crc32(content)) == (entry.file_size, entry.CRC)


def test_a_directory_that_is_not_where_it_should_be(tmp_path: Path) -> None:
    data = bytearray(ZIPS["deflated"])
    struct.pack_into("<L", data, data.rindex(b"PK\x05\x06") + 12, 3_000_000)
    (tmp_path / "a.zip").write_bytes(data)
    with SafeZip(tmp_path / "a.zip") as archive:
        assert [fault.rule for fault in archive.faults] == ["not-a-zip"]
