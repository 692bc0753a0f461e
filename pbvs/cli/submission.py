"""`pbvs package`, `check`, `runs` and what else has to do with submissions."""

from __future__ import annotations

from pathlib import Path

import click

from pbvs.cli import options
from pbvs.tasks import SPLITS, TASKS

EVALUATION = click.Choice(["challenge", "native"])
MEGABYTE = 1e6


@click.command()
@click.option("--run", help="Name of the run; without it the one worked on last.")
@options.data
@options.manifests
@options.submissions
@click.option("--tasks", help="Only these tasks, separated by commas; the others count as not attempted.")
@click.option("--from", "sources", multiple=True, metavar="RUN:TASK", help="Take a task from another run (repeatable).")
@click.option(
    "--format",
    "form",
    type=click.Choice(["png", "tiff"]),
    default="png",
    show_default=True,
    help="tiff is for the three 1024-pixel tasks; sar2eo stays PNG.",
)
@click.option(
    "--mode",
    "modes",
    multiple=True,
    metavar="TASK=L|RGB",
    help="Write a task in one band or three; all=L, all=RGB for all (repeatable).",
)
@click.option(
    "--extra-data/--no-extra-data", default=None, help="What the readme says; without it, what the recipes say."
)
@click.option("--describe", "description", help="The readme's description; without it, the recipe in one line.")
@click.option(
    "--split", type=click.Choice(SPLITS[1:]), default="test", show_default=True, help="val is for rehearsals."
)
@click.option("--dry-run", is_flag=True, help="Say what would be written, and write nothing.")
def package(
    run: str | None,
    data: Path | None,
    manifests: Path,
    submissions: Path,
    tasks: str | None,
    sources: tuple[str, ...],
    form: str,
    modes: tuple[str, ...],
    extra_data: bool | None,
    description: str | None,
    split: str,
    dry_run: bool,
) -> None:
    """Zip a run's predictions as the challenge asks, and check what was written.

    The same content gives the same bytes. An archive that would be rejected is not kept, and the earlier one stays.
    """
    from pbvs.runs import choose_run
    from pbvs.submission import archive, plan
    from pbvs.submission.findings import as_text, verdict

    inputs = archive.inputs_of(manifests, data, split)
    planned = plan.make_plan(
        choose_run(run, submissions),
        inputs,
        split=split,
        tasks=[task.strip() for task in tasks.split(",")] if tasks else (),
        others=plan.parse_sources(sources, submissions),
        modes=plan.parse_modes(modes),
        form="tiff" if form == "tiff" else "png",
        extra_data=extra_data,
        description=description,
    )
    _say_plan(planned, dry_run)
    if dry_run:
        click.echo(f"Dry run: {archive.package_path(planned)} was not written.")
        return
    path, findings = archive.write_package(planned, inputs)
    if findings:
        click.echo(as_text(findings))
    click.echo(verdict(findings))
    click.echo(f"Archive: {path} ({path.stat().st_size / MEGABYTE:.1f} MB)")


def _say_plan(planned: object, estimate: bool) -> None:
    from pbvs.submission.plan import Plan
    from pbvs.submission.readme import write_readme

    assert isinstance(planned, Plan)
    for part in planned.parts:
        asked = f"{part.estimate(part.mode) / MEGABYTE:.1f} MB as {part.mode or 'they are'}"
        other = ""
        if TASKS[part.task].target_channels == 1:
            sizes = (f"{part.estimate(mode) / MEGABYTE:.1f} MB as {mode}" for mode in ("L", "RGB") if mode != part.mode)
            other = f" (about {', '.join(sizes)})"
        click.echo(f"{part.task:8}{len(part.paths):6} pictures from {part.run.name}, {asked}{other}")
    if estimate:
        click.echo(write_readme(planned.readme), nl=False)


@click.command()
@click.argument("archive", type=options.FILE)
@click.option(
    "--data",
    type=options.FOLDER,
    help="Folder of the unpacked archives: names, counts and native sizes are checked against it.",
)
@click.option(
    "--evaluation-size",
    type=EVALUATION,
    default="challenge",
    show_default=True,
    help="256 and 1024 pixels, or each input's own size.",
)
@click.option(
    "--split", type=click.Choice(SPLITS[1:]), default="test", show_default=True, help="Which inputs it is for."
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings too.")
@click.pass_context
def check(
    context: click.Context,
    archive: Path,
    data: Path | None,
    evaluation_size: str,
    split: str,
    as_json: bool,
    strict: bool,
) -> None:
    """Say whether ARCHIVE would be rejected, and what would score badly; anybody's zip will do.

    Exit status 1 when it would be rejected, else 0.
    """
    from pbvs.submission import check as checking
    from pbvs.submission import findings as found
    from pbvs.submission.inputs import from_data

    inputs = None if data is None else from_data(data, split)
    findings = checking.check(
        archive, inputs=inputs, evaluation_size="native" if evaluation_size == "native" else "challenge"
    )
    failed = found.rejected(findings, strict)
    if as_json:
        import json

        value = {"archive": str(archive), "rejected": found.rejected(findings), "findings": found.as_json(findings)}
        click.echo(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        if findings:
            click.echo(found.as_text(findings))
        click.echo(found.verdict(findings))
    context.exit(1 if failed else 0)


@click.group(invoke_without_command=True)
@options.submissions
@click.pass_context
def runs(context: click.Context, submissions: Path) -> None:
    """List the runs: recipes and how they differ, scores, sizes, dates, which were packaged and uploaded."""
    context.obj = submissions
    if context.invoked_subcommand is not None:
        return
    from pbvs.runs import all_runs
    from pbvs.submission.overview import differences, overview

    rows = overview(submissions)
    if not rows:
        click.echo(f"There is no run in {submissions} yet; make one with `pbvs predict --all`.")
        return
    _table(
        ("run", "recipe", "begun", "models", "test pictures", "score", "MB", "packaged", "uploads"),
        [
            (
                row.run,
                row.recipe,
                row.begun,
                str(row.models),
                str(row.predictions),
                row.score or "-",
                f"{row.megabytes:.1f}",
                row.packaged or "-",
                ", ".join(map(str, row.uploads)) or "-",
            )
            for row in rows
        ],
    )
    found = differences(all_runs(submissions))
    if found:
        click.echo("\nWhere the recipes differ:")
        names = [row.run for row in rows]
        cells = [
            (key, *("-" if values[name] is None else str(values[name]) for name in names))
            for key, values in found.items()
        ]
        _table(("", *names), cells)


@runs.command("rm")
@click.argument("names", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--keep-archive", is_flag=True, help="Leave the zips beside the run.")
@click.pass_obj
def remove(submissions: Path, names: tuple[str, ...], yes: bool, keep_archive: bool) -> None:
    """Remove runs with their models, predictions and zips; what was uploaded stays in the submission log."""
    from pbvs.runs import Run
    from pbvs.submission.overview import remove as remove_run

    found = [Run(name, submissions) for name in names]
    if not yes:
        click.confirm(f"Remove {', '.join(str(run.folder) for run in found)} for good?", abort=True)
    for run in found:
        for path in remove_run(run, archive=not keep_archive):
            click.echo(f"Removed: {path}")


@click.group(invoke_without_command=True)
@options.submissions
@click.pass_context
def submissions(context: click.Context, submissions: Path) -> None:
    """List what was uploaded, by SHA-256, with local and board scores, and how many of the day's ten are left."""
    context.obj = submissions
    if context.invoked_subcommand is None:
        _say_log(submissions)


def _say_log(folder: Path) -> None:
    from pbvs.submission import log

    uploads = log.read_log(folder)
    if uploads:
        _table(
            ("no", "when (UTC)", "archive", "sha256", "run", "local", "board", "status", "note"),
            [
                (
                    str(upload.number),
                    upload.when,
                    upload.archive,
                    upload.sha256[:12],
                    upload.run or "-",
                    upload.local or "-",
                    upload.board or "-",
                    upload.status,
                    upload.note,
                )
                for upload in uploads
            ],
        )
    today, in_all = log.left(uploads)
    click.echo(f"Left: {today} of {log.A_DAY} today (UTC), {in_all} of {log.IN_ALL} in all.")


@submissions.command("log")
@click.argument("archive", type=options.FILE)
@click.option("--note", default="", help="What you want to know of it later.")
@click.option("--board", type=float, help="The combined score on the board, when it is known already.")
@click.pass_obj
def log_upload(folder: Path, archive: Path, note: str, board: float | None) -> None:
    """Write down that ARCHIVE was uploaded now."""
    from pbvs.submission import log

    upload = log.add(archive, folder, note=note, board=board)
    click.echo(
        f"Upload {upload.number}: {upload.archive} {upload.sha256[:12]}, local score {upload.local or 'not known'}"
    )
    _say_log(folder)


@submissions.command("board")
@click.argument("number", type=int)
@click.argument("score", type=float)
@click.pass_obj
def board(folder: Path, number: int, score: float) -> None:
    """Write the board's combined SCORE beside upload NUMBER."""
    from pbvs.submission import log

    log.amend(number, folder, board=score)
    _say_log(folder)


@submissions.command("failed")
@click.argument("number", type=int)
@click.option("--note", help="Why, in place of the note.")
@click.pass_obj
def failed(folder: Path, number: int, note: str | None) -> None:
    """Mark upload NUMBER as failed: the platform does not count it."""
    from pbvs.submission import log

    log.amend(number, folder, status="failed", **({} if note is None else {"note": note}))
    _say_log(folder)


@click.command()
@click.argument("run")
@options.data
@options.manifests
@options.submissions
@options.weights
@options.jobs
@click.option("--check-only", is_flag=True, help="Compare data, weights and versions, and run nothing.")
@click.option("--keep", is_flag=True, help="Keep the second run even when it is equal.")
@click.pass_context
def reproduce(
    context: click.Context,
    run: str,
    data: Path | None,
    manifests: Path,
    submissions: Path,
    weights: Path | None,
    jobs: int,
    check_only: bool,
    keep: bool,
) -> None:
    """Compare data, weights and versions with RUN's provenance, make it again and compare the predictions.

    Exit status 1 when something that can change the result differs (--check-only), or predictions do.
    """
    from pbvs.runs import Run
    from pbvs.submission import reproduce as making
    from pbvs.submission.overview import remove as remove_run

    first = Run(run, submissions)
    found = making.compare_circumstances(first, manifests, data, weights)
    for difference in found:
        click.echo(str(difference))
    if not found:
        click.echo("Data, manifests, weights, code and versions are as they were.")
    if check_only:
        context.exit(1 if any(difference.decisive for difference in found) else 0)
    unequal = making.reproduce(first, manifests=manifests, root=data, weights=weights, jobs=jobs)
    second = making.again(first)
    for line in unequal:
        click.echo(str(line))
    if unequal:
        click.echo(f"Not equal; the second run is kept: {second.folder}")
        context.exit(1)
    click.echo("Equal: every prediction is the same in every pixel.")
    if not keep:
        remove_run(second)


@click.command()
@click.argument("run")
@options.submissions
@click.option("--out", type=options.FILE, help="What to write [submissions/RUN.pbvs.zip].")
def export(run: str, submissions: Path, out: Path | None) -> None:
    """Put RUN's models and recipe into one file, for another team to install and predict with."""
    from pbvs.runs import Run
    from pbvs.submission.bundle import export as export_run

    path = export_run(Run(run, submissions), out)
    click.echo(f"Bundle: {path} ({path.stat().st_size / MEGABYTE:.1f} MB)")


@click.command()
@click.argument("file", type=options.FILE)
@options.submissions
@click.option("--run", help="Name of the run; without it the one it was exported with.")
def install(file: Path, submissions: Path, run: str | None) -> None:
    """Install a bundle's models and recipe as a run; opening it runs none of its contents."""
    from pbvs.submission.bundle import install as install_run

    made = install_run(file, submissions, run)
    click.echo(f"Installed: {made.folder}")
    click.echo(f"Next: pbvs predict --all --run {made.name}")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
