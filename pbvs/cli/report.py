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
def report(run: str | None, data: Path | None, manifests: Path, submissions: Path) -> None:
    """Write a run's report.html again: scores where there are any, else images to look at.

    `pbvs score` does this by itself; this command is for runs without scores, and after training or packaging.
    """
    from pbvs.cli.compare import root_or_none
    from pbvs.report import write_report
    from pbvs.run import choose_run

    place = choose_run(run, submissions)
    click.echo(f"Report: {write_report(place, root=root_or_none(data, manifests), manifests=manifests)}")
