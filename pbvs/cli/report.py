"""`pbvs report`: the page of a run, from what it has so far."""

from __future__ import annotations

from pathlib import Path

import click

from pbvs.cli import options


@click.command()
@options.run
@options.data
@options.manifests
@options.submissions
@options.one_file
@options.images
@options.jobs
def report(
    run: str | None, data: Path | None, manifests: Path, submissions: Path, one_file: bool, images: str, jobs: int
) -> None:
    """Write a run's report.html again: scores where there are any, else images to look at.

    `pbvs score` does this by itself; this command is for runs without scores, after training or packaging, and for
    a page of one file to hand on.
    """
    from pbvs.cli.compare import root_or_none
    from pbvs.report import write_report
    from pbvs.run import choose_run

    chosen = choose_run(run, submissions)
    path = write_report(
        chosen,
        root=root_or_none(data, manifests),
        manifests=manifests,
        one_file=one_file,
        all_images=images == "all",
        jobs=jobs,
    )
    options.echo_stale(options.stale_of(chosen, manifests))
    options.echo(f"Report: {path}" + ("" if one_file else f" (its images are in {path.stem}_files)"))
