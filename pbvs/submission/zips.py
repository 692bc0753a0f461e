"""A stranger's zip opened by `zipfile` only after its directory was found harmless; our own written reproducibly.

`zipfile` before 3.11.8 and 3.12.2 reads archives whose entries overlap (CVE-2024-0450), and no version refuses absolute
names, links, duplicates or bombs: that is what the checks over `ZipFile.infolist()` here are for.
"""

from __future__ import annotations

import io
import re
import stat
import struct
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Literal
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from pbvs.errors import PbvsError
from pbvs.files import BoundedFile, ReadTooLargeError, read_error
from pbvs.text import folded, printable

BLOCK = 1 << 20
METHODS = (ZIP_STORED, ZIP_DEFLATED)
ENCRYPTED = 0x2041  # flags
LOCAL = struct.Struct("<4s5H3L2H")  # an entry's header; the last two fields are the lengths of its name and extra field
END = struct.Struct("<4s4H2LH")  # what ends an archive; its second field is the number of this disk
LONGEST_COMMENT = 0xFFFF
ARCHIVE_SUFFIXES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")
ARCHIVE_HEADS = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"7z\xbc\xaf\x27\x1c", b"Rar!")
# What zipfile raises for damaged bytes, and (a RuntimeError of a kind) for a method or version that it does not know.
FAILURES = (
    *(BadZipFile, RuntimeError, ValueError, ArithmeticError, LookupError),
    *(EOFError, OSError, struct.error, zlib.error),
)
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
    total_ratio_from: int = 512 << 20  # and so may all of them together below this


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


def regular_file(path: Path) -> Path:
    """Return the path of an archive; raise PbvsError when it is missing, or a pipe or device that never ends."""
    if not path.exists():
        raise PbvsError(f"There is no archive {path}; check the path, or write it with `pbvs package`.")
    if not path.is_file():
        raise PbvsError(f"The archive {path} is not a regular file; give the zip itself.")
    return path


class SafeZip:
    """An open archive: look at `faults` first; when none of them is an error, `read` any of `entries`.

    Raises PbvsError on entering when there is no such file, or it cannot be opened.
    """

    def __init__(self, path: Path, limits: Limits = LIMITS):
        self.path = path
        self.limits = limits
        self.faults: list[Finding] = []
        self.entries: list[ZipInfo] = []
        self._file: BoundedFile | None = None
        self._zip: ZipFile | None = None

    def __enter__(self) -> SafeZip:
        regular_file(self.path)
        try:
            self._file = BoundedFile(io.FileIO(self.path))
        except OSError as error:
            raise read_error(self.path, error) from None
        try:
            self._open(self._file)
        except FAILURES as error:
            self._fault("not-a-zip", "", f"it cannot be read as a zip ({error})", "Write the archive again.")
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def safe(self) -> bool:
        """Return whether the entries may be read."""
        return not any(fault.level == "error" for fault in self.faults)

    @property
    def files(self) -> list[ZipInfo]:
        """The entries that are files."""
        return [entry for entry in self.entries if not entry.is_dir()]

    def read(self, entry: ZipInfo) -> bytes:
        """Return an entry's bytes, checked against its size and CRC; raises ArchiveError."""
        return b"".join(self.stream(entry))

    def stream(self, entry: ZipInfo) -> Iterator[bytes]:
        """Yield an entry's bytes in blocks; raises ArchiveError when they are damaged or not as many as declared."""
        if not self.safe or self._zip is None:
            raise ArchiveError(f"{self.path} is not read: {self.faults[0].message if self.faults else 'not open'}.")
        count = 0
        try:
            with self._zip.open(entry) as file:
                while block := file.read(BLOCK):
                    count += len(block)
                    yield block
        except FAILURES as error:
            reason = printable(str(error))
            raise ArchiveError(f"{printable(entry.filename)} in {self.path.name} is damaged ({reason}).") from None
        if count != entry.file_size:
            name = printable(entry.filename)
            raise ArchiveError(f"{name} in {self.path.name} holds {count} of {entry.file_size} bytes.")

    def _fault(self, rule: str, file: str, message: str, hint: str) -> None:
        self.faults.append(error(rule, file, message, hint))

    def _open(self, file: BoundedFile) -> None:
        disk = _disk_number(file)
        if disk is None:
            file.seek(0)
            cut = file.read(5)[:4] == ARCHIVE_HEADS[0]
            what = "its end is missing, it was cut off" if cut else "it is not a zip file"
            self._fault("not-a-zip", "", what, "Upload the zip that was written whole, made with a zip tool.")
        elif disk not in (0, 0xFFFF):
            self._fault("multi-disk", "", "it is one part of a split archive", "Write one zip in one piece.")
        else:
            file.most = self.limits.directory_bytes
            try:
                self._zip = ZipFile(file)
            except ReadTooLargeError as error:
                self._fault("too-many-entries", "", str(error), "Write a plain submission.")
                return
            file.most = None
            self._check_entries(self._zip, file)

    def _check_entries(self, archive: ZipFile, file: IO[bytes]) -> None:
        entries = archive.infolist()
        if len(entries) > self.limits.entries:
            hint = f"Keep to {self.limits.entries} files at most."
            self._fault("too-many-entries", "", f"it has {len(entries)} entries", hint)
            return
        self.entries = entries
        for entry in entries:
            self._check_name(entry)
            self._check_kind(entry)
            self._check_size(entry)
        self._check_duplicates()
        self._check_total()
        self._check_overlap(file, archive.start_dir)

    def _check_name(self, entry: ZipInfo) -> None:
        name = entry.orig_filename  # `filename` ends at a NUL, and may come from an extra field
        parts = name.rstrip("/").split("/")
        if name.startswith("/") or _DRIVE.match(name):
            self._fault("absolute-name", name, "its name is absolute", "Use names relative to the archive's root.")
        elif ".." in parts:
            self._fault("path-traversal", name, "its name leaves the folder by '..'", "Take the '..' out of the name.")
        elif "\\" in name:
            self._fault("backslash", name, "its name has a backslash", "Separate folders with '/'.")
        elif not name or "" in parts or "." in parts or any(ord(letter) < 32 for letter in name):
            self._fault("bad-name", name, "its name is empty or has empty or control parts", "Give it a plain name.")
        elif name != entry.filename:
            said = f"its name stands there twice, the second time as {printable(entry.filename)}"
            self._fault("bad-name", name, said, "Give it a plain name.")

    def _check_kind(self, entry: ZipInfo) -> None:
        kind, name = stat.S_IFMT(entry.external_attr >> 16), entry.filename
        if kind == stat.S_IFLNK:
            self._fault("link", name, "it is a link", "Put the file itself into the archive.")
        elif kind and kind not in (stat.S_IFREG, stat.S_IFDIR):
            self._fault("special-file", name, "it is neither a file nor a folder", "Put only plain files in.")
        if entry.flag_bits & ENCRYPTED:
            self._fault("encrypted", name, "it is encrypted", "Write the archive without a password.")
        if entry.compress_type not in METHODS:
            said = f"it is compressed by method {entry.compress_type}"
            self._fault("compression", name, said, "Use store or deflate only.")

    def _check_size(self, entry: ZipInfo) -> None:
        limits, size, packed = self.limits, entry.file_size, max(1, entry.compress_size)
        if size > limits.entry_bytes:
            self._fault("bomb", entry.filename, f"it unpacks to {size} bytes", "No image is that big.")
        elif size > limits.ratio_from and size > limits.ratio * packed:
            said = f"it unpacks to {size // packed} times its size"
            self._fault("bomb", entry.filename, said, "Store images, don't compress.")
        if entry.is_dir() and size:
            self._fault("bad-name", entry.filename, "it is a folder that holds bytes", "Write the archive again.")

    def _check_total(self) -> None:
        total = sum(entry.file_size for entry in self.entries)
        packed = sum(entry.compress_size for entry in self.entries)
        if total > self.limits.total_bytes:
            self._fault("bomb", "", f"it unpacks to {total} bytes in all", "No submission is that big.")
        elif total > max(self.limits.total_ratio_from, self.limits.ratio * packed):
            said = f"it unpacks to {total} bytes, {total // max(1, packed)} times its size"
            self._fault("bomb", "", said, "Store images, don't compress.")

    def _check_duplicates(self) -> None:
        exact = Counter(entry.filename for entry in self.entries)
        alike = Counter(name.casefold() for name in exact)
        for name, count in exact.items():
            if count > 1:
                self._fault("duplicate-entry", name, f"it is there {count} times", "Keep one of them.")
            elif alike[name.casefold()] > 1:
                said = "another entry has the same name but for upper case"
                self._fault("duplicate-entry", name, said, "Keep one of them.")

    def _check_overlap(self, file: IO[bytes], directory: int) -> None:
        """Refuse entries whose bytes are shared, the trick of bombs that quote one another."""
        end, previous = 0, ""
        for entry in sorted(self.entries, key=lambda entry: entry.header_offset):
            if entry.header_offset < end:
                said = f"it shares bytes with {printable(previous)}"
                self._fault("overlap", entry.filename, said, "Write the archive again.")
            end, previous = _data_offset(file, entry) + entry.compress_size, entry.filename
            if end > directory:
                said = "it reaches beyond the archive's files"
                self._fault("overlap", entry.filename, said, "Write the archive again.")


def _disk_number(file: IO[bytes]) -> int | None:
    """Return which disk of a split archive a file says it is, which zipfile ignores; None where it is no zip."""
    length = file.seek(0, io.SEEK_END)
    file.seek(max(0, length - LONGEST_COMMENT - END.size))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    return None if at < 0 or len(tail) - at < END.size else int(END.unpack_from(tail, at)[1])


def _data_offset(file: IO[bytes], entry: ZipInfo) -> int:
    """Return where an entry's bytes begin, behind its local header."""
    file.seek(entry.header_offset)
    head = file.read(LOCAL.size)
    if len(head) < LOCAL.size or head[:4] != ARCHIVE_HEADS[0]:
        raise BadZipFile(f"there is no entry where {printable(entry.filename)} should begin")
    *_, name, extra = LOCAL.unpack(head)
    return int(entry.header_offset + LOCAL.size + name + extra)


def is_archive(name: str, head: bytes) -> bool:
    """Return whether a file inside an archive is an archive itself, by its name or its first bytes."""
    return name.lower().endswith(ARCHIVE_SUFFIXES) or head.startswith(ARCHIVE_HEADS)


# --- Writing: the same items make the same bytes, on every machine and day.

LARGEST = 0xFFFFFFFE  # bytes; no platform takes nearly as many


def fixed_info(name: str) -> ZipInfo:
    """Return a stored entry of this name with a fixed date and attributes: nothing of the clock or the machine."""
    info = ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.create_system, info.external_attr = 3, 0o100644 << 16  # Unix; a plain file, readable by all
    return info


def write_zip(path: Path, items: Iterable[tuple[str, bytes]]) -> None:
    """Write (name, bytes) one by one, stored, with fixed dates and attributes: the same items make the same bytes.

    Raises PbvsError when the archive would have 4 GiB or more.
    """
    total = 0
    with ZipFile(path, "w", ZIP_STORED) as archive:
        for name, data in items:
            total += LOCAL.size + len(name.encode()) + len(data)
            if total > LARGEST:
                raise PbvsError(f"The archive would be larger than 4 GiB, at {name}; no platform takes that.")
            archive.writestr(fixed_info(name), data)


# --- What a check has to say of an archive: a level, a rule, a file, what is wrong and how to put it right.


Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
HINT = f"{'':8}-> "
SHOWN = 5  # files listed for each rule in text; JSON has them all


@dataclass(frozen=True)
class Finding:
    """One thing found: an error would be rejected, a warning scores badly or may fail, a note is worth knowing."""

    level: Level
    rule: str  # stable identifier, for scripts
    file: str  # name inside the archive, or a task, or "" for the archive itself
    message: str
    hint: str


def _found(level: Level, rule: str, file: str, message: str, hint: str = "") -> Finding:
    """Return a finding; what does not print in the file's name is escaped."""
    return Finding(level, rule, printable(file), message, hint)


error, warning, note = partial(_found, "error"), partial(_found, "warning"), partial(_found, "note")


def rejected(findings: Iterable[Finding], strict: bool = False) -> bool:
    """Return whether the archive would be rejected; `strict` counts warnings too."""
    return any(finding.level == "error" or (strict and finding.level == "warning") for finding in findings)


def as_text(findings: Iterable[Finding], width: int = 0) -> str:
    """Return the findings worst first, those of one rule together, at most `SHOWN` of each written out.

    Lines are broken between words at `width` columns; 0 breaks none.
    """
    groups: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in sorted(findings, key=lambda finding: LEVELS.index(finding.level)):
        groups[finding.level, finding.rule].append(finding)
    lines = [line for group in groups.values() for line in _group(group)]
    return "\n".join(part for line in lines for part in folded(line, width, 11 if line.startswith(HINT) else 8))


def _group(group: list[Finding]) -> list[str]:
    lines = [f"{each.level.upper():8}{f'{each.file}: ' if each.file else ''}{each.message}" for each in group[:SHOWN]]
    if len(group) > SHOWN:
        lines.append(f"{'':8}... and {len(group) - SHOWN} more of this kind ({group[0].rule})")
    hints = dict.fromkeys(finding.hint for finding in group[:SHOWN] if finding.hint)
    return [*lines, *(f"{HINT}{hint}" for hint in hints)]


def verdict(findings: Iterable[Finding]) -> str:
    """Return one line: whether it would be rejected, and how much was found."""
    items = list(findings)
    counts = Counter(finding.level for finding in items)
    said = ", ".join(f"{counts[level]} {level}{'' if counts[level] == 1 else 's'}" for level in LEVELS)
    return f"{'This archive would be rejected' if rejected(items) else 'No rule is broken'}: {said}."
