"""`pbvs ablate`: the paper's second table, or one's own, from one command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pbvs.cli import options
from pbvs.text import terminal_width

if TYPE_CHECKING:
    from pbvs.experiments.ablation import AblationPlan, Made


@click.command()
@click.option("--rows", default="paper", show_default=True, help="paper, best, or a .toml file with rows of your own.")
@options.recipe
@click.option("--run", "prefix", help="What the runs' names begin with; else rows and recipe.")
@click.option("--only", multiple=True, metavar="ROW", help="Make only this row now (repeatable).")
@click.option("--share", multiple=True, metavar="RUN", help="Copy this run's models where they are the same.")
@options.data
@options.manifests
@options.submissions
@options.protocol
@options.weights
@options.lpips_net
@options.device
@options.jobs
@click.option("--retrain", is_flag=True, help="Make rows again that are done.")
@options.changes
@click.option("--dry-run", is_flag=True, help="Say what the rows are and stop.")
def ablate(
    rows: str,
    recipe: str,
    prefix: str | None,
    only: tuple[str, ...],
    share: tuple[str, ...],
    data: Path | None,
    manifests: Path,
    submissions: Path,
    changes: tuple[str, ...],
    dry_run: bool,
    **choices: Any,
) -> None:
    """Measure what each part of a recipe is worth: a run for each row of a table, trained and scored alike.

    Started again, it goes on with the rows that are not done. The table is printed and written as CSV, JSON and a page
    with images. "/" stands where a row has nothing to say of a task.
    """
    from pbvs.experiments.ablation import ablate as make_rows
    from pbvs.experiments.ablation import load_plan, row_recipe
    from pbvs.recipe import load_recipe, with_changes

    plan, base = load_plan(rows), with_changes(load_recipe(recipe), changes)
    _check_names(only, [row.name for row in plan.rows])
    _check_runs(share, submissions)
    if dry_run:
        for row in plan.rows:
            stages = row_recipe(row, base).model_dump()["stages"]
            options.echo(f"{row.name}: " + ", ".join(f"{task} {stage['method']}" for task, stage in stages.items()))
        return
    prefix = prefix or f"{Path(rows).stem}-{base.name}"
    made = make_rows(
        plan,
        base,
        prefix=prefix,
        root=data,
        manifests=manifests,
        only=only,
        submissions=submissions,
        share=share,
        **choices,
    )
    _write(plan, base.name, made, submissions / f"ablation-{prefix}", data, manifests)


def _check_names(only: tuple[str, ...], names: list[str]) -> None:
    from pbvs.errors import UsageError

    if unknown := [name for name in only if name not in names]:
        raise UsageError(f"There is no row {unknown[0]!r}; the rows are {', '.join(names)}.")


def _check_runs(names: tuple[str, ...], submissions: Path) -> None:
    from pbvs.errors import UsageError
    from pbvs.run import Run

    if unknown := [name for name in names if not Run(name, submissions).exists()]:
        raise UsageError(f"There is no run {unknown[0]!r} in {submissions} to share models with.")


def _write(plan: AblationPlan, recipe: str, made: list[Made], stem: Path, data: Path | None, manifests: Path) -> None:
    from pbvs.data.build import find_root
    from pbvs.experiments import ablation as tables
    from pbvs.files import sweep, write_json, write_text
    from pbvs.report import write_report
    from pbvs.report.pages import render_ablation
    from pbvs.text import write_table

    root = find_root(data, manifests)
    for row in made:
        write_report(row.run, root=root, manifests=manifests)
    table = tables.tabulate(plan, recipe, made)
    sweep(stem.parent, deep=False)
    write_table(stem.with_name(f"{stem.name}.csv"), tables.ablation_frame(table))
    write_json(stem.with_name(f"{stem.name}.json"), tables.ablation_json(table))
    page = stem.with_name(f"{stem.name}.html")
    write_text(page, render_ablation(table, made, root, manifests))
    options.echo(tables.ablation_text(table, terminal_width()))
    options.echo(f"\nPage: {page} (with .csv and .json beside it)")
