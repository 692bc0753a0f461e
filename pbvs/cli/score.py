"""`pbvs score`: what a run's predictions are worth."""

from __future__ import annotations

from pathlib import Path

import click

from pbvs.cli import options


@click.command()
@options.split
@options.run
@options.data
@options.manifests
@options.submissions
@click.option(
    "--protocol", default="l2-lpips", show_default=True, help="l2-lpips, mavic-t-2024, mavic-t-2026 or a .toml file."
)
@options.weights
@click.option(
    "--lpips-net",
    type=click.Choice(["alex", "squeeze", "vgg", "random"]),
    help="Instead of the protocol's; random is no LPIPS, for wiring checks.",
)
@options.device
@options.jobs
@click.option("--batch", type=click.IntRange(1, 256), default=16, show_default=True, help="Pictures at once.")
def score(
    split: str,
    run: str | None,
    data: Path | None,
    manifests: Path,
    submissions: Path,
    protocol: str,
    weights: Path | None,
    lpips_net: str | None,
    device: str,
    jobs: int,
    batch: int,
) -> None:
    """Score a run's predictions against held-out targets: L1, L2, LPIPS, each task's score and the combined one."""
    from pbvs.runs import choose_run
    from pbvs.scoring.scorer import score as run_score
    from pbvs.scoring.table import table

    place = choose_run(run, submissions)
    summary = run_score(
        place,
        split,
        root=data,
        manifests=manifests,
        protocol=protocol,
        weights=weights,
        lpips_net=lpips_net,
        device=device,
        jobs=jobs,
        batch=batch,
    )
    click.echo(table(summary))
    click.echo(f"Written: {place.scores / 'summary.json'}")
    if place.report.is_file():
        click.echo(f"Report:  {place.report}")
