"""`pbvs recipe`: what a recipe says with every default, and which keys there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import click

from pbvs.cli import options
from pbvs.errors import UsageError
from pbvs.text import folded, terminal_width

if TYPE_CHECKING:
    from pbvs.recipe import Stage
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
    from pbvs.recipe import built_in_recipes, load_recipe

    for name in built_in_recipes():
        for line in folded(f"{name:<12}{load_recipe(name).description}", terminal_width(), 12):
            click.echo(line)


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
    from pbvs.translators import METHODS
    from pbvs.translators.settings import NetworkStage, Perceptual

    modality = Key("MODALITY", '"auto"', "a rule", "Rule of a modality of the challenge, such as `sar`.")
    return [
        Section("", "The recipe itself", describe(Recipe)),
        Section("[radiometry]", "How a file's numbers become [0, 1]", [modality, *describe(Radiometry)]),
        Section("[chips]", "How pairs become training chips", describe(Chips)),
        Section("[sampling]", "Which pairs of each location an epoch sees", describe(Sampling)),
        *(section for name in METHODS for section in _own(name)),
        Section("[stages.TASK]", "Every method with a network", describe(NetworkStage)[1:]),
        Section("[[stages.TASK.perceptual]]", "One LPIPS term of the loss", describe(Perceptual)),
    ]


def method_sections(name: str) -> list[Section]:
    """Return every key of a stage with this method."""
    from pbvs.settings import describe, tables_of

    stage = _stage(name)
    below = {kind: key for key, field in stage.model_fields.items() for kind in tables_of(field.annotation)}
    found = [Section("[stages.TASK]", f'Every key of method = "{name}"', describe(stage))]
    tables = [Section(f"[[stages.TASK.{key}]]", f"Each of `{key}`", describe(kind)) for kind, key in below.items()]
    return [*found, *tables]


def _own(name: str) -> Iterator[Section]:
    from pbvs.settings import describe
    from pbvs.translators.settings import NetworkStage

    stage = _stage(name)
    trained = issubclass(stage, NetworkStage)
    about = f'method = "{name}"' + (", beside and in place of what every network has" if trained else "")
    yield Section("[stages.TASK]", about, describe(stage, NetworkStage if trained else None))


def _stage(name: str) -> type[Stage]:
    from pbvs.translators import METHODS, stage_classes

    return dict(zip(METHODS, stage_classes(), strict=True))[name]


def _text(found: Iterable[Section], width: int) -> Iterator[str]:
    for table, about, listed in found:
        yield click.wrap_text(f"{table}  # {about}" if table else f"# {about}", width, "", "    # ")
        for key in listed:
            head = f"{key.name} = {key.default}" if key.default else f"{key.name}  ({_without(key)})"
            yield click.wrap_text(f"{head}  # {key.values}", width, "  ", "      ")
            yield click.wrap_text(key.meaning, width, "      ", "      ")
        yield ""


def _markdown(found: Iterable[Section]) -> Iterator[str]:
    for table, about, listed in found:
        yield f"## {about}\n"
        yield from ([f"`{table}`\n"] if table else [])
        yield "| key | default | values | meaning |\n| --- | --- | --- | --- |"
        for key in listed:
            default = f"`{key.default}`" if key.default else _without(key)
            yield f"| `{key.name}` | {default} | {key.values} | {key.meaning} |"
        yield ""


def _without(key: Key) -> str:
    return "must be given" if key.default is None else "not set"
