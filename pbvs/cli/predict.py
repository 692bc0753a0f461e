"""`pbvs predict`: make a run's models and predictions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pbvs.challenge import SPLITS
from pbvs.cli import options
from pbvs.errors import UsageError

if TYPE_CHECKING:
    from pbvs.recipe import Recipe


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
@options.data
@options.manifests
@options.submissions
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
        raise UsageError("Say which tasks: --all, or --task NAME (repeatable).")
    from pbvs import pipeline

    made = pipeline.predict(
        _changed(recipe, run, submissions, changes) if changes else recipe,
        run=run,
        tasks=tasks or None,
        splits=splits or ("test", "val"),
        root=data,
        submissions=submissions,
        dry_run=dry_run,
        **choices,
    )
    if dry_run:
        options.echo("Nothing stands in the way.")
        return
    options.echo(f"Predictions: {made.folder / 'predictions'}")
    options.echo(f"Next: pbvs score --split val --run {made.name}")


def _changed(recipe: str | None, run: str | None, submissions: Path, changes: tuple[str, ...]) -> Recipe:
    """Return the recipe that would be taken, with what --set changes."""
    from pbvs.pipeline import default_recipe
    from pbvs.recipe import load_recipe, with_changes
    from pbvs.run import Run

    own = recipe is None and run is not None and Run(run, submissions).exists()
    chosen = Run(str(run), submissions).recipe() if own else load_recipe(recipe or default_recipe())
    return with_changes(chosen, changes)
