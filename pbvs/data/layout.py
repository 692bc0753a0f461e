"""What a file's path says, as a challenge's patterns read it: modality, archive, location, date, task and split."""

from __future__ import annotations

import datetime
import re
from functools import partial
from typing import NamedTuple

from pbvs.challenge import Challenge
from pbvs.challenge.model import FilePattern, Role

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
            "task": {name.lower(): name for name in challenge.tasks},
            "modality": {name.lower(): name for name in challenge.modalities},
        }

    def read(self, relative: str) -> PathInfo | str:
        """Return what the path below the data root says, or the reason why the image is not used."""
        for _, pattern, expressions in self._patterns:
            groups = _matched(expressions, relative)
            if groups is not None:
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
        task, split = said("task"), said("split") or "train"
        modality = said("modality")
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
        match = expression.fullmatch(relative)
        if match is None:
            return None
        groups |= match.groupdict(default="")
    return groups


def date_of(stem: str) -> str:
    """Return the first date in a file's name as YYYY-MM-DD, or an empty text."""
    return next(filter(None, map(_calendar_date, _DATE.finditer(stem))), "")


def _calendar_date(match: re.Match[str]) -> str:
    try:
        return datetime.date(*(int(part) for part in match.groups())).isoformat()
    except ValueError:
        return ""


def number_of(stem: str) -> int | None:
    """Return the number at the end of a chip's name (`Gotcha_1234` is 1234), or None."""
    match = _NUMBER.search(stem)
    return int(match.group(1)) if match and match.group(1).isascii() else None


def natural_key(text: str) -> str:
    """Return a key that sorts 2 before 10 and any number before a letter, and is the same everywhere."""
    return re.sub("[0-9]+", lambda match: f"\0{len(digits := match[0].lstrip('0')):04}{digits}", text)


def file_key(path: str) -> tuple[str, int, str]:
    """Return a key that sorts files by folder, then shorter names first, so that 2.png comes before 10.png."""
    folder, _, name = path.rpartition("/")
    return folder, len(name), name
