"""A zip file read as a stranger's: nothing is opened before its directory was found harmless, nothing overruns.

Python's zipfile alone is not enough: before 3.11.8 and 3.12.2 it reads archives whose entries overlap
(CVE-2024-0450), and it never refuses absolute names, links, duplicates or bombs.
"""

from __future__ import annotations

import re
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO

from pbvs.errors import PbvsError
from pbvs.submission.findings import Finding, printable

BLOCK = 1 << 20
METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
ARCHIVE_SUFFIXES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")
ARCHIVE_HEADS = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"7z\xbc\xaf\x27\x1c", b"Rar!")
FAILURES = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    ValueError,
    ArithmeticError,
    LookupError,
    EOFError,
    OSError,
    struct.error,
    zlib.error,
)
_DRIVE = re.compile(r"^[A-Za-z]:")
_LOCAL = struct.Struct("<4s5H3I2H")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")


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


@dataclass(frozen=True)
class Entry:
    """One entry of the directory: a file, or a folder when the name ends in '/'."""

    name: str
    size: int
    info: zipfile.ZipInfo

    @property
    def is_folder(self) -> bool:
        """Return whether the entry is a folder's."""
        return self.name.endswith("/")


class SafeZip:
    """An open archive: `faults` first, and when there are none of level error, `read` any of `entries`."""

    def __init__(self, path: Path, limits: Limits = LIMITS):
        self.path = path
        self.limits = limits
        self.faults: list[Finding] = []
        self.entries: list[Entry] = []
        self._file: IO[bytes] | None = None
        self._zip: zipfile.ZipFile | None = None

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
        if self._zip is not None:
            self._zip.close()
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
        if not self.safe or self._zip is None:
            raise ArchiveError(f"{self.path} is not read: {self.faults[0].message if self.faults else 'not open'}.")
        count = 0
        try:
            with self._zip.open(entry.info) as file:
                while block := file.read(BLOCK):
                    count += len(block)
                    if count > entry.size:
                        raise zipfile.BadZipFile("it holds more bytes than it declares")
                    yield block
        except FAILURES as error:
            raise ArchiveError(f"{printable(entry.name)} in {self.path.name} is damaged ({error}).") from None
        if count != entry.size:
            raise ArchiveError(f"{printable(entry.name)} in {self.path.name} holds {count} of {entry.size} bytes.")

    def _fault(self, rule: str, file: str, message: str, mending: str) -> None:
        self.faults.append(Finding("error", rule, printable(file), message, mending))

    def _open(self, file: IO[bytes]) -> None:
        if not self._directory_is_bearable(file):
            return
        file.seek(0)
        self._zip = zipfile.ZipFile(file)
        infos = self._zip.infolist()
        if len(infos) > self.limits.entries:
            self._fault(
                "too-many-entries", "", f"it has {len(infos)} entries", f"Keep to {self.limits.entries} files at most."
            )
            return
        self.entries = [Entry(info.orig_filename, info.file_size, info) for info in infos]
        for entry in self.entries:
            self._check_name(entry)
            self._check_kind(entry)
            self._check_size(entry)
        self._check_duplicates()
        self._check_total()
        self._check_overlap(file, self._zip.start_dir)

    def _directory_is_bearable(self, file: IO[bytes]) -> bool:
        """Look at the end record before zipfile reads a directory of any length into memory."""
        file.seek(0, 2)
        length = file.tell()
        file.seek(max(0, length - 65_557))
        tail = file.read()
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or len(tail) - at < _END.size:
            cut = length > 4 and self._head(file) == b"PK\x03\x04"
            what = "its end is missing, it was cut off" if cut else "it is not a zip file"
            self._fault("not-a-zip", "", what, "Upload the zip that was written whole, made with a zip tool.")
            return False
        disk, _, _, _, size = _END.unpack_from(tail, at)[1:6]
        if disk not in (0, 0xFFFF):
            self._fault("multi-disk", "", "it is one part of a split archive", "Write one zip in one piece.")
            return False
        if size == 0xFFFFFFFF:
            size = self._directory_size_64(tail)
        if size > self.limits.directory_bytes:
            self._fault("too-many-entries", "", f"its directory takes {size} bytes", "Write a plain submission.")
            return False
        return True

    @staticmethod
    def _head(file: IO[bytes]) -> bytes:
        file.seek(0)
        return file.read(4)

    @staticmethod
    def _directory_size_64(tail: bytes) -> int:
        at = tail.rfind(b"PK\x06\x06")
        return int(_END64.unpack_from(tail, at)[8]) if at >= 0 and len(tail) - at >= _END64.size else 1 << 62

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
        info, name = entry.info, entry.name
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind == stat.S_IFLNK:
            self._fault("link", name, "it is a link", "Put the file itself into the archive.")
        elif kind and kind not in (stat.S_IFREG, stat.S_IFDIR):
            self._fault("special-file", name, "it is neither a file nor a folder", "Put only plain files in.")
        if info.flag_bits & 0x2041:
            self._fault("encrypted", name, "it is encrypted", "Write the archive without a password.")
        if info.compress_type not in METHODS:
            self._fault(
                "compression", name, f"it is compressed by method {info.compress_type}", "Use store or deflate only."
            )

    def _check_size(self, entry: Entry) -> None:
        info, limits = entry.info, self.limits
        if entry.size > limits.entry_bytes:
            self._fault("bomb", entry.name, f"it unpacks to {entry.size} bytes", "No picture is that big.")
        elif entry.size > limits.ratio_from and entry.size > limits.ratio * max(1, info.compress_size):
            times = entry.size // max(1, info.compress_size)
            self._fault("bomb", entry.name, f"it unpacks to {times} times its size", "Store pictures, don't compress.")
        if entry.is_folder and entry.size:
            self._fault("bad-name", entry.name, "it is a folder that holds bytes", "Write the archive again.")

    def _check_total(self) -> None:
        total = sum(entry.size for entry in self.entries)
        if total > self.limits.total_bytes:
            self._fault("bomb", "", f"it unpacks to {total} bytes in all", "No submission is that big.")

    def _check_duplicates(self) -> None:
        exact = Counter(entry.name for entry in self.entries)
        folded = Counter(name.casefold() for name in exact)
        for name, count in exact.items():
            if count > 1:
                self._fault("duplicate-entry", name, f"it is there {count} times", "Keep one of them.")
            elif folded[name.casefold()] > 1:
                self._fault(
                    "duplicate-entry", name, "another entry has the same name but for upper case", "Keep one of them."
                )

    def _check_overlap(self, file: IO[bytes], directory: int) -> None:
        """Refuse entries whose bytes are shared: the trick of bombs that quote one another."""
        end, previous = 0, ""
        for entry in sorted(self.entries, key=lambda entry: entry.info.header_offset):
            offset = entry.info.header_offset
            if offset < end:
                self._fault(
                    "overlap", entry.name, f"it shares bytes with {printable(previous)}", "Write the archive again."
                )
            end, previous = _end_of(file, entry.info), entry.name
            if end > directory:
                self._fault("overlap", entry.name, "it reaches beyond the archive's files", "Write the archive again.")


def _end_of(file: IO[bytes], info: zipfile.ZipInfo) -> int:
    file.seek(info.header_offset)
    head = file.read(_LOCAL.size)
    if len(head) < _LOCAL.size or head[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile(f"there is no entry where {printable(info.orig_filename)} should begin")
    name_length, extra_length = _LOCAL.unpack(head)[9:11]
    return info.header_offset + _LOCAL.size + int(name_length) + int(extra_length) + info.compress_size


def is_archive(name: str, head: bytes) -> bool:
    """Return whether a file inside an archive is an archive itself, by its name or its first bytes."""
    return name.lower().endswith(ARCHIVE_SUFFIXES) or head.startswith(ARCHIVE_HEADS)
