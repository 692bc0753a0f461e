"""An archive's entries sorted into what a submission consists of and what does not belong there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pbvs.submission.readme import NAME
from pbvs.submission.safezip import Entry
from pbvs.tasks import TASKS

FORMATS = {".png": "PNG", ".tiff": "TIFF", ".tif": "TIFF"}
LITTER_NAMES = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db", ".directory"})


@dataclass(frozen=True)
class Item:
    """A picture in a task's folder."""

    entry: Entry
    task: str
    stem: str
    suffix: str  # as written, with the dot

    @property
    def name(self) -> str:
        """The name inside the archive."""
        return self.entry.name

    @property
    def expected(self) -> str:
        """The format that the suffix promises."""
        return FORMATS[self.suffix.lower()]


@dataclass
class Contents:
    """The sorted entries; `wrapper` is the folder around everything, when there is one ('' otherwise)."""

    wrapper: str = ""
    pictures: dict[str, list[Item]] = field(default_factory=dict)
    readmes: list[Entry] = field(default_factory=list)  # in the root, whatever their case
    litter: list[Entry] = field(default_factory=list)
    other_files: list[Entry] = field(default_factory=list)  # in a task's folder, but no picture
    nested: list[Entry] = field(default_factory=list)  # pictures deeper than <task>/<name>
    strays: list[Entry] = field(default_factory=list)  # anything else
    folders: set[str] = field(default_factory=set)  # first parts of all paths but the root's files

    @property
    def items(self) -> list[Item]:
        """All pictures, task by task."""
        return [item for items in self.pictures.values() for item in items]


def sort_entries(entries: Sequence[Entry]) -> Contents:
    """Sort entries; an enclosing folder is looked through so that the rest can be checked as well."""
    contents = Contents(wrapper=enclosing_folder(entries))
    for entry in entries:
        _sort(contents, entry, entry.name[len(contents.wrapper) :])
    return contents


def enclosing_folder(entries: Sequence[Entry]) -> str:
    """Return the folder (with its '/') that holds the whole submission, or ''."""
    names = [entry.name for entry in entries if not is_litter(entry.name) and not entry.is_folder]
    wrapper = ""
    while names:
        firsts = {name[len(wrapper) :].split("/", 1)[0] for name in names if "/" in name[len(wrapper) :]}
        roots = [name for name in names if "/" not in name[len(wrapper) :]]
        if len(firsts) != 1 or roots or firsts & TASKS.keys():
            break
        candidate = f"{wrapper}{firsts.pop()}/"
        inner = {name[len(candidate) :].split("/", 1)[0] for name in names}
        if all("/" not in name[len(candidate) :] for name in names) and not any(_is_readme(part) for part in inner):
            break  # a folder of files alone is a task with a wrong name, not a wrapper
        wrapper = candidate
    return wrapper


def is_litter(name: str) -> bool:
    """Return whether a path is what macOS, Windows or an editor leaves behind."""
    parts = name.rstrip("/").split("/")
    if "__MACOSX" in parts:
        return True
    return parts[-1].startswith(".") or parts[-1].lower() in LITTER_NAMES or parts[-1].endswith("~")


def _is_readme(name: str) -> bool:
    return name.lower().startswith(NAME.split(".")[0])


def _sort(contents: Contents, entry: Entry, name: str) -> None:
    parts = name.rstrip("/").split("/")
    if is_litter(entry.name):
        contents.litter.append(entry)
    elif entry.is_folder:
        if (name and parts[0] not in TASKS) or len(parts) > 1:
            contents.folders.add(name.rstrip("/"))
    elif len(parts) == 1:
        (contents.readmes if _is_readme(name) else contents.strays).append(entry)
    elif parts[0] not in TASKS:
        contents.folders.add(parts[0])
        contents.strays.append(entry)
    else:
        _sort_picture(contents, entry, parts)


def _sort_picture(contents: Contents, entry: Entry, parts: list[str]) -> None:
    stem, dot, suffix = parts[-1].rpartition(".")
    if len(parts) > 2:
        contents.nested.append(entry)
    elif not stem or f"{dot}{suffix}".lower() not in FORMATS:
        contents.other_files.append(entry)
    else:
        contents.pictures.setdefault(parts[0], []).append(Item(entry, parts[0], stem, f"{dot}{suffix}"))
