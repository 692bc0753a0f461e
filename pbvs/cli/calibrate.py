"""`pbvs calibrate`: the numbers of the grayscale stages, found on training pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pbvs.cli import options

if TYPE_CHECKING:
    from pbvs.experiments.calibrate import Calibration


@click.command()
@options.run
@click.option("--recipe", type=options.RECIPE, help="Begin the run with this recipe when it is not there yet.")
@options.task
@options.data
@options.manifests
@options.submissions
@options.protocol
@options.weights
@options.lpips_net
@options.device
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
