"""What a check has to say: a level, a rule, a file, what is wrong and how to put it right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pbvs.text import folded, printable

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
HINT = f"{'':8}-> "
SHOWN = 5  # files listed for each rule in text; JSON has them all


@dataclass(frozen=True)
class Finding:
    """One thing found: an error would be rejected, a warning scores badly or may fail, a note is worth knowing."""

    level: Level
    rule: str  # stable identifier, for scripts
    file: str  # name inside the archive, or a task, or "" for the archive itself
    message: str
    hint: str


def error(rule: str, file: str, message: str, hint: str) -> Finding:
    """Return a finding that would be rejected; what does not print in the file's name is escaped."""
    return Finding("error", rule, printable(file), message, hint)


def warning(rule: str, file: str, message: str, hint: str) -> Finding:
    """Return a finding that scores badly or may fail."""
    return Finding("warning", rule, printable(file), message, hint)


def note(rule: str, file: str, message: str, hint: str = "") -> Finding:
    """Return a finding that is worth knowing."""
    return Finding("note", rule, printable(file), message, hint)


def rejected(findings: Iterable[Finding], strict: bool = False) -> bool:
    """Return whether the archive would be rejected; `strict` counts warnings too."""
    return any(finding.level == "error" or (strict and finding.level == "warning") for finding in findings)


def as_json(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Return the findings as JSON objects."""
    return [asdict(finding) for finding in findings]


def as_text(findings: Iterable[Finding], width: int = 0) -> str:
    """Return the findings worst first, those of one rule together, at most `SHOWN` of each written out.

    Lines are broken between words at `width` columns; 0 breaks none.
    """
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in sorted(findings, key=lambda finding: LEVELS.index(finding.level)):
        groups.setdefault((finding.level, finding.rule), []).append(finding)
    lines = [line for group in groups.values() for line in _group(group)]
    return "\n".join(part for line in lines for part in folded(line, width, 11 if line.startswith(HINT) else 8))


def _group(group: list[Finding]) -> list[str]:
    lines = []
    for finding in group[:SHOWN]:
        where = f"{finding.file}: " if finding.file else ""
        lines.append(f"{finding.level.upper():8}{where}{finding.message}")
    if len(group) > SHOWN:
        lines.append(f"{'':8}... and {len(group) - SHOWN} more of this kind ({group[0].rule})")
    hints = dict.fromkeys(finding.hint for finding in group[:SHOWN] if finding.hint)
    return [*lines, *(f"{HINT}{hint}" for hint in hints)]


def verdict(findings: Iterable[Finding]) -> str:
    """Return one line: whether it would be rejected, and how much was found."""
    items = list(findings)
    counts = Counter(finding.level for finding in items)
    said = ", ".join(f"{counts[level]} {level}{'' if counts[level] == 1 else 's'}" for level in LEVELS)
    return f"{'This archive would be rejected' if rejected(items) else 'No rule is broken'}: {said}."
