"""`pbvs score`: what a run's predictions are worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pbvs.challenge import Split
from pbvs.cli import options
from pbvs.errors import UsageError
from pbvs.text import terminal_width


@click.command()
@click.argument("archive", type=options.FILE, required=False)
@options.split
@options.run
@options.data
@options.manifests
@options.submissions
@options.protocol
@options.weights
@options.lpips_net
@options.device
@options.jobs
@click.option("--targets", type=options.FOLDER, help="With ARCHIVE: a folder of <task>/<name>.png or .tiff.")
@click.option("--challenge", metavar="NAME|FILE", help="With ARCHIVE: the challenge it is for, where no run wrote it.")
@click.option("--fid", is_flag=True, help="Also FID and KID, where the protocol does without.")
@click.option("--no-baselines", is_flag=True, help="Leave out what the inputs as they are score.")
@click.option("--batch", type=click.IntRange(1, 256), default=16, show_default=True, help="Images at once.")
@options.as_json
def score(
    archive: Path | None,
    split: Split,
    run: str | None,
    data: Path | None,
    manifests: Path,
    submissions: Path,
    targets: Path | None,
    challenge: str | None,
    no_baselines: bool,
    as_json: bool,
    **choices: Any,
) -> None:
    """Score a run's predictions against held-out targets: L1, L2, LPIPS, each task's score and the combined one.

    The inputs as they are and their gray are scored beside them, once. Tables and a summary go into
    scores/<split>/<protocol>/ of the run's folder. With ARCHIVE, a zip as it is uploaded, its own images are scored.
    """
    if targets is not None and archive is None:
        raise UsageError("--targets is for scoring an ARCHIVE; a run is scored against its manifests.")
    if challenge is not None and archive is None:
        raise UsageError("--challenge is for scoring an ARCHIVE; a run has its own.")
    from pbvs.evaluation.results import score_table

    settings = {**choices, "root": data, "manifests": manifests, "baselines": not no_baselines}
    if archive is not None:
        from pbvs.submission.score import score_archive, summary_path
        from pbvs.submission.uploads import doubts_of_archive

        more = {"submissions": submissions, **settings}
        found = score_archive(archive, split, targets=targets, challenge=challenge, **more)
        options.echo_stale(doubts_of_archive(archive, manifests))
        if as_json:
            options.echo_json(found)
            return
        options.echo(score_table(found, terminal_width()))
        options.echo(f"Written: {summary_path(archive)}")
        return
    from pbvs.evaluation.evaluate import score as run_score
    from pbvs.run import choose_run

    scores = run_score(choose_run(run, submissions), split, **settings)
    options.echo_stale(options.stale_of(scores.run, manifests, scores.folder))
    if as_json:
        options.echo_json(dict(scores.summary))
    else:
        options.echo(score_table(scores, terminal_width()))
        options.echo(f"Written: {scores.folder / 'summary.json'}")
    from pbvs.data.build import find_root
    from pbvs.report import write_report

    report = write_report(scores.run, root=find_root(data, manifests), manifests=manifests)
    options.echo(f"Report:  {report}", err=as_json)
