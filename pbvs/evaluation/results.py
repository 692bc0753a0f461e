"""Read back what a scored run says, so that reports and comparisons need not know how it was scored."""

from __future__ import annotations

import csv
import math
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pbvs.challenge import TASKS
from pbvs.errors import PbvsError
from pbvs.files import read_error, read_json
from pbvs.run import Run
from pbvs.tables import read_table

METRICS = ("l1", "mse", "rmse", "lpips")


@dataclass(frozen=True, slots=True)
class ImageScore:
    """A row of `scores/<task>.csv`; metrics that could not be measured are absent."""

    name: str
    location: str
    status: str
    metrics: Mapping[str, float]

    def score(self, terms: Sequence[str] = ("rmse", "lpips")) -> float | None:
        """Return the mean of the metrics named in `terms`, or None when one is absent."""
        values = [self.metrics.get(term) for term in terms]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if self.status == "ok" and len(known) == len(values) > 0 else None


@dataclass(frozen=True)
class Results:
    """All that `pbvs score` wrote for a run: the summary as it is, and the images of each task."""

    run: Run
    summary: Mapping[str, Any]
    images: Mapping[str, Sequence[ImageScore]]

    @property
    def split(self) -> str:
        """The split that was scored."""
        return str(self.summary.get("split", ""))

    @property
    def protocol(self) -> Mapping[str, Any]:
        """The protocol with all its fields."""
        return table(self.summary.get("protocol"))

    @property
    def lpips(self) -> Mapping[str, Any]:
        """Which net, of which version, and whether it is LPIPS at all."""
        return table(self.summary.get("lpips"))

    @property
    def terms(self) -> tuple[str, ...]:
        """The metrics of one image that the protocol takes, for instance ("rmse", "lpips").

        The distance between sets of images (FID) is no part of them: it has no value for one image.
        """
        pixel = self.protocol.get("pixel", "rmse")
        names = {"pixel": pixel if pixel in METRICS else "rmse", "lpips": "lpips"}
        asked = self.protocol.get("terms")
        asked = asked if isinstance(asked, list) and asked else ["pixel", "lpips"]
        return tuple(names[term] for term in ("pixel", "lpips") if term in asked)

    @property
    def is_lpips(self) -> bool:
        """Whether the perceptual number is LPIPS; only an explicit "no" says that it is not."""
        return self.lpips.get("is_lpips") is not False

    def task(self, name: str) -> Mapping[str, Any]:
        """Return the summary's part on one task, empty when there is none."""
        return table(table(self.summary.get("tasks")).get(name))

    def scored(self, task: str) -> Iterator[tuple[ImageScore, float]]:
        """Yield the task's images that have a score, each with it."""
        terms = self.terms
        for image in self.images.get(task, ()):
            score = image.score(terms)
            if score is not None:
                yield image, score

    def scores(self, task: str) -> dict[str, float]:
        """Return each scored image's score by its name."""
        return {image.name: score for image, score in self.scored(task)}


def table(value: Any) -> Mapping[str, Any]:
    """Return `value` when it is a table, else an empty one: a damaged summary must not break a page."""
    return value if isinstance(value, dict) else {}


def number(value: Any) -> float | None:
    """Return a finite float, or None for anything else (empty text, NaN, no number at all)."""
    if value is None or isinstance(value, bool):
        return None
    try:
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None


def is_scored(run: Run) -> bool:
    """Return whether the run has a summary of scores."""
    return (run.scores / "summary.json").is_file()


def read_results(run: Run) -> Results:
    """Read a run's scores; raise PbvsError when it was not scored or the summary is damaged."""
    path = run.scores / "summary.json"
    if not is_scored(run):
        raise PbvsError(f"The run {run.name!r} has no scores; make them with `pbvs score --run {run.name}`.")
    summary = read_json(path)
    if not isinstance(summary, dict):
        raise PbvsError(f"{path} holds no summary; make it again with `pbvs score --run {run.name}`.")
    return Results(run, summary, {task: read_images(run, task) for task in TASKS})


def read_images(run: Run, task: str) -> Sequence[ImageScore]:
    """Read `scores/<task>.csv`; an absent file is a task without images."""
    path = run.scores / f"{task}.csv"
    if not path.is_file():
        return ()

    hint = f"make it again with `pbvs score --run {run.name}`"
    frame = read_table(path, hint)
    if "name" not in frame:
        raise PbvsError(f"{path} has no column 'name'; {hint}.")
    return [_image(row) for row in frame.to_dict("records")]


def read_csv(path: Path) -> tuple[list[str], list[dict[str, str | None]]]:
    """Return the columns and rows of a CSV file; raise PbvsError when it is none."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            return list(rows.fieldnames or ()), list(rows)
    except csv.Error as error:
        raise PbvsError(f"{path} is not valid CSV ({error}); make it again.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise read_error(path, error) from error


def _image(row: Mapping[Any, str]) -> ImageScore:
    values = {metric: number(row.get(metric)) for metric in METRICS}
    known = {metric: value for metric, value in values.items() if value is not None}
    location, status = sys.intern(row.get("location") or ""), sys.intern(row.get("status") or "ok")
    return ImageScore(row.get("name") or "", location, status, known)


# --- The scores as a table for a terminal of 80 columns, with the protocol and the LPIPS net named first.

WIDTH = 80


def score_table(summary: dict[str, Any]) -> str:
    """Return the summary of `pbvs.score` as text, lines of at most 80 characters."""
    protocol, lpips = summary["protocol"], summary["lpips"]
    name = "LPIPS" if lpips["is_lpips"] else "random"
    lines = [
        f"Run {summary['run']}, split {summary['split']}, protocol {protocol['name']}",
        *_wrap(f"{_rule(protocol)}; lower is better. {_net(lpips)}"),
        "",
        f"{'task':<9}{'images':>9}{'L1':>9}{'L2':>9}{name:>9}{_fid_head(summary)}{'score':>9}  95 % interval",
    ]
    lines += [_row(task, facts, summary) for task, facts in summary["tasks"].items()]
    blank = " " * (36 + (9 if _has_fid(summary) else 0))
    mark = " (partial)" if summary["partial"] else ""
    lines.append(f"{'combined':<9}{blank}{summary['combined']:>9.4f}{_interval(summary['interval'])}{mark}".rstrip())
    lines += _sensitivity(summary["sensitivity"])
    for note in summary["notes"]:
        lines += _wrap(f"Note: {note}")
    return "\n".join(lines)


def _rule(protocol: dict[str, Any]) -> str:
    """Say every choice of the protocol that a number depends on."""
    fid = [f"FID at layer {protocol['fid_layer']}, w {protocol['fid_weight']:g}"] if "fid" in protocol["terms"] else []
    sizes = {
        "recipe": "the recipe's evaluation size",
        "native": "the target's own size",
        "challenge": "256 and 1024 px",
    }
    parts = [
        f"Score: {protocol['description'] or 'mean of ' + ', '.join(protocol['terms'])}",
        f"pixel error {protocol['pixel']} on [0, 1]",
        *fid,
        f"at {sizes[protocol['evaluation_size']]} ({protocol['resampling']}; other sizes: {protocol['other_size']})",
        f"a missing task counts {protocol['missing_counts']:g} and adds {protocol['missing_adds']:g}",
    ]
    return "; ".join(parts)


def _net(lpips: dict[str, Any]) -> str:
    if lpips["is_lpips"]:
        return f"LPIPS is of {lpips['net']}, v{lpips['version']}."
    return "The column random is NOT LPIPS: a network with random weights, for wiring checks only."


def _sensitivity(rows: list[dict[str, Any]]) -> list[str]:
    """Return the combined score under each reading that is not settled, when there is more than one."""
    if len(rows) < 2:
        return []
    texts = [f"{row['reading']} {row['combined']:.4f}" for row in rows]
    return _wrap(f"Combined under each reading: {'; '.join(texts)}.")


def _has_fid(summary: dict[str, Any]) -> bool:
    return any(facts["fid"] is not None for facts in summary["tasks"].values())


def _fid_head(summary: dict[str, Any]) -> str:
    return f"{'FID':>9}" if _has_fid(summary) else ""


def _row(task: str, facts: dict[str, Any], summary: dict[str, Any]) -> str:
    names = ["l1", "rmse", "lpips", *(["fid"] if _has_fid(summary) else []), "score"]
    count = f"{facts['images']}/{facts['expected']}"
    numbers = "".join(_number(facts[name], 1 if name == "fid" else 4) for name in names)
    state = "" if facts["status"] == "scored" else f"  {facts['status']}"
    return f"{task:<9}{count:>9}{numbers}{_interval(facts['interval'])}{state}"


def _number(value: float | None, digits: int) -> str:
    return f"{'-':>9}" if value is None else f"{value:>9.{digits}f}"


def _interval(interval: list[float] | None) -> str:
    return "" if interval is None else f"  {interval[0]:.3f}-{interval[1]:.3f}"


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_long_words=False)
