"""What was made from what: what models, predictions, scores, archives and calibrations are known by, and what is stale.

Each is recorded with a digest of all that it was made from and with the parts of that digest, so that a change can be
named. Everything here reads records and manifests only, never images, and imports no torch.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pbvs import aliases
from pbvs.challenge import SPLITS
from pbvs.challenge.model import DEFAULT, load_challenge
from pbvs.data.manifest import manifest_path
from pbvs.errors import PbvsError
from pbvs.files import digest, matching, read_toml, sha256
from pbvs.recipe import Recipe, Stage, TaskName
from pbvs.run import MANIFESTS, Run, is_done, read_metadata
from pbvs.text import few

# What of a recipe changes no model.
UNRELATED = {"name", "description", "challenge", "stages", "extra_data", "evaluation_size"}
REPORT = "The report"  # as something stale
EARLIER = "earlier.json"  # in a model's folder: the finished models that its training went on from
_SOURCES = re.compile(r'<meta name="pbvs-made-from" content="([^"]*)">')
Parts = dict[str, Any]


@dataclass(frozen=True)
class Stale:
    """Something that was made from what is not so any more, and the command that makes it again."""

    what: str
    why: str
    renew: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}; renew with `{self.renew}`."


@dataclass(frozen=True)
class Lineage:
    """What a run's models and predictions are made from, as a recipe and the manifests stand now.

    `fresh` are tasks whose models are made again whatever is there.
    """

    run: Run
    recipe: Recipe
    manifests: Path = MANIFESTS
    fresh: frozenset[str] = frozenset()
    known: dict[Path, str] = field(default_factory=dict, compare=False)  # digests of manifests read so far

    def model_parts(self, task: TaskName, stage: Stage | None = None) -> Parts:
        """Return all that a stage's model is made from: settings, what stages share, pairs, earlier models.

        `stage` stands for the recipe's own. Raises PbvsError when a manifest is missing that it learns from.
        """
        stage = stage or self.recipe.stages[task]
        parts: Parts = {"stage": stage.identity(), "requires": {name: self.model(name) for name in stage.requires}}
        if learns(stage):
            shared = self.recipe.model_dump(mode="json", exclude=UNRELATED, exclude_defaults=True)
            if self.recipe.challenge != DEFAULT:
                shared["challenge"] = load_challenge(self.recipe.challenge).data_digest()
            parts["shared"] = aliases.original(shared)
            parts["manifests"] = {split: self.manifest(task, split) for split in ("train", "val")}
        return parts

    def model(self, task: TaskName) -> str:
        """Return the digest of `model_parts`, by which a finished model is known.

        A model that was installed from a bundle keeps the one that it came with: it is used as it is.
        """
        record = read_metadata(self.run.model_metadata_file(task))
        if record.get("installed") and task not in self.fresh:
            return str(record["made_from"])
        return model_digest(self.model_parts(task))

    def prediction_parts(self, task: TaskName, split: str) -> Parts:
        """Return all that a task's predictions are made from: the model and its files, the manifest, the size."""
        return {
            "model": self.model(task),
            "files": {n: read_metadata(self.run.model_metadata_file(n)).get("model") for n in self._needed(task)},
            "manifest": self.manifest(task, split),
            "evaluation_size": self.recipe.evaluation_size,
        }

    def has_predicted(self, task: TaskName, split: str, root: Path | None = None) -> bool:
        """Return whether the record of predictions says that they were made from what is there now."""
        path = self.run.prediction_metadata_file(split, task)
        if is_done(path, digest(self.prediction_parts(task, split))):
            return True
        record = read_metadata(path)
        if "parts" in record:
            return False
        # As versions up to 0.1 wrote it, with the path of the data root.
        parts = self.prediction_parts(task, split)
        old = [parts["model"], parts["manifest"], parts["evaluation_size"]]
        return any(record.get("made_from") == digest([*old, known]) for known in self._roots(root))

    def has_model(self, task: TaskName) -> bool:
        """Return whether the stage's model is finished and made from what is there now."""
        return is_done(self.run.model_metadata_file(task), self.model(task))

    def earlier(self, task: TaskName) -> list[str]:
        """Return the digests of the finished models that the training of a task's model went on from, in order."""
        return list(read_metadata(self.run.model(task) / EARLIER).get("models", []))

    def as_trained(self, task: TaskName) -> Stage:
        """Return the recipe's stage with what may change between trainings as it was for the finished model."""
        stage, record = self.recipe.stages[task], read_metadata(self.run.model_metadata_file(task))
        known: Parts = (record.get("parts") or {}).get("stage", {})
        if "parts" not in record and self.run.exists():  # as versions up to 0.1 wrote it: in the run's recipe alone
            old = self.run.recipe().stages.get(task)
            known = free_settings(old) if old is not None and type(old) is type(stage) else {}
        known, fields = {**known, **record.get("free", {})}, type(stage).model_fields
        return stage.model_copy(update={key: known.get(key, fields[key].default) for key in free_settings(stage)})

    def goes_on(self, task: TaskName) -> Stage | None:
        """Return the stage that a finished model was made with, where training can go on from it; else None.

        Where a stage asks for more epochs, the model that it once started from may have gone on meanwhile.
        """
        then, record = self.as_trained(task), read_metadata(self.run.model_metadata_file(task))
        parts, started = self.model_parts(task, then), (record.get("parts") or {}).get("requires", {})
        known = {
            name: [*self.earlier(name), read_metadata(self.run.model_metadata_file(name)).get("made_from")]
            for name in started
        }
        if self.recipe.stages[task].all_epochs > then.all_epochs and all(
            started[name] in known[name] for name in started
        ):
            parts["requires"] = started or parts["requires"]
        return then if model_digest(parts) == record.get("made_from") else None

    def older_start(self, task: TaskName) -> list[TaskName]:
        """Return the stages that have gone on since a finished model started from theirs."""
        record = read_metadata(self.run.model_metadata_file(task))
        then = (record.get("parts") or {}).get("requires", {})
        now = then if learns(self.recipe.stages[task]) else {}
        older = {name for name, source in now.items() if source != self.model(name)}
        return sorted(older.union(record.get("older_start", [])))

    def manifest(self, task: str, split: str) -> str:
        """Return a manifest's SHA-256; raise PbvsError when there is none."""
        path = manifest_path(self.manifests, task, split)
        if not path.is_file():
            raise PbvsError(f"There is no manifest {path}; make it with `pbvs build-pairs --data ROOT`.")
        if path not in self.known:
            self.known[path] = sha256(path)
        return self.known[path]

    def _needed(self, task: TaskName) -> Iterator[TaskName]:
        """Yield the task and those whose models it uses."""
        yield task
        for name in self.recipe.stages[task].requires:
            if not learns(self.recipe.stages[task]):  # a network only starts from the other's weights
                yield from self._needed(name)

    def networks(self, task: TaskName) -> list[TaskName]:
        """Return the stages whose trained networks translate a task's inputs: itself, or the first of a cascade."""
        return [name for name in self._needed(task) if learns(self.recipe.stages[name])]

    def _roots(self, root: Path | None) -> Iterator[str]:
        if root is not None:
            yield str(root)
        for path, keys in ((self.run.provenance_file, ("data", "root")), (self.manifests / "summary.json", ("root",))):
            value: Any = read_metadata(path)
            for key in keys:
                value = value.get(key) if isinstance(value, dict) else None
            if isinstance(value, str):
                yield value


def free_settings(stage: Stage) -> dict[str, Any]:
    """Return the settings that may change between two trainings of one model."""
    return stage.model_dump(mode="json", include=set(getattr(type(stage), "FREE", ())))


def learns(stage: Stage) -> bool:
    """Return whether a stage trains a network on pairs."""
    return "epochs" in type(stage).model_fields


def model_digest(parts: Parts) -> str:
    """Return the digest of a model's parts."""
    value: Parts = {"stage": parts["stage"], "requires": list(parts["requires"].values())}
    if "manifests" in parts:
        value |= {"shared": parts["shared"], "pairs": list(parts["manifests"].values())}
    return digest(value)


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return what differs between two recorded values, such as `intensity: 1.3 then, 1.5 now`; '' when nothing does.

    Digests are not shown, only which of them changed.
    """
    return few([_change(key, *values) for key, values in unlike(then, now).items()], 4, "; ")


def unlike(*tables: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Return what is not the same in all nested tables: dotted key -> each one's value, None for what is not there.

    >>> unlike({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4})
    {'a.c': (2, 3), 'd': (None, 4)}
    """
    known = [flat(table) for table in tables]
    found = {key: tuple(values.get(key) for values in known) for key in sorted(set().union(*known))}
    return {key: values for key, values in found.items() if any(value != values[0] for value in values[1:])}


def recipe_differences(*runs: Run) -> dict[str, tuple[Any, ...]]:
    """Return the recipes' keys that are not the same, with each run's value; names and descriptions are not told.

    Of a stage whose method is another only the method is told.
    """
    found = unlike(*(read_toml(run.recipe_file) if run.recipe_file.is_file() else {} for run in runs))
    stages = tuple(key.removesuffix("method") for key in found if key.endswith(".method"))
    return {
        key: values
        for key, values in found.items()
        if key not in ("name", "description") and (key.endswith(".method") or not key.startswith(stages))
    }


def flat(tables: Mapping[str, Any], path: str = "") -> Parts:
    """Return nested tables as one, with dotted keys."""
    found: Parts = {}
    for key, item in tables.items():
        found |= flat(item, f"{path}{key}.") if isinstance(item, Mapping) else {f"{path}{key}": item}
    return found


def _change(key: str, then: Any, now: Any) -> str:
    if _is_digest(then) or _is_digest(now):
        return f"{key} changed"
    shown = ["the default" if value is None else str(value) for value in (then, now)]
    return f"{key}: {shown[0]} then, {shown[1]} now"


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64


# --- What a reader of scores must know of how they came about.


def training_notes(run: Run, split: str, tasks: Iterable[str]) -> list[str]:
    """Return sentences on the networks behind the tasks' predictions of a split.

    They say on which images epochs were chosen, where a net that no loss saw disagreed with the choice (`parted`), and
    what inputs were brought to (`input_grid`). Raises PbvsError when the recipe or a record is damaged.
    """
    lineage = Lineage(run, run.recipe())
    translated = {task: lineage.networks(task) for task in lineage.recipe.order() if task in set(tasks)}
    networks = list(dict.fromkeys(name for names in translated.values() for name in names))
    records = {name: read_metadata(run.model_metadata_file(name)) for name in networks}
    known = {name: record.get("training") or {} for name, record in records.items()}
    chosen = {name: known[name].get("chosen_on", lineage.recipe.stages[name].chosen_on) for name in networks}
    notes = [_chosen_note(where, [n for n in networks if chosen[n] == where], split) for where in ("val", "train")]
    parted = ", ".join(name for name in networks if known[name].get("parted"))
    if parted:
        notes.append(
            f"{parted}: to a net that training did not see, the epoch that was kept is further from the targets than "
            "an earlier one (`parted`): it may have learnt its loss and not the images."
        )
    notes += [
        f"{name} started from {start} as it was before that went on with more epochs."
        for name, record in records.items()
        for start in record.get("older_start", [])
    ]
    made = {task: read_metadata(run.prediction_metadata_file(split, task)) for task in translated if translated[task]}
    grids = {task: record["input_grid"] for task, record in made.items() if "input_grid" in record}
    return [*filter(None, notes), *_grid_notes(grids)]


def _chosen_note(where: str, names: Sequence[str], split: str) -> str:
    if not names:
        return ""
    said = f"The epoch of {', '.join(names)} was chosen on "
    if where == split == "val":
        return (
            f'{said}the split val, which is scored here: the score is a bit too good (`choose_on = "train"` avoids it).'
        )
    return said + ("the split val." if where == "val" else "training locations that were kept from learning.")


def _grid_notes(grids: Mapping[str, Any]) -> Iterator[str]:
    """Yield what inputs of which tasks were brought to before the network."""
    if brought := [f"{task} {grid_text(grid)}" for task, grid in grids.items() if grid]:
        yield f"Inputs were brought to the sizes trained on (`input_grid`), in pixels a side: {', '.join(brought)}."
    if native := [task for task, grid in grids.items() if not grid]:
        yield f"Inputs of {', '.join(native)} were translated at their own size (`input_grid`)."


def grid_text(grid: Any) -> str:
    """Return recorded sizes that inputs were brought to, in pixels a side.

    >>> grid_text({"least": 64.0, "most": 256.4, "whole": False}), grid_text({"least": 64, "most": 64, "whole": True})
    ('64 to 256', '64 x 64')
    """
    if not isinstance(grid, Mapping):
        return "own size"
    least, most = (round(float(grid.get(key) or 0)) for key in ("least", "most"))
    return f"{most} x {most}" if grid.get("whole") else f"{least} to {most}" if least != most else f"{most}"


# --- What of a run is stale.


def stale(run: Run, manifests: Path = MANIFESTS) -> list[Stale]:
    """Return what of a run is not made from what it would be made from now, with why and what renews it.

    Looked at are models, predictions, scores, archives, calibrations and the report that are there; where the manifests
    are not, what depends on them counts as it was. Raises PbvsError when the run's recipe cannot be read.
    """
    lineage = Lineage(run, run.recipe(), manifests)
    tasks = lineage.recipe.order()
    found = [
        *(item for task in tasks for item in stale_model(lineage, task)),
        *(item for task in tasks for split in SPLITS[1:] for item in stale_predictions(lineage, task, split)),
        *stale_scores(run, tasks),
        *stale_archives(run),
        *(item for task in tasks for item in stale_calibration(lineage, task)),
        *stale_report(run),
    ]
    return list(dict.fromkeys(found))


def stale_model(lineage: Lineage, task: TaskName) -> Iterator[Stale]:
    """Yield the task's model when the recipe or the manifests say another one."""
    record = read_metadata(lineage.run.model_metadata_file(task))
    if not record or record.get("installed") or not _has_manifests(lineage, task, ("train", "val")):
        return
    if not lineage.has_model(task):
        renew = f"pbvs predict --run {lineage.run.name} --task {task}"
        if learns(lineage.recipe.stages[task]) and not lineage.goes_on(task):
            renew += " --retrain"
        yield Stale(f"The model of {task}", _why(record, lineage.model_parts(task), "recipe or manifests"), renew)


def stale_predictions(lineage: Lineage, task: TaskName, split: str) -> Iterator[Stale]:
    """Yield the task's predictions when they were made by another model, from another manifest or at another size."""
    run, path = lineage.run, lineage.run.prediction_metadata_file(split, task)
    if not path.is_file() or not _has_manifests(lineage, task, ("train", "val"), split):
        return
    record = read_metadata(path)
    if not _is_digest(record.get("made_from")) or lineage.has_predicted(task, split):
        return
    renew = f"pbvs predict --run {run.name} --task {task} --split {split}"
    why = _why(record, lineage.prediction_parts(task, split), "model or manifest")
    model = next(stale_model(lineage, task), None)
    yield Stale(f"The predictions of {task} ({split})", f"{why} ({model.why})" if model else why, renew)


def stale_scores(run: Run, tasks: Sequence[str], folder: Path | None = None) -> Iterator[Stale]:
    """Yield scores of predictions made again since, or by another protocol than now; only those in `folder`, if any."""
    from pbvs.metrics.protocol import is_current, options_of

    for path in [folder / "summary.json"] if folder else matching(run.scores, "**/summary.json"):
        summary = read_metadata(path)
        split, sources = str(summary.get("split", "val")), summary.get("made_from")
        rule = summary.get("protocol")
        name = str(rule.get("name", "")) if isinstance(rule, dict) else ""
        outdated = isinstance(rule, dict) and name not in run.challenge().protocols and not is_current(rule)
        renew = f"pbvs score --run {run.name} --split {split}" + (options_of(rule) if isinstance(rule, dict) else "")
        for task, source in (sources if isinstance(sources, dict) else {}).items():
            again = source != prediction_source(run, split, task)
            if task in tasks and (again or outdated):
                why = "the predictions were made again since" if again else f"the protocol {name} is another one now"
                yield Stale(f"The scores of {task} ({split}{name and f', {name}'})", why, renew)


def doubts_of_scores(run: Run, folder: Path, manifests: Path = MANIFESTS) -> list[Stale]:
    """Return why the scores in a folder are not what `pbvs score` would say after all was made again.

    Either the predictions that were scored are stale, or they were made again since. Raises PbvsError when the run's
    recipe or a record is damaged.
    """
    lineage, summary = Lineage(run, run.recipe(), manifests), read_metadata(folder / "summary.json")
    split, found = str(summary.get("split", "val")), summary.get("tasks")
    tasks = [task for task in lineage.recipe.order() if isinstance(found, dict) and task in found]
    predictions = [item for task in tasks for item in stale_predictions(lineage, task, split)]
    return [*predictions, *stale_scores(run, tasks, folder)]


def stale_archives(run: Run, manifests: Path | None = None) -> Iterator[Stale]:
    """Yield archives of predictions that were made again since or, with `manifests`, that are stale themselves."""
    for path in matching(run.folder, "package*.json"):
        record = read_metadata(path)
        split, tasks = str(record.get("split", "test")), record.get("tasks")
        archive = run.submissions / str(record.get("archive", ""))
        for task, source in (tasks if isinstance(tasks, dict) else {}).items():
            if not isinstance(source, dict) or not archive.is_file():
                continue
            other = Run(str(source.get("run", run.name)), run.submissions)
            if source.get("made_from") != prediction_source(other, split, task):
                renew = f"pbvs package --run {run.name}" + ("" if split == "test" else f" --split {split}")
                yield Stale(archive.name, f"the predictions of {task} were made again since", renew)
            elif manifests and task in (recipe := other.recipe()).stages:
                found = stale_predictions(Lineage(other, recipe, manifests), task, split)
                yield from (Stale(archive.name, f"{item.what} are stale, {item.why}", item.renew) for item in found)


def stale_calibration(lineage: Lineage, task: TaskName) -> Iterator[Stale]:
    """Yield the calibration whose first model or training pairs are others now."""
    record = read_metadata(lineage.run.folder / "calibration" / f"{task}.json")
    then = record.get("parts")
    if not isinstance(then, dict) or not _has_manifests(lineage, task, ("train",)):
        return
    if said := changes(then, calibration_parts(lineage, task)):
        yield Stale(f"The calibration of {task}", said, f"pbvs calibrate --run {lineage.run.name} --task {task}")


def stale_report(run: Run) -> Iterator[Stale]:
    """Yield the report when scores or predictions that it shows were made after it; one that does not say is not."""
    if not run.report_file.is_file():
        return
    with run.report_file.open(encoding="utf-8", errors="replace") as file:
        said = _SOURCES.search(file.read(1 << 14))
    try:
        then = json.loads(html.unescape(said[1])) if said else None
    except ValueError:
        then = None
    now = report_sources(run)
    if isinstance(then, dict) and (newer := [what for what, known in now.items() if then.get(what) != known]):
        yield Stale(REPORT, f"{few(newer, 2, ' and ')} were made after it", f"pbvs report --run {run.name}")


def report_sources(run: Run) -> dict[str, str]:
    """Return the first digits of the digest of every scores and predictions of a run: what a report is made from."""
    found = {}
    for path in matching(run.scores, "**/summary.json"):
        where = path.parent.relative_to(run.scores).as_posix()
        found["the scores" if where == "." else f"the scores ({where.replace('/', ', ')})"] = sha256(path)[:16]
    for path in matching(run.folder, "predictions/*/[!.]*.json"):
        if made_from := prediction_source(run, path.parent.name, path.stem):
            found[f"the predictions of {path.stem} ({path.parent.name})"] = made_from[:16]
    return found


def calibration_parts(lineage: Lineage, task: TaskName) -> Parts:
    """Return what a calibration is made from: the first model, if there is one, and the training pairs."""
    records = {
        name: read_metadata(lineage.run.model_metadata_file(name)) for name in lineage.recipe.stages[task].requires
    }
    firsts = {name: record.get("made_from") for name, record in records.items()}
    return {"manifest train": lineage.manifest(task, "train"), **{f"model of {name}": d for name, d in firsts.items()}}


def prediction_source(run: Run, split: str, task: str) -> str | None:
    """Return the digest of what a task's predictions were made from, as their record says; None without a record.

    A summary of scores remembers it of each task, as `made_from`.
    """
    value = read_metadata(run.prediction_metadata_file(split, task)).get("made_from")
    return value if isinstance(value, str) else None


def refuse_stale(run: Run, split: str, tasks: Sequence[str], manifests: Path = MANIFESTS) -> None:
    """Raise PbvsError naming the first predictions of these tasks that are stale, why, and what renews them."""
    lineage = Lineage(run, run.recipe(), manifests)
    for task in lineage.recipe.order():
        if task in tasks and (found := next(stale_predictions(lineage, task, split), None)):
            raise PbvsError(f"{found} Or say --allow-stale to take them as they are.")


def _has_manifests(lineage: Lineage, task: TaskName, training: Iterable[str], split: str | None = None) -> bool:
    """Return whether all manifests are there that the task's model, and its predictions of `split`, depend on."""
    needed = [(task, split)] if split else []
    waiting: list[TaskName] = [task]
    while waiting:
        name = waiting.pop()
        waiting += lineage.recipe.stages[name].requires
        if learns(lineage.recipe.stages[name]) or (name == task and "val" not in training):
            needed += [(name, part) for part in training]
    return all(manifest_path(lineage.manifests, name, part).is_file() for name, part in needed)


def _why(record: Mapping[str, Any], now: Parts, otherwise: str) -> str:
    then = record.get("parts")
    said = changes(then, now) if isinstance(then, dict) else ""
    return said or f"made from another {otherwise}"
