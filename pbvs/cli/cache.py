"""`pbvs cache`: what is kept to save time, how much room it takes, and how to be rid of it."""

from __future__ import annotations

import click

from pbvs.cli import options

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
    from pbvs.experiments.caches import kept
    from pbvs.plan import size_text
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
    from pbvs.experiments import caches
    from pbvs.plan import size_text
    from pbvs.run import CACHE

    chosen = kinds or KINDS
    found = caches.kept(CACHE, chosen)
    count, size = sum(len(part.files) for part in found), sum(part.size for part in found)
    if not count:
        options.echo(f"There is nothing to clear in {CACHE}.")
        return
    if not yes:
        click.confirm(f"Remove {count:,} files ({size_text(size)}) from {CACHE}?", abort=True)
    for part in caches.clear(CACHE, chosen):
        if part.files:
            options.echo(f"Removed: {part.kind.name}, {len(part.files):,} files, {size_text(part.size)}")
