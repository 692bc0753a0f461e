"""An archive after its entries were read once: what the rules look at, a few numbers an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pbvs.challenge import TASKS
from pbvs.lazy import Lazy
from pbvs.logs import track
from pbvs.submission.contents import Contents, Item, Items, sort_entries
from pbvs.submission.directory import Entry
from pbvs.submission.images import MODES, Facts, ImageError, examine
from pbvs.submission.inputs import Inputs
from pbvs.submission.readme import LIMIT
from pbvs.submission.zips import ARCHIVE_HEADS, ArchiveError, SafeZip

EvaluationSize = Literal["challenge", "native"]
COMPARED = 24  # images a task that are compared with their inputs


@dataclass(frozen=True, slots=True)
class Seen:
    """One image of the archive: its facts, or what is wrong with it."""

    item: Item
    facts: Facts | None = None
    fault: ImageError | None = None
    input_difference: float | None = None  # mean absolute difference from its input, in grey levels, where compared


class SeenItems(Lazy[Seen]):
    """What was seen of a task's images, in their order: 90 bytes of memory an image."""

    FIELDS = np.dtype(
        [("width", "u4"), ("height", "u4"), ("mode", "u1"), ("low", "u1"), ("high", "u1"), ("grey", "?"),
         ("bands", "u1"), ("digest", "V32"), ("mean", "f8", 3), ("detail", "f8"), ("difference", "f8")]
    )  # fmt: skip

    def __init__(self, items: Items):
        self._items = items
        self._facts = np.zeros(len(items), self.FIELDS)
        self._faults: dict[int, ImageError] = {}
        self._count = 0

    def append(self, facts: Facts | ImageError, input_difference: float | None = None) -> None:
        """Add the next image: its facts, or what is wrong with it."""
        if isinstance(facts, Facts):
            self._facts[self._count] = _packed(facts, input_difference)
        else:
            self._faults[self._count] = facts
        self._count += 1

    def __len__(self) -> int:
        """Return how many images were seen."""
        return self._count

    def item(self, number: int) -> Seen:
        """Return what was seen of an image."""
        item = self._items[number]
        if number in self._faults:
            return Seen(item, fault=self._faults[number])
        facts, difference = _unpacked(self._facts[number].item())
        return Seen(item, facts, input_difference=difference)


def _packed(facts: Facts, difference: float | None) -> tuple[Any, ...]:
    mean = (*facts.mean, 0.0, 0.0)[:3]
    head = (facts.width, facts.height, MODES.index(facts.mode), facts.low, facts.high, facts.grey, len(facts.mean))
    return (*head, bytes.fromhex(facts.digest), mean, facts.detail, np.nan if difference is None else difference)


def _unpacked(values: tuple[Any, ...]) -> tuple[Facts, float | None]:
    width, height, mode, low, high, grey, bands, digest, mean, detail, difference = values
    facts = Facts(width, height, MODES[mode], digest.hex(), tuple(mean[:bands]), low, high, grey, detail)
    return facts, None if np.isnan(difference) else difference


@dataclass
class Examined:
    """All that the rules need to know of an archive."""

    name: str
    length: int  # bytes of the whole archive
    contents: Contents
    inputs: Inputs | None
    evaluation_size: EvaluationSize
    readme: bytes | None = None
    seen: dict[str, SeenItems] = field(default_factory=dict)
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
    compared = {item.name for items in contents.images.values() for item in _spread(items, COMPARED)}
    examined.seen = {task: SeenItems(items) for task, items in contents.images.items()}
    total = sum(map(len, contents.images.values()))
    for item in track(contents.items, "checking images", total, unit="image"):
        examined.seen[item.task].append(*_see(archive, item, inputs if item.name in compared else None))
    return examined


def _spread(items: Items, count: int) -> Sequence[Item]:
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


def _see(archive: SafeZip, item: Item, inputs: Inputs | None) -> tuple[Facts | ImageError, float | None]:
    try:
        facts, pixels = examine(archive.read(item.entry), item.expected)
    except ArchiveError as error:
        return ImageError("damaged", f"cannot be read: {error}", "Write the archive again."), None
    except ImageError as error:
        return error.with_traceback(None), None
    return facts, _difference(pixels, item, inputs)


def _difference(pixels: NDArray[np.uint8], item: Item, inputs: Inputs | None) -> float | None:
    """Return how far a prediction is from its own input brought to its size, where bands and depth agree."""
    source = None if inputs is None else inputs.image(item.task, item.stem)
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
