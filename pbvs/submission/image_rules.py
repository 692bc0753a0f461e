"""Each image: readable to its last byte, of the right format, size and mode; and what is allowed but scores badly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from pbvs.errors import PbvsError, of_data
from pbvs.submission.findings import Finding, error, note, warning
from pbvs.submission.images import ImageStats
from pbvs.submission.inspection import Inspected, Inspection, Item

COPY = 0.5  # gray levels of mean difference below which a prediction is its input
# Power of the finest structure, in squared gray levels. Of 189 real images half have 25 and more, 19 of 20 more than
# 4; enlarged twofold (bicubic) half of them have 0.6 to 1.3, fourfold 0.1.
SMOOTH = 1.5
MANY = 0.5  # share of a task's images that makes it the task's fault


def readable(archive: Inspection) -> Iterator[Finding]:
    """Every image decodes, in the format of its suffix, with 8 bits."""
    for image in _all(archive):
        if image.fault is not None:
            fault = image.fault
            yield error(fault.rule, image.item.name, f"it {fault}", fault.hint)


def sizes(archive: Inspection) -> Iterator[Finding]:
    """Every image has the evaluation size."""
    for image in _all(archive):
        if image.stats is None:
            continue
        try:
            wanted = archive.size(image.item)
        except PbvsError as problem:
            yield note("size-unchecked", image.item.name, f"its size is not checked: {of_data(problem)}")
            continue
        if wanted is not None and (image.stats.width, image.stats.height) != wanted:
            yield _wrong_size(archive, image.item, image.stats, *wanted)
    if archive.evaluation_size == "native":
        yield from _native(archive)


def _native(archive: Inspection) -> Iterator[Finding]:
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
    native = archive.evaluation_size == "native"
    is_, should = f"{stats.width} x {stats.height}", f"{width} x {height}"
    name = item.name
    if (stats.height, stats.width) == (width, height):
        return error("size-swapped", name, f"it is {is_}, width and height are swapped", "Transpose it.")
    message = f"it is {is_} pixels, not {should} as the rules ask"
    known = archive.challenge.submission.notes.get("wrong-size", "")
    message += f"; {known}" if known and not native else ""
    hint = f"Write {item.task} at {should}" + (" (--evaluation-size native if that is meant)." if not native else ".")
    return error("wrong-size", name, message, hint)


def modes(archive: Inspection) -> Iterator[Finding]:
    """L or RGB, one of them for a whole task, RGB where colour is asked for."""
    for task, images in archive.images.items():
        kinds = Counter(image.stats.mode for image in images if image.stats is not None)
        if len(kinds) > 1:
            said = " and ".join(f"{count} {mode}" for mode, count in sorted(kinds.items()))
            hint = "Write one mode a task: pbvs package --mode TASK=RGB."
            yield warning("mixed-modes", archive.contents.out.label(task), f"its images are {said}", hint)
        yield from _colour(archive, task, images)


def _colour(archive: Inspection, task: str, images: Iterable[Inspected]) -> Iterator[Finding]:
    if archive.contents.out.channels(task) == 3:
        for image in images:
            if image.stats is not None and image.stats.mode == "L":
                message = "it has one band where the task asks for RGB"
                yield error("grey-for-colour", image.item.name, message, "Save it as RGB.")
        return
    for image in images:
        if image.stats is not None and not image.stats.gray:
            message = "it has colour, while the target has one band"
            yield warning("colour-for-grey", image.item.name, message, "Make its bands equal.")


def one_band(archive: Inspection) -> Iterator[Finding]:
    """Images of one band were scored; whether every scorer takes them nobody knows."""
    known = archive.challenge.submission.notes.get("one-band", "")
    tasks = [
        task
        for task, images in archive.images.items()
        if archive.contents.out.channels(task) == 1 and any(image.stats and image.stats.mode == "L" for image in images)
    ]
    if tasks and known:
        message = f"the images of {', '.join(tasks)} have one band; {known}"
        yield note("one-band", "", message, "If scoring fails: pbvs package --mode all=RGB.")


def _all(archive: Inspection) -> Iterator[Inspected]:
    for image in archive.images.values():
        yield from image


# --- Allowed, and scores badly: constant images, copies, the wrong brightness, enlargements.


def constant(archive: Inspection) -> Iterator[Finding]:
    """An image of one level holds nothing."""
    for image, stats in _known(archive):
        if stats.low == stats.high:
            what = {0.0: "all black", 255.0: "all white"}.get(stats.low, f"one gray level ({stats.low:g}) everywhere")
            yield warning("constant", image.item.name, f"it is {what}", "Predict it again; look at its input.")


def repeated(archive: Inspection) -> Iterator[Finding]:
    """Different inputs do not have equal predictions."""
    for task, images in archive.images.items():
        known = (image.stats for image in images if image.stats and image.stats.low != image.stats.high)
        counts = Counter(stats.digest for stats in known)
        if equal := sum(count for count in counts.values() if count > 1):
            message = f"{equal} of its images are equal to another one"
            hint = "Check that each input got its own prediction."
            yield warning("repeated", archive.contents.out.label(task), message, hint)


def copies(archive: Inspection) -> Iterator[Finding]:
    """A prediction that is its input translates nothing."""
    for task, images in archive.images.items():
        compared = [image for image in images if image.input_difference is not None]
        equal = [image for image in compared if image.input_difference is not None and image.input_difference < COPY]
        if compared and len(equal) > MANY * len(compared):
            message = f"{len(equal)} of {len(compared)} images compared are copies of their inputs"
            hint = "Pack the predictions, not the inputs."
            yield warning("copy-of-input", archive.contents.out.label(task), message, hint)


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
            word = "darker" if level < low else "brighter"
            message = (
                f"its images are {word} than training targets: median level {level:.0f}, "
                f"targets {low:.0f} to {high:.0f}"
            )
            hint = "Check the scaling to 0..255 and the intensity factor."
            yield warning("brightness", archive.contents.out.label(task), message, hint)


def enlarged(archive: Inspection) -> Iterator[Finding]:
    """An image without the finest structure was computed at a lower resolution, or is blurred."""
    for task, images in archive.images.items():
        known = (image.stats for image in images if image.stats is not None and image.stats.low != image.stats.high)
        detail = np.array([stats.detail for stats in known])
        smooth = int((detail < SMOOTH).sum())
        if smooth > MANY * len(detail):
            message = (
                f"{smooth} of its {len(detail)} images have no structure finer than two pixels: "
                "enlarged from a lower resolution, or blurred"
            )
            hint = "Predict at the evaluation size; blur costs LPIPS and FID."
            yield warning("enlarged", archive.contents.out.label(task), message, hint)


def _known(archive: Inspection) -> Iterator[tuple[Inspected, ImageStats]]:
    for images in archive.images.values():
        for image in images:
            if image.stats is not None:
                yield image, image.stats


RULES = (readable, sizes, modes, one_band, constant, repeated, copies, brightness, enlarged)
