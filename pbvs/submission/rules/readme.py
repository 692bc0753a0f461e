"""readme.txt as the scorers of this family parse it: four lines, in their order."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pbvs.submission.findings import Finding
from pbvs.submission.inspection import Inspection
from pbvs.submission.readme import LABELS, LIMIT, NAME, ReadmeError, order_faults, parse_readme

HINT = "Write the four lines as `pbvs package` does: " + "; ".join(f"{label} : ..." for label in LABELS)
PLACEHOLDERS = re.compile(r"^(\.*|-*|todo|none|n/?a|xxx*|description|solution based on .* timofte.*)$", re.IGNORECASE)
SLOW = 3600.0  # seconds; the whole scoring may take no longer


def parses(archive: Inspection) -> Iterator[Finding]:
    """The lines parse as float, int, int, text, by their order."""
    if not archive.contents.readmes:
        return
    if archive.readme is None:
        yield _error("readme-unreadable", f"it cannot be read, or has more than {LIMIT} bytes")
        return
    try:
        text = archive.readme.decode("utf-8-sig")
    except UnicodeDecodeError:
        yield _error("readme-encoding", "it is not UTF-8 text")
        return
    yield from _lines(text)


def _lines(text: str) -> Iterator[Finding]:
    wrong = order_faults(text)
    for fault in wrong:
        yield _error("readme-order", fault)
    try:
        readme = parse_readme(text)
    except ReadmeError as error:
        yield _error("readme-lines", str(error))
        return
    count = sum(":" in line for line in text.splitlines())
    if count > len(LABELS):
        yield _error("readme-lines", f"it has {count} lines with a colon where four are read")
    if readme.runtime == 0 or readme.runtime > SLOW:
        yield _warning(
            "readme-runtime", f"it says a runtime of {readme.runtime:g} s per image", "Write what you measured."
        )
    if PLACEHOLDERS.match(readme.description):
        yield _warning("readme-description", "its description says nothing", "Name the method in a few words.")


def other_lines(archive: Inspection) -> Iterator[Finding]:
    """Lines without a colon are skipped by some scorers, counted by others."""
    text = (archive.readme or b"").decode("utf-8", "replace")
    others = [line for line in text.splitlines() if line.strip() and ":" not in line]
    if others:
        yield _warning("readme-other-lines", f"it has {len(others)} lines without a colon", "Keep to the four lines.")
    if not text.isascii() and "\ufffd" not in text:
        yield Finding(
            "note", "readme-ascii", NAME, "it holds letters beyond ASCII", "Plain letters are read everywhere."
        )


def _error(rule: str, message: str) -> Finding:
    return Finding("error", rule, NAME, message, HINT)


def _warning(rule: str, message: str, hint: str) -> Finding:
    return Finding("warning", rule, NAME, message, hint)


RULES = (parses, other_lines)
