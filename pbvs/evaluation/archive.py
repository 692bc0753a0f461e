"""Score the archive itself: what is uploaded, after it was unpacked, rather than what lies in the run's folder."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pbvs.challenge import TASKS, Split
from pbvs.data.images import SUFFIXES
from pbvs.data.layout import natural_key
from pbvs.data.manifest import Pair, manifest_path, read_manifest, write_manifest
from pbvs.errors import PbvsError, UsageError
from pbvs.files import sweep, write_bytes, write_json, write_text
from pbvs.recipe import Recipe, dump_recipe, load_recipe
from pbvs.run import MANIFESTS, SUBMISSIONS, Run, all_runs
from pbvs.submission.findings import as_text
from pbvs.submission.images import ImageError, as_prediction, decode_stored
from pbvs.submission.inputs import Inputs, is_junk
from pbvs.submission.inspection import sort_entries
from pbvs.submission.uploads import run_of
from pbvs.submission.zips import SafeZip

RUN = "archive"


def score_archive(
    path: Path,
    split: Split = "val",
    *,
    root: Path | None = None,
    manifests: Path = MANIFESTS,
    submissions: Path = SUBMISSIONS,
    targets: Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Unpack an archive safely, score its images, and write the summary beside it as `<name>-scores.json`.

    `targets` is a folder of `<task>/<name>.png` or `.tiff` to compare with; without it the targets are those of the
    manifests' split. `options` go to `pbvs.evaluation.evaluate.score`. Returns the summary. Raises PbvsError when the
    archive is unsafe, damaged or has no name in common with the targets.
    """
    from pbvs.evaluation.evaluate import score

    with tempfile.TemporaryDirectory(prefix="pbvs-score-") as name:
        place = Path(name)
        run = Run(RUN, place / "submissions")
        sizes = _unpack(path, run, split, Inputs())
        recipe = _recipe(path, submissions, sizes)
        write_text(run.recipe_file, dump_recipe(recipe))
        if targets is not None:
            manifests, root = _manifests(targets, split, place / "manifests"), targets
        _check_names(path, run, split, manifests)
        if targets is not None:
            options["baselines"] = False  # there are no inputs
        scores = score(run, split, root=root, manifests=manifests, **options)
    summary = {**scores.summary, "run": path.stem, "archive": path.name, "evaluation_size": recipe.evaluation_size}
    sweep(path.parent, deep=False)
    write_json(summary_path(path), summary)
    return summary


def summary_path(archive: Path) -> Path:
    """Return where the summary of an archive lies."""
    return archive.with_name(f"{archive.stem}-scores.json")


def _unpack(path: Path, run: Run, split: str, inputs: Inputs) -> dict[str, set[tuple[int, int]]]:
    """Write the archive's images as a run's predictions, TIFF as PNG; return the sizes of each task's images."""
    sizes: dict[str, set[tuple[int, int]]] = {}
    with SafeZip(path) as archive:
        if not archive.safe:
            raise PbvsError(f"The archive {path} is not unpacked:\n{as_text(archive.faults)}")
        for item in sort_entries(archive.entries, inputs).items:
            data = archive.read(item.entry)
            try:
                data = as_prediction(data, item.expected, inputs.challenge.outputs)
                height, width = decode_stored(data).shape[:2]
            except ImageError:
                pass  # the scorer names what cannot be read
            else:
                sizes.setdefault(item.task, set()).add((width, height))
            write_bytes(run.prediction(split, item.task, item.key), data)
    return sizes


def _check_names(path: Path, run: Run, split: str, manifests: Path) -> None:
    """Raise PbvsError when the archive was written for other inputs than those that have targets here."""
    for task in TASKS:
        if manifest_path(manifests, task, split).is_file():
            pairs = read_manifest(manifest_path(manifests, task, split))
            if any(pair.target and run.prediction(split, task, pair.name).is_file() for pair in pairs):
                return
    raise PbvsError(
        f"{path} holds no prediction that has a target in the split {split}; write one for the held-out pairs with "
        "`pbvs package --split val`, or give the targets' folder with --targets."
    )


def _recipe(path: Path, submissions: Path, sizes: Mapping[str, set[tuple[int, int]]]) -> Recipe:
    """Return the recipe of the run that wrote the archive, or one that asks for the sizes found in it."""
    name = run_of(path, submissions)
    for run in all_runs(submissions):
        if run.name == name:
            return run.recipe()
    wanted = {task: {(side, side)} for task, side in ((task.name, task.challenge_size) for task in TASKS.values())}
    challenge = all(found == wanted[task] for task, found in sizes.items())
    return load_recipe("paper").model_copy(update={"evaluation_size": "challenge" if challenge else "native"})


def _manifests(targets: Path, split: Split, folder: Path) -> Path:
    """Write manifests of a folder of targets, `<task>/<name>.png` or `.tiff`; return where."""
    if not targets.is_dir():
        raise UsageError(f"There is no folder of targets {targets}; give one with <task>/<name>.png or .tiff.")
    found = 0
    for task in TASKS:
        files = sorted((targets / task).glob("*"), key=lambda file: natural_key(file.name))
        usable = [file for file in files if file.suffix.lower() in SUFFIXES and not is_junk(file.name)]
        names = [f"{task}/{file.name}" for file in usable]
        pairs = [Pair(file.stem, task, split, "", name, name) for file, name in zip(usable, names, strict=True)]
        if pairs:
            write_manifest(manifest_path(folder, task, split), pairs)
            found += len(pairs)
    if not found:
        raise UsageError(f"{targets} holds no targets; they must lie in <task>/<name>.png or .tiff.")
    return folder
