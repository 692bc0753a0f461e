"""`pbvs predict`: a run's models and predictions; `pbvs translate`: images of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pbvs.challenge import SPLITS
from pbvs.cli import options
from pbvs.errors import PbvsError, UsageError

if TYPE_CHECKING:
    from pbvs.preflight import Plan
    from pbvs.recipe import Recipe
    from pbvs.translators.scenes import Form, Model


@click.command()
@click.option("--all", "every", is_flag=True, help="All tasks of the recipe.")
@options.task
@click.option("--split", "splits", type=click.Choice(SPLITS), multiple=True, help="Only this split; else test and val.")
@click.option(
    "--recipe",
    type=options.RECIPE,
    help="A built-in recipe's name or a .toml file; else the run's own, or the default.",
)
@options.challenge
@click.option("--run", type=options.RUN, help="Name of the run; without it the recipe's name.")
@options.folders
@options.weights
@options.device
@options.jobs
@click.option("--retrain", is_flag=True, help="Train and predict again what is already there.")
@options.changes
@click.option("--change-recipe", is_flag=True, help="Take a recipe that is not the one the run was begun with.")
@click.option("--dry-run", is_flag=True, help="Check everything, say what would be done, and do nothing.")
@options.lpips_net
@click.option("--deterministic", is_flag=True, help="The same bits again when trained again, also on a GPU; slower.")
def predict(
    every: bool,
    tasks: tuple[str, ...],
    splits: tuple[str, ...],
    recipe: str | None,
    run: str | None,
    data: Path | None,
    submissions: Path,
    changes: tuple[str, ...],
    dry_run: bool,
    **choices: Any,
) -> None:
    """Train or load each task's model, stage by stage, and write the predictions.

    A stage whose model is there loads it; a prediction that is there is kept. Started again after an interruption,
    the command goes on where it stopped. Several GPUs: torchrun --nproc-per-node N -m -- pbvs predict --all
    """
    if every == bool(tasks):
        raise UsageError("Say which tasks: `pbvs predict --all`, or --task NAME (repeatable).")
    from pbvs import pipeline

    recipe_or_name = _changed(recipe, run, submissions, changes) if changes else recipe
    choices |= {"run": run, "tasks": tasks or None, "splits": splits or ("test", "val")}
    choices |= {"root": data, "submissions": submissions}
    if dry_run:
        _say_plan(pipeline.plan(recipe_or_name, **choices))
        return
    made = pipeline.predict(recipe_or_name, **choices)
    options.echo(f"Predictions: {made.folder / 'predictions'}")
    options.echo(f"Next: pbvs score --split val --run {made.name}")


def _say_plan(plan: Plan) -> None:
    """Print a plan; raise PbvsError for what stands in the way."""
    from pbvs.preflight import CLEAR

    options.echo("\n".join(plan.lines()))
    if plan.problem:
        raise PbvsError(plan.problem)
    options.echo(CLEAR)


def _changed(recipe: str | None, run: str | None, submissions: Path, changes: tuple[str, ...]) -> Recipe:
    """Return the recipe that would be taken, with what --set changes."""
    from pbvs.pipeline import default_recipe
    from pbvs.recipe import load_recipe, with_changes
    from pbvs.run import Run

    own = recipe is None and run is not None and Run(run, submissions).exists()
    chosen = Run(str(run), submissions).recipe() if own else load_recipe(recipe or default_recipe())
    return with_changes(chosen, changes)


# --- `pbvs translate`: one's own images through a trained model.


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
