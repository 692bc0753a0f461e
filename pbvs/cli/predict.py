"""What trains models or uses them: `pbvs predict`, `pbvs translate`, `pbvs ablate` and `pbvs calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pbvs.challenge import SPLITS
from pbvs.cli import options
from pbvs.errors import PbvsError, UsageError, WriteError
from pbvs.text import for_people, terminal_width, write_table

if TYPE_CHECKING:
    from pbvs.experiments.ablation import AblationPlan, Made
    from pbvs.experiments.calibrate import Calibration
    from pbvs.preflight import Plan
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
    folders: options.Folders,
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

    request = pipeline.Request(
        recipe,
        run=run,
        tasks=tasks or None,
        splits=splits or ("test", "val"),
        root=folders.data,
        manifests=folders.manifests,
        submissions=folders.submissions,
        **choices,
    )
    if dry_run:
        _say_plan(pipeline.plan(request))
        return
    made = pipeline.predict(request)
    options.echo(f"Predictions: {made.folder / 'predictions'}")
    options.echo(f"Next: pbvs score --split val --run {made.name}")


def _say_plan(plan: Plan) -> None:
    """Print a plan; raise PbvsError for what stands in the way."""
    from pbvs.preflight import CLEAR

    options.echo("\n".join(plan.lines()))
    if plan.problem:
        raise PbvsError(plan.problem)
    options.echo(CLEAR)


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
    from pbvs.logs import track
    from pbvs.translators.scenes import find_inputs, plan_targets

    planned = plan_targets(find_inputs(inputs), out, form)
    model = load_model(run, task, submissions=submissions, device=device, rule=rule)
    waiting = [(source, target) for source, target in planned if again or not target.is_file()]
    if waiting and not model.rules:
        model.look_at([source for source, _ in planned])
    done = (_translate(model, source, target) for source, target in track(waiting, "translating", unit="image"))
    failures = [failure for failure in done if failure]
    kept = len(planned) - len(waiting)
    already = f" ({kept} were there already; --again translates them again)" if kept else ""
    options.echo(f"{len(waiting) - len(failures)} of {len(planned)} images translated into {out}{already}.")
    if said := model.said_rules():
        options.echo(f"Intensity: {'; '.join(said)}. Another: --rule.")
    if failures:
        raise PbvsError(f"{len(failures)} images could not be translated: {' '.join(failures[:3])}")


def _translate(model: Model, source: Path, target: Path) -> str:
    """Translate a file; return what is wrong with it, or nothing. A full disk is no image's fault and is raised."""
    try:
        model.translate_file(source, target)
    except WriteError:
        raise
    except PbvsError as error:
        return str(error)
    return ""


# --- `pbvs ablate`: what the parts of a recipe are worth.


@click.command()
@click.option("--rows", default="paper", show_default=True, help="paper, best, or a .toml file with rows of your own.")
@click.option(
    "--recipe",
    type=options.RECIPE,
    show_default="the one that the rows are for, or demo",
    help="A built-in recipe's name or a .toml file, which the rows change.",
)
@click.option("--run", "prefix", help="What the runs' names begin with; else rows and recipe.")
@click.option("--only", multiple=True, metavar="ROW", help="Make only this row now (repeatable).")
@click.option("--share", multiple=True, metavar="RUN", help="Copy this run's models where they are the same.")
@options.folders
@options.scoring
@options.jobs
@click.option("--retrain", is_flag=True, help="Make rows again that are done.")
@options.changes
@click.option("--dry-run", is_flag=True, help="Say what the rows are and stop.")
def ablate(
    rows: str,
    recipe: str | None,
    prefix: str | None,
    only: tuple[str, ...],
    share: tuple[str, ...],
    folders: options.Folders,
    changes: tuple[str, ...],
    dry_run: bool,
    **choices: Any,
) -> None:
    """Measure what each part of a recipe is worth: a run for each row of a table, trained and scored alike.

    Started again, it goes on with the rows that are not done. The table is printed and written as CSV, JSON and a page
    with images. "/" stands where a row has nothing to say of a task.
    """
    from pbvs.experiments.ablation import ABLATIONS, row_recipes
    from pbvs.experiments.ablation import ablate as make_rows
    from pbvs.recipe import load_recipe, with_changes
    from pbvs.run import Run

    plan = ABLATIONS.load(rows)
    base = with_changes(load_recipe(recipe or plan.recipe or "demo"), changes)
    names = [row.name for row in plan.rows]
    if unknown := [name for name in only if name not in names]:
        raise UsageError(f"There is no row {unknown[0]!r}; the rows are {', '.join(names)}.")
    if unknown := [name for name in share if not Run(name, folders.submissions).exists()]:
        raise UsageError(f"There is no run {unknown[0]!r} in {folders.submissions} to share models with.")
    if dry_run:
        for row, made in row_recipes(plan, base):
            methods = [f"{task} {stage.method}" for task, stage in made.stages.items()]
            options.echo(f"{row.name}: {', '.join(methods)}")
        return
    prefix = prefix or f"{Path(rows).stem}-{base.name}"
    choices |= {"root": folders.data, "manifests": folders.manifests, "submissions": folders.submissions}
    done = make_rows(plan, base, prefix=prefix, only=only, share=share, **choices)
    _write(plan, base.name, done, folders.submissions / f"ablation-{prefix}", folders)


def _write(plan: AblationPlan, recipe: str, made: list[Made], stem: Path, folders: options.Folders) -> None:
    from pbvs.experiments import ablation as tables
    from pbvs.files import sweep, write_json, write_text
    from pbvs.report.pages import render_ablation
    from pbvs.report.run_page import write_report

    root, manifests = folders.root, folders.manifests
    for row in made:
        write_report(row.run, root=root, manifests=manifests)
    table = tables.tabulate(plan, recipe, made)
    sweep(stem.parent, deep=False)
    write_table(stem.with_name(f"{stem.name}.csv"), for_people(tables.ablation_frame(table)))
    write_json(stem.with_name(f"{stem.name}.json"), tables.ablation_json(table))
    page = stem.with_name(f"{stem.name}.html")
    write_text(page, render_ablation(table, made, root, manifests))
    options.echo(tables.ablation_text(table, terminal_width()))
    options.echo(f"\nPage: {page} (with .csv and .json beside it)")


# --- `pbvs calibrate`: the numbers of the grayscale stages, found on training pairs.


@click.command()
@options.run
@click.option("--recipe", type=options.RECIPE, help="Begin the run with this recipe when it is not there yet.")
@options.task
@options.folders
@options.scoring
@click.option("--pairs", type=click.IntRange(2, 500), default=24, show_default=True, help="Training pairs to look at.")
@click.option(
    "--fit",
    "extras",
    type=click.Choice(["channels", "offset", "gamma"]),
    multiple=True,
    help="Fit this as well (repeatable): a weight for each channel, an offset, a gamma.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be written and leave the recipe as it is.")
def calibrate(
    run: str | None,
    recipe: str | None,
    tasks: tuple[str, ...],
    folders: options.Folders,
    protocol: str | None,
    lpips_net: str | None,
    dry_run: bool,
    **choices: Any,
) -> None:
    """Find the intensity factor of each grayscale or cascade stage and write it into the run's recipe.

    First the closed form for L2, then a search on the protocol's score. The gain is also shown on held-out pairs,
    which had no say. Predictions made with the old factor are made again by the next `pbvs predict`.
    """
    from pbvs.experiments.calibrate import calibrate as run_calibrate
    from pbvs.recipe import load_recipe
    from pbvs.run import Run

    begin = load_recipe(recipe) if recipe else None
    chosen = Run(run or begin.name, folders.submissions) if begin else folders.run(run)
    found = run_calibrate(
        chosen,
        tasks or None,
        begin=begin,
        root=folders.data,
        manifests=folders.manifests,
        protocol=protocol,
        lpips_net=lpips_net,
        write=not dry_run,
        **choices,
    )
    label = "random net, NOT LPIPS" if lpips_net == "random" else protocol or chosen.challenge().protocol
    options.echo(f"Run {chosen.name}; score by {label}, lower is better")
    for result in found:
        options.echo("\n".join(_lines(result)))
    if dry_run:
        options.echo("Nothing was written (--dry-run).")
        return
    options.echo(f"Written: {chosen.recipe_file}")
    named = " ".join(f"--task {result.task}" for result in found)
    options.echo(f"Next: pbvs predict --run {chosen.name} {named}   (then score and package it again)")


def _lines(result: Calibration) -> list[str]:
    rows = [("recipe", result.before, "before"), ("closed form (L2)", result.closed, "closed")]
    lines = [f"{result.task}: {result.images} training pairs, {result.held_out_images} held out"]
    lines.append(f"  {'':<22}{'factor':>8}{'training':>10}{'held out':>10}")
    for title, tone, name in (*rows, ("kept", result.after, "after")):
        held = f"{result.held_out[name]:.4f}" if name in result.held_out else "-"
        lines.append(f"  {title:<22}{tone.intensity:>8.4g}{result.train[name]:>10.4f}{held:>10}")
    tone = result.after
    if tone.channel_weights or tone.offset or tone.gamma != 1.0:
        weights = ", ".join(f"{weight:g}" for weight in tone.channel_weights) or "equal"
        lines.append(f"  kept with channel weights {weights}; offset {tone.offset:g}; gamma {tone.gamma:g}")
    return lines
