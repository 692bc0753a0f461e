"""`pbvs runs`, `submissions`, `reproduce`, `export` and `install`: what becomes of runs after they were made."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pbvs.cli import options

if TYPE_CHECKING:
    from pbvs.experiments.runs import Row
    from pbvs.submission.uploads import Upload

MEGABYTE = 1e6


@click.group(invoke_without_command=True)
@options.submissions
@options.manifests
@options.as_json
@click.pass_context
def runs(context: click.Context, submissions: Path, manifests: Path, as_json: bool) -> None:
    """List the runs: recipes and how they differ, scores, sizes, dates, which were packaged and uploaded.

    Below the table stands what is stale: made from a model, recipe or manifest that is not so any more.
    """
    context.obj = submissions
    if context.invoked_subcommand is not None:
        return
    from pbvs.experiments.runs import differences, overview
    from pbvs.run import all_runs

    rows = overview(submissions, manifests)
    readable = {row.run for row in rows if row.recipe != "?"}
    found = differences([run for run in all_runs(submissions) if run.name in readable])
    if as_json:
        options.echo_json({"runs": [asdict(row) for row in rows], "differences": found})
        return
    if not rows:
        options.echo(f"There is no run in {submissions} yet; make one with `pbvs predict --all`.")
        return
    head = ("run", "recipe", "begun", "models", "test images", "score", "MB", "packaged", "uploads")
    options.echo_table(head, [_cells(row) for row in rows])
    for row in rows:
        if row.problem:
            options.echo(f"Damaged: run {row.run}: {row.problem}", err=True)
    options.echo_stale({row.run: row.stale for row in rows})
    if found:
        options.echo("\nWhere the recipes differ:")
        names = [row.run for row in rows]
        cells = [
            (key, *("-" if values.get(name) is None else str(values[name]) for name in names))
            for key, values in found.items()
        ]
        options.echo_table(("", *names), cells)


def _cells(row: Row) -> list[str]:
    made = [row.run, row.recipe, row.begun, str(row.models), str(row.predictions), row.score or "-"]
    return [*made, f"{row.megabytes:.1f}", row.packaged or "-", ", ".join(map(str, row.uploads)) or "-"]


@runs.command("rm")
@click.argument("names", type=options.RUN, nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--keep-archive", is_flag=True, help="Leave the zips beside the run.")
@click.pass_obj
def remove(submissions: Path, names: tuple[str, ...], yes: bool, keep_archive: bool) -> None:
    """Remove runs with their models, predictions and zips; what was uploaded stays in the submission log."""
    from pbvs.experiments.runs import remove as remove_run
    from pbvs.run import Run

    found = [Run(name, submissions) for name in names]
    if not yes and (there := [str(run.folder) for run in found if run.folder.exists() or run.archive.exists()]):
        options.confirm(f"Remove {', '.join(there)} for good?")
    for run in found:
        for path in remove_run(run, archive=not keep_archive):
            options.echo(f"Removed: {path}")


anyway = click.option(
    "--anyway", is_flag=True, help="Also a rehearsal's zip, one that is logged already, or a score out of range."
)


@click.group(invoke_without_command=True)
@options.submissions
@options.as_json
@click.pass_context
def submissions(context: click.Context, submissions: Path, as_json: bool) -> None:
    """List what was uploaded, by SHA-256, with local and board scores, and how many more are allowed."""
    context.obj = submissions
    if context.invoked_subcommand is None:
        _say_log(submissions, as_json)


def _say_log(folder: Path, as_json: bool = False) -> None:
    from pbvs.submission import uploads as log
    from pbvs.text import printable

    uploads, challenge = log.read_log(folder), log.challenge_of(folder)
    if as_json:
        left = log.left(uploads, challenge)
        options.echo_json({"uploads": [asdict(upload) for upload in uploads], "left": left._asdict()})
        return
    if uploads:
        head = ("no", "when (UTC)", "archive", "sha256", "run", "local", "board", "status", "note")
        options.echo_table(head, [(str(up.number), up.when, *map(printable, _texts(up))) for up in uploads])
    options.echo(log.say_left(uploads, challenge))


def _texts(up: Upload) -> tuple[str, ...]:
    return up.archive, up.sha256[:12], up.run or "-", up.local or "-", up.board or "-", up.status, up.note


@submissions.command("log")
@click.argument("archive", type=options.FILE)
@click.option("--note", default="", help="What you want to know of it later.")
@click.option("--board", type=float, help="The combined score on the board, when it is known already.")
@anyway
@click.pass_obj
def log_upload(folder: Path, archive: Path, note: str, board: float | None, anyway: bool) -> None:
    """Write down that ARCHIVE was uploaded now."""
    from pbvs.submission import uploads as log
    from pbvs.text import printable

    upload = log.add(archive, folder, note=note, board=board, anyway=anyway)
    said = f"{printable(upload.archive)} {upload.sha256[:12]}, local score {upload.local or 'not known'}"
    options.echo(f"Upload {upload.number}: {said}")
    _say_log(folder)


@submissions.command("board")
@click.argument("number", type=int)
@click.argument("score", type=float)
@anyway
@click.pass_obj
def board(folder: Path, number: int, score: float, anyway: bool) -> None:
    """Write the board's combined SCORE beside upload NUMBER."""
    from pbvs.submission import uploads as log

    log.amend(number, folder, {"board": score}, anyway=anyway)
    _say_log(folder)


@submissions.command("failed")
@click.argument("number", type=int)
@click.option("--note", help="Why, in place of the note.")
@click.pass_obj
def failed(folder: Path, number: int, note: str | None) -> None:
    """Mark upload NUMBER as failed: the platform does not count it."""
    from pbvs.submission import uploads as log

    log.amend(number, folder, {"status": "failed"} | ({} if note is None else {"note": note}))
    _say_log(folder)


@click.command()
@click.argument("run", type=options.RUN)
@options.folders
@options.weights
@options.jobs
@click.option("--check-only", is_flag=True, help="Compare data, weights and versions, and run nothing.")
@click.option("--keep", is_flag=True, help="Keep the second run even when it is equal.")
@click.pass_context
def reproduce(
    context: click.Context,
    run: str,
    folders: options.Folders,
    weights: Path | None,
    jobs: int,
    check_only: bool,
    keep: bool,
) -> None:
    """Compare data, weights and versions with RUN's provenance, make it again and compare the predictions.

    Exit status 1 when something that can change the result differs (--check-only), or predictions do.
    """
    from pbvs.experiments import runs as making
    from pbvs.run import Run

    first, root, manifests = Run(run, folders.submissions), folders.data, folders.manifests
    found = making.compare_circumstances(first, manifests, root, weights)
    for difference in found:
        options.echo(str(difference))
    if not found:
        options.echo("Data, manifests, weights, code and versions are as they were.")
    if check_only:
        context.exit(1 if any(difference.decisive for difference in found) else 0)
    unequal = making.reproduce(first, manifests=manifests, root=root, weights=weights, jobs=jobs)
    second = making.again(first)
    for line in unequal:
        options.echo(str(line))
    if unequal:
        options.echo(f"Not equal; the second run is kept: {second.folder}")
        context.exit(1)
    options.echo("Equal: every prediction is the same in every pixel.")
    if not keep:
        making.remove(second)


@click.command()
@click.argument("run", type=options.RUN)
@options.submissions
@click.option("--out", type=options.FILE, help="What to write [submissions/RUN/RUN.pbvs.zip].")
def export(run: str, submissions: Path, out: Path | None) -> None:
    """Put RUN's models and recipe into one file, for another team to install and predict with."""
    from pbvs.experiments.bundle import export as export_run
    from pbvs.run import Run

    path = export_run(Run(run, submissions), out)
    options.echo(f"Bundle: {path} ({path.stat().st_size / MEGABYTE:.1f} MB)")


@click.command()
@click.argument("file", type=options.FILE)
@options.submissions
@click.option("--run", help="Name of the run; without it the one it was exported with.")
def install(file: Path, submissions: Path, run: str | None) -> None:
    """Install a bundle's models and recipe as a run; opening it runs none of its contents."""
    from pbvs.experiments.bundle import install as install_run

    made = install_run(file, submissions, run)
    options.echo(f"Installed: {made.folder}")
    options.echo(f"Next: pbvs predict --all --run {made.name}")
