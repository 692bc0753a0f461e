"""An archive's entries sorted into what a submission consists of and what does not belong there."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pbvs.challenge import TASKS
from pbvs.lazy import Lazy
from pbvs.submission.directory import Entry
from pbvs.submission.readme import NAME

FORMATS = {".png": "PNG", ".tiff": "TIFF", ".tif": "TIFF"}
JUNK_NAMES = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db", ".directory"})


@dataclass(frozen=True, slots=True)
class Item:
    """An image in a task's folder."""

    entry: Entry
    task: str

    @property
    def stem(self) -> str:
        """The name without folder and suffix."""
        return self.name[self.name.rindex("/") + 1 : self.name.rindex(".")]

    @property
    def suffix(self) -> str:
        """The suffix as written, with the dot."""
        return self.name[self.name.rindex(".") :]

    @property
    def name(self) -> str:
        """The name inside the archive."""
        return self.entry.name

    @property
    def expected(self) -> str:
        """The format that the suffix promises."""
        return FORMATS[self.suffix.lower()]


class Items(Lazy[Item]):
    """A task's images in the archive's order, made when they are asked for: 8 bytes of memory an image."""

    def __init__(self, entries: Sequence[Entry], task: str):
        self.task = task
        self._entries = entries
        self._numbers = array("q")

    def append(self, number: int) -> None:
        """Add the entry of this number."""
        self._numbers.append(number)

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self._numbers)

    def item(self, number: int) -> Item:
        """Return an image."""
        return Item(self._entries[self._numbers[number]], self.task)

    def stem(self, number: int) -> str:
        """Return an image's name without folder and suffix."""
        return self.item(number).stem


@dataclass
class Contents:
    """The sorted entries; `wrapper` is the folder around everything, when there is one ('' otherwise)."""

    wrapper: str = ""
    images: dict[str, Items] = field(default_factory=dict)
    readmes: list[Entry] = field(default_factory=list)  # in the root, whatever their case
    junk: list[Entry] = field(default_factory=list)
    other_files: list[Entry] = field(default_factory=list)  # in a task's folder, but no image
    nested: list[Entry] = field(default_factory=list)  # images deeper than <task>/<name>
    strays: list[Entry] = field(default_factory=list)  # anything else
    folders: set[str] = field(default_factory=set)  # first parts of all paths but the root's files

    @property
    def items(self) -> Iterator[Item]:
        """All images, task by task."""
        return itertools.chain.from_iterable(self.images.values())


def sort_entries(entries: Sequence[Entry]) -> Contents:
    """Sort entries; an enclosing folder is looked through so that the rest can be checked as well."""
    contents = Contents(wrapper=enclosing_folder(entries))
    for number, entry in enumerate(entries):
        task = _sort(contents, entry, entry.name[len(contents.wrapper) :])
        if task:
            contents.images.setdefault(task, Items(entries, task)).append(number)
    return contents


def enclosing_folder(entries: Sequence[Entry]) -> str:
    """Return the folder (with its '/') that holds the whole submission, or ''."""
    wrapper = ""
    while True:
        first = _only_folder(name[len(wrapper) :] for name in _names(entries))
        if not first or first in TASKS:
            return wrapper
        inside = f"{wrapper}{first}/"
        rest = (name[len(inside) :] for name in _names(entries))
        if not any("/" in name or _is_readme(name) for name in rest):
            return wrapper  # a folder of files alone is a task with a wrong name, not a wrapper
        wrapper = inside


def _names(entries: Sequence[Entry]) -> Iterator[str]:
    return (entry.name for entry in entries if not entry.is_folder and not is_junk(entry.name))


def _only_folder(names: Iterable[str]) -> str:
    """Return the one folder that holds all of the names, or '' when there are several, or files beside it."""
    first = ""
    for name in names:
        folder, slash, _ = name.partition("/")
        if not slash or folder != (first or folder):
            return ""
        first = folder
    return first


def is_junk(name: str) -> bool:
    """Return whether a path is what macOS, Windows or an editor leaves behind."""
    parts = name.rstrip("/").split("/")
    if "__MACOSX" in parts:
        return True
    return parts[-1].startswith(".") or parts[-1].lower() in JUNK_NAMES or parts[-1].endswith("~")


def _is_readme(name: str) -> bool:
    return name.lower().startswith(NAME.split(".")[0])


def _sort(contents: Contents, entry: Entry, name: str) -> str:
    """Sort one entry; return the task when it is an image of one, which is left to the caller."""
    parts = name.rstrip("/").split("/")
    if is_junk(entry.name):
        contents.junk.append(entry)
    elif entry.is_folder:
        if (name and parts[0] not in TASKS) or len(parts) > 1:
            contents.folders.add(name.rstrip("/"))
    elif len(parts) == 1:
        (contents.readmes if _is_readme(name) else contents.strays).append(entry)
    elif parts[0] not in TASKS:
        contents.folders.add(parts[0])
        contents.strays.append(entry)
    elif len(parts) > 2:
        contents.nested.append(entry)
    elif not _is_image(parts[1]):
        contents.other_files.append(entry)
    else:
        return parts[0]
    return ""


def _is_image(name: str) -> bool:
    stem, dot, suffix = name.rpartition(".")
    return bool(stem) and f"{dot}{suffix}".lower() in FORMATS
