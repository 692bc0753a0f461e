"""`pbvs translate`: one's own images through a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pbvs.cli import options
from pbvs.errors import PbvsError

if TYPE_CHECKING:
    from pbvs.translators.scenes import Form, Model


@click.command()
@click.argument("run", type=options.RUN)
@click.argument("task")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--out", type=options.FOLDER, required=True, help="Folder for the translations.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["same", "tiff", "png"]),
    default="same",
    show_default=True,
    help="same: TIFF becomes TIFF with its georeference, everything else PNG.",
)
@click.option(
    "--rule", help="How numbers become [0, 1]: full:4095, window:-25:0, auto (by these files) [as in training]"
)
@click.option("--again", is_flag=True, help="Translate again what is there already.")
@options.submissions
@options.device
def translate(
    run: str,
    task: str,
    inputs: tuple[str, ...],
    out: Path,
    form: Form,
    rule: str | None,
    again: bool,
    submissions: Path,
    device: str,
) -> None:
    """Translate your own images with RUN's model of TASK.

    INPUT is a file, a folder or a glob ("scenes/*.tif"). Large scenes are translated in overlapping tiles, with
    memory that grows with their width alone. What is there already is kept, so a stopped command goes on.
    """
    from pbvs import load_model
    from pbvs.translators.scenes import find_inputs, plan_targets

    planned = plan_targets(find_inputs(inputs), out, form)
    model = load_model(run, task, submissions=submissions, device=device, rule=rule)
    waiting = [(source, target) for source, target in planned if again or not target.is_file()]
    failures = _translate_all(model, [source for source, _ in planned], waiting)
    kept = len(planned) - len(waiting)
    already = f" ({kept} were there already; --again translates them again)" if kept else ""
    options.echo(f"{len(waiting) - len(failures)} of {len(planned)} images translated into {out}{already}.")
    if said := model.said_rules():
        options.echo(f"Intensity: {'; '.join(said)}. Another: --rule.")
    if failures:
        raise PbvsError(f"{len(failures)} images could not be translated: {' '.join(failures[:3])}")


def _translate_all(model: Model, seen: list[Path], waiting: list[tuple[Path, Path]]) -> list[str]:
    """Translate the files one by one; return a sentence for each that could not be."""
    from pbvs.logs import track

    if not waiting:
        return []
    if not model.rules:
        model.look_at(seen)
    done = (_translate(model, source, target) for source, target in track(waiting, "translating", unit="image"))
    return [failure for failure in done if failure]


def _translate(model: Model, source: Path, target: Path) -> str:
    """Translate a file; return what is wrong with it, or nothing. A full disk is no image's fault and is raised."""
    from pbvs.errors import WriteError

    try:
        model.translate_file(source, target)
    except WriteError:
        raise
    except PbvsError as error:
        return str(error)
    return ""
