"""The rules of a submission, a family a file; each rule is a function from an inspected archive to findings."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pbvs.submission.findings import Finding
from pbvs.submission.inspection import Inspection
from pbvs.submission.rules import images, names, readme, structure

Rule = Callable[[Inspection], Iterable[Finding]]

RULES: tuple[Rule, ...] = (*structure.RULES, *readme.RULES, *names.RULES, *images.RULES)
