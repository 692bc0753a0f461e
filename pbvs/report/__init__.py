"""The pages that people look at: HTML that loads nothing from elsewhere, with images in a folder beside it."""

from __future__ import annotations

from pathlib import Path

from pbvs.run import MANIFESTS, Run


def write_report(
    run: Run,
    *,
    root: Path | None = None,
    manifests: Path = MANIFESTS,
    one_file: bool = False,
    all_images: bool = False,
    jobs: int = 1,
) -> Path:
    """Write `report.html` and its folder `report_files/` from whatever the run has so far, and return the page's path.

    `root` is the data root for the images; without it the page has numbers but no images of inputs and targets.
    `one_file` puts everything into the page itself; `all_images` keeps every image at full size, where otherwise a
    thumbnail is kept of each and full size only of the worst, as many as make 64 megapixels a task.
    Raises PbvsError when the run does not exist or the page cannot be written; a part that is missing or damaged
    (an image, a log) is named on the page instead.
    """
    from pbvs.files import sweep, write_text
    from pbvs.report.run_page import render_run

    for folder in (run.folder, run.scores):
        sweep(folder, deep=False)
    text, gallery = render_run(run, root, manifests, inline=one_file, all_images=all_images, jobs=jobs)
    write_text(run.report_file, text)
    gallery.finish()
    return run.report_file
