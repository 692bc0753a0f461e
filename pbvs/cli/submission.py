"""`pbvs package` and `pbvs check`: a run's zip, and anybody's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pbvs.challenge import SPLITS
from pbvs.cli import options
from pbvs.text import terminal_width

if TYPE_CHECKING:
    from pbvs.submission.package import PackagePlan

EVALUATION = click.Choice(["challenge", "native"])
MEGABYTE = 1e6


@click.command()
@options.run
@options.folders
@click.option("--tasks", help="Only these tasks, separated by commas; the others count as not attempted.")
@click.option("--from", "sources", multiple=True, metavar="RUN:TASK", help="Take a task from another run (repeatable).")
@click.option(
    "--format",
    "form",
    type=click.Choice(["png", "tiff", "npy"]),
    show_default="the challenge's",
    help="Another format that the challenge takes.",
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
@click.option(
    "--allow-stale", is_flag=True, help="Take predictions of an earlier model, recipe or manifest as they are."
)
@click.option("--dry-run", is_flag=True, help="Say what would be written, and write nothing.")
def package(
    run: str | None,
    folders: options.Folders,
    tasks: str | None,
    sources: tuple[str, ...],
    modes: tuple[str, ...],
    split: str,
    allow_stale: bool,
    dry_run: bool,
    **choices: Any,
) -> None:
    """Zip a run's predictions as the challenge asks, and check what was written.

    The same content gives the same bytes. An archive that would be rejected is not kept, and the earlier one stays.
    """
    from pbvs.submission import package as archive
    from pbvs.submission.uploads import doubts_of_archive
    from pbvs.submission.zips import as_text, verdict

    chosen, manifests = folders.run(run), folders.manifests
    challenge = chosen.challenge()
    inputs = archive.inputs_of(manifests, folders.data, split, challenge)
    planned = archive.make_plan(
        chosen,
        inputs,
        split=split,
        tasks=[task.strip() for task in tasks.split(",")] if tasks else (),
        others=archive.parse_sources(sources, folders.submissions, challenge),
        modes=archive.parse_modes(modes, challenge),
        manifests=None if allow_stale else manifests,
        **choices,
    )
    _say_plan(planned, dry_run)
    if dry_run:
        options.echo(f"Dry run: {archive.package_path(planned)} was not written.")
        return
    path, findings = archive.write_package(planned, inputs)
    if findings:
        options.echo(as_text(findings, terminal_width()))
    options.echo(verdict(findings))
    options.echo(f"Archive: {path} ({_megabytes(path.stat().st_size)})")
    options.echo_stale(doubts_of_archive(path, manifests))
    if split == "test":
        options.echo(f"Upload it.\nNext: pbvs submissions log {path}")
    else:
        options.echo(f"Next: pbvs score {path} --split {split}")


def _say_plan(planned: PackagePlan, with_readme: bool) -> None:
    from pbvs.submission.readme import write_readme

    rows = []
    for part in planned.parts:
        modes = ("L", "RGB") if planned.challenge.tasks[part.task].target_channels == 1 else ()
        others = [f"{_megabytes(part.estimate(mode))} as {mode}" for mode in modes if mode != part.mode]
        asked = f"{_megabytes(part.estimate(part.mode))} as {part.mode or 'they are'}"
        rows.append((part.task, f"{len(part.paths)} images from {part.run.name}", asked, ", ".join(others) or "-"))
    options.echo_table(("task", "what", "size", "about"), rows)
    if with_readme:
        click.echo(write_readme(planned.readme, planned.challenge.submission.readme), nl=False)


def _megabytes(size: float) -> str:
    return f"{size / MEGABYTE:.1f} MB"


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
    help="The challenge's sizes, or each input's own; else as the run beside it wrote it, or challenge.",
)
@click.option(
    "--split", type=click.Choice(SPLITS[1:]), default="test", show_default=True, help="Which inputs it is for."
)
@options.manifests
@options.challenge
@options.as_json
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings too.")
@click.pass_context
def check(
    context: click.Context,
    archive: Path,
    data: Path | None,
    evaluation_size: str | None,
    split: str,
    manifests: Path,
    challenge: str | None,
    as_json: bool,
    strict: bool,
) -> None:
    """Say whether ARCHIVE would be rejected, and what would score badly; anybody's zip will do.

    Beside the run that wrote it, it is also said when the run's predictions were made again since, or are stale.

    Exit status 1 when it would be rejected, else 0.
    """
    from pbvs.challenge import load_challenge
    from pbvs.submission import check as checking
    from pbvs.submission import zips as found
    from pbvs.submission.inputs import from_data
    from pbvs.submission.package import inputs_of
    from pbvs.submission.uploads import doubts_of_archive, home_of

    home = home_of(archive)
    rules = home.run.challenge() if home and not challenge else load_challenge(*filter(None, [challenge]))
    inputs = None
    if data is not None:  # which inputs are held out the manifests say
        inputs = from_data(data, split, rules) if split == "test" else inputs_of(manifests, data, split, rules)
    native = (evaluation_size or (home.metadata.get("evaluation_size") if home else "")) == "native"
    findings = checking.check(
        archive, inputs=inputs, evaluation_size="native" if native else "challenge", challenge=rules
    )
    failed = found.rejected(findings, strict)
    stale = doubts_of_archive(archive, manifests)
    if as_json:
        value = {
            "archive": str(archive),
            "rejected": found.rejected(findings),
            "findings": [vars(finding) for finding in findings],
        }
        options.echo_json({**value, "stale": [str(item) for items in stale.values() for item in items]})
    else:
        if findings:
            options.echo(found.as_text(findings, terminal_width()))
        options.echo(found.verdict(findings))
    options.echo_stale(stale)
    context.exit(1 if failed else 0)
