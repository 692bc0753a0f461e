"""`pbvs challenge`: what a challenge fixes, and a new one in a file of one's own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pbvs.cli import options
from pbvs.errors import PbvsError, UsageError
from pbvs.text import aligned, listed, terminal_width

if TYPE_CHECKING:
    from pbvs.challenge import Challenge
    from pbvs.data.recognition import Trial


@click.group()
def challenge() -> None:
    """List, show, check and begin challenges: which files are what, tasks, outputs, rules and scoring."""


@challenge.command("list")
def list_challenges() -> None:
    """List the challenges that come with pbvs, the default first."""
    from pbvs.challenge import built_in_challenges, load_challenge

    for name in built_in_challenges():
        found = load_challenge(name)
        options.echo(f"{name}: {found.title or found.description} ({', '.join(found.tasks)})")


@challenge.command()
@click.argument("name", metavar="NAME|FILE", default="mavic-t-2026")
@click.option("--toml", is_flag=True, help="The whole file, resolved.")
def show(name: str, toml: bool) -> None:
    """Show what a challenge fixes."""
    from pbvs.challenge import dump_challenge, load_challenge

    found = load_challenge(name)
    if toml:
        click.echo(dump_challenge(found).rstrip())
    else:
        options.echo("\n".join(_lines(found)))


def _lines(found: Challenge) -> Iterator[str]:
    yield f"{found.name}: {found.title}"
    yield from ([found.description] if found.description else [])
    yield from (f"{what}: {link}" for what, link in found.links.items())
    yield from (f"{what}: {day}" for what, day in found.dates.items() if day)
    yield ""
    rows = []
    for name, task in found.tasks.items():
        inputs = ", ".join(f"{split} {count}" for split, count in task.inputs.items()) or "not said"
        rows.append([name, " + ".join(task.sources), task.target, str(task.size), task.pairing, inputs])
    yield from listed(["task", "source", "target", "size", "pairs by", "official inputs"], rows, terminal_width())
    yield ""
    outputs, rules = found.outputs, found.submission
    yield f"Predictions: {outputs.dtype} {outputs.container.upper()} files, {outputs.path}.{outputs.container}"
    lines = "; ".join(line.label for line in rules.readme)
    yield f"Readme: {lines or 'none'}"
    limits = [f"{rules.a_day} a day" if rules.a_day else "", f"{rules.in_all} in all" if rules.in_all else ""]
    yield f"Uploads: {', '.join(filter(None, limits)) or 'no limit is known'}"
    yield f"Scored by: {found.protocol}" + (
        f" (its own rules: {', '.join(found.protocols)})" if found.protocols else ""
    )


@challenge.command()
@click.argument("file", metavar="NAME|FILE")
@options.data
def check(file: str, data: Path | None) -> None:
    """Check a challenge's FILE, and what its patterns take below a data root (--data, or PBVS_DATA)."""
    from pbvs.challenge import load_challenge
    from pbvs.metrics.protocol import choose_protocol

    found = load_challenge(file)
    for name in dict.fromkeys([found.protocol, *found.protocols]):
        choose_protocol(found, name)
    options.echo(f"{found.name}: {len(found.tasks)} tasks, {len(found.layout.files)} patterns; the file is right.")
    if data is None:
        options.echo(f"Next: pbvs challenge check {file} --data ROOT")
        return
    from pbvs.data.recognition import try_layout

    trial = try_layout(found, data)
    for line in _trial_lines(trial):
        options.echo(line)
    if trial.twice:
        path, takers = trial.twice[0]
        raise PbvsError(
            f"layout.files.{takers[1]}: it takes {len(trial.twice)} files that layout.files.{takers[0]} takes too, "
            f"such as {path}; narrow one of them, or say `otherwise = true` in the later one."
        )
    if not any(trial.taken.values()):
        raise PbvsError(f"No pattern takes any of the images below {data}; see layout.files in {file}.")
    options.echo(f"Next: pbvs build-pairs --challenge {file} --data {data}")


def _trial_lines(trial: Trial) -> Iterator[str]:
    from pbvs.data.recognition import most_common

    rows = [[name, str(count) if count else "none"] for name, count in trial.taken.items()]
    yield from aligned([["pattern", "files"], *rows], terminal_width(), least=40)
    for reason, paths in sorted(trial.unused.items(), key=lambda item: -len(item[1])):
        where = ", ".join(f"{folder} {count}" for folder, count in most_common(paths))
        yield f"Not used: {len(paths)} files, {reason} ({where})"
    for (task, reason), paths in trial.incomplete.items():
        where = ", ".join(f"{folder} {count}" for folder, count in most_common(paths))
        yield f"Incomplete: {len(paths)} sources of {task}, {reason} ({where})"
    if trial.junk or trial.others:
        yield f"Passed over: {trial.junk} hidden files and folders, {trial.others} files that are no images."


@challenge.command()
@click.argument("data", type=options.FOLDER)
@click.option("--name", help="The challenge's name; without it the folder's.")
@click.option("--output", type=options.FILE, help="The file to write; without it <name>.toml.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def init(data: Path, name: str | None, output: Path | None, force: bool) -> None:
    """Look at the folder DATA and write a first challenge, with questions as comments where it had to guess."""
    from pbvs.data.recognition import propose
    from pbvs.files import write_text

    called = name or re.sub(r"[^a-z0-9._-]+", "-", data.resolve().name.lower()).strip("-._") or "challenge"
    path = output or Path(f"{called}.toml")
    if path.exists() and not force:
        raise UsageError(f"{path} is there already; give another --output, or --force to write over it.")
    write_text(path, propose(data, called))
    options.echo(f"Written: {path}. Answer its questions (lines with #?), then:")
    options.echo(f"Next: pbvs challenge check {path} --data {data}")
