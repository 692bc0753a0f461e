"""The readme as scorers parse it: the challenge's lines, in their order."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pbvs.submission.findings import Finding
from pbvs.submission.inspection import Inspection
from pbvs.submission.readme import LIMIT, ReadmeError, count_word, order_faults, parse_readme

PLACEHOLDERS = re.compile(r"^(\.*|-*|todo|none|n/?a|xxx*|description|solution based on .* timofte.*)$", re.IGNORECASE)
SLOW = 3600.0  # seconds; the whole scoring may take no longer


def parses(archive: Inspection) -> Iterator[Finding]:
    """The lines parse as what they are, by their order."""
    if not archive.contents.readmes:
        return
    if archive.readme is None:
        yield _error(archive, "readme-unreadable", f"it cannot be read, or has more than {LIMIT} bytes")
        return
    try:
        text = archive.readme.decode("utf-8-sig")
    except UnicodeDecodeError:
        yield _error(archive, "readme-encoding", "it is not UTF-8 text")
        return
    yield from _lines(archive, text)


def _lines(archive: Inspection, text: str) -> Iterator[Finding]:
    lines = archive.challenge.submission.readme
    wrong = order_faults(text, lines)
    for fault in wrong:
        yield _error(archive, "readme-order", fault)
    try:
        readme = parse_readme(text, lines)
    except ReadmeError as error:
        yield _error(archive, "readme-lines", str(error))
        return
    count = sum(":" in line for line in text.splitlines())
    if count > len(lines):
        yield _error(
            archive, "readme-lines", f"it has {count} lines with a colon where {count_word(len(lines))} are read"
        )
    kinds = {line.kind for line in lines}
    if "runtime" in kinds and (readme.runtime == 0 or readme.runtime > SLOW):
        yield _warning(
            archive,
            "readme-runtime",
            f"it says a runtime of {readme.runtime:g} s per image",
            "Write what you measured.",
        )
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
        yield Finding(
            "note",
            "readme-ascii",
            archive.challenge.submission.readme_name,
            "it holds letters beyond ASCII",
            "Plain letters are read everywhere.",
        )


def _error(archive: Inspection, rule: str, message: str) -> Finding:
    rules = archive.challenge.submission
    labels = "; ".join(f"{line.label} : ..." for line in rules.readme)
    hint = f"Write the {count_word(len(rules.readme))} lines as `pbvs package` does: {labels}"
    return Finding("error", rule, rules.readme_name, message, hint)


def _warning(archive: Inspection, rule: str, message: str, hint: str) -> Finding:
    return Finding("warning", rule, archive.challenge.submission.readme_name, message, hint)


RULES = (parses, other_lines)
