"""Make a run again from its recipe and compare: equal predictions, or the list of what differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pbvs.challenge import SPLITS
from pbvs.data.images import read_image
from pbvs.errors import PbvsError
from pbvs.experiments.runs import remove
from pbvs.files import read_json, write_json
from pbvs.lineage import unlike
from pbvs.logs import say, track
from pbvs.provenance import collect, read_provenance
from pbvs.run import DONE, MANIFESTS, Run

# Changes of these can change a pixel; the rest of the provenance is only said.
DECISIVE = ("recipe", "seed", "manifests", "data.digest", "weights", "packages.torch", "packages.numpy", "code.sources")
MARK = "reproduces.json"  # in a reproduction's folder
IGNORED = ("data.root", "data.seen", "code.git", "format", "earlier")


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it was; `decisive` when it can change a prediction."""

    what: str
    then: Any
    now: Any
    decisive: bool

    def __str__(self) -> str:
        mark = "can change the result" if self.decisive else "should not matter"
        return f"{self.what}: {_short(self.then)} then, {_short(self.now)} now ({mark})"


@dataclass(frozen=True)
class Unequal:
    """Predictions of a task and split that are not as they were."""

    split: str
    task: str
    images: int
    different: int
    missing: int
    largest: int  # grey levels

    def __str__(self) -> str:
        missing = f", {self.missing} missing" if self.missing else ""
        return (
            f"{self.task} {self.split}: {self.different} of {self.images} images differ, "
            f"by at most {self.largest} grey levels{missing}"
        )


def compare_circumstances(run: Run, manifests: Path, root: Path | None, weights: Path | None) -> list[Difference]:
    """Return what of data, manifests, weights, code and versions is not as the run's provenance says."""
    then = read_provenance(run.provenance_file)
    data_root = root or _root(then)
    device = str((then.get("device") or {}).get("kind", "cpu"))
    now = collect(run.recipe(), manifests, weights, device, root=data_root)
    found = unlike(then, now).items()
    return [Difference(key, *values, key.startswith(DECISIVE)) for key, values in found if not key.startswith(IGNORED)]


def _root(provenance: Mapping[str, Any]) -> Path:
    root = Path(str((provenance.get("data") or {}).get("root", "")))
    if not root.is_dir() or root == Path():
        raise PbvsError(f"The data folder {root} that the run was made from is not there; name it with --data.")
    return root


def again(run: Run) -> Run:
    """Return the run that a reproduction is written to."""
    return Run(f"{run.name}-again", run.submissions)


def reproduce(
    run: Run, *, manifests: Path = MANIFESTS, root: Path | None = None, weights: Path | None = None, jobs: int = 1
) -> list[Unequal]:
    """Train and predict the run's recipe again in `<run>-again`; return what is unequal, nothing when all is equal.

    On a CPU equal is expected to the last bit, with the number of threads of then. A reproduction that was stopped is
    gone on with. Raises PbvsError when the run's data cannot be found or it was installed from a bundle.
    """
    provenance = read_provenance(run.provenance_file)
    if any(read_json(record).get("installed") for record in run.folder.glob(f"models/*/{DONE}")):
        raise PbvsError(f"The run {run.name!r} was installed from a bundle; reproduce it where it was trained.")
    done = predictions_there(run)
    if not done:
        raise PbvsError(f"The run {run.name!r} has no predictions; make them with `pbvs predict --run {run.name}`.")
    from pbvs import pipeline

    second, device = again(run), _set_threads(provenance)
    _begin(run, second)
    for task in dict.fromkeys(task for _, task in done):
        pipeline.predict(
            run.recipe(),
            run=second.name,
            tasks=[task],
            splits=[split for split, name in done if name == task],
            root=root or _root(provenance),
            manifests=manifests,
            submissions=run.submissions,
            weights=weights,
            device=device,
            jobs=jobs,
        )
    unequal = [found for split, task in done if (found := compare_predictions(run, second, split, task))]
    write_json(second.folder / MARK, {"run": run.name, "finished": True, "equal": not unequal})
    return unequal


def _begin(run: Run, second: Run) -> None:
    """Make room for a reproduction; one that was stopped is gone on with, one that is finished is made again."""
    mark = second.folder / MARK
    if second.exists() and not mark.is_file():
        raise PbvsError(
            f"There is a run {second.name!r} that is no reproduction; remove it: pbvs runs rm {second.name}."
        )
    if mark.is_file() and read_json(mark).get("finished"):
        remove(second)
    write_json(mark, {"run": run.name, "finished": False})


def _set_threads(provenance: Mapping[str, Any]) -> str:
    """Use as many threads as then, for sums depend on it; return the kind of device."""
    device = provenance.get("device") or {}
    import torch

    if isinstance(device.get("threads"), int):
        torch.set_num_threads(device["threads"])
    kind = str(device.get("kind", "cpu"))
    if kind != "cpu":
        say(f"The run was made on {device.get('name', kind)}; sums there may differ in the last bits.")
    return kind


def predictions_there(run: Run) -> list[tuple[str, str]]:
    """Return split and task of the predictions that a run has, in the recipe's order."""
    order = run.recipe().order()
    return [
        (split, task)
        for task in order
        for split in SPLITS
        if run.prediction_folder(split, task).with_name(f"{task}.json").is_file()
    ]


def compare_predictions(first: Run, second: Run, split: str, task: str) -> Unequal | None:
    """Compare two runs' predictions image by image; None when all are equal in every pixel."""
    paths = sorted(first.prediction_folder(split, task).glob("*.png"))
    different = missing = largest = 0
    for path in track(paths, f"comparing {task} {split}", unit="image"):
        other = second.prediction(split, task, path.stem)
        if not other.is_file():
            missing += 1
            continue
        if path.read_bytes() == other.read_bytes():
            continue
        gap = _gap(path, other)
        different, largest = different + (gap > 0), max(largest, gap)
    if not different and not missing:
        return None
    return Unequal(split, task, len(paths), different, missing, largest)


def _gap(path: Path, other: Path) -> int:
    a, b = read_image(path), read_image(other)
    if a.shape != b.shape:
        return 255
    return int(np.abs(a.astype(np.int16) - b.astype(np.int16)).max())


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."
