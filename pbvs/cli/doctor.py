"""`pbvs doctor`: what is installed, found and writable here."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from pbvs.cli import options


@click.command()
@options.data
@options.manifests
@options.submissions
@options.weights
@click.option("--verify", is_flag=True, help="Also compute the digests of the weights found (seconds).")
@options.as_json
def doctor(
    data: Path | None, manifests: Path, submissions: Path, weights: Path | None, verify: bool, as_json: bool
) -> int:
    """Say which versions, devices, weights, folders, data and runs are here, as text to paste into a question.

    Exit status 1 when something is BAD, that is, when a command will fail over it.
    """
    from pbvs.experiments.doctor import examine, is_bad, text

    findings = examine(data, manifests, submissions, weights, verify)
    if as_json:
        options.echo_json([asdict(finding) for finding in findings])
    else:
        options.echo(text(findings))
    return int(is_bad(findings))
