"""Folders, stray files and the archive's size: what fails most uploads."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from pbvs.submission.findings import Finding
from pbvs.submission.inspection import Inspection
from pbvs.submission.outputs import FORMATS
from pbvs.submission.readme import count_word
from pbvs.submission.zips import is_archive
from pbvs.text import printable

MEGABYTE = 1_000_000
WRITE_AGAIN = "Write the archive with `pbvs package`, or zip the files themselves, not the folder around them."


def suffix(archive: Inspection) -> Iterator[Finding]:
    """The platform takes `.zip` only."""
    if not archive.name.endswith(".zip"):
        yield Finding("error", "suffix", "", f"the file is called {archive.name}", "Let its name end in .zip.")


def enclosing_folder(archive: Inspection) -> Iterator[Finding]:
    """The tasks' folders, or the images, must lie at the root."""
    wrapper = archive.contents.wrapper
    if wrapper:
        yield Finding(
            "error",
            "enclosing-folder",
            printable(wrapper),
            "everything lies inside this folder instead of at the archive's root",
            WRITE_AGAIN,
        )


def junk(archive: Inspection) -> Iterator[Finding]:
    """Scorers count every file whose name ends in png, `._x.png` too."""
    for entry in archive.contents.junk:
        yield Finding(
            "error",
            "junk",
            printable(entry.filename),
            "it was left there by macOS, Windows or an editor, and counts as a file too many",
            "Delete it: zip -d ARCHIVE '__MACOSX/*' '*.DS_Store' '*/._*'",
        )


def strays(archive: Inspection) -> Iterator[Finding]:
    """No other files may be in the archive."""
    wrong = {name.split("/")[0] for name in archive.contents.folders}
    for name in sorted(wrong):
        yield _wrong_folder(archive, name)
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
        return Finding(
            "error", "nested-archive", printable(name), "it is an archive in the archive", "Unpack it or take it out."
        )
    return Finding("error", "stray-file", printable(name), message, hint)


def _wrong_folder(archive: Inspection, name: str) -> Finding:
    if not archive.contents.out.by_folder:
        return Finding("error", "wrong-folder", printable(f"{name}/"), "no prediction lies there", _where(archive))
    folders = list(archive.contents.out.folders.values())
    near = difflib.get_close_matches(name.lower(), folders, n=1, cutoff=0.5)
    hint = f"Call it {near[0]}." if near else f"The folders are {', '.join(folders)}."
    if name in folders:
        return Finding("error", "nested-folder", f"{name}/", "it holds another folder", "Put images right into it.")
    return Finding("error", "wrong-folder", printable(f"{name}/"), "there is no task of this name", hint)


def nested(archive: Inspection) -> Iterator[Finding]:
    """Images lie where the challenge says."""
    for entry in archive.contents.nested:
        deep = entry.filename[len(archive.contents.wrapper) :].count("/") >= archive.contents.out.depth
        yield Finding(
            "error",
            "nested-folder",
            printable(entry.filename),
            "it lies a folder too deep" if deep else "it does not lie in the folder it should",
            _where(archive),
        )


def _where(archive: Inspection) -> str:
    """Say where predictions lie."""
    out = archive.contents.out
    return f"Predictions are called {out.pattern}{out.suffixes[0]}."


def missing_task(archive: Inspection) -> Iterator[Finding]:
    """A task that was not attempted costs, or is against the rules."""
    out, rules = archive.contents.out, archive.challenge.submission
    missing = [task for task in archive.challenge.tasks if not archive.contents.images.get(task)]
    if len(missing) == len(archive.challenge.tasks):
        hint = f"The folders are {', '.join(out.folders.values())}." if out.by_folder else _where(archive)
        yield Finding("error", "no-images", "", "it holds no predictions", hint)
        return
    # Without the inputs' names nobody can tell the tasks of a flat archive apart.
    for task in missing if out.by_folder or archive.inputs.names else ():
        note = rules.notes.get("missing-task", "")
        message = "the task has no predictions" + (f"; {note}" if note else "")
        hint = f"Add predictions for {task}, be they simple ones."
        yield Finding("error" if rules.tasks == "all" else "warning", "missing-task", out.label(task), message, hint)


def size(archive: Inspection) -> Iterator[Finding]:
    """Archives beyond the challenge's limits are refused, and big ones are lost on their way."""
    rules, said = archive.challenge.submission, f"it has {archive.length / MEGABYTE:.0f} MB"
    if rules.max_bytes and archive.length > rules.max_bytes:
        message = f"{said}; the limit is {rules.max_bytes / MEGABYTE:g} MB"
        yield Finding("error", "size", "", message, "Write smaller images, or with better compression.")
    exceeded = [warning for warning in rules.warnings if archive.length > warning.bytes]
    if exceeded:
        smaller = "Write one-band tasks as L (`pbvs package --mode all=L`); they weigh about half."
        worst = max(exceeded, key=lambda warning: warning.bytes)
        yield Finding("warning", "size", "", f"{said}; {worst.message}", smaller)


def files(archive: Inspection) -> Iterator[Finding]:
    """The challenge may limit how many files there are, and how large each is."""
    rules, images = archive.challenge.submission, list(archive.contents.items)
    if rules.max_files and len(images) > rules.max_files:
        message = f"it has {len(images)} images; the limit is {rules.max_files} files"
        yield Finding("error", "files", "", message, "Keep to one prediction for each input.")
    for item in images if rules.max_file_bytes else ():
        if item.entry.file_size > rules.max_file_bytes:
            message = f"it has {item.entry.file_size} bytes; the limit is {rules.max_file_bytes}"
            yield Finding("error", "file-size", printable(item.name), message, "Write it with better compression.")


def readme_place(archive: Inspection) -> Iterator[Finding]:
    """Exactly one readme at the root, where the challenge asks for one."""
    rules = archive.challenge.submission
    name = rules.readme_name
    if not rules.readme:
        return
    found = [entry.filename[len(archive.contents.wrapper) :] for entry in archive.contents.readmes]
    hint = f"Put one {name} with its {count_word(len(rules.readme))} lines at the root of the archive."
    if not found:
        yield Finding("error", "readme-missing", name, f"there is no {name} at the root", hint)
    elif len(found) > 1:
        yield Finding("error", "readme-several", "", f"several readmes: {', '.join(map(printable, found))}", hint)
    elif found[0] != name:
        yield Finding("error", "readme-name", printable(found[0]), f"the readme is not called {name}", hint)


RULES = (suffix, enclosing_folder, junk, strays, nested, missing_task, size, files, readme_place)
