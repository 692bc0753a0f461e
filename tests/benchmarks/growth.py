"""How time grows at 1, 4 and 16 times the work; an exponent of 1 is proportional growth."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks import input as loading
from tests.benchmarks import prediction, training_step
from tests.benchmarks.harness import Row, cost, growth
from tests.benchmarks.trees import finished_run
from tests.data.full_size import write_full_size

TIMES = (1, 4, 16)


def run(quick: bool) -> list[Row]:
    from pbvs.devices import resolve_device

    resolve_device("cpu")
    parts = (catalogue, checking, chips, steps, grayscale, scores, zipping)
    with tempfile.TemporaryDirectory() as name:
        return [part(Path(name) / part.__name__, 1 if quick else 2) for part in parts]


def prepared(folder: Path, sizes: tuple[int, ...], make: Callable[[Path, int], Callable[[], Any]]) -> dict[int, Any]:
    """Return, for each size, the work that is measured, with its files made in a folder of its own."""
    return {size: make(folder / str(size), size) for size in sizes}


def sized(base: int) -> tuple[int, ...]:
    """Return 1, 4 and 16 times `base`."""
    return tuple(base * times for times in TIMES)


def fitted(what: str, works: dict[int, Callable[[], Any]], unit: str, rounds: int) -> Row:
    """Return the row of works by size; the smallest is done once before anything is measured."""
    next(iter(works.values()))()
    return growth(what, lambda size: cost(works[size]), list(works), unit, rounds)


def catalogue(folder: Path, rounds: int) -> Row:
    from pbvs.data.build import build_pairs as build

    def make(place: Path, thousandths: int) -> Callable[[], Any]:
        write_full_size(place / "root", thousandths / 1000)

        def once() -> None:
            shutil.rmtree(place / "manifests", ignore_errors=True)
            build(place / "root", place / "manifests")

        return once

    return fitted("build-pairs", prepared(folder, sized(4), make), "thousandths of the archives", rounds)


def checking(folder: Path, rounds: int) -> Row:
    from pbvs.data.inspection import inspect_data

    def make(place: Path, thousandths: int) -> Callable[[], Any]:
        write_full_size(place / "root", thousandths / 1000)
        return partial(inspect_data, place / "root", shifts=False)

    return fitted("check-data", prepared(folder, sized(4), make), "thousandths of the archives", rounds)


def chips(folder: Path, rounds: int) -> Row:
    from pbvs.training.step import BatchPlan, batches

    data = loading.chips(folder, 8)
    plan = BatchPlan(len(data), 1, 1)

    def make(_: Path, count: int) -> Callable[[], Any]:
        return lambda: [None for _ in batches(data, plan, 0, count, loading.feed())]

    return fitted("loading chips", prepared(folder, sized(32), make), "chips", rounds)


def steps(folder: Path, rounds: int) -> Row:
    step = training_step.ours(8, 64)

    def make(_: Path, count: int) -> Callable[[], Any]:
        return lambda: [step() for _ in range(count)]

    return fitted("training steps", prepared(folder, (1, 4, 16), make), "steps at 64 px", rounds)


def grayscale(folder: Path, rounds: int) -> Row:
    def make(place: Path, count: int) -> Callable[[], Any]:
        prediction.images(place / "in", count, 512)
        return prediction.grayscale_stream(str(place / "in"), str(place / "out"), count)

    return fitted("grayscale prediction", prepared(folder, sized(4), make), "images", rounds)


def scores(folder: Path, rounds: int) -> Row:
    from tests.benchmarks import scoring

    judge = scoring.make_judge("random")

    def make(place: Path, count: int) -> Callable[[], Any]:
        scoring.make_images(place, count)
        return partial(scoring.score_once, judge, scoring.task_of(place, count))

    return fitted("scoring", prepared(folder, sized(4), make), "pairs of 256 px", rounds)


def zipping(folder: Path, rounds: int) -> Row:
    from pbvs.submission.package import inputs_of, make_plan, write_package

    def make(place: Path, thousandths: int) -> Callable[[], Any]:
        run, manifests = finished_run(place, thousandths / 1000)
        inputs = inputs_of(manifests, None)
        return lambda: write_package(make_plan(run, inputs), inputs)

    return fitted("package, checked", prepared(folder, sized(5), make), "thousandths of a submission", rounds)
