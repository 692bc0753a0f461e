"""The submission's zip: written whole or not at all, the same bytes for the same content, checked before it counts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pbvs.challenge import Challenge, load_challenge
from pbvs.challenge.model import Container, Outputs
from pbvs.data.build import find_root
from pbvs.data.catalog import natural_key
from pbvs.data.manifest import check_content
from pbvs.errors import PbvsError, UsageError
from pbvs.files import atomic_path, open_no_follow, sha256, sweep, visible_names, write_json
from pbvs.lineage import refuse_stale
from pbvs.logs import track
from pbvs.recipe import Recipe
from pbvs.run import Run, locked, read_metadata
from pbvs.submission.check import check
from pbvs.submission.images import is_plain, recode
from pbvs.submission.inputs import SUFFIXES, Inputs, OutputNames, check_inputs, from_manifests
from pbvs.submission.inspection import EvaluationSize
from pbvs.submission.readme import Readme, describe, write_readme
from pbvs.submission.zips import Finding, as_text, rejected, write_zip
from pbvs.text import few


class PackageRefused(PbvsError):
    """The archive that was written broke a rule; it was thrown away and the earlier one kept."""

    def __init__(self, findings: Sequence[Finding]):
        self.findings = list(findings)
        super().__init__(
            "The archive would be rejected and was not kept; correct what is listed.\n" + as_text(findings)
        )


def inputs_of(manifests: Path, root: Path | None, split: str = "test", challenge: Challenge | None = None) -> Inputs:
    """Return the inputs that the manifests name; sizes and brightness are known where the data root is."""
    try:
        found: Path | None = find_root(root, manifests)
    except UsageError:
        if root is not None:
            raise
        found = None
    return from_manifests(manifests, found, split, challenge)


def write_package(plan: PackagePlan, inputs: Inputs) -> tuple[Path, list[Finding]]:
    """Write the plan's archive and its metadata; return its path and what the check had to say.

    Raises PbvsError when another command works on one of the runs, or has predicted again since the plan was made.
    """
    path = package_path(plan)
    with contextlib.ExitStack() as stack:
        for run in sorted({part.run.folder for part in plan.parts} | {plan.run.folder}):
            stack.enter_context(locked(run))
        for part in plan.parts:
            if read_metadata(part.run.prediction_metadata_file(plan.split, part.task)) != part.metadata:
                where = f"{part.task} in the run {part.run.name!r}"
                raise PbvsError(f"The predictions of {where} were made again meanwhile; start again.")
        sweep(plan.run.folder)
        sweep(path.parent, deep=False)
        with atomic_path(path) as new:
            write_zip(new, entries(plan))
            findings = check(new, inputs=inputs, evaluation_size=plan.evaluation_size, name=path.name)
            if rejected(findings):
                raise PackageRefused([finding for finding in findings if finding.level == "error"])
        name = "package.json" if plan.split == "test" else f"package-{plan.split}.json"
        write_json(plan.run.folder / name, package_metadata(plan, path))
    return path, findings


def package_path(plan: PackagePlan) -> Path:
    """Return where the archive lies; a rehearsal on another split lies in the run's own folder."""
    return plan.run.archive if plan.split == "test" else plan.run.folder / f"{plan.split}.zip"


def package_metadata(plan: PackagePlan, path: Path) -> dict[str, Any]:
    """Return what the archive was made of: its digest, each task's source, and the sources' provenance."""
    return {
        "archive": path.relative_to(plan.run.submissions).as_posix(),
        "sha256": sha256(path),
        "bytes": path.stat().st_size,
        "split": plan.split,
        "evaluation_size": plan.evaluation_size,
        "readme": asdict(plan.readme),
        "tasks": {
            part.task: {
                "run": part.run.name,
                "recipe": part.run.recipe().digest(),
                "made_from": part.metadata.get("made_from"),
                "images": len(part.paths),
                "mode": part.mode or "as predicted",
                "format": part.form,
            }
            for part in plan.parts
        },
        "provenance": {part.run.name: read_metadata(part.run.provenance_file) or None for part in plan.parts},
    }


def entries(plan: PackagePlan) -> Iterator[tuple[str, bytes]]:
    """Yield the archive's entries in their fixed order: the readme, then task by task, names in natural order."""
    rules = plan.challenge.submission
    if rules.readme:
        yield rules.readme_name, write_readme(plan.readme, rules.readme).encode("ascii")
    images = [(part, name) for part in plan.parts for name in part.paths]
    for part, name in track(images, "packing", len(images), unit="image"):
        yield part.paths[name], part.data(part.folder / name, part.mode)


# --- What goes into an archive, and from which run: decided and compared with the manifests before a byte is written.

SAMPLED = 6  # images a task that are recoded to estimate a size


@dataclass(frozen=True)
class Part:
    """One task's images: where they come from and the form they are written in."""

    task: str
    run: Run
    metadata: Mapping[str, Any]  # predictions/<split>/<task>.json
    folder: Path
    paths: Mapping[str, str]  # names of the files in the folder, in the archive's order -> paths in the archive
    outputs: Outputs
    mode: str | None = None  # L, RGB, or as they are
    form: Container = "png"

    def data(self, path: Path, mode: str | None) -> bytes:
        """Return one image's bytes as they go into the archive in a mode; a link is not followed.

        Raises PbvsError naming an image that cannot be read or recoded.
        """
        try:
            with os.fdopen(open_no_follow(path, os.O_RDONLY), "rb") as file:
                stored = file.read()
            return stored if self._as_stored(mode) else recode(stored, mode, self.form, self.outputs)
        except (OSError, ValueError) as error:
            raise PbvsError(f"The prediction {path} cannot be packed: it {error}; predict it again.") from None

    def estimate(self, mode: str | None) -> float:
        """Return about how many bytes the images take in a mode, from a few of them."""
        paths = [self.folder / name for name in self.paths]
        total = sum(path.stat().st_size for path in paths)
        if self._as_stored(mode):
            return total
        chosen = paths[:: max(1, len(paths) // SAMPLED)]
        old, new = (path.stat().st_size for path in chosen), (len(self.data(path, mode)) for path in chosen)
        return total * sum(new) / max(1, sum(old))

    def _as_stored(self, mode: str | None) -> bool:
        return mode is None and self.form == "png" and is_plain(self.outputs)


@dataclass(frozen=True)
class PackagePlan:
    """All of a submission: its parts in the archive's order, its readme and its evaluation size."""

    run: Run
    split: str
    parts: tuple[Part, ...]
    readme: Readme
    evaluation_size: EvaluationSize
    challenge: Challenge


def make_plan(
    run: Run,
    inputs: Inputs,
    *,
    split: str = "test",
    tasks: Sequence[str] = (),
    others: Mapping[str, Run] | None = None,
    modes: Mapping[str, str] | None = None,
    form: Container | None = None,
    extra_data: bool | None = None,
    description: str | None = None,
    manifests: Path | None = None,
) -> PackagePlan:
    """Gather the predictions of a run; `others` gives tasks that come from another run.

    Raises UsageError for unknown tasks, PbvsError when predictions are missing, too many or not finished, or where
    `manifests` are given when they are stale, that is not made from what is there now.
    """
    challenge, others = run.challenge(), others or {}
    names = {challenge.task(name).name for name in tasks or challenge.tasks}
    chosen = [task for task in challenge.tasks if task in names]
    check_inputs(inputs, split, chosen)
    asked = {"gray": "L", "rgb": "RGB"}.get(challenge.outputs.channels)
    modes = dict.fromkeys(chosen, asked) if asked else modes or {}
    parts = tuple(
        _part(others.get(task, run), split, task, inputs, modes.get(task), _form(challenge, task, form))
        for task in chosen
    )
    if manifests is not None:
        for part in parts:
            refuse_stale(part.run, split, [part.task], manifests)
        if inputs.root is not None:
            known = [pair for task in chosen for pair in inputs.pairs.get(task, {}).values()]
            check_content(known, inputs.root, manifests, there=True)
    recipes = {part.run.name: part.run.recipe() for part in parts}
    readme = _readme(parts, recipes, extra_data, description)
    return PackagePlan(run, split, parts, readme, _evaluation_size(parts, recipes), challenge)


def _form(challenge: Challenge, task: str, form: Container | None) -> Container:
    """Return the format of a task's images; raise UsageError when the challenge takes no such files."""
    outputs = challenge.outputs
    if form is not None and form not in (outputs.container, *outputs.accepts):
        taken = ", ".join((outputs.container, *outputs.accepts))
        raise UsageError(f"The challenge {challenge.name} takes no {form} files; --format may be {taken}.")
    return challenge.tasks[task].container or form or outputs.container


def _part(run: Run, split: str, task: str, inputs: Inputs, mode: str | None, form: Container) -> Part:
    recipe = run.recipe()
    if task not in recipe.stages:
        raise PbvsError(
            f"The run {run.name!r} has no stage for {task}; leave the task out with --tasks, "
            f"or take it from another run with --from RUN:{task}."
        )
    folder = run.prediction_folder(split, task)
    again = f"run `pbvs predict --run {run.name} --task {task} --split {split}`"
    if not folder.with_name(f"{task}.json").is_file():
        raise PbvsError(f"The run {run.name!r} has no predictions of {task} for {split}; {again}.")
    for part in (folder, folder.parent, folder.parent.parent):
        if part.is_symlink():
            raise PbvsError(f"{part} is a link, and a run holds its own files; put the folder itself there.")
    names = sorted((name for name in visible_names(folder) if name.endswith(".png")), key=natural_key)
    keys = {pair.name: key for key, pair in inputs.pairs.get(task, {}).items()}
    _compare(keys, names, folder, again)
    out, suffix = OutputNames(inputs.challenge), SUFFIXES[form][0]
    paths = {name: out.path(task, keys.get(name[:-4]) or out.key(task, name[:-4]), suffix) for name in names}
    metadata = read_metadata(run.prediction_metadata_file(split, task))
    return Part(task, run, metadata, folder, paths, inputs.challenge.outputs, mode, form)


def _compare(wanted: Mapping[str, str], files: Sequence[str], folder: Path, again: str) -> None:
    if not files:
        raise PbvsError(f"{folder} holds no predictions; {again}.")
    extra = [name[:-4] for name in files if name[:-4] not in wanted]
    if wanted and len(files) - len(extra) < len(wanted):
        missing = sorted(wanted.keys() - {name[:-4] for name in files})
        raise PbvsError(f"{folder} lacks {len(missing)} of {len(wanted)} predictions ({few(missing)}); {again}.")
    if wanted and extra:
        raise PbvsError(
            f"{folder} holds {len(extra)} images that no input of the manifest is called ({few(extra)}); "
            "take them out, they would shift the scoring."
        )


def _evaluation_size(parts: Sequence[Part], recipes: Mapping[str, Recipe]) -> EvaluationSize:
    sizes = {part.metadata.get("evaluation_size") or recipes[part.run.name].evaluation_size for part in parts}
    if len(sizes) != 1 or not sizes <= {"challenge", "native"}:
        said = ", ".join(f"{part.run.name}:{part.task} {part.metadata.get('evaluation_size')}" for part in parts)
        raise UsageError(f"The tasks were predicted at different evaluation sizes ({said}); predict them at one.")
    return "native" if sizes == {"native"} else "challenge"


def _readme(
    parts: Sequence[Part], recipes: Mapping[str, Recipe], extra_data: bool | None, description: str | None
) -> Readme:
    seconds = sum(float(part.metadata.get("seconds", 0.0)) for part in parts)
    images = sum(int(part.metadata.get("images", 0)) for part in parts)
    devices = {str(part.metadata.get("device", "cpu")) for part in parts}
    return Readme(
        runtime=seconds / images if images else 0.0,
        cpu=not any(device.startswith("cuda") for device in devices),
        extra_data=any(recipe.extra_data for recipe in recipes.values()) if extra_data is None else extra_data,
        description=description or _description(parts, recipes),
    )


def _description(parts: Sequence[Part], recipes: Mapping[str, Recipe]) -> str:
    said = []
    for name, recipe in recipes.items():
        made = {part.task: part.metadata.get("stage") for part in parts if part.run.name == name}
        source = f"{'+'.join(made)} from run {name}, " if len(recipes) > 1 else ""
        said.append(source + describe(recipe, made))
    return "; ".join(said)


def parse_modes(options: Sequence[str], challenge: Challenge | None = None) -> dict[str, str]:
    """Return the mode of each task from `TASK=L|RGB` or `all=L|RGB`; raise UsageError for anything else.

    `all=L` leaves the task whose target has colour as RGB.
    """
    modes: dict[str, str] = {}
    challenge = challenge or load_challenge()
    if options and challenge.outputs.channels != "target":
        raise UsageError(f"The challenge {challenge.name} says which channels images have; leave --mode out.")
    for option in options:
        task, _, mode = option.partition("=")
        mode = mode.upper()
        if mode not in ("L", "RGB"):
            raise UsageError(f"--mode {option!r} is not understood; say TASK=L or TASK=RGB, or all=L, all=RGB.")
        if task != "all" and mode == "L" and challenge.task(task).target_channels == 3:
            raise UsageError(f"--mode {option!r} would take the colour out of {task}; its target is RGB.")
        names = [name for name, known in challenge.tasks.items() if mode == "RGB" or known.target_channels == 1]
        modes.update(dict.fromkeys(names if task == "all" else [challenge.task(task).name], mode))
    return modes


def parse_sources(options: Sequence[str], submissions: Path, challenge: Challenge | None = None) -> dict[str, Run]:
    """Return the run of each task from `RUN:TASK`; raise UsageError when it is not of this form."""
    sources: dict[str, Run] = {}
    challenge = challenge or load_challenge()
    for option in options:
        name, colon, task = option.rpartition(":")
        if not colon or not name:
            raise UsageError(f"--from {option!r} is not understood; say RUN:TASK.")
        sources[challenge.task(task).name] = Run(name, submissions)
    return sources
