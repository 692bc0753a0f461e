"""Archives made to harm: refused by their directory alone, and nothing of them is read."""

from __future__ import annotations

import stat
import struct
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pbvs.errors import PbvsError
from pbvs.submission.check import check
from pbvs.submission.zips import ArchiveError, Finding, Limits, SafeZip, as_text
from tests.submission.workspace import README, noise, png_bytes


def built(path: Path, add: Callable[[zipfile.ZipFile], None]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", README)
        archive.writestr("sar2eo/1.png", png_bytes(noise(1, 1)))
        add(archive)
    return path


def entry(name: str, data: bytes = b"x", attributes: int = 0) -> Callable[[zipfile.ZipFile], None]:
    info = zipfile.ZipInfo(name)
    info.filename = info.orig_filename = name  # zipfile would tidy some names
    info.create_system, info.external_attr = 3, attributes << 16
    return lambda archive: archive.writestr(info, data)


def twice(archive: zipfile.ZipFile) -> None:
    with pytest.warns(UserWarning):
        archive.writestr("sar2eo/1.png", b"other")


NAMES = {
    "path traversal": ("../../evil.txt", "path-traversal"),
    "path traversal inside": ("sar2eo/../../evil.png", "path-traversal"),
    "absolute name": ("/etc/cron.d/evil", "absolute-name"),
    "drive letter": ("C:/evil.txt", "absolute-name"),
    "backslash": ("sar2eo\\evil.png", "backslash"),
    "backslash traversal": ("..\\evil.png", "backslash"),
    "empty part": ("sar2eo//evil.png", "bad-name"),
    "dot part": ("sar2eo/./evil.png", "bad-name"),
    "terminal control": ("sar2eo/\x1b[2Jevil.png", "bad-name"),
}


def rules(path: Path) -> set[str]:
    return {finding.rule for finding in check(path)}


def refused(path: Path) -> None:
    """Not all of the archive's entries can be read, whoever asks."""
    with SafeZip(path) as archive, pytest.raises(ArchiveError, match=r"is not read|damaged"):
        for item in archive.entries:
            archive.read(item)


@pytest.mark.parametrize("what", NAMES)
def test_names_that_leave_the_folder(what: str, tmp_path: Path) -> None:
    name, rule = NAMES[what]
    path = built(tmp_path / "a.zip", entry(name))
    assert rules(path) == {rule}
    refused(path)


@pytest.mark.parametrize(
    ("kind", "rule"), [(stat.S_IFLNK, "link"), (stat.S_IFIFO, "special-file"), (stat.S_IFCHR, "special-file")]
)
def test_links_and_devices(kind: int, rule: str, tmp_path: Path) -> None:
    path = built(tmp_path / "a.zip", entry("sar2eo/2.png", b"/etc/passwd", kind | 0o777))
    assert rules(path) == {rule}
    refused(path)


def test_duplicates(tmp_path: Path) -> None:
    assert rules(built(tmp_path / "a.zip", twice)) == {"duplicate-entry"}
    assert rules(built(tmp_path / "b.zip", entry("SAR2EO/1.PNG"))) == {"duplicate-entry"}


def test_encrypted(tmp_path: Path) -> None:
    path = built(tmp_path / "a.zip", entry("sar2eo/2.png"))
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert rules(path) == {"encrypted"}


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_methods(method: int, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("readme.txt", README)
    assert rules(path) == {"compression"}


def bomb(path: Path, size: int) -> Path:
    """A deflated entry of `size` zeros, made without holding them."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("readme.txt", README)
        with archive.open("sar2eo/1.png", "w", force_zip64=True) as file:
            block = bytes(1 << 24)
            for _ in range(size >> 24):
                file.write(block)
    return path


def forged(path: Path, size: int) -> Path:
    """A small archive whose directory says an entry has `size` bytes."""
    built(path, lambda archive: archive.writestr("sar2rgb/1.png", bytes(1000), zipfile.ZIP_DEFLATED))
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", size)
    path.write_bytes(data)
    return path


def test_bomb_of_ten_gigabytes(tmp_path: Path) -> None:
    """Declared: 3 entries of 3.4 GB that all say so; it is refused unread, in little time and memory."""
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", README)
        for index in range(3):
            info = zipfile.ZipInfo(f"sar2eo/{index}.png")
            info.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(info, "w", force_zip64=True) as file:
                file.write(bytes(1 << 20))
            info.file_size = 3_400_000_000
    tracemalloc.start()
    start = time.process_time()
    found = check(path)
    assert {finding.rule for finding in found} == {"bomb"}
    assert any("10200000" in finding.message for finding in found)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    assert time.process_time() - start < 30
    tracemalloc.stop()
    refused(path)


@pytest.mark.slow
def test_real_bomb_of_ten_gigabytes(tmp_path: Path) -> None:
    path = bomb(tmp_path / "bomb.zip", 10 << 30)
    assert path.stat().st_size < 100_000_000
    assert rules(path) == {"bomb"}
    refused(path)


def test_entry_that_is_longer_than_it_says(tmp_path: Path) -> None:
    path = forged(tmp_path / "a.zip", 10)
    found = check(path)
    assert "damaged" in {finding.rule for finding in found}
    refused(path)
    path = forged(tmp_path / "b.zip", 5000)
    assert "damaged" in {finding.rule for finding in check(path)}


def test_entries_that_share_bytes(tmp_path: Path) -> None:
    """The overlap of CVE-2024-0450: two names for one stretch of deflated data."""
    path = built(tmp_path / "a.zip", entry("sar2eo/2.png", bytes(5000)))
    data = bytearray(path.read_bytes())
    last = data.rindex(b"PK\x01\x02")
    first = data.index(b"PK\x01\x02")
    data[last + 42 : last + 46] = data[first + 42 : first + 46]
    path.write_bytes(data)
    assert rules(path) == {"overlap"}
    refused(path)


def quoted(count: int) -> bytes:
    """A quoted-overlap bomb: each entry's data are a stored block that quotes the next entry's head."""
    kernel = zlib.compressobj(9, zlib.DEFLATED, -15)
    squeezed = kernel.compress(bytes(100_000)) + kernel.flush()
    names = [f"sar2eo/{index}.png".encode() for index in range(count)]
    heads, tail = [], squeezed
    size, crc = 100_000, zlib.crc32(bytes(100_000))
    for name in reversed(names):
        head = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 8, 0, 33, crc, len(tail), size, len(name), 0) + name
        heads.append((name, len(tail), size, crc, head))
        quote = struct.pack("<BHH", 0, len(head), len(head) ^ 0xFFFF) + head
        tail, size, crc = quote + tail, size + len(head), zlib.crc32(head + bytes(size))
    return _assemble(heads, squeezed)


def _assemble(heads: list[tuple[bytes, int, int, int, bytes]], squeezed: bytes) -> bytes:
    data, places = b"", []
    for _name, _length, _size, _crc, head in reversed(heads):
        places.append(len(data))
        data += head + struct.pack("<BHH", 0, 0, 0xFFFF)
    data += squeezed
    directory = b""
    for (name, length, size, crc, _head), offset in zip(reversed(heads), places, strict=True):
        directory += (
            struct.pack(
                "<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 8, 0, 33, crc, length, size, len(name), 0, 0, 0, 0, 0, offset
            )
            + name
        )
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, len(heads), len(heads), len(directory), len(data), 0)
    return data + directory + end


def test_quoted_overlap_bomb(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(quoted(20))
    assert rules(path) == {"overlap"}
    refused(path)


def test_too_many_entries(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(50):
            archive.writestr(f"sar2eo/{index}.png", b"")
    with SafeZip(path, Limits(entries=40)) as found:
        assert [fault.rule for fault in found.faults] == ["too-many-entries"]
    with SafeZip(path, Limits(directory_bytes=100)) as found:
        assert [fault.rule for fault in found.faults] == ["too-many-entries"]
        assert not found.entries


@pytest.mark.parametrize("data", [b"", b"PK", b"\x00" * 100, b"%PDF-1.4 not a zip", b"PK\x05\x06" + bytes(3)])
def test_what_is_no_zip(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    assert rules(path) == {"not-a-zip"}


def test_cut_off_archive(tmp_path: Path) -> None:
    path = built(tmp_path / "a.zip", entry("sar2eo/2.png"))
    path.write_bytes(path.read_bytes()[:-40])
    assert "cut off" in check(path)[0].message


def test_split_archive(tmp_path: Path) -> None:
    path = built(tmp_path / "a.zip", entry("sar2eo/2.png"))
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x05\x06") + 4] = 1
    path.write_bytes(data)
    assert rules(path) == {"multi-disk"}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), max_size=4), cut=st.integers(0, 400))
def test_any_damage_is_a_finding_or_harmless_never_a_trace(
    flips: list[tuple[int, int]], cut: int, tmp_path: Path
) -> None:
    path = built(tmp_path / "a.zip", entry("sar2eo/2.png"))
    data = bytearray(path.read_bytes())
    for position, change in flips:
        data[position % len(data)] ^= change
    path.write_bytes(bytes(data[: len(data) - cut]))
    for finding in check(path):
        assert isinstance(finding, Finding)


def test_names_are_printed_without_controls() -> None:
    finding = Finding("error", "x", "a", "it is \\x1b", "")
    assert "\x1b" not in as_text([finding])


def test_missing_archive_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(PbvsError, match="There is no archive"):
        check(tmp_path / "none.zip")
