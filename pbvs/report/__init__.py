"""The page that people look at after a run: one file, nothing to load, nothing to run."""

from __future__ import annotations

from pathlib import Path

from pbvs.run import MANIFESTS, Run


def write_report(run: Run, *, root: Path | None = None, manifests: Path = MANIFESTS) -> Path:
    """Write `report.html` from whatever the run has so far and return its path.

    `root` is the data root for the images; without it the page has numbers but no images of inputs and targets.
    Raises PbvsError when the run does not exist or the page cannot be written; a part that is missing or damaged
    (an image, a log) is named on the page instead.
    """
    from pbvs.files import sweep, write_text
    from pbvs.report.page import render_run

    for folder in (run.folder, run.scores):
        sweep(folder, deep=False)
    write_text(run.report_file, render_run(run, root, manifests))
    return run.report_file
