"""Commands about model files: import published ones, look into any, export for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from pbvs.cli import options


@click.group()
def checkpoint() -> None:
    """Import, inspect and export model files."""


@checkpoint.command("import")
@click.argument("file", type=options.FILE)
@click.option("--out", type=options.FILE, help="What to write [FILE with .safetensors].")
def import_(file: Path, out: Path | None) -> None:
    """Read a published pix2pixHD checkpoint FILE.pth and write it as safetensors with its configuration.

    The architecture is inferred from the weights. Only tensors are read, no code is run; what does not fit is named
    and nothing is written then.
    """
    from pbvs.translators.pix2pixhd.published import import_checkpoint

    options.echo(import_checkpoint(file, out or file.with_suffix(".safetensors")))


@checkpoint.command()
@click.argument("file", type=options.FILE)
def inspect(file: Path) -> None:
    """Say what a model file, a training state or a published checkpoint holds."""
    from pbvs.translators.pix2pixhd.published import describe_file

    options.echo(describe_file(file))


@checkpoint.command()
@click.argument("file", type=options.FILE)
@click.argument("out", type=options.FILE)
def export(file: Path, out: Path) -> None:
    """Write a model FILE, or the averaged network of a training state, as OUT.

    OUT.pth is a plain state dict that the published code loads; OUT.safetensors keeps the configuration.
    """
    from pbvs.translators.pix2pixhd.published import export_checkpoint

    options.echo(export_checkpoint(file, out))
