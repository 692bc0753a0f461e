"""`pbvs compare` and `pbvs leaderboard`: runs beside each other, and beside what others have published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pbvs.cli import options
from pbvs.errors import UsageError
from pbvs.text import terminal_width

if TYPE_CHECKING:
    from pbvs.run import Run


@click.command()
@click.argument("runs", type=options.RUN, nargs=-1, required=True, metavar="RUN RUN...")
@options.data
@options.manifests
@options.submissions
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
    data: Path | None,
    manifests: Path,
    submissions: Path,
    split: str | None,
    protocol: str | None,
    seeds: bool,
    anyway: bool,
    page: Path | None,
    no_page: bool,
    one_file: bool,
    images: str,
    jobs: int,
    as_json: bool,
) -> None:
    """Compare scored runs with the first one: differences with intervals, and images of the largest changes.

    Each run after the first is compared with it, image by image. An interval that holds 0 leaves open which is better.
    """
    if len(runs) < 2 or len(set(runs)) != len(runs):
        raise UsageError("Name at least two different runs; the first is the one to compare with.")
    from pbvs.evaluation.compare import compare as compare_runs
    from pbvs.evaluation.compare import comparison_table
    from pbvs.run import Run

    first, *others = (Run(name, submissions) for name in runs)
    if seeds:
        _seeds([first, *others], split, protocol, as_json)
        return
    found = [compare_runs(first, other, anyway=anyway, split=split, protocol=protocol) for other in others]
    if as_json:
        options.echo_json([comparison.as_json() for comparison in found])
    else:
        options.echo("\n\n".join(comparison_table(comparison, terminal_width()) for comparison in found))
    if not no_page:
        from pbvs.report.pages import write_comparisons

        page = page or submissions / f"compare-{'-'.join(runs)[:150]}.html"
        root = root_or_none(data, manifests)
        write_comparisons(page, found, root, manifests, one_file=one_file, all_images=images == "all", jobs=jobs)
        options.echo(f"\nPage: {page}", err=as_json)


def _seeds(runs: list[Run], split: str | None, protocol: str | None, as_json: bool) -> None:
    from pbvs.evaluation.compare import seeds_table, seeds_text

    table = seeds_table(runs, split, protocol)
    if as_json:
        options.echo_json(table.to_dict("index"))
    else:
        options.echo(seeds_text(table, terminal_width()))


def root_or_none(data: Path | None, manifests: Path) -> Path | None:
    """Return the data root, or None with a word on it: the page then has numbers only."""
    from pbvs.data.build import find_root

    try:
        return find_root(data, manifests)
    except UsageError as error:
        if data is not None:
            raise
        options.echo(f"The page will have no inputs and targets: {error}", err=True)
        return None


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
