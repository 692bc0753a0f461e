"""Where a run keeps what it made: the one place that knows the layout of `submissions/<run>/`."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pbvs import logs
from pbvs.errors import PbvsError
from pbvs.files import (
    NO_LOCKS,
    check_name,
    is_name,
    make_folder,
    matching,
    open_no_follow,
    read_record,
    write_error,
    write_errors,
    write_json,
    write_text,
)
from pbvs.logs import say

if TYPE_CHECKING:
    from pbvs.challenge import Challenge
    from pbvs.recipe import Recipe

SUBMISSIONS = Path("submissions")
MANIFESTS = Path("data_manifests")
DONE = "done.json"  # in a model's folder, once it is finished
STATE = "state.safetensors"  # in a model's folder: what its training goes on from
CACHE = Path(os.environ.get("PBVS_CACHE", ".cache/pbvs"))  # what can be made again


@dataclass(frozen=True)
class Run:
    """The paths of one run; nothing is read or made until asked for."""

    name: str
    submissions: Path = SUBMISSIONS

    def __post_init__(self) -> None:
        check_name(self.name)

    @property
    def folder(self) -> Path:
        """The run's own folder."""
        return self.submissions / self.name

    @property
    def archive(self) -> Path:
        """The zip that `pbvs package` writes beside the folder."""
        return self.submissions / f"{self.name}.zip"

    @property
    def recipe_file(self) -> Path:
        """The resolved recipe."""
        return self.folder / "recipe.toml"

    @property
    def challenge_file(self) -> Path:
        """The challenge, where it is a team's own: the recipe names it by this file's name."""
        return self.folder / "challenge.toml"

    @property
    def provenance_file(self) -> Path:
        """Versions, digests, device and seed that the run was made with."""
        return self.folder / "provenance.json"

    @property
    def report_file(self) -> Path:
        """The page that people look at."""
        return self.folder / "report.html"

    @property
    def scores(self) -> Path:
        """Folder of the scores, by split and protocol."""
        return self.folder / "scores"

    def score_folder(self, split: str, protocol: str) -> Path:
        """Folder of `<task>.csv` and `summary.json` of one split by one protocol."""
        return self.scores / split / protocol

    def score_folders(self) -> list[Path]:
        """Return the folders that hold scores, the newest first; earlier versions had them in `scores` itself."""
        found = [path for rule in ("", "[!.]*/[!.]*/") for path in matching(self.scores, f"{rule}summary.json")]
        return [path.parent for path in sorted(found, key=lambda path: (-path.stat().st_mtime_ns, str(path)))]

    def model(self, task: str) -> Path:
        """Folder of a task's weights, training state and log."""
        return self.folder / "models" / task

    def model_metadata_file(self, task: str) -> Path:
        """The file that says that a task's model is finished, and what it was made from."""
        return self.model(task) / DONE

    def prediction_metadata_file(self, split: str, task: str) -> Path:
        """The file that says what a task's predictions were made from, and how long that took."""
        return self.folder / "predictions" / split / f"{task}.json"

    def prediction_folder(self, split: str, task: str) -> Path:
        """Folder of a task's predicted images, `<name>.png`."""
        return self.folder / "predictions" / split / task

    def prediction(self, split: str, task: str, name: str) -> Path:
        """Path of one predicted image."""
        return self.prediction_folder(split, task) / f"{name}.png"

    def exists(self) -> bool:
        """Return whether the run was begun."""
        return self.recipe_file.is_file()

    def existing(self) -> Run:
        """Return the run itself; raise PbvsError when there is none, before anything is made in its folder."""
        if not self.exists():
            import difflib

            names = [run.name for run in all_runs(self.submissions)]
            near = difflib.get_close_matches(self.name, names, n=1)
            hint = f"did you mean {near[0]}? Else " if near else ""
            raise PbvsError(
                f"There is no run {self.name!r} in {self.submissions}; {hint}make it with "
                f"`pbvs predict --all --run {self.name}`."
            )
        return self

    def recipe(self) -> Recipe:
        """Read the resolved recipe; raise PbvsError when there is no such run."""
        self.existing()
        from pbvs.recipe import read_recipe  # pydantic, which no --help should wait for

        return read_recipe(self.recipe_file)

    def write_recipe(self, recipe: Recipe) -> None:
        """Write the recipe, resolved, and beside it the challenge when that is a team's own."""
        from pbvs.challenge.model import dump_challenge, load_challenge
        from pbvs.recipe import dump_recipe

        if Path(recipe.challenge).suffix == ".toml":
            write_text(self.challenge_file, dump_challenge(load_challenge(recipe.challenge)))
            recipe = recipe.model_copy(update={"challenge": self.challenge_file.name})
        write_text(self.recipe_file, dump_recipe(recipe))

    def challenge(self) -> Challenge:
        """Read the challenge that the run is for; raise PbvsError when there is no such run."""
        from pbvs.challenge.model import load_challenge

        return load_challenge(self.recipe().challenge)


def all_runs(submissions: Path = SUBMISSIONS) -> list[Run]:
    """Return the runs below `submissions`, by name."""
    if not submissions.is_dir():
        return []
    names = sorted(path.name for path in submissions.iterdir() if is_name(path.name))
    return [run for run in (Run(name, submissions) for name in names) if _may_read(run) and run.exists()]


def _may_read(run: Run) -> bool:
    """Return whether a run in a shared folder is ours to read, and say so where it is not."""
    try:
        run.recipe_file.is_file()
    except PermissionError:
        logs.say(f"The run {run.name} is not yours to read and is left out.")
        return False
    return True


def choose_run(name: str | None, submissions: Path = SUBMISSIONS) -> Run:
    """Return the run called `name`, or the one begun last; raise PbvsError when there is none."""
    if name:
        return Run(name, submissions)
    runs = all_runs(submissions)
    if not runs:
        raise PbvsError(f"There is no run in {submissions} yet; make one with `pbvs predict --all`.")
    last = max(runs, key=lambda run: run.recipe_file.stat().st_mtime_ns)
    logs.bind(last.folder)
    return last


NUMBER, TEXT, SCORE = (int, float), (str, type(None)), (int, float, type(None))
INTERVAL = ([NUMBER, NUMBER], type(None))
TASK = {
    "images": int, "expected": int, "score": SCORE, "interval": INTERVAL, "status": str, "reason": str, "run": str,
    "recipe": str, "made_from": TEXT, "mode": str, "format": str,
}  # fmt: skip
# What the metadata of runs and manifests hold, each key the same in all of them; see `files.misfit`.
SHAPE = {
    "archive": str, "baselines": {"*": {"combined": SCORE, "tasks": {"*": dict}}}, "bytes": int, "combined": SCORE,
    "challenge": (str, dict, type(None)), "data": ({"root": str, "bytes": int, "digest": str}, type(None)),
    "earlier": [dict], "evaluation_size": str, "failed": int, "free": dict, "images": int, "installed": bool,
    "input_grid": ({"least": NUMBER, "most": NUMBER, "whole": bool}, type(None)), "made_from": (str, {"*": TEXT}),
    "lpips": {"net": TEXT, "version": TEXT, "is_lpips": bool, "label": str}, "manifests": {"*": str}, "model": TEXT,
    "interval": INTERVAL, "models": [str], "notes": ([str], type(None)), "older_start": [str], "packages": {"*": str},
    "readme": dict, "root": str,
    "parts": {"stage": dict, "shared": dict, "requires": {"*": str}, "manifests": {"*": str}, "files": {"*": TEXT}},
    "protocol": {"name": str, "description": str, "terms": list}, "seconds": NUMBER, "sha256": str, "split": str,
    "tasks": {"*": TASK}, "training": ({"chosen_on": TEXT, "parted": bool}, type(None)),
}  # fmt: skip


def read_metadata(path: Path, again: str = "") -> dict[str, Any]:
    """Return what a metadata file says, nothing when there is none; raise PbvsError (`read_record`) when damaged."""
    return read_record(path, again, SHAPE) if path.is_file() else {}


def is_done(path: Path, made_from: str) -> bool:
    """Return whether the metadata say that what they are of was made, whole, from what has the digest `made_from`."""
    return read_metadata(path).get("made_from") == made_from


def mark_done(path: Path, made_from: str, **known: Any) -> None:
    """Write the metadata of what is whole now: what it was made from, and what was measured meanwhile."""
    write_json(path, {"made_from": made_from, **known})


# --- One command at a time on a run: the second is told who holds it.

NAME = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder` while the block runs; the system releases it even when the process is killed.

    A lock that is a link is refused, so that nothing outside the folder is written. Raises PbvsError naming the holder
    when another process has it, or when the folder cannot be written.
    """
    from filelock import FileLock, Timeout  # not while `pbvs --help` waits

    path = folder / NAME
    with write_errors(path):
        make_folder(folder)
    if path.is_symlink():
        raise PbvsError(f"{path} is a link; remove it and run the command again.")
    lock = FileLock(path, blocking=False, fallback_to_soft=False, is_singleton=False)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock)
            _sign(path)
        except Timeout:
            raise PbvsError(f"{folder} is in use by {_holder(path)}; wait for it to end, or stop it.") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise write_error(path, error) from error
            say(f"{folder} cannot be locked ({error.strerror}): make sure that no second command works on it.")
        logs.bind(folder)
        yield


def _sign(path: Path) -> None:
    """Write who holds the lock into its file; only a help, so that a full disk is no error here."""
    import socket

    words = f"process {os.getpid()} on {socket.gethostname()} (pbvs {' '.join(sys.argv[1:3])})\n"
    with contextlib.suppress(OSError), os.fdopen(open_no_follow(path, os.O_WRONLY | os.O_TRUNC), "wb") as file:
        file.write(words.encode("utf-8", "backslashreplace"))


def _holder(path: Path) -> str:
    said = b""
    with contextlib.suppress(OSError), os.fdopen(open_no_follow(path, os.O_RDONLY), "rb") as file:
        said = file.read(500)
    return said.decode("utf-8", "replace").strip() or "another process"
