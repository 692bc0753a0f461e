"""The directory at the end of a zip file: kept as its own bytes, an entry made of them when it is asked for.

Python's zipfile makes an object of some 700 bytes of each entry. The format is PKWARE's APPNOTE 6.3.10, sections 4.3.12
to 4.3.16 and 4.5.3; what it leaves open is read as zipfile reads it, since scorers use that.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from typing import IO
from zipfile import BadZipFile

from pbvs.lazy import Lazy

UTF8 = 0x800  # flag: the name is UTF-8, else it is code page 437
NEWEST = 63  # version of the format that zipfile still reads, times ten
LOCAL = struct.Struct("<4s5H3L2H")  # what stands before an entry's bytes
RECORD = struct.Struct("<4s4B4HL2L5H2L")
END = struct.Struct("<4s4H2LH")
END64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR64 = struct.Struct("<4sLQL")
LONGEST_COMMENT = 0xFFFF
IN_EXTRA = 0xFFFFFFFF  # a size or an offset that stands in the extra field, as 64 bits


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the directory: a file, or a folder when the name ends in '/'."""

    name: str
    size: int  # bytes
    packed: int  # bytes in the archive
    offset: int  # of its local header, from the beginning of the file
    crc: int
    method: int
    flags: int
    attributes: int  # Unix mode, 0 where the archive was not made on Unix

    @property
    def is_folder(self) -> bool:
        """Return whether the entry is a folder's."""
        return self.name.endswith("/")


class Directory(Lazy[Entry]):
    """The entries in the directory's order; `start` is where the directory begins in the file."""

    def __init__(self, data: bytes = b"", start: int = 0, shift: int = 0):
        self.start = start
        self._data = data
        self._shift = shift  # bytes that stand before the archive itself
        self._places = array("L")
        place = 0
        while place < len(data):
            if len(data) - place < RECORD.size or data[place : place + 4] != b"PK\x01\x02":
                raise BadZipFile("its directory is damaged")
            self._places.append(place)
            place += RECORD.size + sum(RECORD.unpack_from(data, place)[12:15])  # name, extra, comment
        if place > len(data):
            raise BadZipFile("its directory is damaged")

    def __len__(self) -> int:
        """Return how many entries there are."""
        return len(self._places)

    def item(self, number: int) -> Entry:
        """Return an entry; raises BadZipFile, or UnicodeDecodeError, when its record is damaged."""
        place = self._places[number]
        record = RECORD.unpack_from(self._data, place)
        version, flags, method, crc, packed, size = record[3], *record[5:7], *record[9:12]
        if version > NEWEST:
            raise BadZipFile(f"an entry asks for version {version / 10} of the format")
        named = place + RECORD.size
        extra = named + record[12]
        name = self._data[named:extra].decode("utf-8" if flags & UTF8 else "cp437")
        size, packed, offset = _in_extra(self._data[extra : extra + record[13]], [size, packed, record[18]])
        return Entry(name, size, packed, offset + self._shift, crc, method, flags, record[17] >> 16)


def _in_extra(extra: bytes, values: list[int]) -> list[int]:
    """Replace the values that say so by those of 64 bits in the extra field, which stand there in this order."""
    place = 0
    while place + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, place)
        if place + 4 + length > len(extra):
            raise BadZipFile("an entry's extra field is damaged")
        if kind == 1:
            left = iter(range(place + 4, place + 4 + length - 7, 8))
            try:
                values = [
                    struct.unpack_from("<Q", extra, next(left))[0] if value == IN_EXTRA else value for value in values
                ]
            except StopIteration:
                raise BadZipFile("an entry's 64-bit sizes are damaged") from None
        place += 4 + length
    return values


@dataclass(frozen=True)
class End:
    """What the end record says: where the directory lies in the file, and what stands before the archive."""

    start: int
    size: int
    shift: int
    disk: int


def find_end(file: IO[bytes]) -> End | None:
    """Return what the end record says, the 64-bit one where there is one; None where there is none at all."""
    file.seek(0, 2)
    length = file.tell()
    tail_start = max(0, length - LONGEST_COMMENT - END.size - LOCATOR64.size - END64.size)
    file.seek(tail_start)
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06", max(0, len(tail) - LONGEST_COMMENT - END.size))
    if at < 0 or len(tail) - at < END.size:
        return None
    disk, _, _, _, size, offset = END.unpack_from(tail, at)[1:7]
    before = at - LOCATOR64.size - END64.size
    if before >= 0 and tail[at - LOCATOR64.size :][:4] == b"PK\x06\x07" and tail[before:][:4] == b"PK\x06\x06":
        at = before
        disk, size, offset = (END64.unpack_from(tail, at)[number] for number in (4, 8, 9))
    start = tail_start + at - size
    return End(start, size, start - offset, disk)


def read_directory(file: IO[bytes], end: End) -> Directory:
    """Read the directory, which is as large as `end` says; raises BadZipFile when it is damaged."""
    if end.start < 0 or end.shift < 0:
        raise BadZipFile("its directory is not where its end says")
    file.seek(end.start)
    return Directory(file.read(end.size), end.start, end.shift)
