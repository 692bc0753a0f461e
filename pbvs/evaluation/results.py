"""What a scored run says: a summary, a table with one row per image, and both as text for a terminal.

Scores lie in `scores/<split>/<protocol>/` of a run's folder, `summary.json` and a CSV file for each task; those of
earlier versions lie in `scores/` itself and are still read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pbvs.errors import PbvsError
from pbvs.files import read_record, write_json
from pbvs.run import SHAPE, Run, read_metadata
from pbvs.text import aligned, csv_cell, folded, from_csv_cell, read_table, write_table

if TYPE_CHECKING:
    from pbvs.metrics.protocol import Protocol

SUMMARY = "summary.json"
TABLE = ("task", "name", "location", "source", "target", "prediction", "status")  # columns before the metrics
TEXTS = (*TABLE, "reason")


@dataclass
class TaskScores:
    """A task's images as a table, one row per pair in the manifest's order, and its metrics of sets of images."""

    table: pd.DataFrame  # the columns of TABLE, then one for each metric; no number where there is none
    sets: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Scores:
    """A run's scores on one split by one protocol; `pbvs.score` gives them back.

    `images` has one row per image with the columns task, name, location, source, target, prediction, status (ok, or
    why there is no number), one for each metric, reason, and score: the mean or sum of the terms that single images
    have. `summary` is `summary.json` as it is; `scores["combined"]` is one of its entries.

    >>> scores = score("night1")                                                          # doctest: +SKIP
    >>> scores.combined, scores.tasks.loc["sar2eo", "score"], len(scores.images)          # doctest: +SKIP
    (0.3315, 0.2987, 77)
    """

    run: Run
    summary: Mapping[str, Any]
    images: pd.DataFrame
    folder: Path

    def __getitem__(self, key: str) -> Any:
        """Return an entry of the summary."""
        return self.summary[key]

    @property
    def combined(self) -> float | None:
        """The combined score, or None where the summary has none."""
        return number(self.summary.get("combined"))

    @property
    def tasks(self) -> pd.DataFrame:
        """One row per task: status, images, expected, every metric, score, low and high (the 95 % interval)."""
        rows = []
        for name, found in table(self.summary.get("tasks")).items():
            plain = {key: value for key, value in table(found).items() if not isinstance(value, (dict, list))}
            low, high = table(found).get("interval") or (None, None)
            rows.append({"task": name, **plain, "low": low, "high": high})
        return pd.DataFrame(rows).set_index("task") if rows else pd.DataFrame()

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the rule, then the tasks."""
        from html import escape

        said = f"Run {self.run.name}, split {self.split}, protocol {self.protocol.get('name')}: combined "
        value = "no score" if self.combined is None else f"{self.combined:.4f}, lower is better"
        shown = self.tasks.dropna(axis="columns", how="all").drop(columns="reason", errors="ignore")
        table: str = shown.to_html(float_format="{:.4f}".format, na_rep="-", border=0)
        return f"<p>{escape(said)}<strong>{value}</strong></p>{table}"

    @property
    def names(self) -> tuple[str, ...]:
        """The challenge's tasks, in its order."""
        return tuple(table(self.summary.get("tasks")))

    @property
    def split(self) -> str:
        """The split that was scored."""
        return str(self.summary.get("split", ""))

    @property
    def protocol(self) -> Mapping[str, Any]:
        """The protocol with all its fields."""
        return table(self.summary.get("protocol"))

    @cached_property
    def rule(self) -> Protocol | None:
        """The protocol as an object; None when the summary's cannot be one."""
        return rule_of(self.summary)

    @property
    def lpips(self) -> Mapping[str, Any]:
        """Which net, of which version, and whether it is LPIPS at all."""
        return table(self.summary.get("lpips"))

    @property
    def is_lpips(self) -> bool:
        """Whether the perceptual number is LPIPS; only an explicit "no" says that it is not."""
        return self.lpips.get("is_lpips") is not False

    @property
    def lpips_label(self) -> str:
        """The net, as the tables' titles have it."""
        net = self.lpips.get("net", "?")
        return f"LPIPS {net}" if self.is_lpips else f"NOT LPIPS ({net})"

    @property
    def terms(self) -> tuple[str, ...]:
        """The metrics of one image that the protocol takes, for instance ("rmse", "lpips")."""
        if self.rule is None:
            return ("rmse", "lpips")
        return tuple(term.metric for term in self.rule.terms if not self.rule.is_set(term.metric))

    def task(self, name: str) -> Mapping[str, Any]:
        """Return the summary's part on one task, empty when there is none."""
        return table(table(self.summary.get("tasks")).get(name))

    def table(self, task: str, scored: bool = True) -> pd.DataFrame:
        """Return the rows of one task's images; only those with a score, unless told otherwise."""
        rows = self.images[self.images["task"] == task]
        return rows[rows["score"].notna()] if scored else rows

    def scores(self, task: str) -> dict[str, float]:
        """Return each scored image's score by its name."""
        rows = self.table(task)
        return dict(zip(rows["name"], rows["score"], strict=True))


def rule_of(summary: Mapping[str, Any]) -> Protocol | None:
    """Return a summary's protocol; None when it is none of this version's or an earlier one's."""
    from pbvs.metrics.protocol import load_protocol

    try:
        return load_protocol(table(summary.get("protocol")))
    except PbvsError:
        return None


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


# --- Where scores lie.


def find_scores(run: Run, split: str | None = None, protocol: str | None = None) -> Path:
    """Return the folder of the newest scores, of a split and protocol where they are named.

    Raises PbvsError when the run has no such scores.
    """
    folders = run.score_folders()
    for folder in folders:
        if folder == run.scores:  # of an earlier version
            said = read_metadata(folder / SUMMARY) if split or protocol else {}
            where = (said.get("split", split), table(said.get("protocol")).get("name", protocol))
        else:
            where = (folder.parent.name, folder.name)
        if split in (None, where[0]) and protocol in (None, where[1]):
            return folder
    asked = "".join(f" --{key} {value}" for key, value in (("split", split), ("protocol", protocol)) if value)
    what = f"scores of {' by '.join(filter(None, (split, protocol)))}" if asked else "scores"
    raise PbvsError(f"The run {run.name!r} has no {what}; make them with `pbvs score --run {run.name}{asked}`.")


def read_scores(run: Run, folder: Path | None = None) -> Scores:
    """Read a run's scores, the newest unless a folder is given; raise PbvsError when there are none or damaged."""
    folder = folder or find_scores(run)
    summary = read_record(folder / SUMMARY, f"make it again with `pbvs score --run {run.name}`", SHAPE)
    tables = {task: read_images(folder / f"{task}.csv", run, task) for task in table(summary.get("tasks"))}
    return _scores(run, folder, summary, tables)


def write_scores(run: Run, folder: Path, summary: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]) -> Scores:
    """Write a table for each task, then the summary; return them as scores."""
    for task, images in tables.items():
        write_table(folder / f"{task}.csv", images.assign(**_texts(images, csv_cell)).drop(columns="task"))
    write_json(folder / SUMMARY, summary)
    return _scores(run, folder, summary, tables)


def _scores(run: Run, folder: Path, summary: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]) -> Scores:
    kept = [images for images in tables.values() if len(images)]
    images = pd.concat(kept, ignore_index=True) if kept else pd.DataFrame(columns=[*TEXTS])
    rule = rule_of(summary)
    return Scores(run, summary, images.assign(score=image_scores(images, rule)), folder)


def image_scores(images: pd.DataFrame, rule: Protocol | None) -> pd.Series[float]:
    """Return each image's score by the terms that single images have; NaN where one of them has no value."""
    empty = pd.Series(math.nan, index=images.index, dtype=float)
    if rule is None or not len(images) or len(rule.set_terms) == len(rule.terms):
        return empty
    rule = rule.of_images()
    names = [term.metric for term in rule.terms]
    if any(name not in images for name in names):
        return empty
    usable = images["status"].eq("ok") & images[names].notna().all(axis=1)
    baselines = images.filter(like="baseline:").rename(columns=lambda name: name.partition(":")[2])
    # not itertuples: before pandas 3 it has no row where there is no column
    values, references = (frame[usable].to_numpy().tolist() for frame in (images[names], baselines))
    known = (dict(zip(names, value, strict=True)) for value in values)
    found = [rule.task_score(v, dict(zip(baselines, b, strict=True))) for v, b in zip(known, references, strict=True)]
    return empty.mask(usable, pd.Series(found, index=images.index[usable], dtype=float))


def read_images(path: Path, run: Run, task: str) -> pd.DataFrame:
    """Read a task's table; an absent file is a task without images, what is no finite number is NaN."""
    if not path.is_file():
        return pd.DataFrame()
    again = f"make it again with `pbvs score --run {run.name}`"
    images = read_table(path, again)
    if "name" not in images:
        raise PbvsError(f"{path} has no column 'name'; {again}.")
    images = images.reindex(columns=list(dict.fromkeys([*TEXTS, *images.columns]))).assign(task=task)
    images["status"] = images["status"].fillna("").replace("", "ok")
    for column in images.columns.difference(TEXTS):
        images[column] = images[column].map(number).astype(float)  # pd.to_numeric of pandas 2 misses the last digit
    return images.assign(**_texts(images, from_csv_cell))


def _texts(images: pd.DataFrame, cell: Callable[[str], str]) -> dict[str, pd.Series[Any]]:
    """Return the columns of text, of which people's tables have `csv_cell`s."""
    there = [column for column in TEXTS if column in images]
    return {column: images[column].astype(object).fillna("").map(cell).astype(object) for column in there}


# --- The scores as a table for a terminal, with the protocol and the LPIPS net named first.

WIDTH = 80


def score_table(scores: Scores | Mapping[str, Any], width: int = WIDTH) -> str:
    """Return scores, or their summary, as text, lines of at most `width` characters."""
    summary = scores.summary if isinstance(scores, Scores) else scores
    protocol, lpips = summary["protocol"], summary["lpips"]
    better = "higher" if summary.get("higher_is_better") else "lower"
    lines = [
        *folded(f"Run {summary['run']}, split {summary['split']}, protocol {protocol['name']}", width, 2),
        *folded(f"{_rule(protocol)}; {better} is better. {_net(lpips)}", width, 2),
        "",
        *aligned(_rows(summary), width, least=40),
        *_sensitivity(summary["sensitivity"], width),
    ]
    return "\n".join([*lines, *(part for note in summary["notes"] for part in folded(f"Note: {note}", width, 2))])


def _rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """Return the head, a row per task, the combined score and those of the inputs; a status where one matters."""
    metrics, tasks = shown_metrics(summary), summary["tasks"]
    tell = any(found["status"] != "scored" for found in tasks.values())
    rows = [["task", "images", *(_head(name, summary) for name in metrics), "score", "95 % interval", "status"]]
    for task, found in tasks.items():
        numbers = [_number(found.get(metric), DIGITS.get(metric, 4)) for metric in metrics]
        count = f"{found['images']}/{found['expected']}"
        rows.append([task, count, *numbers, _number(found["score"]), _interval(found["interval"]), found["status"]])
    baselines = {BASELINE_NAMES.get(name, name): found for name, found in table(summary.get("baselines")).items()}
    for label, found in ({f"combined{' (partial)' * bool(summary['partial'])}": summary} | baselines).items():
        interval = _interval(found.get("interval")) if found is summary else ""
        rows.append([label, *[""] * (len(metrics) + 1), _number(found["combined"]), interval, ""])
    return rows if tell else [row[:-1] for row in rows]


BASELINE_NAMES = {"input": "input as it is", "gray": "its gray"}
HEADS = {"rmse": "L2", "lpips": "LPIPS", "fid": "FID", "psnr": "PSNR", "ssim": "SSIM", "l1": "L1"}
DIGITS = {"fid": 1, "psnr": 2}


def shown_metrics(summary: Mapping[str, Any]) -> list[str]:
    """Return the metrics that were measured, in the order of a table: L1, L2, LPIPS, the score's terms, the others."""
    rule = rule_of(summary)
    terms = [term.metric for term in rule.terms] if rule else []
    wanted = dict.fromkeys(["l1", "rmse", "lpips", *terms, "fid", "psnr", "ssim"])
    tasks = [table(found) for found in summary["tasks"].values()]
    return [name for name in wanted if any(number(task.get(name)) is not None for task in tasks)]


def _head(name: str, summary: Mapping[str, Any]) -> str:
    if name == "lpips" and not summary["lpips"]["is_lpips"]:
        return "random"
    return HEADS.get(name, name.upper())[:7]


def _rule(protocol: Mapping[str, Any]) -> str:
    """Say every choice of the protocol that a number depends on."""
    rule = rule_of({"protocol": protocol})
    sizes = {
        "recipe": "the recipe's evaluation size",
        "native": "the target's own size",
        "challenge": "the challenge's size",
    }
    parts = [f"Score: {protocol['description'] or 'by its terms'}"]
    if rule:
        parts += [f"{rule.reduction} of {', '.join(map(_term, rule.terms))}"]
        parts += [f"FID at layer {rule.fid_layer}"] if "fid" in rule.metrics else []
    parts += [
        f"at {sizes[protocol['evaluation_size']]} ({protocol['resampling']}; other sizes: {protocol['other_size']})",
        f"a missing task counts {protocol['missing_counts']:g} and adds {protocol['missing_adds']:g}",
    ]
    return "; ".join(parts)


def _term(term: Any) -> str:
    detail = {"arctan": f", w {term.width:g}", "log": f", base {term.base:g}"}.get(term.transform, "")
    how = "" if term.transform == "identity" else f" ({term.transform}{detail})"
    return f"{'' if term.weight == 1 else f'{term.weight:g} '}{term.metric}{how}"


def _net(lpips: Mapping[str, Any]) -> str:
    if not lpips["net"]:
        return ""
    if lpips["is_lpips"]:
        return f"LPIPS is of {lpips['net']}, v{lpips['version']}."
    return "The column random is NOT LPIPS: a network with random weights, for wiring checks only."


def _sensitivity(rows: list[dict[str, Any]], width: int) -> list[str]:
    """Return the combined score under each reading that is not settled, when there is more than one."""
    if len(rows) < 2:
        return []
    texts = [f"{row['reading']} {row['combined']:.4f}" for row in rows]
    return folded(f"Combined under each reading: {'; '.join(texts)}.", width, 2)


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _interval(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.3f}-{interval[1]:.3f}"
