"""`pbvs recipe` and `pbvs challenge`: what a team chooses and what a challenge fixes, shown, explained and begun."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from pbvs.cli import options
from pbvs.errors import PbvsError, UsageError
from pbvs.text import aligned, listed, terminal_width

if TYPE_CHECKING:
    from pbvs.challenge import Challenge
    from pbvs.data.recognition import Trial
    from pbvs.settings import Key


INTRODUCTION = """\
# The keys of a recipe

This page is made by `pbvs recipe keys --markdown` from the settings' own descriptions; `pbvs recipe keys METHOD`
prints the same for one method. `pbvs recipe show NAME` writes a recipe with every default, to copy and change, and
`--set KEY=VALUE` changes one key for a single command:

```
pbvs recipe show demo > mine.toml
pbvs predict --all --recipe mine.toml --set seed=7
```

A key that does not exist is refused with the nearest one that does. [data.md](data.md#intensity) says what the rules of
`[radiometry]` mean, [training.md](training.md) how training works.
"""


class Section(NamedTuple):
    """One table of a recipe, as it is headed in the file, with its keys."""

    table: str
    about: str
    keys: list[Key]


@click.group()
def recipe() -> None:
    """Show recipes with every default, and explain their keys."""


@recipe.command("list")
def list_recipes() -> None:
    """List the recipes that come with pbvs."""
    from pbvs.recipe import RECIPES, load_recipe

    for name in RECIPES.names:
        options.echo(f"{name:<12}{load_recipe(name).description}")


@recipe.command()
@click.argument("name", type=options.RECIPE, metavar="NAME|FILE")
@options.challenge
@options.changes
def show(name: str, challenge: str | None, changes: tuple[str, ...]) -> None:
    """Write out a recipe with every default, as TOML."""
    from pbvs.recipe import dump_recipe, load_recipe, with_changes

    click.echo(dump_recipe(with_changes(load_recipe(name, challenge), changes)), nl=False)


@recipe.command()
@click.argument("method", required=False)
@click.option("--markdown", is_flag=True, help="Print docs/recipes.md.")
@options.as_json
def keys(method: str | None, markdown: bool, as_json: bool) -> None:
    """Explain every key, or those of a stage with METHOD: default, values, meaning."""
    from pbvs.translators import METHODS

    if method and method not in METHODS:
        raise UsageError(f"There is no method {method!r}; there are {', '.join(METHODS)}.")
    if markdown and (as_json or method):
        raise UsageError("--markdown is the whole page; take it without METHOD and --json.")
    found = method_sections(method) if method else sections()
    if as_json:
        options.echo_json([section._asdict() | {"keys": [key._asdict() for key in section.keys]} for section in found])
    elif markdown:
        click.echo("\n".join([INTRODUCTION, *_markdown(found)]).rstrip())
    else:
        options.echo("\n".join(_text(found, terminal_width())).rstrip())


def sections() -> list[Section]:
    """Return every table of a recipe; what the methods with a network have in common stands in one of its own."""
    from pbvs.recipe import Chips, Radiometry, Recipe, Sampling
    from pbvs.settings import Key, describe
    from pbvs.translators import METHODS, stage_class
    from pbvs.translators.settings import NetworkStage, Perceptual

    modality = Key("MODALITY", '"auto"', "a rule", "Rule of a modality of the challenge, such as `sar`.")
    found = [
        Section("", "The recipe itself", describe(Recipe)),
        Section("[radiometry]", "How a file's numbers become [0, 1]", [modality, *describe(Radiometry)]),
        Section("[chips]", "How pairs become training chips", describe(Chips)),
        Section("[sampling]", "Which pairs of each location an epoch sees", describe(Sampling)),
    ]
    for name in METHODS:
        trained = issubclass(stage_class(name), NetworkStage)
        about = f'method = "{name}"' + (", beside and in place of what every network has" if trained else "")
        found.append(Section("[stages.TASK]", about, describe(stage_class(name), NetworkStage if trained else None)))
    found.append(Section("[stages.TASK]", "Every method with a network", describe(NetworkStage)[1:]))
    return [*found, Section("[[stages.TASK.perceptual]]", "One LPIPS term of the loss", describe(Perceptual))]


def method_sections(name: str) -> list[Section]:
    """Return every key of a stage with this method."""
    from pbvs.settings import describe, tables_of
    from pbvs.translators import stage_class

    stage = stage_class(name)
    below = {kind: key for key, field in stage.model_fields.items() for kind in tables_of(field.annotation)}
    tables = [Section(f"[[stages.TASK.{key}]]", f"Each of `{key}`", describe(kind)) for kind, key in below.items()]
    return [Section("[stages.TASK]", f'Every key of method = "{name}"', describe(stage)), *tables]


def _text(found: Iterable[Section], width: int) -> Iterator[str]:
    for table, about, rows in found:
        yield click.wrap_text(f"{table}  # {about}" if table else f"# {about}", width, "", "    # ")
        for key in rows:
            head = f"{key.name} = {key.default}" if key.default else f"{key.name}  ({_without(key)})"
            yield click.wrap_text(f"{head}  # {key.values}", width, "  ", "      ")
            yield click.wrap_text(key.meaning, width, "      ", "      ")
        yield ""


def _markdown(found: Iterable[Section]) -> Iterator[str]:
    for table, about, rows in found:
        yield f"## {about}\n"
        yield from ([f"`{table}`\n"] if table else [])
        yield "| key | default | values | meaning |\n| --- | --- | --- | --- |"
        for key in rows:
            default = f"`{key.default}`" if key.default else _without(key)
            yield f"| `{key.name}` | {default} | {key.values} | {key.meaning} |"
        yield ""


def _without(key: Key) -> str:
    return "must be given" if key.default is None else "not set"


# --- `pbvs challenge`: what a challenge fixes, and a new one in a file of one's own.


@click.group()
def challenge() -> None:
    """List, show, check and begin challenges: which files are what, tasks, outputs, rules and scoring."""


@challenge.command("list")
def list_challenges() -> None:
    """List the challenges that come with pbvs, the default first."""
    from pbvs.challenge import CHALLENGES, load_challenge

    for name in CHALLENGES.names:
        found = load_challenge(name)
        options.echo(f"{name}: {found.title or found.description} ({', '.join(found.tasks)})")


@challenge.command("show")
@click.argument("name", metavar="NAME|FILE", default="mavic-t-2026")
@click.option("--toml", is_flag=True, help="The whole file, resolved.")
def show_challenge(name: str, toml: bool) -> None:
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
    from pbvs.data.recognition import common_folders

    rows = [[name, str(count) if count else "none"] for name, count in trial.taken.items()]
    yield from aligned([["pattern", "files"], *rows], terminal_width(), least=40)
    for reason, paths in sorted(trial.unused.items(), key=lambda item: -len(item[1])):
        yield f"Not used: {len(paths)} files, {reason} ({common_folders(paths)})"
    for (task, reason), paths in trial.incomplete.items():
        yield f"Incomplete: {len(paths)} sources of {task}, {reason} ({common_folders(paths)})"
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
