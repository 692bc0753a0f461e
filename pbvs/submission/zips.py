"""A zip file read as a stranger's: nothing is opened before its directory was found harmless, nothing overruns.

Python's zipfile is not enough: before 3.11.8 and 3.12.2 it reads archives whose entries overlap (CVE-2024-0450), it
never refuses absolute names, links, duplicates or bombs, and it makes an object of each of 100,000 entries.
"""

from __future__ import annotations

import re
import stat
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile

import numpy as np

from pbvs.errors import PbvsError
from pbvs.lookup import repeated
from pbvs.submission.directory import LOCAL, UTF8, Directory, End, Entry, find_end, read_directory
from pbvs.submission.findings import Finding, printable

BLOCK = 1 << 20
METHODS = (ZIP_STORED, ZIP_DEFLATED)
ENCRYPTED, PATCHED = 0x2041, 0x20  # flags
LOCAL_HEAD = b"PK\x03\x04"
ARCHIVE_SUFFIXES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")
ARCHIVE_HEADS = (LOCAL_HEAD, b"PK\x05\x06", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"7z\xbc\xaf\x27\x1c", b"Rar!")
FAILURES = (BadZipFile, ValueError, ArithmeticError, LookupError, EOFError, OSError, struct.error, zlib.error)
_DRIVE = re.compile(r"^[A-Za-z]:")


@dataclass(frozen=True)
class Limits:
    """How much of an archive is read at all; the defaults are far above any submission."""

    directory_bytes: int = 4 << 20
    entries: int = 20_000
    entry_bytes: int = 64 << 20
    total_bytes: int = 2 << 30
    ratio: float = 100.0
    ratio_from: int = 16 << 20  # smaller files may be as compressible as they like


LIMITS = Limits()


def room_for(files: int) -> Limits:
    """Return limits that an honest archive of so many files, known beforehand, stays well below."""
    wanted = 2 * files
    return replace(
        LIMITS,
        directory_bytes=max(LIMITS.directory_bytes, wanted * 300),  # a name has 250 characters at most
        entries=max(LIMITS.entries, wanted),
        total_bytes=max(LIMITS.total_bytes, wanted << 20),
    )


class ArchiveError(PbvsError):
    """An entry that cannot be read; the message says which and why."""


class SafeZip:
    """An open archive: `faults` first, and when there are none of level error, `read` any of `entries`."""

    def __init__(self, path: Path, limits: Limits = LIMITS):
        self.path = path
        self.limits = limits
        self.faults: list[Finding] = []
        self.entries = Directory()
        self._file: IO[bytes] | None = None

    def __enter__(self) -> SafeZip:
        try:
            self._file = self.path.open("rb")
        except OSError as error:
            raise PbvsError(f"The archive {self.path} cannot be opened: {error.strerror}; check the path.") from None
        try:
            self._open(self._file)
        except FAILURES as error:
            self._fault("not-a-zip", "", f"it cannot be read as a zip ({error})", "Write the archive again.")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def safe(self) -> bool:
        """Return whether the entries may be read."""
        return not any(fault.level == "error" for fault in self.faults)

    @property
    def files(self) -> list[Entry]:
        """The entries that are files."""
        return [entry for entry in self.entries if not entry.is_folder]

    def read(self, entry: Entry) -> bytes:
        """Return an entry's bytes, checked against its size and CRC; raises ArchiveError."""
        return b"".join(self.stream(entry))

    def stream(self, entry: Entry) -> Iterator[bytes]:
        """Yield an entry's bytes in blocks; raises ArchiveError when they are damaged or more than was declared."""
        if not self.safe or self._file is None:
            raise ArchiveError(f"{self.path} is not read: {self.faults[0].message if self.faults else 'not open'}.")
        count = crc = 0
        try:
            for block in _unpack(self._file, entry):
                count, crc = count + len(block), zlib.crc32(block, crc)
                if count > entry.size:
                    raise BadZipFile("it holds more bytes than it declares")
                yield block
            if count == entry.size and crc != entry.crc:
                raise BadZipFile("its checksum is another")
        except FAILURES as error:
            raise ArchiveError(f"{printable(entry.name)} in {self.path.name} is damaged ({error}).") from None
        if count != entry.size:
            raise ArchiveError(f"{printable(entry.name)} in {self.path.name} holds {count} of {entry.size} bytes.")

    def _fault(self, rule: str, file: str, message: str, hint: str) -> None:
        self.faults.append(Finding("error", rule, printable(file), message, hint))

    def _open(self, file: IO[bytes]) -> None:
        end = find_end(file)
        if end is None:
            self._say_what_it_is(file)
        elif self._is_bearable(end):
            entries = read_directory(file, end)
            if len(entries) > self.limits.entries:
                hint = f"Keep to {self.limits.entries} files at most."
                self._fault("too-many-entries", "", f"it has {len(entries)} entries", hint)
            else:
                self.entries = entries
                self._check_entries(file)

    def _check_entries(self, file: IO[bytes]) -> None:
        for entry in self.entries:
            self._check_name(entry)
            self._check_kind(entry)
            self._check_size(entry)
        self._check_duplicates()
        self._check_total()
        self._check_overlap(file)

    def _is_bearable(self, end: End) -> bool:
        """Look at the end record before a directory of any length is read into memory."""
        if end.disk not in (0, 0xFFFF):
            self._fault("multi-disk", "", "it is one part of a split archive", "Write one zip in one piece.")
            return False
        if end.size > self.limits.directory_bytes:
            self._fault("too-many-entries", "", f"its directory takes {end.size} bytes", "Write a plain submission.")
            return False
        return True

    def _say_what_it_is(self, file: IO[bytes]) -> None:
        file.seek(0)
        cut = file.read(5)[:4] == LOCAL_HEAD
        what = "its end is missing, it was cut off" if cut else "it is not a zip file"
        self._fault("not-a-zip", "", what, "Upload the zip that was written whole, made with a zip tool.")

    def _check_name(self, entry: Entry) -> None:
        name = entry.name
        parts = name.rstrip("/").split("/")
        if name.startswith("/") or _DRIVE.match(name):
            self._fault("absolute-name", name, "its name is absolute", "Use names relative to the archive's root.")
        elif ".." in parts:
            self._fault("path-traversal", name, "its name leaves the folder by '..'", "Take the '..' out of the name.")
        elif "\\" in name:
            self._fault("backslash", name, "its name has a backslash", "Separate folders with '/'.")
        elif not name or "" in parts or "." in parts or any(ord(letter) < 32 for letter in name):
            self._fault("bad-name", name, "its name is empty or has empty or control parts", "Give it a plain name.")

    def _check_kind(self, entry: Entry) -> None:
        kind, name = stat.S_IFMT(entry.attributes), entry.name
        if kind == stat.S_IFLNK:
            self._fault("link", name, "it is a link", "Put the file itself into the archive.")
        elif kind and kind not in (stat.S_IFREG, stat.S_IFDIR):
            self._fault("special-file", name, "it is neither a file nor a folder", "Put only plain files in.")
        if entry.flags & ENCRYPTED:
            self._fault("encrypted", name, "it is encrypted", "Write the archive without a password.")
        if entry.method not in METHODS:
            self._fault("compression", name, f"it is compressed by method {entry.method}", "Use store or deflate only.")

    def _check_size(self, entry: Entry) -> None:
        limits = self.limits
        if entry.size > limits.entry_bytes:
            self._fault("bomb", entry.name, f"it unpacks to {entry.size} bytes", "No image is that big.")
        elif entry.size > limits.ratio_from and entry.size > limits.ratio * max(1, entry.packed):
            times = entry.size // max(1, entry.packed)
            self._fault("bomb", entry.name, f"it unpacks to {times} times its size", "Store images, don't compress.")
        if entry.is_folder and entry.size:
            self._fault("bad-name", entry.name, "it is a folder that holds bytes", "Write the archive again.")

    def _check_total(self) -> None:
        total = sum(entry.size for entry in self.entries)
        if total > self.limits.total_bytes:
            self._fault("bomb", "", f"it unpacks to {total} bytes in all", "No submission is that big.")

    def _check_duplicates(self) -> None:
        alike = repeated(entry.name.casefold() for entry in self.entries)
        exact = Counter(entry.name for entry in self.entries if entry.name.casefold() in alike) if alike else Counter()
        for name, count in exact.items():
            if count > 1:
                self._fault("duplicate-entry", name, f"it is there {count} times", "Keep one of them.")
            else:
                self._fault(
                    "duplicate-entry", name, "another entry has the same name but for upper case", "Keep one of them."
                )

    def _check_overlap(self, file: IO[bytes]) -> None:
        """Refuse entries whose bytes are shared: the trick of bombs that quote one another."""
        end, previous = 0, ""
        for number in np.argsort(np.fromiter((entry.offset for entry in self.entries), np.uint64), kind="stable"):
            entry = self.entries[int(number)]
            if entry.offset < end:
                self._fault(
                    "overlap", entry.name, f"it shares bytes with {printable(previous)}", "Write the archive again."
                )
            end, previous = _begin_of(file, entry)[0] + entry.packed, entry.name
            if end > self.entries.start:
                self._fault("overlap", entry.name, "it reaches beyond the archive's files", "Write the archive again.")


def _begin_of(file: IO[bytes], entry: Entry) -> tuple[int, bytes, int]:
    """Return where an entry's bytes begin, and its name and flags as the local header has them."""
    file.seek(entry.offset)
    head = file.read(LOCAL.size)
    if len(head) < LOCAL.size or head[:4] != LOCAL_HEAD:
        raise BadZipFile(f"there is no entry where {printable(entry.name)} should begin")
    flags, name_length, extra_length = (LOCAL.unpack(head)[field] for field in (2, 9, 10))
    return entry.offset + LOCAL.size + name_length + extra_length, file.read(name_length), flags


def _unpack(file: IO[bytes], entry: Entry) -> Iterator[bytes]:
    """Yield an entry's bytes as they unpack, a block at most at a time."""
    begin, name, flags = _begin_of(file, entry)
    if name.decode("utf-8" if flags & UTF8 else "cp437") != entry.name:
        raise BadZipFile("its header has another name than the directory")
    if entry.flags & PATCHED:
        raise BadZipFile("it is a patch to another file")
    packed = _blocks(file, begin, entry.packed)
    yield from packed if entry.method == ZIP_STORED else _inflate(packed)


def _blocks(file: IO[bytes], begin: int, length: int) -> Iterator[bytes]:
    file.seek(begin)
    while length:
        block = file.read(min(BLOCK, length))
        if not block:
            raise BadZipFile("the archive ends before it does")
        length -= len(block)
        yield block


def _inflate(packed: Iterable[bytes]) -> Iterator[bytes]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    for block in packed:
        while block and not inflater.eof:
            yield inflater.decompress(block, BLOCK)
            block = inflater.unconsumed_tail
    yield inflater.flush()


def is_archive(name: str, head: bytes) -> bool:
    """Return whether a file inside an archive is an archive itself, by its name or its first bytes."""
    return name.lower().endswith(ARCHIVE_SUFFIXES) or head.startswith(ARCHIVE_HEADS)
