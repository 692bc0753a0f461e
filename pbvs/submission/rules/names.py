"""Names and counts: a prediction for each input, called as the input is.

Scorers of this family pair images by their sorted position and compare only the count, so that one file too many
or too few shifts all that follow.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from pbvs.submission.findings import Finding
from pbvs.submission.inspection import Inspection, Item
from pbvs.text import printable


def against_inputs(archive: Inspection) -> Iterator[Finding]:
    """Every input has its prediction, and no other image is there."""
    out = archive.contents.out
    for task, items in archive.contents.images.items():
        wanted = archive.inputs.names.get(task)
        if wanted is None:
            yield from _official_count(archive, task, items)
            continue
        extra = {item.key: item for item in items if item.key not in wanted}
        there = {item.key for item in items}
        missing = [stem for stem in wanted if stem not in there]
        hint = _renaming(set(wanted), there) if extra and len(missing) == len(wanted) else ""
        for stem in sorted(missing):
            hint = hint or f"Add a prediction for the input {printable(stem)}."
            message = _noted(archive, "it is missing")
            name = out.path(task, printable(stem), out.suffixes[0])
            yield Finding("error", "missing-image", name, message, hint)
        for stem in sorted(extra):
            message = _noted(archive, "there is no input of this name")
            hint = hint or "Take it out, or name it as its input."
            yield Finding("error", "extra-image", printable(extra[stem].name), message, hint)


def _noted(archive: Inspection, message: str) -> str:
    """Add what is known of how the challenge's scorer pairs images."""
    note = archive.challenge.submission.notes.get("names", "")
    return f"{message}; {note}" if note else message


def _official_count(archive: Inspection, task: str, items: Sequence[Item]) -> Iterator[Finding]:
    label = archive.contents.out.label(task)
    if archive.inputs.names:
        message = "the data hold no test inputs for it; names and count were not checked"
        yield Finding("note", "names-unchecked", label, message, "")
        return
    message, hint = "names were not checked", "Give the folder of the archives with --data."
    official = archive.challenge.tasks[task].inputs.get("test", 0)
    if official and len(items) != official:
        message += f"; it has {len(items)} images where the challenge's test set has {official}"
    yield Finding("note", "names-unchecked", label, message, hint)


def _renaming(wanted: set[str], there: set[str]) -> str:
    """Return how names of which none is right could be put right at once: a prefix, a suffix or leading zeros."""
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
            found.setdefault(item.key, []).append(item.suffix)
        for stem in sorted(stem for stem, suffixes in found.items() if len(suffixes) > 1):
            suffixes = ", ".join(sorted(found[stem]))
            yield Finding(
                "error",
                "same-name-twice",
                archive.contents.out.path(task, printable(stem)),
                f"the prediction is there as {suffixes}",
                "Keep one of them.",
            )


def suffixes(archive: Inspection) -> Iterator[Finding]:
    """`.png` and `.tiff` were seen scored; others are not counted, or nobody knows."""
    out = archive.contents.out
    for task, items in archive.contents.images.items():
        for item in items:
            if item.suffix not in out.suffixes:
                message = f"its suffix is {item.suffix}, which scorers that look for {out.suffixes[0][1:]} do not count"
                yield Finding("error", "suffix-case", printable(item.name), message, "Write the suffix in lower case.")
        kinds = sorted({item.suffix for item in items})
        if len(kinds) > 1:
            message = f"it mixes {' and '.join(kinds)}"
            hint = "Keep to one format a task; a scorer may count only one of them."
            yield Finding("warning", "mixed-formats", out.label(task), message, hint)
        elif kinds == [".tif"]:
            message = "its images end in .tif; only .png and .tiff were seen scored"
            yield Finding("warning", "tif", out.label(task), message, "Name them .tiff, or write PNG.")


def count(archive: Inspection) -> Iterator[Finding]:
    """Only the count is compared by scorers of this family."""
    for task in archive.challenge.tasks:
        wanted = archive.inputs.names.get(task, {})
        there = len({item.key for item in archive.contents.images.get(task, ())})
        if wanted and there and there != len(wanted):
            message = f"it has {there} predictions for {len(wanted)} inputs"
            yield Finding(
                "error", "count", archive.contents.out.label(task), message, "Write one prediction for each input."
            )


RULES = (against_inputs, same_stem, suffixes, count)
