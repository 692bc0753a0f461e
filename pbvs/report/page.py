"""Templates into pages: everything is escaped, nothing is loaded from elsewhere, and only our own script runs."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from typing import Any

import jinja2

from pbvs import __version__
from pbvs.challenge import Challenge
from pbvs.evaluation.results import number

DIGEST = re.compile("[0-9a-f]{40,64}")


def render(template: str, challenge: Challenge, **view: Any) -> str:
    """Render one of the package's templates, for a challenge's tasks; everything in `view` is escaped."""
    explorer = view.get("explorer")
    # The digest is of the script as the browser sees it; no other script can run, whatever a name in the data says.
    allowed = f"'sha256-{_digest(str(explorer['script']))}'" if explorer else "'none'"
    view = {"explorer": None, "made_from": "", "task_title": functools.partial(task_title, challenge), **view}
    return environment().get_template(template).render(version=__version__, allowed=allowed, **view)


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


@functools.cache
def environment() -> jinja2.Environment:
    """Return the templates with escaping switched on for every file and an error for every name that is not there."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("pbvs.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["score"] = format_score
    made.filters["short"] = format_value
    return made


def task_title(challenge: Challenge, name: str) -> str:
    """Return a task as people write it, for instance `SAR to EO`."""
    task = challenge.tasks.get(name)
    return f"{challenge.source_title(task)} to {challenge.title_of(task.target)}" if task else name


def format_score(value: Any, digits: int = 3) -> str:
    """Return a number with fixed digits, or a dash where there is none."""
    known = number(value)
    return "–" if known is None else f"{known:.{digits}f}"


def format_value(value: Any) -> str:
    """Return any value from a JSON file as one short line."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {format_value(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(format_value(item) for item in value)
    if isinstance(value, str) and DIGEST.fullmatch(value):
        return f"{value[:12]}…"  # whole in provenance.json
    return "–" if value is None else str(value)
