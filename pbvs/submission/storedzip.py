"""A zip of stored entries, written as it goes: the same bytes as Python's zipfile makes, without its object an entry.

The format is PKWARE's APPNOTE 6.3.10, sections 4.3.7, 4.3.12 and 4.3.14 to 4.3.16.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path

from pbvs.errors import PbvsError
from pbvs.submission.directory import END, END64, LOCAL, LOCATOR64, RECORD, UTF8

VERSION, VERSION64 = 20, 45  # of the format that a reader needs, times ten
UNIX = 3
MODE = 0o100644 << 16  # a plain file, readable by all
TIME, DATE = 0, (1 << 5) | 1  # 1980-01-01: nothing of the clock is in an archive
MOST = 0xFFFF  # entries, above which a second end record with 64 bits is written
LARGEST = 0xFFFFFFFE  # bytes; no platform takes nearly as many


def write_zip(path: Path, items: Iterable[tuple[str, bytes]]) -> None:
    """Write (name, bytes) one by one, stored, with fixed times and attributes: the same items make the same bytes.

    Raises PbvsError when the archive would have 4 GiB or more.
    """
    directory = bytearray()
    count = offset = 0
    with path.open("wb") as file:
        for name, data in items:
            stored, flags = _name(name)
            known = (flags, 0, TIME, DATE, zlib.crc32(data), len(data), len(data), len(stored), 0)
            if offset + LOCAL.size + len(stored) + len(data) > LARGEST:
                raise PbvsError(f"The archive would be larger than 4 GiB, at {name}; no platform takes that.")
            offset_here, count = offset, count + 1
            offset += file.write(LOCAL.pack(b"PK\x03\x04", VERSION, *known))
            offset += file.write(stored)
            offset += file.write(data)
            directory += RECORD.pack(b"PK\x01\x02", VERSION, UNIX, VERSION, 0, *known, 0, 0, 0, MODE, offset_here)
            directory += stored
        file.write(directory)
        file.write(_end(count, len(directory), offset))


def _name(name: str) -> tuple[bytes, int]:
    """Return a name's bytes and the flag that says what they are."""
    return (name.encode(), 0) if name.isascii() else (name.encode(), UTF8)


def _end(count: int, size: int, offset: int) -> bytes:
    """Return the records behind a directory of `count` entries and `size` bytes that begins at `offset`."""
    more = b""
    if count > MOST:
        sizes = (count, count, size, offset)
        more = END64.pack(b"PK\x06\x06", END64.size - 12, VERSION64, VERSION64, 0, 0, *sizes)
        more += LOCATOR64.pack(b"PK\x06\x07", 0, offset + size, 1)
    said = min(count, MOST)
    return more + END.pack(b"PK\x05\x06", 0, 0, said, said, size, offset, 0)
