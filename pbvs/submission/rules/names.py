"""Names and counts: a prediction for each input, called as the input is.

Scorers of this family pair images by their sorted position and compare only the count, so that one file too many
or too few shifts all that follow.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from pbvs.challenge import TASKS
from pbvs.submission.findings import Finding
from pbvs.submission.inspection import Inspection, Item
from pbvs.text import printable

OFFICIAL = {"sar2eo": 3586, "sar2rgb": 60, "sar2ir": 60, "rgb2ir": 60}  # the 2025 and 2026 test inputs
SHIFT = "scorers pair by sorted position, so all later images would be compared with the wrong ones"


def against_inputs(archive: Inspection) -> Iterator[Finding]:
    """Every input has its prediction, and no other image is there."""
    for task, items in archive.contents.images.items():
        wanted = None if archive.inputs is None else archive.inputs.names.get(task)
        if wanted is None:
            yield from _official_count(task, items, known=archive.inputs is not None)
            continue
        extra = {item.stem: item for item in items if item.stem not in wanted}
        there = {item.stem for item in items}
        missing = [stem for stem in wanted if stem not in there]
        hint = _renaming(set(wanted), there) if extra and len(missing) == len(wanted) else ""
        for stem in sorted(missing):
            hint = hint or f"Add a prediction for the input {printable(stem)}."
            message = f"it is missing; {SHIFT}"
            yield Finding("error", "missing-image", f"{task}/{printable(stem)}.png", message, hint)
        for stem in sorted(extra):
            message = f"there is no input of this name; {SHIFT}"
            hint = hint or "Take it out, or name it as its input."
            yield Finding("error", "extra-image", printable(extra[stem].name), message, hint)


def _official_count(task: str, items: Sequence[Item], known: bool) -> Iterator[Finding]:
    if known:
        message = "the data hold no test inputs for it; names and count were not checked"
        yield Finding("note", "names-unchecked", f"{task}/", message, "")
        return
    message, hint = "names were not checked", "Give the folder of the archives with --data."
    if len(items) != OFFICIAL[task]:
        message += f"; it has {len(items)} images where the 2025 and 2026 test sets have {OFFICIAL[task]}"
    yield Finding("note", "names-unchecked", f"{task}/", message, hint)


def _renaming(wanted: set[str], there: set[str]) -> str:
    """Return how names of which none is right could be mended at once: a prefix, a suffix or leading zeros."""
    if not wanted:
        return ""
    if {stem.lstrip("0") or "0" for stem in there} == {stem.lstrip("0") or "0" for stem in wanted}:
        return "The names differ in leading zeros only; name predictions exactly as the inputs."
    prefix, tail = _common(there), _common({name[::-1] for name in there})[::-1]
    if tail and {name.removesuffix(tail) for name in there} == wanted:
        return f"All names have {tail!r} too much at their end; take it off."
    if prefix and {name.removeprefix(prefix) for name in there} == wanted:
        return f"All names have {prefix!r} too much at their beginning; take it off."
    return "The names have nothing in common with the inputs'; name predictions exactly as the inputs."


def _common(names: set[str]) -> str:
    """Return the longest beginning that all names share."""
    first, last = min(names), max(names)
    equal = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return "".join(letter for letter, _ in equal)


def same_stem(archive: Inspection) -> Iterator[Finding]:
    """One prediction an input, not a PNG and a TIFF."""
    for task, items in archive.contents.images.items():
        found: dict[str, list[str]] = {}
        for item in items:
            found.setdefault(item.stem, []).append(item.suffix)
        for stem in sorted(stem for stem, suffixes in found.items() if len(suffixes) > 1):
            suffixes = ", ".join(sorted(found[stem]))
            yield Finding(
                "error",
                "same-name-twice",
                f"{task}/{printable(stem)}",
                f"the prediction is there as {suffixes}",
                "Keep one of them.",
            )


def suffixes(archive: Inspection) -> Iterator[Finding]:
    """`.png` and `.tiff` were seen scored; others are not counted, or nobody knows."""
    for task, items in archive.contents.images.items():
        for item in items:
            if item.suffix not in (".png", ".tiff", ".tif"):
                message = f"its suffix is {item.suffix}, which scorers that look for png do not count"
                yield Finding("error", "suffix-case", printable(item.name), message, "Write the suffix in lower case.")
        kinds = sorted({item.suffix for item in items})
        if len(kinds) > 1:
            message = f"it mixes {' and '.join(kinds)}"
            hint = "Keep to one format a task; a scorer may count only one of them."
            yield Finding("warning", "mixed-formats", f"{task}/", message, hint)
        elif kinds == [".tif"]:
            message = "its images end in .tif; only .png and .tiff were seen scored"
            yield Finding("warning", "tif", f"{task}/", message, "Name them .tiff, or write PNG.")


def count(archive: Inspection) -> Iterator[Finding]:
    """Only the count is compared by scorers of this family."""
    if archive.inputs is None:
        return
    for task in TASKS:
        wanted = archive.inputs.names.get(task, {})
        there = len({item.stem for item in archive.contents.images.get(task, ())})
        if wanted and there and there != len(wanted):
            message = f"it has {there} predictions for {len(wanted)} inputs"
            yield Finding("error", "count", f"{task}/", message, "Write one prediction for each input.")


RULES = (against_inputs, same_stem, suffixes, count)
