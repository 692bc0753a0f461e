"""Commands about data: make synthetic data, build pairs, check what is there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pbvs.challenge import SPLITS
from pbvs.cli import options
from pbvs.text import aligned, bars, listed, terminal_width

if TYPE_CHECKING:
    from pbvs.data.inspection import Inspection


root = click.argument("root", type=options.FOLDER, required=False)


@click.command("demo-data")
@click.argument("folder", type=options.FOLDER)
@click.option("--seed", type=click.IntRange(min=0), default=2024, show_default=True)
def demo_data(folder: Path, seed: int) -> None:
    """Write a small SYNTHETIC data set in the archives' layout into FOLDER."""
    from pbvs.data.synthetic import write_demo

    count = write_demo(folder, seed=seed)
    options.echo(f"{folder}: {count} synthetic images in the archives' layout.")
    options.echo(f"Next: pbvs build-pairs --data {folder}")


@click.command("build-pairs")
@root
@options.data
@options.manifests
@options.challenge
@click.option(
    "--sampling",
    type=click.Choice(["random", "nearest-date", "all"]),
    default="random",
    show_default=True,
    help="How a location's SAR, RGB and IR images are drawn into pairs.",
)
@click.option(
    "--pairs-per-location",
    type=click.IntRange(min=0),
    default=16,
    show_default=True,
    help="Most pairs of a location and task in an epoch and in validation; 0 is no limit.",
)
@click.option(
    "--draw",
    type=click.Choice(["each-epoch", "once"]),
    default="each-epoch",
    show_default=True,
    help="Whether random training pairs are drawn again in each epoch, from all that there are, or once.",
)
@click.option("--any-base", is_flag=True, help="Pair RGB and IR of a location whatever their base, at random.")
@click.option("--seed", type=click.IntRange(min=0), default=2024, show_default=True)
@click.option(
    "--recipe", type=options.RECIPE, help="Take the radiometry of this recipe (a built-in name or a .toml file)."
)
@click.option(
    "--min-overlap",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Share of the target that the source must cover.",
)
@click.option(
    "--validation-share",
    "share",
    type=click.FloatRange(0, 0.9),
    show_default="as the challenge says",
    help="Share of each archive's locations held out for validation.",
)
@click.option(
    "--crops-per-scene",
    type=click.IntRange(min=1),
    show_default="as the challenge says",
    help="How many consecutive ids of images without a location are one scene.",
)
@click.option(
    "--correct-shift",
    is_flag=True,
    help="Estimate the shift left between SAR and targets from many pairs; correct it where they agree.",
)
@options.jobs
@options.backend
@click.option("--no-mosaics", is_flag=True, help="Do not prefer a location's mosaics as targets of its SAR.")
def build_pairs(
    root: Path | None, data: Path | None, manifests: Path, challenge: str | None, recipe: str | None, **choices: Any
) -> None:
    """Pair the images below ROOT (or --data, or PBVS_DATA) into manifests, and say what could not be used."""
    from dataclasses import fields

    from pbvs.data.build import build_pairs as build
    from pbvs.data.build import find_challenge, find_root
    from pbvs.data.pairing import Rules
    from pbvs.recipe import load_recipe

    where, known = find_root(root or data, manifests), find_challenge(challenge, manifests)
    radiometry = load_recipe(recipe).radiometry if recipe else None
    named = {field.name: choices.pop(field.name) for field in fields(Rules) if field.name in choices}
    rules = Rules(mosaics=not choices.pop("no_mosaics"), **named)
    summary = build(where, manifests, rules=rules, radiometry=radiometry, challenge=known, **choices)
    options.echo(f"{summary.images} images; {summary.unused} not used (see {manifests / 'unused.csv'}).")
    rows = [[task, *(str(counts[split]) for split in SPLITS)] for task, counts in summary.pairs.items()]
    options.echo("\n".join(aligned([["task", *SPLITS], *rows], terminal_width())))
    for warning in summary.warnings:
        options.echo(f"Note: {warning}")


@click.command("check-data")
@root
@options.data
@options.manifests
@options.challenge
@click.option("--output", type=options.FILE, help="The page to write; without it check-data.html beside the manifests.")
@click.option(
    "--no-shift", is_flag=True, help="Show the misregistration that was measured before, if any: it takes the longest."
)
@options.jobs
@options.backend
def check_data(
    root: Path | None,
    data: Path | None,
    manifests: Path,
    challenge: str | None,
    output: Path | None,
    no_shift: bool,
    **choices: Any,
) -> None:
    """Show what is below ROOT (or --data, or PBVS_DATA), what is missing and what is wrong: tables and a page."""
    from pbvs.data.build import find_challenge, find_root
    from pbvs.data.inspection import inspect_data
    from pbvs.errors import ReadError
    from pbvs.files import sweep, write_text
    from pbvs.report.pages import render_data

    root, known = find_root(root or data, manifests), find_challenge(challenge, manifests)
    found = inspect_data(root, manifests, challenge=known, shifts=not no_shift, **choices)
    page = output or manifests / "check-data.html"
    for folder in (manifests, page.absolute().parent):
        sweep(folder, deep=False)
    write_text(page, render_data(found))
    for line in _lines(found):
        options.echo(line)
    options.echo(f"The page with maps, histograms and images is {page}")
    if unread := found.catalog.unread:
        raise ReadError(f"{unread[0]} could not be read ({len(unread)} in all); check the disk and run again.")


def _lines(found: Inspection) -> Iterator[str]:
    from pbvs.data.inspection import group_reasons

    challenge = found.catalog.challenge
    rows = [["archive", "locations", *map(challenge.title_of, challenge.modalities), "mosaics"]]
    for archive in found.archives:
        numbers = (archive.locations, *archive.images.values(), archive.mosaics)
        rows.append([archive.name, *(str(number or "-") for number in numbers)])
    yield "\n".join(aligned(rows, terminal_width()))
    pairs = [[task, *map(str, counts.values())] for task, counts in found.counts().items()]
    yield "\n".join(aligned([["pairs", *SPLITS], *pairs], terminal_width()))
    yield from _types(found)
    yield from (f"Missing: {line}" for line in found.missing)
    yield from (f"Ground: {line}" for line in found.ground)
    for name, shift in found.shifts.items():
        yield (
            f"Shift: {name}: {shift.down:+.2f} down, {shift.across:+.2f} across from {shift.pairs} pairs, "
            f"sharpness {shift.sharpness:.1f}{', would be corrected' if shift.trusted else ''}"
        )
    yield from (f"Warning: {line}" for line in found.warnings)
    yield f"Not used: {len(found.wrong)} files; {found.catalog.junk} hidden files were skipped."
    for group in group_reasons(found.wrong):
        yield f"  {group['count']} x {group['kind']}"
        yield from (f"      {path}" + (f": {why}" if why != group["kind"] else "") for path, why in group["rows"][:3])


def _types(found: Inspection) -> Iterator[str]:
    """Yield what the images of each archive, modality and type are, by a few of them, then how they are read."""
    numbers = [["type", "images", "from", "to", "clipped", "empty", "brightness"]]
    texts = []
    for kind in found.groups:
        seen = kind.figures
        name = f"{kind.archive} {found.catalog.challenge.title_of(kind.modality)} {kind.kind}"
        low, high = (f"{seen.low:g}", f"{seen.high:g}") if seen.low <= seen.high else ("-", "-")
        shares = (f"{seen.clipped:.1%}", f"{seen.empty:.1%}") if seen.images else ("-", "-")
        shown = bars(seen.counts.reshape(16, -1).sum(axis=1).tolist(), sys.stdout.encoding)
        numbers.append([name, str(kind.images), low, high, *shares, shown])
        texts.append([name, kind.rule, kind.systems, kind.placed])
    if texts:
        yield "\n".join(aligned(numbers, terminal_width(), least=30))
        yield "\n".join(listed(["type", "rule", "CRS", "georeference"], texts, terminal_width()))
