"""Commands about data: make synthetic data, build pairs, check what is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pbvs.cli import options


@click.command("demo-data")
@click.argument("folder", type=options.FOLDER)
@click.option("--seed", type=click.IntRange(min=0), default=2024, show_default=True)
def demo_data(folder: Path, seed: int) -> None:
    """Write a small SYNTHETIC data set in the archives' layout into FOLDER."""
    from pbvs.data.demo import write_demo

    count = write_demo(folder, seed=seed)
    click.echo(f"{folder}: {count} synthetic pictures in the archives' layout. Next: pbvs build-pairs --data {folder}")


@click.command("build-pairs")
@options.data
@options.manifests
@click.option(
    "--sampling", type=click.Choice(["random", "nearest-date", "all"]), default="random", show_default=True,
    help="How a location's SAR, RGB and IR pictures are drawn into pairs.",
)  # fmt: skip
@click.option(
    "--pairs-per-location", type=click.IntRange(min=0), default=16, show_default=True,
    help="Most pairs of a location and task; 0 is no limit.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=2024, show_default=True)
@click.option(
    "--min-overlap", type=click.FloatRange(0, 1), default=0.5, show_default=True,
    help="Share of the target that the source must cover.",
)  # fmt: skip
@click.option(
    "--validation-share", type=click.FloatRange(0, 0.9), default=0.15, show_default=True,
    help="Share of each archive's locations held out for validation.",
)  # fmt: skip
@click.option(
    "--crops-per-scene", type=click.IntRange(min=1), default=4, show_default=True,
    help="How many consecutive chip ids are one scene.",
)  # fmt: skip
@click.option(
    "--correct-shift", is_flag=True,
    help="Estimate the shift left between SAR and targets from many pairs; correct it where they agree.",
)  # fmt: skip
@options.jobs
@options.backend
@click.option("--no-mosaics", is_flag=True, help="Do not prefer a location's mosaics as targets of its SAR.")
def build_pairs(data: Path | None, manifests: Path, **choices: Any) -> None:
    """Sample SAR/RGB/IR pairs per location into manifests, and say what could not be used."""
    from pbvs.data.build import build_pairs as build
    from pbvs.data.build import find_root
    from pbvs.data.pairing import Rules

    rules = Rules(
        choices["sampling"], choices["pairs_per_location"], choices["seed"], choices["min_overlap"],
        not choices["no_mosaics"],
    )  # fmt: skip
    summary = build(
        find_root(data, manifests),
        manifests,
        rules=rules,
        crops_per_scene=choices["crops_per_scene"],
        share=choices["validation_share"],
        correct_shift=choices["correct_shift"],
        jobs=choices["jobs"],
        backend=choices["backend"],
    )
    click.echo(f"{summary.pictures} pictures; {summary.unused} not used (see {manifests / 'unused.csv'}).")
    click.echo(f"{'task':<10}{'train':>8}{'val':>8}{'test':>8}")
    for task, counts in summary.pairs.items():
        click.echo(f"{task:<10}{counts['train']:>8}{counts['val']:>8}{counts['test']:>8}")
    for warning in summary.warnings:
        click.echo(f"Note: {warning}")
