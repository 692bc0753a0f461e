"""`pbvs weights`: where the frozen networks' weights are, and how to get them."""

from __future__ import annotations

from pathlib import Path

import click

from pbvs.cli import options
from pbvs.errors import PbvsError

NETS = ("alex", "squeeze", "vgg", "vgg19", "inception")
USES = {
    "alex": "LPIPS; the default protocol",
    "squeeze": "LPIPS; the smallest",
    "vgg": "LPIPS; the challenge's protocols, the paper's loss",
    "vgg19": "pix2pixHD's perceptual loss",
    "inception": "FID and KID",
}
which = click.argument("nets", type=click.Choice(NETS), nargs=-1)


@click.group()
def weights() -> None:
    """The weights of the frozen networks that compare images.

    They are looked for in --weights or PBVS_WEIGHTS, then in torch hub's cache.
    """


@weights.command("list")
@options.weights
def list_weights(weights: Path | None) -> None:
    """Say which weights there are, what for, and where they were found."""
    from pbvs.metrics.weights import SOURCES, folders, look

    for net, source in SOURCES.items():
        path = look(net, weights)
        place = str(path) if path else f"missing; {source.megabytes} MB to fetch: {source.url}"
        options.echo(f"{net:<10}{source.title:<22}{USES[net]}\n{'':<10}{place}")
    options.echo("Searched: " + ", ".join(map(str, folders(weights))))


@weights.command()
@which
@options.weights
def fetch(nets: tuple[str, ...], weights: Path | None) -> None:
    """Download weights that are not there yet (without NETS: alex), and check their digests."""
    from pbvs.metrics.weights import fetch as run_fetch

    for net in nets or ("alex",):
        options.echo(f"{net}: {run_fetch(net, weights)}")


@weights.command()
@which
@options.weights
def verify(nets: tuple[str, ...], weights: Path | None) -> None:
    """Check the digests of the weights that are there (or of NETS)."""
    from pbvs.metrics.slim import verify as run_verify
    from pbvs.metrics.weights import find, look

    failures = []
    for net in nets or [net for net in NETS if look(net, weights)]:
        path = find(net, weights)
        try:
            options.echo(f"{net}: {path}: {run_verify(net, path)}")
        except PbvsError as error:
            failures.append(str(error))
    if failures:
        raise PbvsError(" ".join(failures))


@weights.command()
@click.argument("nets", type=click.Choice(NETS), nargs=-1, required=True)
@options.weights
@click.option("--to", "target", type=options.FOLDER, help="Folder to write into; else beside the full file.")
def slim(nets: tuple[str, ...], weights: Path | None, target: Path | None) -> None:
    """Write the part that is used as .safetensors: 9 to 25 times smaller than the published files."""
    from pbvs.metrics.slim import slim as run_slim

    for net in nets:
        path = run_slim(net, weights, target)
        options.echo(f"{net}: {path} ({path.stat().st_size / 1e6:.1f} MB)")
