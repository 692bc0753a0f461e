"""Put a run's evidence on one page: what was measured and how far to trust it first, then the images."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import jinja2

from pbvs import __version__
from pbvs.challenge import TASKS
from pbvs.evaluation.results import number, table
from pbvs.report.evidence import Evidence, gather
from pbvs.report.sections import headline, provenance, score_chart, task_section, test_section
from pbvs.run import Run

DIGEST = re.compile("[0-9a-f]{40,64}")


def render_run(run: Run, root: Path | None, manifests: Path) -> str:
    """Return the HTML of a run's report; raises PbvsError when there is no such run."""
    evidence = gather(run, manifests)
    return render("run.html", **run_view(evidence, root))


def run_view(evidence: Evidence, root: Path | None) -> dict[str, Any]:
    """Return everything that the template shows, in the order of the page."""
    tasks = [task_section(evidence, task, root) for task in TASKS]
    tests = [test_section(evidence, task, root) for task in TASKS]
    return {
        "title": f"Run {evidence.run.name}",
        "name": evidence.run.name,
        "recipe": evidence.recipe,
        "headline": headline(evidence.results) if evidence.results else None,
        "chart": score_chart(evidence.results) if evidence.results else None,
        "tasks": [task for task in tasks if task],
        "tests": [test for test in tests if test],
        "sensitivity": _sensitivity(evidence),
        "provenance": provenance(evidence),
        "problems": evidence.problems,
    }


def _sensitivity(evidence: Evidence) -> list[dict[str, Any]]:
    rows = evidence.results.summary.get("sensitivity") if evidence.results else None
    return [
        {"reading": str(row.get("reading", "")), "combined": row.get("combined"), "tasks": table(row.get("tasks"))}
        for row in (rows if isinstance(rows, list) else [])
        if isinstance(row, dict)
    ]


def render(template: str, **view: Any) -> str:
    """Render one of the package's templates; everything in `view` is escaped."""
    return environment().get_template(template).render(version=__version__, **view)


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
    made.globals["task_title"] = task_title
    made.globals["tasks_of_challenge"] = list(TASKS)
    return made


def task_title(name: str) -> str:
    """Return a task as people write it, for instance `SAR to EO`."""
    task = TASKS.get(name)
    return f"{task.source.upper()} to {task.target.upper()}" if task else name


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
