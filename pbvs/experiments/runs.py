"""All runs side by side: recipes' differences, scores, sizes, dates, which were packaged; and taking one away."""

from __future__ import annotations

import contextlib
import datetime
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pbvs.errors import PbvsError, UsageError
from pbvs.files import read_toml, sha256, sync_folder
from pbvs.lineage import Stale, flat, stale
from pbvs.locks import locked
from pbvs.run import DONE, MANIFESTS, Run, all_runs, read_done
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
    uploads = read_log(submissions)
    numbers: dict[str, tuple[int, ...]] = {}
    for upload in uploads:
        numbers[upload.run] = (*numbers.get(upload.run, ()), upload.number)
    return [_row(run, numbers.get(run.name, ()), manifests) for run in all_runs(submissions)]


def _row(run: Run, uploads: tuple[int, ...], manifests: Path) -> Row:
    problems: list[str] = []

    def tried(work: Callable[[], T], otherwise: T) -> T:
        """Return what some work gives, or a stand-in when the run is damaged there."""
        try:
            return work()
        except PbvsError as error:
            problems.append(str(error))
            return otherwise

    digest = tried(lambda: str(read_done(run.folder / "package.json").get("sha256", "")), "")
    return Row(
        run=run.name,
        recipe=str(_tables(run).get("name", "?")),
        begun=_time(run.recipe_file),
        models=len(list(run.folder.glob(f"models/*/{DONE}"))),
        predictions=sum(1 for path in run.folder.glob("predictions/test/[!.]*/*.png")),
        score=tried(lambda: local_score(run), ""),
        megabytes=_size(run) / 1e6,
        packaged=digest[:8] if run.archive.is_file() else "",
        uploads=uploads,
        stale=tuple(tried(lambda: stale(run, manifests), [])),
        problem=problems[0] if problems else "",
    )


def differences(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Return the recipe's keys that are not the same in all runs, with each run's value (None where absent).

    Of a stage whose method is not the same everywhere only the method is told; names and descriptions are not.
    """
    recipes = {run.name: flat(_tables(run)) for run in runs}
    keys = sorted({key for values in recipes.values() for key in values} - {"name", "description"})
    table = {key: {name: values.get(key) for name, values in recipes.items()} for key in keys}
    unlike = {key: values for key, values in table.items() if len({repr(value) for value in values.values()}) > 1}
    stages = tuple(key.removesuffix("method") for key in unlike if key.endswith(".method"))
    return {key: values for key, values in unlike.items() if key.endswith(".method") or not key.startswith(stages)}


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
        _delete(gone)
    if run.folder in found:
        with locked(run.folder):
            run.folder.rename(gone)
            sync_folder(run.submissions)
    for path in archives:
        path.unlink(missing_ok=True)
    _delete(gone)
    return [path for path in found if path != gone]


def _archives(run: Run, folder: Path) -> list[Path]:
    """Return the zips beside a run that it wrote: the archive of its name, and those of which it has the digest."""
    found = []
    for path in sorted(folder.glob("package*.json")):
        with contextlib.suppress(PbvsError):
            record = read_done(path)
            archive = run.submissions / Path(str(record.get("archive", ""))).name
            if archive.is_file() and sha256(archive) == record.get("sha256"):
                found.append(archive)
    return found


def _delete(folder: Path) -> None:
    try:
        if folder.is_dir():
            shutil.rmtree(folder)
    except OSError as error:
        raise PbvsError(f"{folder} cannot be removed: {error.strerror}; remove it by hand.") from None


def _tables(run: Run) -> dict[str, Any]:
    try:
        return read_toml(run.recipe_file)
    except PbvsError:
        return {}


def _size(run: Run) -> int:
    return sum(path.stat().st_size for path in run.folder.rglob("*") if path.is_file() and not path.is_symlink())


def _time(path: Path) -> str:
    moment = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.timezone.utc).astimezone()
    return moment.strftime("%Y-%m-%d %H:%M")
