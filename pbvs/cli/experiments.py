"""`pbvs ablate` and `pbvs calibrate`: what parts of a recipe are worth, and the numbers of its grayscale stages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pbvs.cli import options
from pbvs.text import terminal_width

if TYPE_CHECKING:
    from pbvs.experiments.ablation import AblationPlan, Made
    from pbvs.experiments.calibrate import Calibration


@click.command()
@click.option("--rows", default="paper", show_default=True, help="paper, best, or a .toml file with rows of your own.")
@options.recipe
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
    recipe: str,
    prefix: str | None,
    only: tuple[str, ...],
    share: tuple[str, ...],
    data: Path | None,
    manifests: Path,
    submissions: Path,
    changes: tuple[str, ...],
    dry_run: bool,
    **choices: Any,
) -> None:
    """Measure what each part of a recipe is worth: a run for each row of a table, trained and scored alike.

    Started again, it goes on with the rows that are not done. The table is printed and written as CSV, JSON and a page
    with images. "/" stands where a row has nothing to say of a task.
    """
    from pbvs.experiments.ablation import ablate as make_rows
    from pbvs.experiments.ablation import load_plan, row_recipe
    from pbvs.recipe import load_recipe, with_changes

    plan, base = load_plan(rows), with_changes(load_recipe(recipe), changes)
    _check_names(only, [row.name for row in plan.rows])
    _check_runs(share, submissions)
    if dry_run:
        for row in plan.rows:
            stages = row_recipe(row, base).model_dump()["stages"]
            options.echo(f"{row.name}: " + ", ".join(f"{task} {stage['method']}" for task, stage in stages.items()))
        return
    prefix = prefix or f"{Path(rows).stem}-{base.name}"
    made = make_rows(
        plan,
        base,
        prefix=prefix,
        root=data,
        manifests=manifests,
        only=only,
        submissions=submissions,
        share=share,
        **choices,
    )
    _write(plan, base.name, made, submissions / f"ablation-{prefix}", data, manifests)


def _check_names(only: tuple[str, ...], names: list[str]) -> None:
    from pbvs.errors import UsageError

    if unknown := [name for name in only if name not in names]:
        raise UsageError(f"There is no row {unknown[0]!r}; the rows are {', '.join(names)}.")


def _check_runs(names: tuple[str, ...], submissions: Path) -> None:
    from pbvs.errors import UsageError
    from pbvs.run import Run

    if unknown := [name for name in names if not Run(name, submissions).exists()]:
        raise UsageError(f"There is no run {unknown[0]!r} in {submissions} to share models with.")


def _write(plan: AblationPlan, recipe: str, made: list[Made], stem: Path, data: Path | None, manifests: Path) -> None:
    from pbvs.data.build import find_root
    from pbvs.experiments import ablation as tables
    from pbvs.files import sweep, write_json, write_text
    from pbvs.report import write_report
    from pbvs.report.pages import render_ablation
    from pbvs.text import for_people, write_table

    root = find_root(data, manifests)
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
    data: Path | None,
    manifests: Path,
    submissions: Path,
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
    from pbvs.run import Run, choose_run

    begin = load_recipe(recipe) if recipe else None
    place = Run(run or begin.name, submissions) if begin else choose_run(run, submissions)
    found = run_calibrate(
        place,
        tasks or None,
        begin=begin,
        root=data,
        manifests=manifests,
        protocol=protocol,
        lpips_net=lpips_net,
        write=not dry_run,
        **choices,
    )
    label = "random net, NOT LPIPS" if lpips_net == "random" else protocol or place.challenge().protocol
    options.echo(f"Run {place.name}; score by {label}, lower is better")
    for result in found:
        options.echo("\n".join(_lines(result)))
    if dry_run:
        options.echo("Nothing was written (--dry-run).")
        return
    options.echo(f"Written: {place.recipe_file}")
    named = " ".join(f"--task {result.task}" for result in found)
    options.echo(f"Next: pbvs predict --run {place.name} {named}   (then score and package it again)")


def _lines(result: Calibration) -> list[str]:
    names = ("before", "closed", "after")
    lines = [f"{result.task}: {result.images} training pairs, {result.held_out_images} held out"]
    lines.append(f"  {'':<22}{'factor':>8}{'training':>10}{'held out':>10}")
    for name, title in zip(names, ("recipe", "closed form (L2)", "kept"), strict=True):
        held = result.held_out.get(name)
        text = "-" if held is None else f"{held:.4f}"
        lines.append(f"  {title:<22}{getattr(result, name).intensity:>8.4g}{result.train[name]:>10.4f}{text:>10}")
    tone = result.after
    if tone.channel_weights or tone.offset or tone.gamma != 1.0:
        weights = ", ".join(f"{weight:g}" for weight in tone.channel_weights) or "equal"
        lines.append(f"  kept with channel weights {weights}; offset {tone.offset:g}; gamma {tone.gamma:g}")
    return lines
