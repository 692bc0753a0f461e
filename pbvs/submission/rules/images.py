"""Each image: readable to its last byte, of the right format, size, mode and depth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from pbvs.challenge import TASKS
from pbvs.errors import PbvsError
from pbvs.submission.contents import Item
from pbvs.submission.findings import Finding, printable
from pbvs.submission.images import Facts
from pbvs.submission.inspection import Examined, Seen

# The page says that other sizes are resampled; one entry that was scored so is known, and what it cost.
RESAMPLED = "at best it is resampled, and blur costs: luminance at 256 pixels scored 0.42 where full size scored 0.16"


def readable(archive: Examined) -> Iterator[Finding]:
    """Every image decodes, in the format of its suffix, with 8 bits."""
    for seen in _all(archive):
        if seen.fault is not None:
            fault = seen.fault
            yield Finding("error", fault.rule, printable(seen.item.name), f"it {fault}", fault.hint)


def sizes(archive: Examined) -> Iterator[Finding]:
    """Every image has the evaluation size."""
    for seen in _all(archive):
        if seen.facts is None:
            continue
        try:
            wanted = archive.size(seen.item)
        except PbvsError as error:
            yield Finding("note", "size-unchecked", printable(seen.item.name), f"its size is not checked: {error}", "")
            continue
        if wanted is not None and (seen.facts.width, seen.facts.height) != wanted:
            yield _wrong_size(seen.item, seen.facts, *wanted, native=archive.evaluation_size == "native")
    if archive.evaluation_size == "native":
        yield from _native(archive.inputs is not None)


def _native(checked: bool) -> Iterator[Finding]:
    message = "the inputs' own sizes are taken as meant, where the rules ask for 256 x 256 and 1024 x 1024"
    yield Finding("note", "native-sizes", "", message, 'For an upload predict with evaluation_size = "challenge".')
    if not checked:
        message, hint = "sizes were not checked", "Native sizes are those of the inputs; give them with --data."
        yield Finding("note", "size-unchecked", "", message, hint)


def _wrong_size(item: Item, facts: Facts, width: int, height: int, native: bool) -> Finding:
    is_, should = f"{facts.width} x {facts.height}", f"{width} x {height}"
    name = printable(item.name)
    if (facts.height, facts.width) == (width, height):
        return Finding("error", "size-swapped", name, f"it is {is_}, width and height are swapped", "Transpose it.")
    message = f"it is {is_} pixels, not {should} as the rules ask" + ("" if native else f"; {RESAMPLED}")
    hint = f"Write {item.task} at {should}" + (" (--evaluation-size native if that is meant)." if not native else ".")
    return Finding("error", "wrong-size", name, message, hint)


def modes(archive: Examined) -> Iterator[Finding]:
    """L or RGB, one of them for a whole task, RGB where colour is asked for."""
    for task, all_seen in archive.seen.items():
        kinds = Counter(seen.facts.mode for seen in all_seen if seen.facts is not None)
        if len(kinds) > 1:
            said = " and ".join(f"{count} {mode}" for mode, count in sorted(kinds.items()))
            hint = "Write one mode a task: pbvs package --mode TASK=RGB."
            yield Finding("warning", "mixed-modes", f"{task}/", f"its images are {said}", hint)
        yield from _colour(task, all_seen)


def _colour(task: str, all_seen: Iterable[Seen]) -> Iterator[Finding]:
    if TASKS[task].target_channels == 3:
        for seen in all_seen:
            if seen.facts is not None and seen.facts.mode == "L":
                message = "it has one band where the task asks for RGB"
                yield Finding("error", "grey-for-colour", printable(seen.item.name), message, "Save it as RGB.")
        return
    for seen in all_seen:
        if seen.facts is not None and not seen.facts.grey:
            message = "it has colour, while the target has one band"
            yield Finding("warning", "colour-for-grey", printable(seen.item.name), message, "Make its bands equal.")


def one_band(archive: Examined) -> Iterator[Finding]:
    """Images of one band were scored; whether every scorer takes them nobody knows."""
    tasks = [
        task
        for task, all_seen in archive.seen.items()
        if TASKS[task].target_channels == 1 and any(seen.facts and seen.facts.mode == "L" for seen in all_seen)
    ]
    if tasks:
        message = (
            f"the images of {', '.join(tasks)} have one band; such were scored in 2026, but scorers of this family "
            "that unpack height, width and channels fail on them"
        )
        yield Finding("note", "one-band", "", message, "If scoring fails: pbvs package --mode all=RGB.")


def _all(archive: Examined) -> Iterator[Seen]:
    for seen in archive.seen.values():
        yield from seen


RULES = (readable, sizes, modes, one_band)
