"""What a file's path says: archive, location, modality, date, task and split, in both spellings of the archives.

Facts: the challenge's dataset page and the folders that participants unpacked (SAR/EO with train and validation;
a folder of GeoTIFFs a location; `val/<task>` and `test/<task>` with inputs only).
"""

from __future__ import annotations

import datetime
import re
from functools import lru_cache
from typing import Literal, NamedTuple

from pbvs.challenge import TASKS

Role = Literal["image", "mosaic", "input"]

_MODALITY = re.compile(r"_(rgb|ir)(?=[_.\- ]|$)", re.IGNORECASE)
_MOSAIC = re.compile(r"^mosi?ai?c", re.IGNORECASE)  # the archives spell it "mosiac"
_SAR = re.compile(r"(_|-)(gec|sar|vv|vh|hh|hv)(?=[_.\- ]|$)", re.IGNORECASE)
_DATE = re.compile(r"(?<!\d)((?:19|20)\d\d)[-_]?(0[1-9]|1[0-2])[-_]?(0[1-9]|[12]\d|3[01])(?!\d)")
_TEST = re.compile(r"^(test|mavic.*test.*)$", re.IGNORECASE)
_VAL = re.compile(r"^(val|validation.*)$", re.IGNORECASE)
_NUMBER = re.compile(r"(\d+)$")
_SPLITS = {"train": "train", "validation": "val", "val": "val"}


class PathInfo(NamedTuple):
    """What an image is, by its path alone."""

    modality: str
    source: str  # the archive: the folder that holds SAR and EO, or the locations
    location: str
    role: Role
    split: str  # train, val or test; for images of locations train, until some are held out
    task: str = ""  # for chips and for the challenge's own inputs
    base: str = ""  # what an RGB and an IR image of one moment have in common
    date: str = ""  # YYYY-MM-DD


def parse_path(relative: str) -> PathInfo | str:
    """Return what the path below the data root says, or the reason why it says nothing."""
    folder, _, name = relative.rpartition("/")
    stem, _, suffix = name.rpartition(".")
    known = _known_folder(folder)
    if known is not None:
        return known
    if not folder:
        return "it lies in no folder of the archives' layout"
    return _stack(folder, stem, suffix.lower())


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
    return re.sub("[0-9]+", _number_key, text)


def _number_key(match: re.Match[str]) -> str:
    digits = match[0].lstrip("0")
    return f"\0{len(digits):04}{digits}"  # longer numbers are larger


def file_key(path: str) -> tuple[str, int, str]:
    """Return a key that sorts files by folder, then shorter names first, so that 2.png comes before 10.png."""
    folder, _, name = path.rpartition("/")
    return folder, len(name), name


@lru_cache(maxsize=65536)
def _known_folder(folder: str) -> PathInfo | None:
    """Return what every image of a folder is, where the folder alone says so: inputs and SAR2EO chips."""
    folders = folder.split("/") if folder else []
    low = [part.lower() for part in folders]
    return _inputs(folders, low) or _chips(folders, low)


def _inputs(folders: list[str], low: list[str]) -> PathInfo | None:
    tail = low[:-1] if low and low[-1] in ("input", "inputs") else low
    if len(tail) < 2 or tail[-1] not in TASKS:
        return None
    task = TASKS[tail[-1]]
    above = folders[len(tail) - 2]
    split = "test" if _TEST.match(above) else "val" if _VAL.match(above) else ""
    return PathInfo(task.source, above, "", "input", split, task=task.name) if split else None


def _chips(folders: list[str], low: list[str]) -> PathInfo | None:
    tail, split = (low[:-1], _SPLITS[low[-1]]) if low and low[-1] in _SPLITS else (low, "train")
    if low[-2:] == ["sar", "test"]:
        return PathInfo("sar", "/".join(folders[:-2]) or ".", "", "input", "test", task="sar2eo")
    if not tail or tail[-1] not in ("sar", "eo"):
        return None
    modality: str = "sar" if tail[-1] == "sar" else "eo"
    source = "/".join(folders[: len(tail) - 1]) or "."
    return PathInfo(modality, source, "", "image", split, task="sar2eo")


def _stack(folder: str, stem: str, suffix: str) -> PathInfo | str:
    source, _, location = folder.rpartition("/")
    source = source or "."
    role: Role = "mosaic" if _MOSAIC.match(stem) else "image"
    found = list(_MODALITY.finditer(stem))
    date = date_of(stem)
    if found:
        modality: str = "rgb" if found[-1].group(1).lower() == "rgb" else "ir"
        base = stem[: found[-1].start()] + stem[found[-1].end() :]
        return PathInfo(modality, source, location, role, "train", base=base, date=date)
    if role == "mosaic":
        return "a mosaic whose name says neither rgb nor ir"
    if suffix == "png" and not _SAR.search(stem):
        return "a PNG in a location's folder whose name says no modality"
    return PathInfo("sar", source, location, role, "train", base=stem, date=date)
