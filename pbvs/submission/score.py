"""Score the archive itself: what is uploaded, after it was unpacked, rather than what lies in the run's folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pbvs.challenge import Challenge, Split, load_challenge
from pbvs.data.build import find_root
from pbvs.data.catalog import natural_key
from pbvs.data.images import SUFFIXES
from pbvs.data.manifest import Pair
from pbvs.errors import PbvsError, UsageError
from pbvs.evaluation.reading import TaskToScore
from pbvs.files import held, matching, remove_abandoned, sweep, write_bytes, write_json
from pbvs.metrics.protocol import Protocol, choose_protocol
from pbvs.recipe import load_recipe
from pbvs.run import MANIFESTS, SUBMISSIONS
from pbvs.submission.images import Budget, ImageError, as_prediction
from pbvs.submission.inputs import Inputs, OutputNames, from_manifests, id_of, is_junk
from pbvs.submission.inspection import RATIO, UNPACKED, sort_entries
from pbvs.submission.uploads import Origin, origin_of
from pbvs.submission.zips import SafeZip, as_text, room_for

NEW = 60.0  # seconds


def score_archive(
    path: Path,
    split: Split = "val",
    *,
    root: Path | None = None,
    manifests: Path = MANIFESTS,
    submissions: Path = SUBMISSIONS,
    targets: Path | None = None,
    protocol: str | Path | Protocol | None = None,
    lpips_net: str | None = None,
    challenge: str | Path | Challenge | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Unpack an archive safely, score its images, and write the summary beside it as `<name>-scores.json`.

    `targets` is a folder of `<task>/<name>.png` or `.tiff` to compare with; without it the targets are those of the
    manifests' split. `challenge` is the one of the run that wrote the archive where none is given, `protocol` the
    challenge's own. `options` go to `pbvs.evaluation.evaluate.measure_tasks`. Returns the summary. Raises PbvsError
    when the archive is unsafe, damaged or has no name in common with the targets.
    """
    from pbvs.evaluation.evaluate import measure_tasks

    origin = origin_of(path, submissions)
    rules = load_challenge(challenge) if challenge else origin.run.challenge() if origin else load_challenge()
    usual = choose_protocol(rules, protocol)
    rule = usual.settle(lpips_net, options.get("weights"))
    if targets is not None:
        inputs, root = _from_targets(targets, split, rules), targets
        options["baselines"] = False  # there are no inputs
    else:
        root = find_root(root, manifests)
        inputs = from_manifests(manifests, root, split, rules)
    _sweep()
    with tempfile.TemporaryDirectory(prefix=f"pbvs-score-{os.getpid()}-") as name, held(Path(name)):
        found = _unpack(path, Path(name), inputs)
        _check_names(path, found, inputs, split)
        size = _evaluation_size(origin, found, rules)
        recipe = origin.run.recipe() if origin else load_recipe("paper").model_copy(update={"evaluation_size": size})
        radiometry = recipe.radiometry.of(inputs.challenge)
        tasks = [
            TaskToScore(task, [*pairs.values()], found.folder / task, root, radiometry, rule, size)
            for task, pairs in inputs.pairs.items()
        ]
        summary, _ = measure_tasks(path.stem, split, tasks, rule, recipe, rules, **options)
    summary = {**summary, "run": path.stem, "archive": path.name, "evaluation_size": size}
    summary["notes"] += [note] if not lpips_net and (note := usual.other_net(rule)) else []
    sweep(path.parent, deep=False)
    write_json(summary_path(path), summary)
    return summary


def _sweep() -> None:
    """Remove the folders that killed processes of this user left: no living one holds their lock."""
    for left in Path(tempfile.gettempdir()).glob("pbvs-score-*-*"):
        with contextlib.suppress(OSError):
            status = left.lstat()  # one that was made just now may not have its lock yet
            if status.st_uid == os.geteuid() and time.time() - status.st_mtime > NEW:
                remove_abandoned(left, shutil.rmtree)


def summary_path(archive: Path) -> Path:
    """Return where the summary of an archive lies."""
    return archive.with_name(f"{archive.stem}-scores.json")


@dataclass
class Unpacked:
    """An archive's images as PNG in `folder`/<task>/<name>.png, and the sizes of each task's images."""

    folder: Path
    names: dict[str, set[str]] = field(default_factory=dict)
    sizes: dict[str, set[tuple[int, int]]] = field(default_factory=dict)


def _unpack(path: Path, folder: Path, inputs: Inputs) -> Unpacked:
    """Write the archive's images under the names of their pairs; as many entries are taken as `pbvs check` takes."""
    found = Unpacked(folder)
    with SafeZip(path, room_for(sum(map(len, inputs.names.values())))) as archive:
        if not archive.safe:
            raise PbvsError(f"The archive {path} is not unpacked:\n{as_text(archive.faults)}")
        budget = Budget(max(UNPACKED // 4, RATIO * path.stat().st_size))
        for item in sort_entries(archive.entries, inputs).items:
            data = archive.read(item.entry)
            try:
                data = as_prediction(data, item.expected, inputs.challenge.outputs, budget)
                width, height = struct.unpack(">II", data[16:24])  # of the PNG
            except ImageError:
                pass  # the scorer names what cannot be read
            else:
                found.sizes.setdefault(item.task, set()).add((width, height))
            pair = inputs.pairs.get(item.task, {}).get(item.key)
            name = pair.name if pair else item.key.replace("/", "_")
            found.names.setdefault(item.task, set()).add(name)
            write_bytes(folder / item.task / f"{name}.png", data)
    return found


def _check_names(path: Path, found: Unpacked, inputs: Inputs, split: str) -> None:
    """Raise PbvsError when the archive was written for other inputs than those that have targets here."""
    for task, names in found.names.items():
        if any(pair.target and pair.name in names for pair in inputs.pairs.get(task, {}).values()):
            return
    raise PbvsError(
        f"{path} holds no prediction that has a target in the split {split}; write one for the held-out pairs with "
        "`pbvs package --split val`, or give the targets' folder with --targets."
    )


def _evaluation_size(origin: Origin | None, found: Unpacked, challenge: Challenge) -> str:
    """Return the evaluation size that the archive was written at, or that the sizes found in it say."""
    if origin:
        return str(origin.metadata.get("evaluation_size") or origin.run.recipe().evaluation_size)
    sides = {name: task.challenge_size for name, task in challenge.tasks.items()}
    as_asked = all(sizes == {(sides[task], sides[task])} for task, sizes in found.sizes.items())
    return "challenge" if as_asked else "native"


def _from_targets(targets: Path, split: Split, challenge: Challenge) -> Inputs:
    """Return the inputs that a folder of targets, `<task>/<name>.png` or `.tiff`, stands for."""
    if not targets.is_dir():
        raise UsageError(f"There is no folder of targets {targets}; give one with <task>/<name>.png or .tiff.")
    inputs, out = Inputs(targets, challenge), OutputNames(challenge)
    for task in challenge.tasks:
        files = sorted(matching(targets / task, "*"), key=lambda file: natural_key(file.name))
        usable = [file for file in files if file.suffix.lower() in SUFFIXES and not is_junk(file.name)]
        names = [f"{task}/{file.name}" for file in usable]
        pairs = [Pair(file.stem, task, split, "", name, name) for file, name in zip(usable, names, strict=True)]
        if pairs:
            inputs.pairs[task] = {out.key(task, id_of(pair), pair.name): pair for pair in pairs}
            inputs.names[task] = {key: pair.source for key, pair in inputs.pairs[task].items()}
    if not inputs.pairs:
        raise UsageError(f"{targets} holds no targets; they must lie in <task>/<name>.png or .tiff.")
    return inputs
