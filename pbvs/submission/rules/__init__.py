"""The rules of a submission, a family a file; each rule is a function from an examined archive to findings."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pbvs.submission.findings import Finding
from pbvs.submission.inspection import Examined
from pbvs.submission.rules import images, names, quality, readme, structure

Rule = Callable[[Examined], Iterable[Finding]]

RULES: tuple[Rule, ...] = (*structure.RULES, *readme.RULES, *names.RULES, *images.RULES, *quality.RULES)
