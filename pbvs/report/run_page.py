"""The page of a run: what there is of it is read, measured against what is missing, and laid out for the template."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from pbvs.challenge import Challenge
from pbvs.data.manifest import Pair
from pbvs.errors import PbvsError, damage_ignored, of_data
from pbvs.evaluation.results import BASELINE_NAMES, TEXTS, Scores, number, read_scores, table
from pbvs.files import matching, sha256, sweep, write_text
from pbvs.lineage import REPORT, grid_text, report_sources, stale
from pbvs.report import charts, images
from pbvs.report.charts import render, task_title
from pbvs.report.images import Gallery, Item, Panes, Shown, levels_of
from pbvs.run import MANIFESTS, Run, read_metadata
from pbvs.seeds import evenly_spaced
from pbvs.text import read_table

TEST_IMAGES = 4
SHEET_SIDE = 600  # pixels of a training sheet's longer side
UNSCORED_IMAGES = 3
FEW_LOCATIONS = 10  # with fewer, an interval rests on little
LOCATIONS_IN_VIEW = 12  # longer tables are folded
CHANNEL_NAMES = {1: ("gray",), 3: ("red", "green", "blue")}
COLUMNS = ("rmse", "lpips", "l1", "psnr", "ssim")  # of the table of images, where they were measured
AXES = ("epoch", "step", "seconds")  # columns of a training log that count, and say nothing of how well it goes
COORDINATE = re.compile(r"^(-?\d{1,2}(?:\.\d+)?)_(-?\d{1,3}(?:\.\d+)?)$")  # locations named latitude_longitude
FEWEST_ON_MAP, MAPS = 3, 6

T = TypeVar("T")


def write_report(
    run: Run, *, root: Path | None = None, manifests: Path = MANIFESTS, one_file: bool = False, **how: Any
) -> Path:
    """Write `report.html` and its folder `report_files/` from whatever the run has so far, and return the page's path.

    `root` is the data root for the images; without it the page has numbers but no images of inputs and targets.
    `one_file` puts everything into the page itself; `how` are further fields of `Gallery`: `all_images` keeps every
    image at full size, where otherwise a thumbnail is kept of each and full size only of the worst, as many as make 64
    megapixels a task, and `jobs` threads read. Raises PbvsError when the run does not exist or the page cannot be
    written; a part that is missing or damaged (an image, a log) is named on the page instead.
    """
    for folder in (run.folder, run.scores):
        sweep(folder, deep=False)
    evidence = Evidence(run, manifests)
    gallery = Gallery(
        run.report_file,
        ("Input", "Prediction", "Target", "Error"),
        metrics_of(evidence.results),
        key=[dict(evidence.results.summary) if evidence.results else None, [*map(dict, evidence.batches.values())]],
        is_lpips=evidence.results is None or evidence.results.is_lpips,
        inline=one_file,
        **how,
    )
    write_text(run.report_file, render("run.html", evidence.challenge, **run_view(evidence, root, gallery)))
    gallery.finish()
    return run.report_file


def run_view(evidence: Evidence, root: Path | None, gallery: Gallery) -> dict[str, Any]:
    """Return everything that the template shows, in the order of the page."""
    tasks = [task_section(evidence, task, root, gallery) for task in evidence.challenge.tasks]
    tests = [test_section(evidence, task, root) for task in evidence.challenge.tasks]
    return {
        "title": f"Run {evidence.run.name}",
        "name": evidence.run.name,
        "recipe": evidence.recipe,
        "headline": headline(evidence.results) if evidence.results else None,
        "chart": score_chart(evidence.results) if evidence.results else None,
        "tasks": [task for task in tasks if task],
        "tests": [test for test in tests if test],
        "challenge_tasks": list(evidence.challenge.tasks),
        "sensitivity": _sensitivity(evidence),
        "provenance": evidence.provenance,
        "batches": _batches(evidence),
        "files": _files(evidence),
        "problems": evidence.problems,
        "doubts": evidence.doubts,
        "stale": evidence.stale,
        "made_from": json.dumps(evidence.sources),
        "explorer": gallery.view(),
        "perceptual": images.title_of("lpips", gallery.is_lpips),
    }


def _sensitivity(evidence: Evidence) -> list[dict[str, Any]]:
    rows = list_of(evidence.results.summary.get("sensitivity")) if evidence.results else []
    return [{"reading": "", **row, "tasks": table(row.get("tasks"))} for row in rows if isinstance(row, dict)]


class Evidence:
    """The parts of a run but for its images; `problems` are sentences about what is there and cannot be read.

    Raises PbvsError only when there is no such run.
    """

    def __init__(self, run: Run, manifests: Path) -> None:
        self.run, self.recipe, self.problems = run, run.recipe(), list[str]()
        self.challenge: Challenge = self.recipe.radiometry.challenge
        tasks = list(self.challenge.tasks)
        keys = [(split, task) for split in ("val", "test") for task in tasks]
        self.results = self._attempt(lambda: read_scores(run) if run.score_folders() else None, None)
        self.pairs: dict[tuple[str, str], dict[str, Pair]] = {
            key: self._attempt(partial(images.pairs_of, manifests, *key[::-1]), {}) for key in keys
        }
        self.logs: dict[str, dict[str, list[float | None]]] = {
            task: self._attempt(partial(read_log, run.model(task) / "log.csv"), {}) for task in tasks
        }
        self.models = {task: self._record(run.model_metadata_file(task)) for task in tasks}
        self.batches = {key: self._record(run.prediction_metadata_file(*key)) for key in keys}
        self.provenance = self._record(run.provenance_file)
        # What build-pairs says of the data: clipped, empty, half placed, another brightness.
        self.doubts = [str(line) for line in list_of(self._record(manifests / "summary.json").get("doubts"))]
        self.stale: list[str] = []  # sentences on what the page shows and is not made from what is there now
        self.sources: Mapping[str, str] = {}  # what the page is made from
        with damage_ignored():  # of which the page says so elsewhere
            self.stale = [str(item) for item in stale(run, manifests) if item.what != REPORT]
        with damage_ignored():
            self.sources = report_sources(run)

    def _attempt(self, read: Callable[[], T], otherwise: T) -> T:
        """Read a part, or note why it cannot be read."""
        try:
            return read()
        except PbvsError as error:
            self.problems.append(of_data(error))
            return otherwise

    def _record(self, path: Path) -> Mapping[str, Any]:
        return self._attempt(lambda: read_metadata(path), {})


def read_log(path: Path) -> dict[str, list[float | None]]:
    """Read a training log, if there is one: for each column its numbers, None where a cell is empty or not finite.

    Columns without a single number are left out.
    """
    if not path.is_file():
        return {}
    frame = read_table(path)
    columns = {str(name): [number(value) for value in frame[name]] for name in frame}
    return {name: values for name, values in columns.items() if any(value is not None for value in values)}


def interval_of(value: Any) -> tuple[float, float] | None:
    """Return (low, high) when `value` is a pair of finite numbers."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        return None
    low, high = number(value[0]), number(value[1])
    return None if low is None or high is None else (low, high)


def list_of(value: Any) -> list[Any]:
    """Return `value` when it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def headline(results: Scores) -> dict[str, Any]:
    """Return the combined score with what it is, and the sentences to read before it."""
    tasks = {task: found for task in results.names if (found := results.task(task))}
    counts = {task: Counter(results.table(task)["location"]) for task in results.names}
    baselines = table(results.summary.get("baselines"))
    return {
        "baselines": {BASELINE_NAMES.get(name, name): table(found) for name, found in baselines.items()},
        "combined": results.summary.get("combined"),
        "interval": interval_of(results.summary.get("interval")),
        "split": results.split,
        "protocol": results.protocol,
        "terms": name_terms(results),
        "lpips": results.lpips,
        "is_lpips": results.is_lpips,
        "partial": bool(results.summary.get("partial")),
        "caveats": caveats(results, counts),
        "tasks": [task_row(results, task) for task in tasks],
        "has_fid_term": bool(results.rule and results.rule.set_terms),
        "has_fid": any(number(found.get("fid")) is not None for found in tasks.values()),
        "locations": len({location for found in counts.values() for location in found}),
        "images": sum(found.total() for found in counts.values()),
    }


def caveats(results: Scores, counts: Mapping[str, Counter[str]]) -> list[str]:
    """Return what a reader must know before comparing the number with any other; `counts` as above."""
    said = [
        f"Measured here, on the 8-bit files of the split {results.split!r}; it is no score of the challenge's server, "
        "whose images and exact rule are not public."
    ]
    net = results.lpips.get("net")
    if net and results.is_lpips:
        said.append(f"LPIPS uses the {net} net; values from different nets cannot be compared.")
    if few := [f"{task} {len(found)}" for task, found in counts.items() if 0 < len(found) < FEW_LOCATIONS]:
        said.append(f"Few locations ({', '.join(few)}): the intervals of these tasks rest on little.")
    notes = [str(note) for note in list_of(results.summary.get("notes"))]
    if results.summary.get("partial") and not notes:
        rows = {task: results.task(task) for task in results.names}
        said += [
            f"Partial: {task} is {found.get('status', 'not scored')} ({found.get('reason') or 'no reason given'})."
            for task, found in rows.items()
            if found.get("status") != "scored"
        ]
    return said + notes


def task_row(results: Scores, task: str) -> dict[str, Any]:
    """Return one line of the table of tasks; numbers are as they are stored."""
    found, baselines = results.task(task), table(results.summary.get("baselines")).values()
    numbers = {key: found.get(key) for key in ("score", "rmse", "l1", "lpips", "fid", "kid")}
    return {
        "task": task,
        "status": str(found.get("status", "")),
        "images": found.get("images", 0),
        "expected": found.get("expected", found.get("images", 0)),
        "interval": interval_of(found.get("interval")),
        "baselines": [table(table(table(each).get("tasks")).get(task)).get("score") for each in baselines],
        **numbers,
    }


def score_chart(results: Scores) -> dict[str, Any]:
    """Return the chart of task scores with every image, mean and interval."""
    parts = {task: found for task in results.names if (found := results.task(task))}
    parts["combined"] = {**results.summary, "score": results.combined}
    rows = [
        charts.ScoreRow(
            name, number(found.get("score")), interval_of(found.get("interval")), results.table(name)["score"].tolist()
        )
        for name, found in parts.items()
    ]
    return charts.score_rows(rows)


def task_section(evidence: Evidence, task: str, root: Path | None, gallery: Gallery) -> dict[str, Any] | None:
    """Return a task's images, charts, locations and training curves; None when there is nothing of it."""
    examples = chosen(evidence, task)
    strips = [_strip(evidence, pair, root, heading, note) for heading, pair, note in examples]
    curves = training_curves(evidence, task)
    if not strips and not curves and not (evidence.results and len(evidence.results.table(task, scored=False))):
        return None
    stage = evidence.recipe.stages.get(task)
    shown = gallery.show(task, task_title(evidence.challenge, task), items(evidence, task, root))
    return {
        "task": task,
        "method": stage.method if stage else "",
        "strips": strips,
        "levels": levels(shown),
        "charts": score_charts(task, shown),
        "maps": location_maps(evidence.results, task),
        "locations": locations(evidence.results, task),
        "folded": LOCATIONS_IN_VIEW,
        "curves": curves,
        "samples": training_samples(evidence, task),
        "trained": evidence.models.get(task, {}),
    }


def items(evidence: Evidence, task: str, root: Path | None) -> Iterator[Item]:
    """Yield every image of a task that was scored, or where none was, every one that was predicted."""
    results = evidence.results
    pairs = evidence.pairs["val", task]
    rows = results.table(task, scored=False) if results and results.split == "val" else pd.DataFrame()
    for pair in () if len(rows) else predicted(evidence, "val", task):
        yield Item(pair.name, pair.location, {}, partial(_read, evidence, pair, root))
    for cells in zip(*(rows[column] for column in rows), strict=True):
        image = dict(zip(rows, cells, strict=True))
        values = {str(key): number(value) for key, value in image.items() if key not in TEXTS}
        note = "" if image["status"] == "ok" else f"not scored: {image['status']}"
        read = partial(_read, evidence, pairs.get(image["name"]), root)
        yield Item(image["name"], image["location"], values, read, note)


def _read(evidence: Evidence, pair: Pair | None, root: Path | None) -> Panes:
    if pair is None:
        return Panes((), "the manifests no longer list this image")
    opened = images.open_images(evidence.run, evidence.recipe, pair, root)
    return Panes([opened.source, opened.prediction, opened.target, opened.error], opened.problem)


def metrics_of(results: Scores | None) -> list[str]:
    """Return the columns of the table of images: the score, then what was measured."""
    if results is None:
        return []
    found = results.images.drop(columns=[*TEXTS, "score"], errors="ignore").dropna(axis="columns", how="all")
    measured = {name for name in found if ":" not in name}
    return ["score", *(name for name in COLUMNS if name in measured), *sorted(measured - {*COLUMNS, "mse"})]


def levels(shown: Sequence[Shown]) -> dict[str, Any] | None:
    """Return a histogram for each channel of predictions against targets."""
    found = levels_of(shown)
    if found is None:
        return None
    totals, count = found
    names = CHANNEL_NAMES.get(totals.shape[1], tuple(f"channel {i + 1}" for i in range(totals.shape[1])))
    drawn = [
        (name, charts.histogram(totals[0, i].tolist(), totals[1, i].tolist(), name)) for i, name in enumerate(names)
    ]
    return {"charts": drawn, "images": count}


def score_charts(task: str, shown: Sequence[Shown]) -> list[charts.Plot]:
    """Return how the scores spread, and how they go with the brightness of the input."""
    scored = [(each, score) for each in shown if (score := each.item.values.get("score")) is not None]
    if len(scored) < 2:
        return []
    drawn = [charts.distribution("Scores", [score for _, score in scored])]
    spots = [
        charts.Spot(each.brightness, score, each.item.name, task)
        for each, score in scored
        if each.brightness is not None
    ]
    if len(spots) > 1:
        drawn.append(charts.scatter("Score by brightness of the input", spots, "mean of the input"))
    return drawn


def location_maps(results: Scores | None, task: str) -> list[charts.Plot]:
    """Return maps of the locations that are named by their coordinates, coloured by score."""
    spots = [
        charts.Spot(float(found[2]), float(found[1]), row["location"], task, score)
        for row in locations(results, task)
        if (found := COORDINATE.match(row["location"])) and (score := number(row["score"])) is not None
    ]
    groups = charts.clusters(spots, lambda spot: (spot.x, spot.y))
    large = [group for group in groups if len(group) >= FEWEST_ON_MAP]
    return [charts.location_map("Score by location", group) for group in large[:MAPS]]


def chosen(evidence: Evidence, task: str) -> list[tuple[str, Pair, str]]:
    """Return (heading, pair, note) of the best, median and worst image, or a few in order where none is scored."""
    results = evidence.results
    if results and results.split == "val":
        ranked = ranks(results, task)
        known = evidence.pairs["val", task]
        found = [(heading, image) for heading, image in ranked.items() if image["name"] in known]
        if found:
            return [(heading, known[image["name"]], _measured(results, image)) for heading, image in found]
    made = predicted(evidence, "val", task, with_target=True) or predicted(evidence, "val", task)
    return [
        (f"Image {i + 1}", pair, "not scored") for i, pair in enumerate(evenly_spaced(made, UNSCORED_IMAGES, ends=True))
    ]


def ranks(results: Scores, task: str) -> dict[str, Mapping[str, Any]]:
    """Return a task's best, median and worst image, each once; the first in the table where several are equal."""
    rises = bool(results.rule and results.rule.higher_is_better)
    images = results.table(task).sort_values("score", kind="stable", ascending=not rises)
    indices = {"Best": 0, "Median": (len(images) - 1) // 2, "Worst": len(images) - 1} if len(images) else {}
    unique = {index: heading for heading, index in reversed(indices.items())}
    return {unique[index]: {str(key): value for key, value in images.iloc[index].items()} for index in sorted(unique)}


def predicted(evidence: Evidence, split: str, task: str, with_target: bool = False) -> Sequence[Pair]:
    """Return the pairs of a split and task whose prediction is there."""
    pairs = [pair for pair in evidence.pairs[split, task].values() if pair.target or not with_target]
    return [pair for pair in pairs if evidence.run.prediction(split, task, pair.name).is_file()]


def name_terms(results: Scores) -> list[str]:
    """Return the names, as people write them, of what an image's score is the mean of."""
    return [images.title_of(term, results.is_lpips) for term in results.terms]


def _measured(results: Scores, image: Mapping[str, Any]) -> str:
    parts = [f"{name} {image[term]:.3f}" for name, term in zip(name_terms(results), results.terms, strict=True)]
    how = results.rule.reduction if results.rule else "mean"
    return f"{image['score']:.3f}, the {how} of {' and '.join(parts)}"


def _strip(evidence: Evidence, pair: Pair, root: Path | None, heading: str = "", note: str = "") -> dict[str, Any]:
    opened = images.open_images(evidence.run, evidence.recipe, pair, root)
    return images.strip(pair, images.tiles(opened, bool(pair.target)), opened.problem, heading, note)


def locations(results: Scores | None, task: str) -> list[dict[str, Any]]:
    """Return the task's locations, worst first."""
    found = table(results.task(task).get("locations")) if results else {}
    empty = {"images": 0, "rmse": None, "lpips": None, "score": None}
    rows = [{**empty, **table(said), "location": str(name)} for name, said in found.items()]
    return sorted(rows, key=lambda row: (-(number(row["score"]) or 0.0), row["location"]))


def training_curves(evidence: Evidence, task: str) -> list[charts.Plot]:
    """Return a small chart for each column of the training log that says something, those of validation first."""
    log = evidence.logs.get(task, {})
    names = [name for name in log if name not in AXES]
    names.sort(key=lambda name: (not name.startswith("val"), name == "learning_rate"))
    along = log.get("epoch") or log.get("step") or itertools.count()
    drawn = []
    for name in names:
        points = [(x, y) for x, y in zip(along, log[name], strict=False) if x is not None and y is not None]
        if len(points) > 1 and any(y for _, y in points):
            x, y = zip(*points, strict=True)
            drawn.append(charts.curve(name, x, y, int(np.argmin(y)) if name.startswith("val") else None))
    return drawn


def training_samples(evidence: Evidence, task: str) -> list[images.Tile]:
    """Return the first and the last sheet of validation images that training left, smaller."""
    sheets = matching(evidence.run.model(task) / "samples", "*.png")
    tiles = []
    for path in dict.fromkeys(sheets[:1] + sheets[-1:]):
        caption = f"Epoch {path.stem.lstrip('0') or 0}"
        try:
            tiles.append(images.tile(caption, images.read_prediction(path), side=SHEET_SIDE))
        except PbvsError as error:
            tiles.append(images.Tile(caption, absent=of_data(error)))
    return tiles


def test_section(evidence: Evidence, task: str, root: Path | None) -> dict[str, Any] | None:
    """Return a few test inputs with their predictions; None when no test image of the task was predicted."""
    made = predicted(evidence, "test", task)
    if not made:
        return None
    strips = [_strip(evidence, pair, root) for pair in evenly_spaced(made, TEST_IMAGES, ends=True)]
    return {"task": task, "strips": strips, "count": len(made)}


def _batches(evidence: Evidence) -> list[dict[str, Any]]:
    rows = []
    for (split, task), found in evidence.batches.items():
        if found:
            images, seconds = number(found.get("images")), number(found.get("seconds"))
            each = seconds / images if images and seconds is not None else None
            known = {"device": "", "evaluation_size": "", "images": None, **found, "split": split, "task": task}
            rows.append({**known, "each": each, "inputs": grid_text(found.get("input_grid"))})
    return rows


def _files(evidence: Evidence) -> list[tuple[str, str]]:
    run = evidence.run
    files = [("Recipe, resolved", f"{run.name}/recipe.toml"), ("Scores", f"{run.name}/scores/")]
    files = [(what, path) for what, path in files if (run.submissions / path).exists()]
    if run.archive.is_file():
        size = run.archive.stat().st_size / 1e6
        files.append(("Submission archive", f"{run.archive.name} ({size:.1f} MB, SHA-256 {sha256(run.archive)})"))
    return files
