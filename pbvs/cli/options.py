"""What several commands share: options named and explained once, and how a command prints tables and JSON."""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from pbvs.challenge import SPLITS
from pbvs.devices import use_backend
from pbvs.errors import UsageError
from pbvs.run import MANIFESTS, SUBMISSIONS, all_runs, choose_run
from pbvs.text import escaped, fitted, listed, terminal_width

if TYPE_CHECKING:
    from pbvs.lineage import Stale
    from pbvs.run import Run

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
NETS = ("alex", "squeeze", "vgg", "random")  # `random` is no LPIPS; it shows that everything is wired up


class Completed(click.types.StringParamType):
    """A text of which shells complete the names that there are; `files` beside them."""

    def __init__(self, name: str, names: Callable[[click.Context], Iterable[str]], files: bool = False) -> None:
        self.name, self.names, self.files = name, names, files

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names that begin with what was typed, and let the shell add files."""
        found = [CompletionItem(name) for name in self.names(ctx) if name.startswith(incomplete)]
        return [*found, CompletionItem(incomplete, type="file")] if self.files else found


def _runs(ctx: click.Context) -> Iterable[str]:
    return [run.name for run in all_runs(Path(ctx.params.get("submissions") or SUBMISSIONS))]


def _recipes(_: click.Context) -> Iterable[str]:
    from pbvs.recipe import RECIPES

    return RECIPES.names


RUN, RECIPE = Completed("run", _runs), Completed("recipe", _recipes, files=True)
F = TypeVar("F", bound=Callable[..., Any])

data = click.option("--data", type=FOLDER, envvar="PBVS_DATA", help="Folder with the unpacked archives [PBVS_DATA].")
manifests = click.option(
    "--manifests", type=FOLDER, default=MANIFESTS, show_default=True, help="Folder of the manifests."
)
submissions = click.option(
    "--submissions", type=FOLDER, default=SUBMISSIONS, show_default=True, is_eager=True, help="Folder of the runs."
)
run = click.option("--run", type=RUN, help="Name of the run; without it the one worked on last.")
changes = click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change one setting of the recipe (repeatable)."
)
challenge = click.option(
    "--challenge", metavar="NAME|FILE", help="The challenge: a name of `pbvs challenge list`, or a .toml file."
)
weights = click.option(
    "--weights", type=FOLDER, envvar="PBVS_WEIGHTS", help="Folder of the frozen networks' weights [PBVS_WEIGHTS]."
)
device = click.option("--device", default="auto", show_default=True, help="auto, cpu, mps, cuda or cuda:N.")
jobs = click.option(
    "--jobs", type=click.IntRange(min=1), default=os.cpu_count() or 1, show_default="all cores", help="Processes."
)
task = click.option("--task", "tasks", metavar="TASK", multiple=True, help="Only this task (repeatable).")
split = click.option("--split", type=click.Choice(SPLITS), default="val", show_default=True, help="Which split.")
protocol = click.option(
    "--protocol", show_default="the challenge's", help="How images are scored: a name or a .toml file."
)
lpips_net = click.option(
    "--lpips-net", type=click.Choice(NETS), help="Another LPIPS network; random is no LPIPS, for wiring checks."
)
backend = click.option(
    "--backend",
    expose_value=False,
    callback=lambda context, _, name: context.with_resource(use_backend(name)),
    type=click.Choice(["loky", "threading", "dask"]),
    default="loky",
    show_default=True,
    help="joblib's backend; dask only where it is installed.",
)
one_file = click.option("--one-file", is_flag=True, help="Put the images into the page itself, to hand it on.")
images = click.option(
    "--images",
    "all_images",
    type=click.Choice(["worst", "all"]),
    default="worst",
    show_default=True,
    callback=lambda _, __, chosen: chosen == "all",
    help="Which images are kept at full size; there is a thumbnail of each.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


def together(*chosen: Callable[[F], F]) -> Callable[[F], F]:
    """Return a decorator that adds several options, in the order in which the help shows them."""
    return lambda command: functools.reduce(lambda done, option: option(done), reversed(chosen), command)


@dataclass(frozen=True)
class Folders:
    """The folders that a command was given: of the data (None where neither option nor variable names it), and ours."""

    data: Path | None
    manifests: Path
    submissions: Path

    @property
    def root(self) -> Path:
        """The data root, else the one that the manifests remember; raises UsageError when there is none."""
        from pbvs.data.build import find_root

        return find_root(self.data, self.manifests)

    @property
    def root_or_none(self) -> Path | None:
        """The data root, or None with a word on it: a page then has numbers only."""
        try:
            return self.root
        except UsageError as error:
            if self.data is not None:
                raise
            echo(f"The page will have no inputs and targets: {error}", err=True)
            return None

    def run(self, name: str | None) -> Run:
        """Return the run of this name, or the one worked on last; raises PbvsError when there is none."""
        return choose_run(name, self.submissions)


def folders(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --data, --manifests and --submissions; the command gets them together, as `folders`."""

    @functools.wraps(command)
    def called(*args: Any, data: Path | None, manifests: Path, submissions: Path, **choices: Any) -> Any:
        return command(*args, folders=Folders(data, manifests, submissions), **choices)

    return together(data, manifests, submissions)(called)


scoring = together(protocol, weights, lpips_net, device)


def echo_json(value: Any) -> None:
    """Print a value as ASCII JSON on standard output; NaN and infinity become null, paths and dates text."""
    import json

    click.echo(json.dumps(_plain(value), indent=2))


def _plain(item: Any) -> Any:
    """Return a value as what JSON has, the values in it, too."""
    if isinstance(item, dict):
        return {str(key): _plain(part) for key, part in item.items()}
    if isinstance(item, list | tuple):
        return [_plain(part) for part in item]
    if isinstance(item, float) and not math.isfinite(item):
        return None
    return item if isinstance(item, str | int | float | None) else str(item)


def echo(text: str, err: bool = False) -> None:
    """Print lines, escaped; on a terminal (or with COLUMNS) those that are too long go on below their last column."""
    click.echo(fitted(text, sys.stderr if err else sys.stdout), err=err)


def confirm(text: str) -> None:
    """Ask before something is removed; whatever is not yes ends the command."""
    click.confirm(fitted(f"{text} [y/N]:", sys.stdout), abort=True, show_default=False, prompt_suffix=" ")


def echo_table(head: Sequence[str], rows: Sequence[Sequence[str]], columns: int | None = None) -> None:
    """Print a table of texts, escaped, that fits the terminal."""
    shown = [[escaped(cell) for cell in row] for row in (head, *rows)]
    click.echo("\n".join(listed(shown[0], shown[1:], columns or terminal_width())))


def echo_stale(found: Mapping[str, Sequence[Stale]]) -> None:
    """Print what of each run is stale, to standard error, with the command that renews it."""
    for run, items in found.items():
        for item in items:
            echo(f"Stale, run {run}: {item}", err=True)


def stale_of(run: Run, manifests: Path, scores: Path | None = None) -> dict[str, list[Stale]]:
    """Return what of a run, or of the scores in a folder of it, is stale, for `echo_stale`.

    Nothing for a run whose files are damaged.
    """
    from pbvs.errors import damage_ignored
    from pbvs.lineage import doubts_of_scores, stale

    with damage_ignored():
        return {run.name: doubts_of_scores(run, scores, manifests) if scores else stale(run, manifests)}
    return {}
