"""An archive whose entries were sorted and read once, a few numbers an image, and the rules for its images."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal
from zipfile import ZipInfo

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pbvs.challenge import Challenge
from pbvs.challenge.model import Note
from pbvs.errors import PbvsError, of_data
from pbvs.logs import track
from pbvs.seeds import evenly_spaced
from pbvs.submission.images import Budget, ImageError, ImageStats, inspect_image
from pbvs.submission.inputs import FORMATS, Inputs, OutputNames, is_junk
from pbvs.submission.readme import LIMIT
from pbvs.submission.zips import ARCHIVE_HEADS, ArchiveError, Finding, SafeZip, error, note, warning

EvaluationSize = Literal["challenge", "native"]
UNPACKED = 768 << 20  # bytes that the images of any archive may unpack to; beyond that at most RATIO times its size
RATIO = 100
COMPARED = 24  # images a task that are compared with their inputs


@dataclass(frozen=True, slots=True)
class Item:
    """An image where a prediction of a task may lie; `key` tells it from the others of the task."""

    entry: ZipInfo
    task: str
    key: str
    suffix: str  # as written, with the dot

    @property
    def name(self) -> str:
        """The name inside the archive."""
        return self.entry.filename

    @property
    def expected(self) -> str:
        """The format that the suffix promises."""
        return FORMATS[self.suffix.lower()]


@dataclass
class Contents:
    """The sorted entries; `wrapper` is the folder around everything, when there is one ('' otherwise)."""

    out: OutputNames
    wrapper: str = ""
    images: dict[str, list[Item]] = field(default_factory=dict)
    readmes: list[ZipInfo] = field(default_factory=list)  # in the root, whatever their case
    junk: list[ZipInfo] = field(default_factory=list)
    other_files: list[ZipInfo] = field(default_factory=list)  # where images lie, but none
    nested: list[ZipInfo] = field(default_factory=list)  # not as many folders deep as images lie
    strays: list[ZipInfo] = field(default_factory=list)  # anything else
    folders: set[str] = field(default_factory=set)  # folders that no prediction lies in

    @property
    def items(self) -> Iterator[Item]:
        """All images, task by task."""
        return itertools.chain.from_iterable(self.images.values())


def sort_entries(entries: Sequence[ZipInfo], inputs: Inputs) -> Contents:
    """Sort entries; an enclosing folder is looked through so that the rest can be checked as well."""
    out = OutputNames(inputs.challenge)
    contents = Contents(out, enclosing_folder(entries, out))
    for entry in entries:
        _sort(contents, entry, entry.filename[len(contents.wrapper) :], inputs)
    return contents


def enclosing_folder(entries: Sequence[ZipInfo], out: OutputNames) -> str:
    """Return the folder (with its '/') that holds the whole submission, or ''."""
    names = [entry.filename for entry in entries if not entry.is_dir() and not is_junk(entry.filename)]
    wrapper = ""
    while True:
        folders = {name[len(wrapper) :].rpartition("/")[0].partition("/")[0] for name in names}  # "" at the root
        first = folders.pop() if len(folders) == 1 else ""
        if not first or (out.by_folder and first in out.folders.values()):
            return wrapper
        inside = f"{wrapper}{first}/"
        rest = [name[len(inside) :] for name in names]
        if not any("/" in name or _is_readme(name, out) for name in rest) and out.depth > 1:
            return wrapper  # a folder of files alone is a task with a wrong name, not a wrapper
        if not out.by_folder and max((name.count("/") for name in rest), default=0) < out.depth - 1:
            return wrapper
        wrapper = inside


def _is_readme(name: str, out: OutputNames) -> bool:
    rules = out.challenge.submission
    return bool(rules.readme) and name.lower().startswith(rules.readme_name.split(".")[0].lower())


def _sort(contents: Contents, entry: ZipInfo, name: str, inputs: Inputs) -> None:
    out = contents.out
    parts = name.rstrip("/").split("/")
    foreign = out.by_folder and parts[0] not in out.folders.values()
    image = None if entry.is_dir() else out.read(name, inputs.names)
    if is_junk(entry.filename):
        contents.junk.append(entry)
    elif entry.is_dir():
        if (name and foreign) or len(parts) >= out.depth:
            contents.folders.add(name.rstrip("/"))
    elif image is not None:
        item = Item(entry, image.task, image.key, image.suffix)
        contents.images.setdefault(image.task, []).append(item)
    elif any(fnmatchcase(name, glob) for glob in out.challenge.submission.files):
        pass
    elif len(parts) == 1:
        (contents.readmes if _is_readme(name, out) else contents.strays).append(entry)
    elif foreign:
        contents.folders.add(parts[0])
        contents.strays.append(entry)
    elif len(parts) != out.depth:
        contents.nested.append(entry)
    else:
        contents.other_files.append(entry)


# --- What is kept of the entries after they were read.


@dataclass(frozen=True, slots=True)
class Inspected:
    """One image of the archive: what was measured, or what is wrong with it."""

    item: Item
    stats: ImageStats | None = None
    fault: ImageError | None = None
    input_difference: float | None = None  # mean absolute difference from its input, in gray levels, where compared


@dataclass
class Inspection:
    """All that the rules need to know of an archive."""

    name: str
    length: int  # bytes of the whole archive
    contents: Contents
    inputs: Inputs
    evaluation_size: EvaluationSize
    readme: bytes | None = None
    images: dict[str, list[Inspected]] = field(default_factory=dict)
    archives: list[str] = field(default_factory=list)  # files that are archives themselves

    def size(self, item: Item) -> tuple[int, int] | None:
        """Return the width and height that a prediction should have, or None when it is not known."""
        side = self.challenge.tasks[item.task].challenge_size
        if self.evaluation_size == "challenge" and side is not None:
            return side, side
        return self.inputs.size(item.task, item.key)

    @property
    def challenge(self) -> Challenge:
        """The challenge that the archive is for."""
        return self.inputs.challenge

    def label(self, task: str) -> str:
        """Return what findings about all of a task's images name."""
        return self.contents.out.label(task)

    def noted(self, subject: Note, message: str) -> str:
        """Return a message with what the challenge's file notes about its subject."""
        said = self.challenge.submission.notes.get(subject, "")
        return f"{message}; {said}" if said else message


def inspect_archive(archive: SafeZip, name: str, inputs: Inputs, evaluation_size: EvaluationSize) -> Inspection:
    """Read every entry of a safe archive once, keeping a few numbers of each."""
    contents = sort_entries(archive.entries, inputs)
    found = Inspection(name, archive.path.stat().st_size, contents, inputs, evaluation_size)
    if contents.readmes:
        found.readme = _beginning(archive, contents.readmes[0], LIMIT)
    for entry in [*contents.strays, *contents.other_files]:
        if (_beginning(archive, entry) or b"").startswith(ARCHIVE_HEADS):
            found.archives.append(entry.filename)
    found.images = {task: [] for task in contents.images}
    compared = {item.name for items in contents.images.values() for item in evenly_spaced(items, COMPARED)}
    total = sum(map(len, contents.images.values()))
    budget = Budget(max(UNPACKED, RATIO * found.length))
    for item in track(contents.items, "checking images", total, unit="image"):
        found.images[item.task].append(_inspect(archive, item, inputs, item.name in compared, budget))
    return found


def _beginning(archive: SafeZip, entry: ZipInfo, size: int = 0) -> bytes | None:
    """Return a file of at most `size` bytes, or without a size its first block; None when it cannot be had."""
    try:
        if not size:
            return next(iter(archive.stream(entry)), b"")
        return archive.read(entry) if entry.file_size <= size else None
    except ArchiveError:
        return None


def _inspect(archive: SafeZip, item: Item, inputs: Inputs, compare: bool, budget: Budget) -> Inspected:
    outputs = inputs.challenge.outputs
    try:
        budget.take(0)  # where it is used up nothing more is read
        stats, pixels = inspect_image(archive.read(item.entry), item.expected, outputs, budget)
    except ArchiveError as error:
        return Inspected(item, fault=ImageError("damaged", f"cannot be read: {error}", "Write the archive again."))
    except ImageError as error:
        return Inspected(item, fault=error.with_traceback(None))
    return Inspected(item, stats, input_difference=_difference(pixels, item, inputs) if compare else None)


def _difference(pixels: NDArray[Any], item: Item, inputs: Inputs) -> float | None:
    """Return how far a prediction is from its own input brought to its size, where bands and depth agree."""
    source = inputs.image(item.task, item.key)
    if source is None or source.dtype != np.uint8 or pixels.dtype != np.uint8:
        return None
    bands = np.atleast_3d(pixels)
    if source.shape[2] != bands.shape[2] and min(source.shape[2], bands.shape[2]) != 1:
        return None
    resized = _resized(np.asarray(source, dtype=np.uint8), bands.shape[1], bands.shape[0])
    return float(np.abs(resized.astype(np.float32) - bands).mean())


def _resized(source: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    if source.shape[:2] == (height, width):
        return source
    image = Image.fromarray(source[:, :, 0] if source.shape[2] == 1 else source[:, :, :3])
    return np.atleast_3d(np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)))


# --- The rules: each image is readable to its last byte, of the right format, size and mode.


COPY = 0.5  # gray levels of mean difference below which a prediction is its input
# Power of the finest structure, in squared gray levels. Of 189 real images half have 25 and more, 19 of 20 more than
# 4; enlarged twofold (bicubic) half of them have 0.6 to 1.3, fourfold 0.1.
SMOOTH = 1.5
MANY = 0.5  # share of a task's images that makes it the task's fault


def readable(archive: Inspection) -> Iterator[Finding]:
    """Every image decodes, in the format of its suffix, with 8 bits."""
    for image in itertools.chain.from_iterable(archive.images.values()):
        if fault := image.fault:
            yield error(fault.rule, image.item.name, f"it {fault}", fault.hint)


def sizes(archive: Inspection) -> Iterator[Finding]:
    """Every image has the evaluation size."""
    for item, stats in _known(archive):
        try:
            wanted = archive.size(item)
        except PbvsError as problem:
            yield note("size-unchecked", item.name, f"its size is not checked: {of_data(problem)}")
            continue
        if wanted is not None and (stats.width, stats.height) != wanted:
            yield _wrong_size(archive, item, stats, *wanted)


def native(archive: Inspection) -> Iterator[Finding]:
    """Sizes of the inputs' own are meant so, and can be checked where the inputs are known."""
    if archive.evaluation_size != "native":
        return
    sides = {task.challenge_size: None for task in archive.challenge.tasks.values() if task.challenge_size}
    if sides:
        asked = " and ".join(f"{side} x {side}" for side in sides)
        message = f"the inputs' own sizes are taken as meant, where the rules ask for {asked}"
        hint = 'For an upload predict with evaluation_size = "challenge".'
        yield note("native-sizes", "", message, hint)
    if not archive.inputs.names:
        message, hint = "sizes were not checked", "Native sizes are those of the inputs; give them with --data."
        yield note("size-unchecked", "", message, hint)


def _wrong_size(archive: Inspection, item: Item, stats: ImageStats, width: int, height: int) -> Finding:
    is_, should = f"{stats.width} x {stats.height}", f"{width} x {height}"
    if (stats.height, stats.width) == (width, height):
        return error("size-swapped", item.name, f"it is {is_}, width and height are swapped", "Transpose it.")
    message, hint = f"it is {is_} pixels, not {should} as the rules ask", f"Write {item.task} at {should}"
    if archive.evaluation_size != "native":
        message = archive.noted("wrong-size", message)
        hint += " (--evaluation-size native if that is meant)"
    return error("wrong-size", item.name, message, f"{hint}.")


def modes(archive: Inspection) -> Iterator[Finding]:
    """L or RGB, one of them for a whole task, RGB where colour is asked for."""
    for task, images in archive.images.items():
        kinds = Counter(image.stats.mode for image in images if image.stats is not None)
        if len(kinds) > 1:
            said = " and ".join(f"{count} {mode}" for mode, count in sorted(kinds.items()))
            hint = "Write one mode a task: pbvs package --mode TASK=RGB."
            yield warning("mixed-modes", archive.label(task), f"its images are {said}", hint)
    for item, stats in _known(archive):
        asks_for_colour = archive.contents.out.channels(item.task) == 3
        if asks_for_colour and stats.mode == "L":
            message = "it has one band where the task asks for RGB"
            yield error("grey-for-colour", item.name, message, "Save it as RGB.")
        elif not asks_for_colour and not stats.gray:
            message = "it has colour, while the target has one band"
            yield warning("colour-for-grey", item.name, message, "Make its bands equal.")


def one_band(archive: Inspection) -> Iterator[Finding]:
    """Images of one band were scored; whether every scorer takes them nobody knows."""
    gray = dict.fromkeys(item.task for item, stats in _known(archive) if stats.mode == "L")
    tasks = [task for task in gray if archive.contents.out.channels(task) == 1]
    if tasks and "one-band" in archive.challenge.submission.notes:
        message = archive.noted("one-band", f"the images of {', '.join(tasks)} have one band")
        yield note("one-band", "", message, "If scoring fails: pbvs package --mode all=RGB.")


# --- Allowed, and scores badly: constant images, copies, the wrong brightness, enlargements.


def constant(archive: Inspection) -> Iterator[Finding]:
    """An image of one level holds nothing."""
    for item, stats in _known(archive):
        if stats.low == stats.high:
            what = {0.0: "all black", 255.0: "all white"}.get(stats.low, f"one gray level ({stats.low:g}) everywhere")
            yield warning("constant", item.name, f"it is {what}", "Predict it again; look at its input.")


def repeated(archive: Inspection) -> Iterator[Finding]:
    """Different inputs do not have equal predictions."""
    for task in archive.images:
        counts = Counter(stats.digest for stats in _telling(archive, task))
        if equal := sum(count for count in counts.values() if count > 1):
            message = f"{equal} of its images are equal to another one"
            yield warning("repeated", archive.label(task), message, "Check that each input got its own prediction.")


def copies(archive: Inspection) -> Iterator[Finding]:
    """A prediction that is its input translates nothing."""
    for task, images in archive.images.items():
        compared = [image.input_difference for image in images if image.input_difference is not None]
        equal = sum(difference < COPY for difference in compared)
        if equal > MANY * len(compared):
            message = f"{equal} of {len(compared)} images compared are copies of their inputs"
            yield warning("copy-of-input", archive.label(task), message, "Pack the predictions, not the inputs.")


def brightness(archive: Inspection) -> Iterator[Finding]:
    """A task whose images are darker or brighter than nearly all training targets loses pixel score throughout."""
    for task, images in archive.images.items():
        levels = [float(np.mean(image.stats.mean)) for image in images if image.stats is not None]
        targets = archive.inputs.brightness(task) if levels else None
        if targets is None or len(targets) < 3:
            continue
        low, high = np.percentile(targets, [2, 98])
        level = float(np.median(levels))
        if not low - 2 <= level <= high + 2:
            levels_said = f"median level {level:.0f}, targets {low:.0f} to {high:.0f}"
            message = f"its images are {'darker' if level < low else 'brighter'} than training targets: {levels_said}"
            hint = "Check the scaling to 0..255 and the intensity factor."
            yield warning("brightness", archive.label(task), message, hint)


def enlarged(archive: Inspection) -> Iterator[Finding]:
    """An image without the finest structure was computed at a lower resolution, or is blurred."""
    for task in archive.images:
        detail = np.array([stats.detail for stats in _telling(archive, task)])
        smooth = int((detail < SMOOTH).sum())
        if smooth > MANY * len(detail):
            message = (
                f"{smooth} of its {len(detail)} images have no structure finer than two pixels: "
                "enlarged from a lower resolution, or blurred"
            )
            hint = "Predict at the evaluation size; blur costs LPIPS and FID."
            yield warning("enlarged", archive.label(task), message, hint)


def _known(archive: Inspection) -> Iterator[tuple[Item, ImageStats]]:
    for image in itertools.chain.from_iterable(archive.images.values()):
        if image.stats is not None:
            yield image.item, image.stats


def _telling(archive: Inspection, task: str) -> Iterator[ImageStats]:
    """Yield what is known of a task's images that are not of one level."""
    return (stats for item, stats in _known(archive) if item.task == task and stats.low != stats.high)


IMAGE_RULES = (readable, sizes, native, modes, one_band, constant, repeated, copies, brightness, enlarged)
