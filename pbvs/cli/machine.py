"""What this machine has: `pbvs doctor`, `pbvs cache`, `pbvs weights`, and model files by `pbvs checkpoint`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from pbvs.cli import options
from pbvs.errors import PbvsError
from pbvs.metrics.weights import SOURCES


@click.command()
@options.folders
@options.weights
@click.option("--verify", is_flag=True, help="Also compute the digests of the weights found (seconds).")
@options.as_json
def doctor(folders: options.Folders, weights: Path | None, verify: bool, as_json: bool) -> int:
    """Say which versions, devices, weights, folders, data and runs are here, as text to paste into a question.

    Exit status 1 when something is BAD, that is, when a command will fail over it.
    """
    from pbvs.experiments.machine import examine, is_bad, text

    findings = examine(folders.data, folders.manifests, folders.submissions, weights, verify)
    if as_json:
        options.echo_json([asdict(finding) for finding in findings])
    else:
        options.echo(text(findings))
    return int(is_bad(findings))


# --- `pbvs cache`: what is kept to save time, how much room it takes, and how to be rid of it.

KINDS = ("chips", "features", "baselines", "targets")


@click.group()
def cache() -> None:
    """What is kept to save time: training chips, features of targets, scores of baselines.

    They lie in PBVS_CACHE, else in .cache/pbvs of the working folder. All of it can be made again; clear it when no
    command is at work.
    """


@cache.command()
@options.as_json
def show(as_json: bool) -> None:
    """Say where the caches are and how large each is."""
    from pbvs.experiments.machine import kept
    from pbvs.logs import size_text
    from pbvs.run import CACHE

    found = kept(CACHE)
    if as_json:
        kinds = {
            part.kind.name: {"folder": part.folder, "files": len(part.files), "bytes": part.size} for part in found
        }
        options.echo_json({"folder": CACHE, "kinds": kinds, "bytes": sum(part.size for part in found)})
        return
    rows = [(part.kind.name, f"{len(part.files):,}", size_text(part.size), part.kind.what) for part in found]
    options.echo_table(("kind", "files", "size", "what it is"), rows)
    options.echo(f"In {CACHE}: {size_text(sum(part.size for part in found))}")


@cache.command()
@click.argument("kinds", type=click.Choice(KINDS), nargs=-1)
@click.option("--yes", is_flag=True, help="Do not ask.")
def clear(kinds: tuple[str, ...], yes: bool) -> None:
    """Remove KINDS of what is kept (without any: all of them); runs and data are never touched."""
    from pbvs.experiments import machine
    from pbvs.logs import size_text
    from pbvs.run import CACHE

    chosen = kinds or KINDS
    found = machine.kept(CACHE, chosen)
    count, size = sum(len(part.files) for part in found), sum(part.size for part in found)
    if not count:
        options.echo(f"There is nothing to clear in {CACHE}.")
        return
    if not yes:
        options.confirm(f"Remove {count:,} files ({size_text(size)}) from {CACHE}?")
    for part in machine.clear(CACHE, chosen):
        if part.files:
            options.echo(f"Removed: {part.kind.name}, {len(part.files):,} files, {size_text(part.size)}")


# --- `pbvs weights`: where the frozen networks' weights are, and how to get them.

which = click.argument("nets", type=click.Choice(list(SOURCES)), nargs=-1)


@click.group()
def weights() -> None:
    """The weights of the frozen networks that compare images.

    They are looked for in --weights or PBVS_WEIGHTS, then in torch hub's cache.
    """


@weights.command("list")
@options.weights
def list_weights(weights: Path | None) -> None:
    """Say which weights there are, what for, and where they were found."""
    from pbvs.metrics.weights import folders, look

    for net, source in SOURCES.items():
        path = look(net, weights)
        where = str(path) if path else f"missing; {source.megabytes} MB to fetch: {source.url}"
        options.echo(f"{net:<10}{source.title:<22}{source.use}\n{'':<10}{where}")
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
    from pbvs.experiments.machine import verify as run_verify
    from pbvs.metrics.weights import find, look

    failures = []
    for net in nets or [net for net in SOURCES if look(net, weights)]:
        path = find(net, weights)
        try:
            options.echo(f"{net}: {path}: {run_verify(net, path)}")
        except PbvsError as error:
            failures.append(str(error))
    if failures:
        raise PbvsError(" ".join(failures))


@weights.command()
@click.argument("nets", type=click.Choice(list(SOURCES)), nargs=-1, required=True)
@options.weights
@click.option("--to", "target", type=options.FOLDER, help="Folder to write into; else beside the full file.")
def slim(nets: tuple[str, ...], weights: Path | None, target: Path | None) -> None:
    """Write the part that is used as .safetensors: 9 to 25 times smaller than the published files."""
    from pbvs.experiments.machine import slim as run_slim

    for net in nets:
        path = run_slim(net, weights, target)
        options.echo(f"{net}: {path} ({path.stat().st_size / 1e6:.1f} MB)")


# --- Commands about model files: import published ones, look into any, export for other programs.


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
