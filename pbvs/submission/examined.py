"""An archive after its entries were read once: what the rules look at, a few numbers a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pbvs.progress import track
from pbvs.submission.contents import Contents, Item, sort_entries
from pbvs.submission.inputs import Inputs
from pbvs.submission.pictures import Facts, PictureError, examine
from pbvs.submission.readme import LIMIT
from pbvs.submission.safezip import ARCHIVE_HEADS, ArchiveError, Entry, SafeZip
from pbvs.tasks import TASKS

EvaluationSize = Literal["challenge", "native"]
COMPARED = 24  # pictures a task that are compared with their inputs


@dataclass(frozen=True)
class Seen:
    """One picture of the archive: its facts, or what is wrong with it."""

    item: Item
    facts: Facts | None = None
    fault: PictureError | None = None
    input_difference: float | None = None  # mean absolute difference from its input, in grey levels, where compared


@dataclass
class Examined:
    """All that the rules need to know of an archive."""

    name: str
    length: int  # bytes of the whole archive
    contents: Contents
    inputs: Inputs | None
    evaluation_size: EvaluationSize
    readme: bytes | None = None
    seen: dict[str, list[Seen]] = field(default_factory=dict)
    archives: list[str] = field(default_factory=list)  # files that are archives themselves

    def size(self, item: Item) -> tuple[int, int] | None:
        """Return the width and height that a prediction should have, or None when it is not known."""
        if self.evaluation_size == "challenge":
            side = TASKS[item.task].challenge_size
            return side, side
        return None if self.inputs is None else self.inputs.size(item.task, item.stem)


def examine_archive(archive: SafeZip, name: str, inputs: Inputs | None, evaluation_size: EvaluationSize) -> Examined:
    """Read every entry of a safe archive once, keeping a few numbers of each."""
    contents = sort_entries(archive.entries)
    examined = Examined(name, archive.path.stat().st_size, contents, inputs, evaluation_size)
    if contents.readmes:
        examined.readme = _read_small(archive, contents.readmes[0])
    for entry in [*contents.strays, *contents.other_files]:
        if _head(archive, entry).startswith(ARCHIVE_HEADS):
            examined.archives.append(entry.name)
    compared = {item.name for items in contents.pictures.values() for item in _spread(items, COMPARED)}
    for item in track(contents.items, "checking pictures", unit="picture"):
        seen = _see(archive, item, inputs if item.name in compared else None)
        examined.seen.setdefault(item.task, []).append(seen)
    return examined


def _spread(items: Sequence[Item], count: int) -> Sequence[Item]:
    step = max(1, -(-len(items) // count))
    return items[::step]


def _read_small(archive: SafeZip, entry: Entry) -> bytes | None:
    if entry.size > LIMIT:
        return None
    try:
        return archive.read(entry)
    except ArchiveError:
        return None


def _head(archive: SafeZip, entry: Entry) -> bytes:
    try:
        return next(iter(archive.stream(entry)), b"")
    except ArchiveError:
        return b""


def _see(archive: SafeZip, item: Item, inputs: Inputs | None) -> Seen:
    try:
        facts, pixels = examine(archive.read(item.entry), item.expected)
    except ArchiveError as error:
        fault = PictureError("damaged", f"cannot be read: {error}", "Write the archive again.")
        return Seen(item, fault=fault)
    except PictureError as error:
        return Seen(item, fault=error)
    return Seen(item, facts, input_difference=_difference(pixels, item, inputs))


def _difference(pixels: NDArray[np.uint8], item: Item, inputs: Inputs | None) -> float | None:
    """Return how far a prediction is from its own input brought to its size, where bands and depth agree."""
    source = None if inputs is None else inputs.picture(item.task, item.stem)
    if source is None or source.dtype != np.uint8:
        return None
    bands = pixels if pixels.ndim == 3 else pixels[:, :, None]
    if source.shape[2] != bands.shape[2] and min(source.shape[2], bands.shape[2]) != 1:
        return None
    resized = _resized(np.asarray(source, dtype=np.uint8), bands.shape[1], bands.shape[0])
    return float(np.abs(resized.astype(np.float32) - bands).mean())


def _resized(source: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    if source.shape[:2] == (height, width):
        return source
    image = Image.fromarray(source[:, :, 0] if source.shape[2] == 1 else source[:, :, :3])
    array = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    return array if array.ndim == 3 else array[:, :, None]
