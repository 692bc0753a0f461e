"""A run's models and recipe in one file that another team installs and predicts with; opening it runs no code.

A bundle is a zip of stored entries: `bundle.json` (what it is, a SHA-256 for each file), `recipe.toml`, and for each
stage `models/<task>/` with safetensors and JSON. Nothing else is taken in, and nothing is written outside the run.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pbvs import __version__
from pbvs.errors import PbvsError, UsageError
from pbvs.files import (
    atomic_path,
    check_name,
    held,
    make_folder,
    matching,
    parse_json,
    read_json,
    remove_abandoned,
    sha256,
    sweep,
    sync_folder,
    write_error,
    write_json,
)
from pbvs.recipe import Recipe, read_recipe
from pbvs.run import DONE, Run, locked, read_metadata
from pbvs.submission.zips import Limits, SafeZip, as_text, fixed_info
from pbvs.tensors import check_safetensors
from pbvs.text import printable

FORMAT = 1
SUFFIX = ".pbvs.zip"
LIST = "bundle.json"
RECIPE = "recipe.toml"
MODELS = ("model.safetensors", "model.json", DONE)
LIMITS = Limits(entries=64, entry_bytes=4 << 30, total_bytes=8 << 30)
SMALL = 1 << 20  # bytes of a JSON or TOML file
CHALLENGE = "challenge.toml"
_MODEL = rf"models/[A-Za-z0-9][A-Za-z0-9._-]{{0,63}}/({'|'.join(map(re.escape, MODELS))})"
_ALLOWED = re.compile(rf"{re.escape(LIST)}|{re.escape(RECIPE)}|{re.escape(CHALLENGE)}|{_MODEL}")


def export(run: Run, out: Path | None = None) -> Path:
    """Write a run's bundle, by default `submissions/<run>/<run>.pbvs.zip`; the same models make the same bytes.

    Raises PbvsError when a stage of the recipe has no finished model, or when another command works on the run.
    """
    path = out or run.folder / f"{run.name}{SUFFIX}"
    with locked(run.existing().folder):
        _write_bundle(run, path)
    return path


def _write_bundle(run: Run, path: Path) -> None:
    recipe = run.recipe()
    own = [(CHALLENGE, run.challenge_file)] if run.challenge_file.is_file() else []
    files = [(RECIPE, run.recipe_file), *own, *_model_files(run, recipe)]
    listing = {
        "format": FORMAT,
        "run": run.name,
        "recipe": recipe.digest(),
        "description": recipe.description,
        "made_by": f"pbvs {__version__}",
        "provenance": _public_provenance(run),
        "files": {name: sha256(file) for name, file in files},
    }
    sweep(path.parent, deep=False)
    with atomic_path(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(fixed_info(LIST), json.dumps(listing, indent=2, sort_keys=True) + "\n")
        for name, file in files:
            with archive.open(fixed_info(name), "w", force_zip64=False) as target, file.open("rb") as source:
                shutil.copyfileobj(source, target, 1 << 20)


def _model_files(run: Run, recipe: Recipe) -> Iterator[tuple[str, Path]]:
    for task in sorted(recipe.stages):
        folder = run.model(task)
        if not (folder / DONE).is_file():
            again = f"make it with `pbvs predict --run {run.name} --all`"
            raise PbvsError(f"The run {run.name!r} has no finished model of {task}; {again}.")
        for name in MODELS:
            if (folder / name).is_file():
                yield f"models/{task}/{name}", folder / name


def _public_provenance(run: Run) -> dict[str, Any]:
    """Return the provenance without what says where things lay on the machine."""
    if not run.provenance_file.is_file():
        return {}
    metadata = {key: value for key, value in read_metadata(run.provenance_file).items() if key != "earlier"}
    metadata["data"] = {
        key: value for key, value in (metadata.get("data") or {}).items() if key not in ("root", "seen")
    }
    return metadata


def install(bundle: Path, submissions: Path, name: str | None = None) -> Run:
    """Unpack a bundle as a run, by default under the name it was exported with; return the run.

    The run appears whole or not at all; one that came from the same bundle is left as it is. Raises PbvsError when
    the bundle is unsafe, damaged or not a bundle, UsageError when there is another run of that name.
    """
    with SafeZip(bundle, LIMITS) as archive:
        listing = _listing(archive)
        run = Run(check_name(name or str(listing.get("run", ""))), submissions)
        if _is_there(run, listing):
            return run
        for left in submissions.glob(f".{run.name}.*installing"):
            remove_abandoned(left, shutil.rmtree)
        while not _unpack(archive, run, listing):
            pass
    return run


def _unpack(archive: SafeZip, run: Run, listing: dict[str, Any]) -> bool:
    """Unpack a bundle beside its run and rename it; False when another install removed the folder for an old one."""
    part = run.folder.with_name(f".{run.name}.{secrets.token_hex(4)}.installing")
    make_folder(part)
    try:
        with held(part) as there:
            if there:
                for entry in archive.files:
                    if entry.filename != LIST:
                        _write(archive, entry, part / entry.filename, listing["files"])
                _finish(part, listing)
                _appear(part, run, listing)
            return there
    except FileNotFoundError:  # before it was locked
        return False
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _appear(part: Path, run: Run, listing: dict[str, Any]) -> None:
    """Rename a whole run into its place; another install of the same bundle may have been there first."""
    try:
        part.rename(run.folder)
        sync_folder(run.submissions)
    except OSError as error:
        if not _is_there(run, listing):
            raise write_error(run.folder, error) from error


def _is_there(run: Run, listing: dict[str, Any]) -> bool:
    """Return whether the bundle's run is installed; raises UsageError when another run has its name."""
    if not run.folder.exists():  # asked first: another install may rename a whole run into place between two looks
        return False
    if (run.folder / LIST).is_file() and read_json(run.folder / LIST) == listing:
        return True
    raise UsageError(f"There is another run {run.name!r} already; give another name with --run.")


def _listing(archive: SafeZip) -> dict[str, Any]:
    """Check the directory against the allow-list and return what `bundle.json` says."""
    if not archive.safe:
        raise PbvsError(f"The bundle {archive.path} is not opened:\n{as_text(archive.faults)}")
    by_name = {entry.filename: entry for entry in archive.files}
    for entry in archive.entries:
        if not _ALLOWED.fullmatch(entry.filename):
            name = printable(entry.filename)
            raise PbvsError(f"{archive.path} holds {name}, which no bundle has; it is not installed.")
        if not entry.filename.endswith(".safetensors") and entry.file_size > SMALL:
            raise PbvsError(f"{entry.filename} in {archive.path} has {entry.file_size} bytes; it is not installed.")
    if LIST not in by_name or RECIPE not in by_name:
        raise PbvsError(f"{archive.path} is no bundle: it has no {LIST if LIST not in by_name else RECIPE}.")
    listing = parse_json(archive.read(by_name[LIST]), f"{LIST} in {archive.path}")
    if not isinstance(listing, dict) or listing.get("format") != FORMAT or not isinstance(listing.get("files"), dict):
        raise PbvsError(f"{archive.path} is no bundle of format {FORMAT}; ask for one made by this version of pbvs.")
    if set(listing["files"]) != by_name.keys() - {LIST}:
        raise PbvsError(f"{archive.path} does not hold the files that its {LIST} names; fetch it again.")
    return listing


def _write(archive: SafeZip, entry: zipfile.ZipInfo, target: Path, digests: dict[str, str]) -> None:
    with atomic_path(target) as part, part.open("wb") as file:
        for block in archive.stream(entry):
            file.write(block)
    if sha256(target) != digests[entry.filename]:
        raise PbvsError(f"{entry.filename} in {archive.path} is not what its {LIST} says; fetch the bundle again.")
    if target.suffix == ".safetensors":
        check_safetensors(target, entry.filename)


def _finish(folder: Path, listing: dict[str, Any]) -> None:
    """Check the recipe and mark its models as installed, so that they are used and not trained again."""
    recipe = read_recipe(folder / RECIPE)
    if unknown := {path.name for path in matching(folder / "models", "*")} - recipe.stages.keys():
        raise PbvsError(f"The bundle has a model of {min(unknown)}, which its recipe does not name.")
    for task in recipe.stages:
        path = folder / "models" / task / DONE
        metadata = read_metadata(path)
        if not isinstance(metadata, dict) or not isinstance(metadata.get("made_from"), str):
            raise PbvsError(f"The bundle has no finished model of {task}; it is not installed.")
        write_json(path, {**metadata, "installed": True})
    write_json(folder / LIST, listing)
