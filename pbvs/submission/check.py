"""An archive against the rules of its challenge: a team's own after it was written, or anybody's zip.

A rule is a function from an inspected archive to findings; the rules of the images themselves are in `inspection`.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from pbvs.challenge import Challenge, load_challenge
from pbvs.submission.inputs import FORMATS, Inputs
from pbvs.submission.inspection import IMAGE_RULES, EvaluationSize, Inspection, Item, inspect_archive
from pbvs.submission.readme import LIMIT, ReadmeError, count_word, order_faults, parse_readme
from pbvs.submission.zips import Finding, SafeZip, error, is_archive, note, room_for, warning
from pbvs.text import printable

MEGABYTE = 1_000_000
WRITE_AGAIN = "Write the archive with `pbvs package`, or zip the files themselves, not the folder around them."


def suffix(archive: Inspection) -> Iterator[Finding]:
    """The platform takes `.zip` only."""
    if not archive.name.endswith(".zip"):
        yield error("suffix", "", f"the file is called {archive.name}", "Let its name end in .zip.")


def enclosing_folder(archive: Inspection) -> Iterator[Finding]:
    """The tasks' folders, or the images, must lie at the root."""
    if wrapper := archive.contents.wrapper:
        message = "everything lies inside this folder instead of at the archive's root"
        yield error("enclosing-folder", wrapper, message, WRITE_AGAIN)


def junk(archive: Inspection) -> Iterator[Finding]:
    """Scorers count every file whose name ends in png, `._x.png` too."""
    message = "it was left there by macOS, Windows or an editor, and counts as a file too many"
    hint = "Delete it: zip -d ARCHIVE '__MACOSX/*' '*.DS_Store' '*/._*'"
    yield from (error("junk", entry.filename, message, hint) for entry in archive.contents.junk)


def strays(archive: Inspection) -> Iterator[Finding]:
    """No other files may be in the archive."""
    wrong = {name.split("/")[0] for name in archive.contents.folders}
    yield from (_wrong_folder(archive, name) for name in sorted(wrong))
    for entry in archive.contents.strays:
        inner = entry.filename[len(archive.contents.wrapper) :]
        if inner.split("/")[0] in wrong and "/" in inner:
            continue
        yield _stray(archive, entry.filename, "it does not belong in a submission", "Take it out of the archive.")
    for entry in archive.contents.other_files:
        yield _stray(archive, entry.filename, *_no_image(archive))


def _no_image(archive: Inspection) -> tuple[str, str]:
    suffixes = [suffix for suffix in archive.contents.out.suffixes if suffix != ".tif"]
    formats = dict.fromkeys(FORMATS[suffix] for suffix in suffixes)
    return f"it is no {' or '.join(formats)}", f"Keep only {' or '.join(suffixes)} images in the folder."


def _stray(archive: Inspection, name: str, message: str, hint: str) -> Finding:
    if name in archive.archives or is_archive(name, b""):
        return error("nested-archive", name, "it is an archive in the archive", "Unpack it or take it out.")
    return error("stray-file", name, message, hint)


def _wrong_folder(archive: Inspection, name: str) -> Finding:
    if not archive.contents.out.by_folder:
        return error("wrong-folder", f"{name}/", "no prediction lies there", _where(archive))
    folders = list(archive.contents.out.folders.values())
    near = difflib.get_close_matches(name.lower(), folders, n=1, cutoff=0.5)
    hint = f"Call it {near[0]}." if near else f"The folders are {', '.join(folders)}."
    if name in folders:
        return error("nested-folder", f"{name}/", "it holds another folder", "Put images right into it.")
    return error("wrong-folder", f"{name}/", "there is no task of this name", hint)


def nested(archive: Inspection) -> Iterator[Finding]:
    """Images lie where the challenge says."""
    for entry in archive.contents.nested:
        deep = entry.filename[len(archive.contents.wrapper) :].count("/") >= archive.contents.out.depth
        message = "it lies a folder too deep" if deep else "it does not lie in the folder it should"
        yield error("nested-folder", entry.filename, message, _where(archive))


def _where(archive: Inspection) -> str:
    path = re.sub(r"\{(\w+)\}", r"<\1>", archive.challenge.outputs.path)
    return f"Predictions are called {path}{archive.contents.out.suffixes[0]}."


def missing_task(archive: Inspection) -> Iterator[Finding]:
    """A task that was not attempted costs, or is against the rules."""
    out, rules = archive.contents.out, archive.challenge.submission
    missing = [task for task in archive.challenge.tasks if not archive.contents.images.get(task)]
    if len(missing) == len(archive.challenge.tasks):
        hint = f"The folders are {', '.join(out.folders.values())}." if out.by_folder else _where(archive)
        yield error("no-images", "", "it holds no predictions", hint)
        return
    # Without the inputs' names nobody can tell the tasks of a flat archive apart.
    for task in missing if out.by_folder or archive.inputs.names else ():
        message = archive.noted("missing-task", "the task has no predictions")
        hint = f"Add predictions for {task}, be they simple ones."
        yield (error if rules.tasks == "all" else warning)("missing-task", out.label(task), message, hint)


def size(archive: Inspection) -> Iterator[Finding]:
    """Archives beyond the challenge's limits are refused, and big ones are lost on their way."""
    rules, said = archive.challenge.submission, f"it has {archive.length / MEGABYTE:.0f} MB"
    if rules.max_bytes and archive.length > rules.max_bytes:
        message = f"{said}; the limit is {rules.max_bytes / MEGABYTE:g} MB"
        yield error("size", "", message, "Write smaller images, or with better compression.")
    if exceeded := [limit for limit in rules.warnings if archive.length > limit.bytes]:
        smaller = "Write one-band tasks as L (`pbvs package --mode all=L`); they weigh about half."
        yield warning("size", "", f"{said}; {max(exceeded, key=lambda limit: limit.bytes).message}", smaller)


def files(archive: Inspection) -> Iterator[Finding]:
    """The challenge may limit how many files there are, and how large each is."""
    rules, images = archive.challenge.submission, list(archive.contents.items)
    if rules.max_files and len(images) > rules.max_files:
        message = f"it has {len(images)} images; the limit is {rules.max_files} files"
        yield error("files", "", message, "Keep to one prediction for each input.")
    for item in images if rules.max_file_bytes else ():
        if item.entry.file_size > rules.max_file_bytes:
            message = f"it has {item.entry.file_size} bytes; the limit is {rules.max_file_bytes}"
            yield error("file-size", item.name, message, "Write it with better compression.")


def readme_place(archive: Inspection) -> Iterator[Finding]:
    """Exactly one readme at the root, where the challenge asks for one."""
    rules = archive.challenge.submission
    name = rules.readme_name
    if not rules.readme:
        return
    found = [entry.filename[len(archive.contents.wrapper) :] for entry in archive.contents.readmes]
    hint = f"Put one {name} with its {count_word(len(rules.readme))} lines at the root of the archive."
    if not found:
        yield error("readme-missing", name, f"there is no {name} at the root", hint)
    elif len(found) > 1:
        yield error("readme-several", "", f"several readmes: {', '.join(map(printable, found))}", hint)
    elif found[0] != name:
        yield error("readme-name", found[0], f"the readme is not called {name}", hint)


# --- The readme as scorers parse it.

PLACEHOLDERS = re.compile(r"^(\.*|-*|todo|none|n/?a|xxx*|description|solution based on .* timofte.*)$", re.IGNORECASE)
SLOW = 3600.0  # seconds; the whole scoring may take no longer


def parses(archive: Inspection) -> Iterator[Finding]:
    """The lines parse as what they are, by their order."""
    if archive.contents.readmes and archive.readme is None:
        yield _error(archive, "readme-unreadable", f"it cannot be read, or has more than {LIMIT} bytes")
    elif archive.readme is not None:
        try:
            yield from _lines(archive, archive.readme.decode("utf-8-sig"))
        except UnicodeDecodeError:
            yield _error(archive, "readme-encoding", "it is not UTF-8 text")


def _lines(archive: Inspection, text: str) -> Iterator[Finding]:
    lines = archive.challenge.submission.readme
    for wrong in order_faults(text, lines):
        yield _error(archive, "readme-order", wrong)
    try:
        readme = parse_readme(text, lines)
    except ReadmeError as fault:
        yield _error(archive, "readme-lines", str(fault))
        return
    if (count := sum(":" in line for line in text.splitlines())) > len(lines):
        message = f"it has {count} lines with a colon where {count_word(len(lines))} are read"
        yield _error(archive, "readme-lines", message)
    kinds = {line.kind for line in lines}
    if "runtime" in kinds and (readme.runtime == 0 or readme.runtime > SLOW):
        message = f"it says a runtime of {readme.runtime:g} s per image"
        yield _warning(archive, "readme-runtime", message, "Write what you measured.")
    if "description" in kinds and PLACEHOLDERS.match(readme.description):
        yield _warning(archive, "readme-description", "its description says nothing", "Name the method in a few words.")


def other_lines(archive: Inspection) -> Iterator[Finding]:
    """Lines without a colon are skipped by some scorers, counted by others."""
    text = (archive.readme or b"").decode("utf-8", "replace")
    others = [line for line in text.splitlines() if line.strip() and ":" not in line]
    if others:
        hint = f"Keep to the {count_word(len(archive.challenge.submission.readme))} lines."
        yield _warning(archive, "readme-other-lines", f"it has {len(others)} lines without a colon", hint)
    if not text.isascii() and "\ufffd" not in text:
        name, hint = archive.challenge.submission.readme_name, "Plain letters are read everywhere."
        yield note("readme-ascii", name, "it holds letters beyond ASCII", hint)


def _error(archive: Inspection, rule: str, message: str) -> Finding:
    rules = archive.challenge.submission
    labels = "; ".join(f"{line.label} : ..." for line in rules.readme)
    hint = f"Write the {count_word(len(rules.readme))} lines as `pbvs package` does: {labels}"
    return error(rule, rules.readme_name, message, hint)


def _warning(archive: Inspection, rule: str, message: str, hint: str) -> Finding:
    return warning(rule, archive.challenge.submission.readme_name, message, hint)


# --- Names and counts. Scorers of this family pair images by their sorted position and compare only the count, so
# that one file too many or too few shifts all that follow.


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
            yield error(
                "missing-image", out.path(task, stem, out.suffixes[0]), archive.noted("names", "it is missing"), hint
            )
        for stem in sorted(extra):
            message = archive.noted("names", "there is no input of this name")
            yield error("extra-image", extra[stem].name, message, hint or "Take it out, or name it as its input.")


def _official_count(archive: Inspection, task: str, items: Sequence[Item]) -> Iterator[Finding]:
    label = archive.label(task)
    if archive.inputs.names:
        yield note("names-unchecked", label, "the data hold no test inputs for it; names and count were not checked")
        return
    message, hint = "names were not checked", "Give the folder of the archives with --data."
    official = archive.challenge.tasks[task].inputs.get("test", 0)
    if official and len(items) != official:
        message += f"; it has {len(items)} images where the challenge's test set has {official}"
    yield note("names-unchecked", label, message, hint)


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
        found: dict[str, list[str]] = defaultdict(list)
        for item in items:
            found[item.key].append(item.suffix)
        for stem in sorted(stem for stem, suffixes in found.items() if len(suffixes) > 1):
            suffixes = ", ".join(sorted(found[stem]))
            name = archive.contents.out.path(task, stem)
            yield error("same-name-twice", name, f"the prediction is there as {suffixes}", "Keep one of them.")


def suffixes(archive: Inspection) -> Iterator[Finding]:
    """`.png` and `.tiff` were seen scored; others are not counted, or nobody knows."""
    out = archive.contents.out
    for task, items in archive.contents.images.items():
        for item in items:
            if item.suffix not in out.suffixes:
                message = f"its suffix is {item.suffix}, which scorers that look for {out.suffixes[0][1:]} do not count"
                yield error("suffix-case", item.name, message, "Write the suffix in lower case.")
        kinds = sorted({item.suffix for item in items})
        if len(kinds) > 1:
            message = f"it mixes {' and '.join(kinds)}"
            hint = "Keep to one format a task; a scorer may count only one of them."
            yield warning("mixed-formats", out.label(task), message, hint)
        elif kinds == [".tif"]:
            message = "its images end in .tif; only .png and .tiff were seen scored"
            yield warning("tif", out.label(task), message, "Name them .tiff, or write PNG.")


def count(archive: Inspection) -> Iterator[Finding]:
    """Only the count is compared by scorers of this family."""
    for task in archive.challenge.tasks:
        wanted = archive.inputs.names.get(task, {})
        there = len({item.key for item in archive.contents.images.get(task, ())})
        if wanted and there and there != len(wanted):
            message = f"it has {there} predictions for {len(wanted)} inputs"
            yield error("count", archive.label(task), message, "Write one prediction for each input.")


RULES: tuple[Callable[[Inspection], Iterable[Finding]], ...] = (
    *(suffix, enclosing_folder, junk, strays, nested, missing_task, size, files, readme_place),
    *(parses, other_lines),
    *(against_inputs, same_stem, suffixes, count),
    *IMAGE_RULES,
)


def check(
    path: Path,
    *,
    inputs: Inputs | None = None,
    evaluation_size: EvaluationSize = "challenge",
    name: str | None = None,
    challenge: Challenge | None = None,
) -> list[Finding]:
    """Return all that was found in the archive, in the rules' order; an empty list is a perfect submission.

    `inputs` are the split's inputs, which know their challenge: without them names, counts and native sizes are not
    checked, and `challenge` says whose rules count. `name` is the name it will be uploaded under, when that is another.
    An archive made to harm is not read any further than its directory. Raises PbvsError when there is no file.
    """
    expected = sum(map(len, inputs.names.values())) if inputs else 0
    with SafeZip(path, room_for(expected)) as archive:
        if not archive.safe:
            return archive.faults
        known = inputs or Inputs(challenge=challenge or load_challenge())
        inspection = inspect_archive(archive, name or path.name, known, evaluation_size)
        return [*archive.faults, *(finding for rule in RULES for finding in rule(inspection))]
