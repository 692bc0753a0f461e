"""Folders, stray files and the archive's size: what fails most uploads."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from pbvs.challenge import TASKS
from pbvs.submission.findings import Finding
from pbvs.submission.inspection import Inspection
from pbvs.submission.readme import NAME
from pbvs.submission.zips import is_archive
from pbvs.text import printable

MEGABYTE = 1_000_000
UNSTABLE = 150 * MEGABYTE  # uploads above this were seen to fail
OLD_CAP = 300 * MEGABYTE  # the older platform refuses more
WRITE_AGAIN = "Write the archive with `pbvs package`, or zip the files themselves, not the folder around them."


def suffix(archive: Inspection) -> Iterator[Finding]:
    """The platform takes `.zip` only."""
    if not archive.name.endswith(".zip"):
        yield Finding("error", "suffix", "", f"the file is called {archive.name}", "Let its name end in .zip.")


def enclosing_folder(archive: Inspection) -> Iterator[Finding]:
    """The four folders must lie at the root."""
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
        yield _stray(archive, entry.filename, "it is no PNG or TIFF", "Keep only .png or .tiff images in the folder.")


def _stray(archive: Inspection, name: str, message: str, hint: str) -> Finding:
    if name in archive.archives or is_archive(name, b""):
        return Finding(
            "error", "nested-archive", printable(name), "it is an archive in the archive", "Unpack it or take it out."
        )
    return Finding("error", "stray-file", printable(name), message, hint)


def _wrong_folder(archive: Inspection, name: str) -> Finding:
    near = difflib.get_close_matches(name.lower(), TASKS, n=1, cutoff=0.5)
    hint = f"Call it {near[0]}." if near else f"The folders are {', '.join(TASKS)}."
    if name in TASKS:
        return Finding("error", "nested-folder", f"{name}/", "it holds another folder", "Put images right into it.")
    return Finding("error", "wrong-folder", printable(f"{name}/"), "there is no task of this name", hint)


def nested(archive: Inspection) -> Iterator[Finding]:
    """Images lie right in their task's folder."""
    for entry in archive.contents.nested:
        yield Finding(
            "error",
            "nested-folder",
            printable(entry.filename),
            "it lies a folder too deep",
            "Move it up to <task>/<name>.png.",
        )


def missing_task(archive: Inspection) -> Iterator[Finding]:
    """A task that was not attempted is allowed, and costs."""
    present = [task for task in TASKS if archive.contents.images.get(task)]
    if not present:
        yield Finding("error", "no-images", "", "it holds no predictions", f"The folders are {', '.join(TASKS)}.")
        return
    for task in TASKS:
        if task not in present:
            yield Finding(
                "warning",
                "missing-task",
                f"{task}/",
                "the task has no predictions; it counts as 1.00 in the mean and adds a penalty of 1",
                f"Add predictions for {task}, be they simple ones.",
            )


def size(archive: Inspection) -> Iterator[Finding]:
    """Big archives are lost on their way."""
    said = f"it has {archive.length / MEGABYTE:.0f} MB"
    smaller = "Write one-band tasks as L (`pbvs package --mode all=L`); they weigh about half."
    if archive.length > OLD_CAP:
        yield Finding("warning", "size", "", f"{said}; the older platform refuses more than 300 MB", smaller)
    elif archive.length > UNSTABLE:
        yield Finding("warning", "size", "", f"{said}; uploads above 150 MB were seen to fail", smaller)


def readme_place(archive: Inspection) -> Iterator[Finding]:
    """Exactly one readme.txt, at the root."""
    found = [entry.filename[len(archive.contents.wrapper) :] for entry in archive.contents.readmes]
    hint = "Put one readme.txt with its four lines at the root of the archive."
    if not found:
        yield Finding("error", "readme-missing", NAME, "there is no readme.txt at the root", hint)
    elif len(found) > 1:
        yield Finding("error", "readme-several", "", f"several readmes: {', '.join(map(printable, found))}", hint)
    elif found[0] != NAME:
        yield Finding("error", "readme-name", printable(found[0]), "the readme is not called readme.txt", hint)


RULES = (suffix, enclosing_folder, junk, strays, nested, missing_task, size, readme_place)
