"""Scores and how they look: `pbvs score`, `pbvs report`, `pbvs compare`, `pbvs leaderboard`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from pbvs.challenge import Split
from pbvs.cli import options
from pbvs.errors import UsageError
from pbvs.text import terminal_width


@click.command()
@click.argument("runs", type=options.RUN, nargs=-1, required=True, metavar="RUN RUN...")
@options.folders
@click.option("--split", help="Which split's scores; else the newest that the runs have in common.")
@click.option("--protocol", help="Which protocol's scores, by its name.")
@click.option("--seeds", is_flag=True, help="The runs differ in their seed alone: their mean and its spread.")
@click.option("--anyway", is_flag=True, help="Compare what is shared though rules, nets, splits or images differ.")
@click.option("--page", type=options.FILE, help="Where the page goes; else beside the runs.")
@click.option("--no-page", is_flag=True, help="Print the table only.")
@options.one_file
@options.images
@options.jobs
@options.as_json
def compare(
    runs: tuple[str, ...],
    folders: options.Folders,
    split: str | None,
    protocol: str | None,
    seeds: bool,
    anyway: bool,
    page: Path | None,
    no_page: bool,
    one_file: bool,
    as_json: bool,
    **choices: Any,
) -> None:
    """Compare scored runs with the first one: differences with intervals, and images of the largest changes.

    Each run after the first is compared with it, image by image. An interval that holds 0 leaves open which is better.
    """
    if len(runs) < 2 or len(set(runs)) != len(runs):
        raise UsageError("Name at least two different runs; the first is the one to compare with.")
    from pbvs.evaluation.compare import compare as compare_runs
    from pbvs.evaluation.compare import comparison_table, seeds_table, seeds_text
    from pbvs.run import Run

    first, *others = (Run(name, folders.submissions) for name in runs)
    if seeds:
        table = seeds_table([first, *others], split, protocol)
        if as_json:
            options.echo_json(table.to_dict("index"))
        else:
            options.echo(seeds_text(table, terminal_width()))
        return
    found = [compare_runs(first, other, anyway=anyway, split=split, protocol=protocol) for other in others]
    if as_json:
        options.echo_json([comparison.as_json() for comparison in found])
    else:
        options.echo("\n\n".join(comparison_table(comparison, terminal_width()) for comparison in found))
    if not no_page:
        from pbvs.report.pages import write_comparisons

        page = page or folders.submissions / f"compare-{'-'.join(runs)[:150]}.html"
        write_comparisons(page, found, folders.root_or_none, folders.manifests, inline=one_file, **choices)
        options.echo(f"\nPage: {page}", err=as_json)


@click.command()
@options.submissions
@options.manifests
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@options.as_json
def leaderboard(submissions: Path, manifests: Path, as_csv: bool, as_json: bool) -> None:
    """Show your scored runs beside the published tables of 2024 and 2026, which are of other data.

    Scores that are stale are marked, and below the tables stands why and which command renews them.
    """
    if as_csv and as_json:
        raise UsageError("Take --csv or --json, not both.")
    from pbvs.evaluation import leaderboard as boards

    found = boards.leaderboard(submissions, manifests)
    if as_json:
        click.echo(json.dumps(boards.board_json(found), indent=2))
    elif as_csv:
        click.echo(boards.board_csv(found), nl=False)
    else:
        options.echo(boards.board_text(found, terminal_width()))
    for board in found:
        options.echo_stale(board.stale)


# --- `pbvs score`: what a run's predictions are worth.


@click.command()
@click.argument("archive", type=options.FILE, required=False)
@options.split
@options.run
@options.folders
@options.scoring
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
    folders: options.Folders,
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

    settings = {**choices, "root": folders.data, "manifests": folders.manifests, "baselines": not no_baselines}
    if archive is not None:
        from pbvs.submission.score import score_archive, summary_path
        from pbvs.submission.uploads import doubts_of_archive

        settings["submissions"] = folders.submissions
        found = score_archive(archive, split, targets=targets, challenge=challenge, **settings)
        options.echo_stale(doubts_of_archive(archive, folders.manifests))
        if as_json:
            options.echo_json(found)
            return
        options.echo(score_table(found, terminal_width()))
        options.echo(f"Written: {summary_path(archive)}")
        return
    from pbvs.evaluation.evaluate import score as run_score
    from pbvs.report.run_page import write_report

    scores = run_score(folders.run(run), split, **settings)
    options.echo_stale(options.stale_of(scores.run, folders.manifests, scores.folder))
    if as_json:
        options.echo_json(dict(scores.summary))
    else:
        options.echo(score_table(scores, terminal_width()))
        options.echo(f"Written: {scores.folder / 'summary.json'}")
    report = write_report(scores.run, root=folders.root, manifests=folders.manifests)
    options.echo(f"Report:  {report}", err=as_json)


# --- `pbvs report`: the page of a run, from what it has so far.


@click.command()
@options.run
@options.folders
@options.one_file
@options.images
@options.jobs
def report(run: str | None, folders: options.Folders, one_file: bool, **choices: Any) -> None:
    """Write a run's report.html again: scores where there are any, else images to look at.

    `pbvs score` does this by itself; this command is for runs without scores, after training or packaging, and for
    a page of one file to hand on.
    """
    from pbvs.report.run_page import write_report

    chosen, manifests = folders.run(run), folders.manifests
    path = write_report(chosen, root=folders.root_or_none, manifests=manifests, one_file=one_file, **choices)
    options.echo_stale(options.stale_of(chosen, manifests))
    options.echo(f"Report: {path}" + ("" if one_file else f" (its images are in {path.stem}_files)"))
