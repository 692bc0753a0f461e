"""What a run was made with: code, recipe, data, weights, versions, machine; enough to say later what differs."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.metadata
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pbvs
from pbvs.challenge import SPLITS
from pbvs.data.cache import CACHE_NAME, FileCache, digests
from pbvs.data.manifest import manifest_path, read_manifest
from pbvs.errors import PbvsError, WriteError, damage_ignored
from pbvs.files import inside, matching, sha256, write_json
from pbvs.lineage import learns
from pbvs.metrics.weights import look
from pbvs.recipe import Recipe
from pbvs.run import read_metadata

FORMAT = 1
KEPT = 20  # earlier circumstances that are kept
PACKAGE = Path(pbvs.__file__).resolve().parent
_REQUIREMENT = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*")


def collect(
    recipe: Recipe, manifests: Path, weights: Path | None = None, device: str = "cpu", *, root: Path | None = None
) -> dict[str, Any]:
    """Return all that the predictions depend on, as a JSON value.

    `weights` is the folder of the frozen trunks; `root` adds a digest of every image that the manifests name.
    """
    return {
        "format": FORMAT,
        "recipe": {"name": recipe.name, "digest": recipe.digest()},
        "seed": recipe.seed,
        "code": code(),
        "manifests": manifest_digests(recipe, manifests),
        "data": None if root is None else data_metadata(recipe, manifests, root),
        "weights": weight_digests(recipe, weights),
        "packages": package_versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device_metadata(device, learns=any(map(learns, recipe.stages.values()))),
    }


def update(
    path: Path, recipe: Recipe, manifests: Path, weights: Path | None = None, device: str = "cpu", *, root: Path | None
) -> None:
    """Write what a run is made with; what it was made with before, when that was different, is kept as `earlier`."""
    metadata = collect(recipe, manifests, weights, device, root=root)
    earlier: list[dict[str, Any]] = []
    with damage_ignored():
        before = read_provenance(path)
        earlier = before.pop("earlier", [])
        if before != metadata:
            earlier = [before, *earlier][:KEPT]
    write_json(path, {**metadata, "earlier": earlier} if earlier else metadata)


def read_provenance(path: Path) -> dict[str, Any]:
    """Read a run's provenance; raise PbvsError when there is none or it is of another format."""
    if not path.is_file():
        raise PbvsError(f"There is no {path}; the run was not finished, make it with `pbvs predict`.")
    value = read_metadata(path)
    if value.get("format") != FORMAT:
        raise PbvsError(f"{path} is not of format {FORMAT}; make it again with `pbvs predict`.")
    return value


def code() -> dict[str, Any]:
    """Return the package's version, a digest of its sources, and the git commit where there is one."""
    return {"version": pbvs.__version__, "sources": source_digest(), "git": git_commit(PACKAGE.parent)}


def source_digest() -> str:
    """Return one SHA-256 over the names and bytes of the package's Python and TOML files."""
    total = hashlib.sha256()
    for path in sorted(path for path in matching(PACKAGE, "**/*") if path.suffix in {".py", ".toml"}):
        total.update(f"{path.relative_to(PACKAGE).as_posix()}\0{sha256(path)}\n".encode())
    return total.hexdigest()


def git_commit(folder: Path) -> dict[str, Any] | None:
    """Return the commit checked out in `folder` and whether the sources differ from it; None without git."""
    if not (folder / ".git").exists() or not (commit := _git(folder, "rev-parse", "HEAD")):
        return None
    return {"commit": commit, "changed": bool(_git(folder, "status", "--porcelain", "--", "pbvs"))}


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def manifest_digests(recipe: Recipe, manifests: Path) -> dict[str, str]:
    """Return the SHA-256 of each manifest of the recipe's tasks, by file name."""
    paths = [manifest_path(manifests, task, split) for task in recipe.stages for split in SPLITS]
    return {path.name: sha256(path) for path in sorted(paths) if path.is_file()}


def data_metadata(recipe: Recipe, manifests: Path, root: Path) -> dict[str, Any]:
    """Return count, bytes and one SHA-256 of the images that the recipe's manifests name.

    The digest says nothing of where `root` lies. Only images are read that are not known beside the manifests.
    """
    files = (manifests / file for file in manifest_digests(recipe, manifests))
    names = sorted({name for file in files for pair in read_manifest(file) for name in pair.paths})
    there = {name: path.stat().st_size for name in names if (path := inside(root, name)).is_file()}
    cache = FileCache(manifests / CACHE_NAME, root)
    found, total = digests(there, cache), hashlib.sha256()
    with contextlib.suppress(WriteError):
        cache.write()
    for name in names:
        total.update(f"{name}\0{found.get(name, 'missing')}\n".encode())
    return {"root": str(root), "files": len(names), "bytes": sum(there.values()), "digest": total.hexdigest()}


def weight_digests(recipe: Recipe, folder: Path | None) -> dict[str, Any]:
    """Return file name and SHA-256 of each frozen trunk that the recipe's losses use; None where it is not found."""
    found: dict[str, Any] = {}
    for net in sorted({net for stage in recipe.stages.values() for net in stage.trunks}):
        path = look(net, folder)
        found[net] = None if path is None else {"file": path.name, "sha256": sha256(path)}
    return found


def package_versions() -> dict[str, str]:
    """Return the installed version of each package that pbvs requires."""
    versions = {}
    for name in required():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def required() -> list[str]:
    """Return the names of the packages that pbvs requires everywhere, in order."""
    try:
        lines = importlib.metadata.requires("pbvs") or []
    except importlib.metadata.PackageNotFoundError:
        lines = ["torch", "numpy", "pillow", "pydantic", "rasterio", "safetensors"]
    found = (_REQUIREMENT.match(line) for line in lines if ";" not in line)
    return sorted(match.group(0).lower() for match in found if match)


def device_metadata(device: str, *, learns: bool = False) -> dict[str, Any]:
    """Return the device's kind, name and threads; torch is asked when something learns, or when it is there anyway."""
    torch: Any = importlib.import_module("torch") if learns else sys.modules.get("torch")
    cuda = torch is not None and torch.cuda.is_available() and device.split(":")[0] in ("auto", "cuda")
    if cuda:
        return {"kind": "cuda", "name": torch.cuda.get_device_name(None if device == "auto" else device)}
    metadata: dict[str, Any] = {"kind": "cpu", "name": _processor()}
    return metadata if torch is None else {**metadata, "threads": torch.get_num_threads()}


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
