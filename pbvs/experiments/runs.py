"""All runs side by side, taking one away, and making one again to compare it."""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pbvs.challenge import SPLITS
from pbvs.data.images import read_image
from pbvs.errors import PbvsError, UsageError, damage_ignored
from pbvs.files import digest, is_name, matching, read_toml, remove_folder, sha256, sync_folder, write_json
from pbvs.lineage import Stale, recipe_differences, stale, unlike
from pbvs.logs import say, track
from pbvs.provenance import collect, read_provenance
from pbvs.run import DONE, MANIFESTS, Run, all_runs, locked, read_metadata
from pbvs.submission.uploads import local_score, read_log

T = TypeVar("T")
FORGOTTEN = ".removed-"  # prefix of a run's folder while it is being taken away


@dataclass(frozen=True)
class Row:
    """One run in the overview."""

    run: str
    recipe: str
    begun: str  # YYYY-MM-DD HH:MM, local time
    models: int  # stages that are done
    predictions: int  # images of the test split
    score: str
    megabytes: float
    packaged: str  # first digits of the archive's SHA-256, or ''
    uploads: tuple[int, ...]  # numbers in the submission log
    problem: str = ""  # the sentence for a run whose files are damaged; the numbers are then those that could be read
    stale: tuple[Stale, ...] = ()


def overview(submissions: Path, manifests: Path = MANIFESTS) -> list[Row]:
    """Return a row for each run, by name; a damaged run is a row with its problem."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for upload in read_log(submissions):
        numbers[upload.run].append(upload.number)
    return [_row(run, tuple(numbers[run.name]), manifests) for run in all_runs(submissions)]


def _row(run: Run, uploads: tuple[int, ...], manifests: Path) -> Row:
    problems: list[str] = []

    def tried(work: Callable[[], T], otherwise: T) -> T:
        """Return what some work gives, or a stand-in when the run is damaged there."""
        try:
            return work()
        except PbvsError as error:
            problems.append(str(error))
            return otherwise

    recipe: dict[str, Any] = tried(lambda: _tables(run), {})
    found: list[Path] = tried(lambda: matching(run.folder, "**/*"), [])
    files = [path for path in found if path.is_file() and not path.is_symlink()]
    digest = tried(lambda: str(read_metadata(run.folder / "package.json").get("sha256", "")), "")
    return Row(
        run=run.name,
        recipe=str(recipe.get("name", "?")),
        begun=_time(run.recipe_file),
        models=sum(path.match(f"models/*/{DONE}") for path in files),
        predictions=sum(path.match("predictions/test/[!.]*/*.png") for path in files),
        score=tried(lambda: local_score(run), ""),
        megabytes=sum(path.stat().st_size for path in files) / 1e6,
        packaged=digest[:8] if run.archive.is_file() else "",
        uploads=uploads,
        stale=tuple(tried(lambda: stale(run, manifests), [])),
        problem=problems[0] if problems else "",
    )


def differences(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Return the recipe's keys that are not the same in all runs, with each run's value (None where absent).

    What `recipe_differences` leaves out is not told.
    """
    names = [run.name for run in runs]
    return {key: dict(zip(names, values, strict=True)) for key, values in recipe_differences(*runs).items()}


def remove(run: Run, *, archive: bool = True) -> list[Path]:
    """Take a run away, its archive too unless told not to; return what was removed.

    The folder is renamed first, so that a run is either there or not. Raises PbvsError when a command works on it,
    UsageError when there is no such run.
    """
    gone = run.submissions / f"{FORGOTTEN}{run.name}"
    written = {run.archive, *_archives(run, run.folder), *_archives(run, gone)}
    archives = sorted(written) if archive else []
    found = [path for path in (run.folder, gone, *archives) if path.exists()]
    if not found:
        raise UsageError(f"There is no run {run.name!r} in {run.submissions}; `pbvs runs` lists them.")
    if run.folder.is_symlink():
        raise PbvsError(f"{run.folder} is a link; remove it and what it points to by hand.")
    if run.folder.exists():
        remove_folder(gone)
    if run.folder in found:
        with locked(run.folder):
            run.folder.rename(gone)
            sync_folder(run.submissions)
    for path in archives:
        path.unlink(missing_ok=True)
    remove_folder(gone)
    return [path for path in found if path != gone]


def _archives(run: Run, folder: Path) -> list[Path]:
    """Return the zips beside a run that it wrote: the archive of its name, and those of which it has the digest."""
    found = []
    for path in matching(folder, "package*.json"):
        with damage_ignored():
            record = read_metadata(path)
            archive = run.submissions / Path(str(record.get("archive", ""))).name
            if archive.is_file() and sha256(archive) == record.get("sha256"):
                found.append(archive)
    return found


def _tables(run: Run) -> dict[str, Any]:
    with damage_ignored():
        return read_toml(run.recipe_file)
    return {}


def _time(path: Path) -> str:
    moment = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.timezone.utc).astimezone()
    return moment.strftime("%Y-%m-%d %H:%M")


# --- Make a run again from its recipe and compare: equal predictions, or the list of what differs.

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
    found = {key: both for key, both in unlike(then, now).items() if not key.startswith(IGNORED)}
    return [Difference(key, before, after, key.startswith(DECISIVE)) for key, (before, after) in found.items()]


def _root(provenance: Mapping[str, Any]) -> Path:
    root = Path(str((provenance.get("data") or {}).get("root", "")))
    if not root.is_dir() or root == Path():
        raise PbvsError(f"The data folder {root} that the run was made from is not there; name it with --data.")
    return root


def again(run: Run) -> Run:
    """Return the run that a reproduction is written to."""
    name = run.name if is_name(f"{run.name}-again") else f"{run.name[:80]}-{digest(run.name)[:8]}"
    return Run(f"{name}-again", run.submissions)


def reproduce(
    run: Run, *, manifests: Path = MANIFESTS, root: Path | None = None, weights: Path | None = None, jobs: int = 1
) -> list[Unequal]:
    """Train and predict the run's recipe again in `<run>-again`; return what is unequal, nothing when all is equal.

    On a CPU equal is expected to the last bit, with the number of threads of then. A reproduction that was stopped is
    gone on with. Raises PbvsError when the run's data cannot be found or it was installed from a bundle.
    """
    provenance = read_provenance(run.provenance_file)
    if any(read_metadata(record).get("installed") for record in matching(run.folder, f"models/*/{DONE}")):
        raise PbvsError(f"The run {run.name!r} was installed from a bundle; reproduce it where it was trained.")
    done = predictions_there(run)
    if not done:
        raise PbvsError(f"The run {run.name!r} has no predictions; make them with `pbvs predict --run {run.name}`.")
    from pbvs import pipeline

    second, device = again(run), _set_threads(provenance)
    _begin(run, second)
    for task in dict.fromkeys(task for _, task in done):
        asked = pipeline.Request(
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
        pipeline.predict(asked)
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
    if mark.is_file() and read_metadata(mark).get("finished"):
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
    found = [(split, task) for task in run.recipe().order() for split in SPLITS]
    return [(split, task) for split, task in found if run.prediction_metadata_file(split, task).is_file()]


def compare_predictions(first: Run, second: Run, split: str, task: str) -> Unequal | None:
    """Compare two runs' predictions image by image; None when all are equal in every pixel."""
    paths = matching(first.prediction_folder(split, task), "*.png")
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
