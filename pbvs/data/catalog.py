"""Every image below a data root: what its path says, as a challenge's patterns read it, and what its header says."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import translate
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pbvs.challenge import Challenge, load_challenge
from pbvs.challenge.model import FilePattern, Role
from pbvs.data.cache import FileCache, stamp_of
from pbvs.data.formats import OTHER_FORMATS, SUFFIXES, check_proj, too_large
from pbvs.data.georeference import SIDE_SUFFIXES
from pbvs.data.headers import Header, read_headers
from pbvs.devices import in_chunks
from pbvs.errors import PbvsError, ReadError, UsageError
from pbvs.logs import track
from pbvs.text import for_people, table_of

if TYPE_CHECKING:
    from pandas import DataFrame

_DATE = re.compile(r"(?<!\d)((?:19|20)\d\d)[-_]?(0[1-9]|1[0-2])[-_]?(0[1-9]|[12]\d|3[01])(?!\d)")
_NUMBER = re.compile(r"(\d+)$")


class PathInfo(NamedTuple):
    """What an image is, by its path alone."""

    modality: str
    source: str  # the archive: the folder that holds the modalities' folders, or the locations
    location: str
    role: Role
    split: str  # train, val or test; train where the path says nothing
    task: str = ""  # for inputs without targets, and for images of one task alone
    base: str = ""  # what images of one moment have in common
    date: str = ""  # YYYY-MM-DD
    id: str = ""  # what the images of a pair have in common; empty: the file's name without its suffix
    tasks: tuple[str, ...] = ()  # the tasks that it serves; empty: all of its modality

    @property
    def served(self) -> tuple[str, str, tuple[str, ...]]:
        """What `Challenge.serves` asks: modality, own task, and tasks."""
        return self.modality, self.task, self.tasks


class PathReader:
    """A challenge's patterns, ready to read paths below a data root.

    >>> from pbvs.challenge import load_challenge
    >>> PathReader(load_challenge("mavic-t-2026")).read("test/rgb2ir/7.tiff").split
    'test'
    """

    def __init__(self, challenge: Challenge):
        self.challenge = challenge
        names = tuple(challenge.tasks), tuple(challenge.modalities)
        files = challenge.layout.files.items()
        self._patterns = [(name, pattern, pattern.compiled(*names)) for name, pattern in files]
        told = {key for _, _, expressions in self._patterns for each in expressions for key in each.groupindex}
        self._bases = [key for key in ("base", *(f"base{number}" for number in range(2, 10))) if key in told]
        self._canonical = {
            key: {name.lower(): name for name in found} for key, found in zip(("task", "modality"), names, strict=True)
        }

    def read(self, relative: str) -> PathInfo | str:
        """Return what the path below the data root says, or the reason why the image is not used."""
        for _, pattern, expressions in self._patterns:
            if (groups := _matched(expressions, relative)) is not None:
                return self._info(pattern, groups, relative)
        if "/" not in relative:
            return f"it lies in no folder of {self.challenge.layout.description}"
        return f"no pattern of {self.challenge.layout.description} takes it"

    def takers(self, relative: str) -> list[str]:
        """Return the names of the patterns that take a path; one that is only for the rest, when it is the first."""
        found: list[str] = []
        for name, pattern, expressions in self._patterns:
            if (not found or not pattern.otherwise) and _matched(expressions, relative) is not None:
                found.append(name)
        return found

    def _info(self, pattern: FilePattern, groups: dict[str, str], relative: str) -> PathInfo | str:
        if pattern.role == "unused":
            return pattern.reason or "the challenge does not use it"
        said = partial(self._said, pattern, groups)
        stem = relative[relative.rfind("/") + 1 :].rpartition(".")[0]
        task, modality, split = said("task"), said("modality"), said("split") or "train"
        if pattern.role == "input":
            if task not in self.challenge.tasks:
                return f"there is no task {task!r}"
            modality = modality or self.challenge.tasks[task].source
        if modality not in self.challenge.modalities:
            return f"there is no modality {modality!r}"
        base = "".join(groups.get(key) or "" for key in self._bases)
        date = date_of(groups.get("date") or "") or (date_of(stem) if pattern.find_date else "")
        archive, location = said("source") or ".", said("location")
        return PathInfo(
            modality, archive, location, pattern.role, split, task, base, date, groups.get("id") or "", pattern.tasks
        )

    def _said(self, pattern: FilePattern, groups: dict[str, str], key: str) -> str:
        """Return the value of a group, under the challenge's own name for it, or the pattern's own value."""
        text = groups.get(key) or ""
        if not text:
            return str(getattr(pattern, key))
        low = text.lower()
        meant = next((new for old, new in pattern.values.get(key, {}).items() if old.lower() == low), text)
        if key == "split":
            return meant.lower()
        return self._canonical.get(key, {}).get(meant.lower(), meant)


def _matched(expressions: tuple[re.Pattern[str], ...], relative: str) -> dict[str, str] | None:
    groups: dict[str, str] = {}
    for expression in expressions:
        if (match := expression.fullmatch(relative)) is None:
            return None
        groups |= match.groupdict(default="")
    return groups


def date_of(stem: str) -> str:
    """Return the first date in a file's name as YYYY-MM-DD, or an empty text."""
    for match in _DATE.finditer(stem):
        with contextlib.suppress(ValueError):  # the 31st of February
            return datetime.date(*map(int, match.groups())).isoformat()
    return ""


def number_of(stem: str) -> int | None:
    """Return the number at the end of a chip's name (`Gotcha_1234` is 1234), or None."""
    match = _NUMBER.search(stem)
    return int(match.group(1)) if match and match.group(1).isascii() else None


def natural_key(text: str) -> str:
    """Return a key that sorts 2 before 10 and any number before a letter, and is the same everywhere."""
    return re.sub("[0-9]+", lambda match: f"\0{len(digits := match[0].lstrip('0')):04}{digits}", text)


# --- The scan: every image below a data root, and what is not usable, and why.

CATALOG_COLUMNS = (
    *("path", "modality", "source", "location", "role", "split", "task", "base", "date"),
    *("width", "height", "bands", "dtype", "crs", "transform", "nodata"),
)
HEADER = "header 3 " + " ".join(Header._fields)  # raise the number when one of them means something else


class Entry(NamedTuple):
    """One image: its path relative to the root, what the path says and what the header says."""

    path: str
    info: PathInfo
    header: Header = Header(0, 0, 0, "")  # of an image that is known by its path alone
    size: int = 0  # of the file, in bytes

    @property
    def stem(self) -> str:
        """The file's name without its suffix."""
        return self.path[self.path.rfind("/") + 1 : self.path.rfind(".")]

    @property
    def id(self) -> str:
        """What it has in common with the images that it is paired with by name."""
        return self.info.id or self.stem

    @property
    def input_name(self) -> str:
        """What the prediction of an official input is called: its id, below its location."""
        return "_".join(filter(None, (self.info.location, self.id)))

    @property
    def too_large(self) -> str:
        """Why it cannot be read whole; an empty text where it can."""
        reason = too_large(self.header.width, self.header.height, self.size)
        return reason and f"{self.path} says it is {reason}, and it is not a part of it that is needed"


class Found(NamedTuple):
    """A file as the walk sees it."""

    path: str
    size: int  # in bytes
    stamp: str  # size and times
    alone: bool = False  # nothing that says more of it lies beside it


@dataclass
class Catalog:
    """What a scan found."""

    root: Path
    challenge: Challenge = field(default_factory=load_challenge)
    strict: bool = True  # what cannot be read stops the scan
    entries: list[Entry] = field(default_factory=list)
    unused: list[tuple[str, str]] = field(default_factory=list)  # path, reason
    unread: list[str] = field(default_factory=list)  # those of `unused` of which another try may say more
    junk: int = 0  # hidden files and what macOS and Windows leave behind
    others: int = 0  # files that are no images
    beside: dict[str, str] = field(default_factory=dict)  # stamps of the files that say more of an image, by its name

    @property
    def first_reasons(self) -> str:
        """The first three reasons for which files are not used."""
        return "; ".join(reason if path in reason else f"{path}: {reason}" for path, reason in self.unused[:3])

    def leave_out(self, path: str, reason: str) -> None:
        """List a file that cannot be used."""
        self.unused.append((path, " ".join(reason.split())))

    def fail(self, path: str, error: ReadError) -> None:
        """Stop because of a file or folder that cannot be read, or list it where the catalogue is not strict."""
        if self.strict:
            raise error
        self.unread.append(path)
        self.leave_out(path, str(error).replace(f"{self.root}/", ""))


def scan(
    root: Path,
    cache: FileCache | None = None,
    jobs: int = 1,
    *,
    challenge: Challenge | None = None,
    strict: bool = True,
) -> Catalog:
    """Walk `root` and read every image's header, `jobs` at a time.

    `cache` remembers headers as long as an image's size and times stay what they were. An image or folder that cannot
    be read, for a reason that does not follow from its bytes, stops the scan; without `strict` it is left out.
    Raises UsageError when there is no such folder, ReadError naming what cannot be read, PbvsError when the folder
    holds no image of the challenge's layout.
    """
    catalog = Catalog(root, challenge or load_challenge(), strict)
    located = _locate(catalog)
    if any(not file.path.endswith(".png") for file, _ in located):
        check_proj()
    known = cache or FileCache(None, root)
    headers = _read(root, [file for file, _ in located], known, jobs)
    for (file, info), header in zip(located, headers, strict=True):
        if isinstance(header, ReadError):
            catalog.fail(file.path, header)
        elif isinstance(header, str):
            catalog.leave_out(file.path, header)
        else:
            catalog.entries.append(Entry(file.path, info, header, file.size))
    if not located:
        raise PbvsError(
            f"{root} holds no image in {catalog.challenge.layout.description} "
            f"({len(catalog.unused)} files could not be used); `pbvs challenge check {catalog.challenge.name}` "
            "says which folders are expected."
        )
    known.write(forget=True)
    if not catalog.entries:
        raise PbvsError(f"None of the {len(located)} images in {root} can be used: {catalog.first_reasons}")
    return catalog


def _locate(catalog: Catalog) -> list[tuple[Found, PathInfo]]:
    """Return the images whose paths say what they are, in a fixed order."""
    located = []
    reader = PathReader(catalog.challenge)
    for file in sorted(walk(catalog), key=_file_key):
        info = reader.read(file.path)
        if isinstance(info, str):
            catalog.leave_out(file.path, info)
        else:
            beside = catalog.beside.get(file.path, "") + catalog.beside.get(file.path[: file.path.rfind(".")], "")
            located.append((file._replace(stamp=file.stamp + beside, alone=not beside), info))
    return located


def _file_key(file: Found) -> tuple[str, int, str]:
    """Return a key that sorts files by folder, then shorter names first, so that 2.png comes before 10.png."""
    folder, _, name = file.path.rpartition("/")
    return folder, len(name), name


def _read(root: Path, files: list[Found], known: FileCache, jobs: int) -> list[Header | str | ReadError]:
    """Return each file's header, or the reason why it has none; only what the cache does not know is read."""
    found = [_decoded(known.get(HEADER, file.path, file.stamp)) for file in files]
    missing = [index for index, header in enumerate(found) if header is None]
    work = [(files[index].path, files[index].size, files[index].alone) for index in missing]
    read = track(in_chunks(partial(read_headers, root), work, jobs), "reading headers", len(work))
    for index, header in zip(missing, read, strict=True):
        found[index] = header
        if not isinstance(header, ReadError):
            known.put(HEADER, files[index].path, files[index].stamp, json.dumps(header))
    return [header for header in found if header is not None]


@lru_cache(maxsize=1 << 16)  # chips have one header
def _decoded(text: str | None) -> Header | str | ReadError | None:
    """Return a header, or the reason why there is none, as the cache has it; None when it has nothing whole."""
    try:
        value = json.loads(text or "")
        return value if isinstance(value, str) else Header(*map(_frozen, value))
    except (ValueError, TypeError):
        return None


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def walk(catalog: Catalog) -> Iterator[Found]:
    """Yield the images below the catalogue's root; links are followed, but no folder is entered twice.

    Raises UsageError when there is no such folder.
    """
    if not catalog.root.is_dir():
        raise UsageError(f"There is no data folder {catalog.root}; give the folder of the images with --data.")
    seen: set[tuple[int, int]] = set()
    waiting = [("", str(catalog.root))]
    while waiting:
        prefix, folder = waiting.pop()
        try:
            status = Path(folder).stat()
            if (status.st_dev, status.st_ino) in seen:
                catalog.leave_out(prefix, "a link to a folder that is scanned already")
                continue
            seen.add((status.st_dev, status.st_ino))
            below: list[tuple[str, str]] = []
            with os.scandir(folder) as items:
                yield from filter(None, (_visit(catalog, item, prefix, below) for item in items))
            waiting += sorted(below, reverse=True)
        except OSError as error:
            reason = f"The folder {folder} cannot be read ({error.strerror}); see that it is yours to read."
            catalog.fail(prefix, ReadError(reason))


def _visit(catalog: Catalog, item: os.DirEntry[str], prefix: str, below: list[tuple[str, str]]) -> Found | None:
    """Return an image; count or list what is none, and add a folder to `below`."""
    name = item.name
    path = f"{prefix}/{name}" if prefix else name
    if is_junk(name, catalog.challenge):
        catalog.junk += 1
    elif not name.isprintable() or "\\" in name:  # as one of invalid bytes, which cannot be read again
        catalog.leave_out(path.encode("utf-8", "backslashreplace").decode(), "its name cannot be written down")
    elif item.is_dir():
        below.append((path, item.path))
    elif (suffix := name[name.rfind(".") :].lower()) not in SUFFIXES:
        _note(catalog, item, path, suffix)
    elif not item.is_file():
        catalog.leave_out(path, "it is a broken link or no plain file")
    else:
        status = item.stat()
        return Found(path, status.st_size, stamp_of(status))
    return None


def is_junk(name: str, challenge: Challenge) -> bool:
    """Return whether a file or folder is what systems leave behind: hidden, or named so by the challenge."""
    return name.startswith(".") or bool(_any_of(challenge.layout.junk).match(name))


@lru_cache
def _any_of(globs: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(translate, globs)) or r"(?!)")


def _note(catalog: Catalog, item: os.DirEntry[str], path: str, suffix: str) -> None:
    """Count a file that is no image; list one of a format that is not read, and keep what lies beside an image."""
    if suffix in OTHER_FORMATS:
        catalog.leave_out(path, f"{suffix} is not read; only {', '.join(sorted(SUFFIXES))} are")
        return
    catalog.others += 1
    rpc = path.lower().endswith("_rpc.txt")
    if suffix in SIDE_SUFFIXES or rpc:
        image = path.removesuffix(".aux.xml") if suffix == ".xml" else path[: -8 if rpc else -len(suffix)]
        catalog.beside[image] = f"{catalog.beside.get(image, '')} {suffix} {stamp_of(item.stat())}"


def catalog_tables(folder: Path, catalog: Catalog) -> dict[Path, DataFrame]:
    """Return catalog.csv, one row per image, and unused.csv, one row with a reason per file that is not used."""
    return {
        folder / "catalog.csv": table_of(CATALOG_COLUMNS, map(_row, catalog.entries)),
        folder / "unused.csv": for_people(table_of(("path", "reason"), sorted(set(catalog.unused)))),
    }


def _row(entry: Entry) -> tuple[Any, ...]:
    row = {**entry.info._asdict(), **entry.header._asdict(), "path": entry.path}
    row["base"] = row["base"] or entry.stem
    row["transform"] = " ".join(map(repr, row["transform"]))
    row["nodata"] = "" if row["nodata"] is None else row["nodata"]
    return tuple(row[column] for column in CATALOG_COLUMNS)
