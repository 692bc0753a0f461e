"""Options that several commands share, so that they are named and explained once."""

from __future__ import annotations

import os
from pathlib import Path

import click

from pbvs.challenge import SPLITS, TASKS
from pbvs.run import MANIFESTS, SUBMISSIONS

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)

data = click.option("--data", type=FOLDER, envvar="PBVS_DATA", help="Folder with the unpacked archives [PBVS_DATA].")
manifests = click.option(
    "--manifests", type=FOLDER, default=MANIFESTS, show_default=True, help="Folder of the manifests."
)
submissions = click.option(
    "--submissions", type=FOLDER, default=SUBMISSIONS, show_default=True, help="Folder of the runs."
)
run = click.option("--run", help="Name of the run; without it the recipe's name.")
recipe = click.option("--recipe", default="demo", show_default=True, help="A built-in recipe's name or a .toml file.")
weights = click.option(
    "--weights", type=FOLDER, envvar="PBVS_WEIGHTS", help="Folder of the frozen trunks' weights [PBVS_WEIGHTS]."
)
device = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
jobs = click.option(
    "--jobs", type=click.IntRange(min=1), default=os.cpu_count() or 1, show_default="all cores", help="Processes."
)
task = click.option(
    "--task", "tasks", type=click.Choice(list(TASKS)), multiple=True, help="Only this task (repeatable)."
)
split = click.option("--split", type=click.Choice(SPLITS), default="val", show_default=True, help="Which split.")
backend = click.option(
    "--backend",
    type=click.Choice(["loky", "threading", "dask"]),
    default="loky",
    show_default=True,
    help="joblib's backend; dask only where it is installed.",
)
