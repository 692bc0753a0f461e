"""What this machine has, as text one can paste: versions, devices, weights, disk, permissions, data; and its caches.

Each finding is `ok`, `note` (works, but worth knowing) or `BAD` (a command will fail over it).
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pbvs
from pbvs.challenge import SPLITS
from pbvs.data.build import find_challenge
from pbvs.data.manifest import manifest_path, read_manifest
from pbvs.errors import PbvsError
from pbvs.files import atomic_path, inside, is_unfinished, sha256, write_errors
from pbvs.metrics.weights import SOURCES, find, get_source, look, read_tensors
from pbvs.provenance import package_versions, required
from pbvs.run import CACHE, MANIFESTS, SUBMISSIONS, all_runs, read_metadata

GIB = 2**30
LITTLE_DISK = 5 * GIB  # a challenge run with its models and zip takes about 3
SAMPLE = 20  # images of each manifest that are looked for


@dataclass(frozen=True)
class Finding:
    """One line of the answer."""

    level: str  # ok, note or BAD
    what: str
    said: str


def examine(
    root: Path | None = None,
    manifests: Path = MANIFESTS,
    submissions: Path = SUBMISSIONS,
    weights: Path | None = None,
    verify: bool = False,
) -> list[Finding]:
    """Look at all that the commands depend on; `verify` also computes the digests of the weights found."""
    return [
        *_software(),
        *_devices(),
        *_weights(weights, verify),
        *_folders(submissions, manifests, CACHE),
        *_data(root, manifests),
        *_runs(submissions),
    ]


def text(findings: list[Finding]) -> str:
    """Return the findings as aligned lines."""
    return "\n".join(f"{finding.level:<5}{finding.what:<22}{finding.said}" for finding in findings)


def is_bad(findings: list[Finding]) -> bool:
    """Return whether a command will fail over one of them."""
    return any(finding.level == "BAD" for finding in findings)


def _software() -> Iterator[Finding]:
    yield Finding("ok", "pbvs", f"{pbvs.__version__} in {Path(pbvs.__file__).parent}")
    supported = sys.version_info >= (3, 10)
    yield Finding("ok" if supported else "BAD", "python", f"{platform.python_version()} in {sys.prefix}")
    yield Finding("ok", "system", f"{platform.platform()}, {os.cpu_count()} cores, {_memory()}")
    if os.name == "posix":
        import resource

        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        yield Finding("ok" if limit >= 256 else "note", "open files", f"at most {limit} (ulimit -n)")
    versions = package_versions()
    for name in required():
        found = versions.get(name)
        yield Finding("ok" if found else "BAD", name, found or "is not installed; run `pip install .` again")


def _memory() -> str:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return "memory unknown"
    memory = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}
    return f"{memory.get('MemAvailable', 0) / GIB:.1f} of {memory.get('MemTotal', 0) / GIB:.1f} GiB of memory free"


def _devices() -> Iterator[Finding]:
    try:
        import torch
    except Exception as error:
        yield Finding("BAD", "torch", f"cannot be imported ({error}); install it as its site says, then pbvs again")
        return
    yield Finding("ok", "devices", f"cpu ({torch.get_num_threads()} threads), CUDA build {torch.version.cuda or 'no'}")
    for number in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(number)
        yield Finding("ok", f"cuda:{number}", f"{card.name}, {card.total_memory / GIB:.1f} GiB")
    if not torch.cuda.is_available():
        yield Finding("note", "cuda", "none: pix2pixHD at the paper's size needs a GPU to train; the demo does not")


def _weights(folder: Path | None, verify: bool) -> Iterator[Finding]:
    for net, source in SOURCES.items():
        path = look(net, folder)
        if path is None:
            yield Finding("note", f"weights {net}", f"not found; `pbvs weights fetch {net}` ({source.megabytes} MB)")
        elif verify:
            yield Finding("ok", f"weights {net}", f"{path}, SHA-256 {sha256(path)}")
        else:
            yield Finding("ok", f"weights {net}", f"{path}, {path.stat().st_size / 1e6:.1f} MB")


def _folders(*folders: Path) -> Iterator[Finding]:
    for folder in (*folders, Path(tempfile.gettempdir())):
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            yield Finding("BAD", str(folder), f"{there} is no folder that you may write in; change its owner or mode")
            continue
        free = shutil.disk_usage(there).free
        said = f"writable, {free / GIB:.1f} GiB free" + ("" if folder.exists() else " (not there yet)")
        yield Finding("note" if free < LITTLE_DISK else "ok", str(folder), said)


def _data(root: Path | None, manifests: Path) -> Iterator[Finding]:
    with contextlib.suppress(PbvsError, KeyError, TypeError):
        root = root or Path(read_metadata(manifests / "summary.json")["root"])
    if root is None:
        yield Finding("note", "data root", "not given; use --data ROOT or set PBVS_DATA")
    elif not root.is_dir() or not os.access(root, os.R_OK | os.X_OK):
        yield Finding("BAD", "data root", f"{root} is no folder that you may read")
    else:
        yield Finding("ok", "data root", f"{root}: {', '.join(sorted(p.name for p in root.iterdir())[:12]) or 'empty'}")
    if is_unfinished(manifests):
        yield Finding("BAD", "manifests", f"{manifests} was not written to the end; run `pbvs build-pairs` again")
        return
    try:
        tasks = find_challenge(None, manifests).tasks
    except PbvsError as error:
        yield Finding("BAD", "challenge", str(error))
        return
    for task in tasks:
        yield _manifests(task, root, manifests)


def _manifests(task: str, root: Path | None, manifests: Path) -> Finding:
    counts, gone = [], []
    for split in SPLITS:
        path = manifest_path(manifests, task, split)
        if not path.is_file():
            return Finding("note", f"pairs {task}", f"there is no {path}; make it with `pbvs build-pairs`")
        try:
            pairs = read_manifest(path)
            named = [name for pair in pairs[:SAMPLE] for name in pair.paths]
            gone += [name for name in named if root is not None and not inside(root, name).is_file()]
        except PbvsError as error:
            return Finding("BAD", f"pairs {task}", str(error))
        counts.append(f"{split} {len(pairs)}")
    if gone:
        return Finding("BAD", f"pairs {task}", f"{gone[0]} is not in {root}; run `pbvs build-pairs` again")
    return Finding("ok", f"pairs {task}", ", ".join(counts))


def _runs(submissions: Path) -> Iterator[Finding]:
    runs = all_runs(submissions)
    for run in runs:
        try:
            recipe = run.recipe()
        except PbvsError as error:
            yield Finding("BAD", f"run {run.name}", str(error))
            continue
        done = [task for task in recipe.stages if run.model_metadata_file(task).is_file()]
        said = f"models of {', '.join(done) or 'nothing'} of {len(recipe.stages)} stages"
        yield Finding("ok", f"run {run.name}", f"{said}; {'packaged' if run.archive.is_file() else 'not packaged'}")
    if not runs:
        yield Finding("note", "runs", f"none in {submissions} yet")


# --- What is kept below the cache folder to save time: where it lies, how large it is, and what clearing it removes.

_DIGEST, _FOLDER = "[0-9a-f]{64}", "[0-9a-f]{2}"


class Kind(NamedTuple):
    """One kind of what is kept; `names` match the paths of its files below the cache folder, with '/'."""

    name: str
    folder: str  # below the cache folder; "" is the folder itself
    names: str
    what: str


_FEATURES, _TARGETS = rf"features/{_FOLDER}/{_DIGEST}\.safetensors", rf"targets/{_FOLDER}/{_DIGEST}\.[\w-]+\.npy"
KINDS = {
    kind.name: kind
    for kind in (
        Kind("chips", "", rf"{_FOLDER}/{_DIGEST}\.(npy|json)|digests\.csv|bad_[^/]+\.jsonl", "aligned training pairs"),
        Kind("features", "features", _FEATURES, "what networks made of scored targets"),
        Kind("baselines", "baselines", rf"baselines/{_DIGEST}\.json", "scores of the inputs as they are"),
        Kind("targets", "targets", _TARGETS, "of earlier versions; nothing reads them"),
    )
}


@dataclass(frozen=True)
class Kept:
    """What there is of one kind."""

    kind: Kind
    folder: Path
    files: tuple[Path, ...]
    size: int  # bytes of the files' contents


def kept(cache: Path = CACHE, kinds: Iterable[str] = KINDS) -> list[Kept]:
    """Return what is kept below `cache` of these kinds; nothing is there of any without the folder."""
    chosen = [KINDS[name] for name in kinds]
    found: dict[str, list[Path]] = {kind.name: [] for kind in chosen}
    for path in _files(cache):
        relative = path.relative_to(cache).as_posix()
        if kind := next((kind for kind in chosen if re.fullmatch(kind.names, relative)), None):
            found[kind.name].append(path)
    sizes = {name: sum(path.stat().st_size for path in files) for name, files in found.items()}
    return [Kept(kind, cache / kind.folder, tuple(found[kind.name]), sizes[kind.name]) for kind in chosen]


def clear(cache: Path = CACHE, kinds: Iterable[str] = KINDS) -> list[Kept]:
    """Remove what is kept of these kinds, and the folders that are empty then; return what was there.

    Raises PbvsError naming the first file that cannot be removed.
    """
    found = kept(cache, kinds)
    for path in (path for part in found for path in part.files):
        with write_errors(path):
            path.unlink(missing_ok=True)
    emptied = [*{path.parent for part in found for path in part.files}, *(part.folder for part in found)]
    for folder in emptied:
        with contextlib.suppress(OSError):  # something else is in it
            folder.rmdir()
    return found


def _files(folder: Path, depth: int = 3) -> Iterator[Path]:
    """Yield the files below a folder, links and what they lead to left out."""
    if not depth or not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            continue
        if path.is_dir():
            yield from _files(path, depth - 1)
        elif path.is_file():
            yield path


# --- Weights files checked against what is published, and cut down to the part of a network that is used.

# SHA-256 of the tensors (see `fingerprint`) of the slim files that LPIPS' published numbers were reproduced with.
PINNED = {
    "alex": "90f435b539958a4bd51ad07f121cdeffbb292a1ff3572e0940c200e7b748fb60",
    "squeeze": "63bb4405879c789c2a9f0271b13202564b8e2ce8330d479c700623358d0d2142",
    "vgg": "b9f9b3197cae26ac61f66864149c47c0249f88471bb916a7a64ddbcfb353d971",
}


def verify(net: str, path: Path) -> str:
    """Return what is sure of a weights file: its published or pinned digest, or only that it fits the network.

    Raises PbvsError when it is damaged, another net's, or not what its name says.
    """
    source = get_source(net)
    if path.suffix != ".safetensors":
        if not sha256(path).startswith(source.digest):
            raise PbvsError(
                f"{path} is not {source.full}: its SHA-256 does not begin with {source.digest}; fetch it again."
            )
        return f"as published (SHA-256 begins with {source.digest})"
    from pbvs.metrics.fid import load_inception
    from pbvs.metrics.perceptual import load_trunk

    found = (load_inception(path) if net == "inception" else load_trunk(net, path)).digest
    known = PINNED.get(net)
    if known is None:
        return f"fits the network (tensors {found[:16]}; no digest of a slim file is published to compare with)"
    if found != known:
        raise PbvsError(f"{path} does not hold the published tensors of {source.title}; fetch or slim it again.")
    return f"the published tensors ({found[:16]})"


def slim(net: str, folder: Path | None = None, target: Path | None = None) -> Path:
    """Write the part of a network's weights that is used as `.safetensors` into `target`; return the file.

    Raises PbvsError when the full file is nowhere, damaged or another net's.
    """
    from safetensors.torch import save_file

    from pbvs.metrics.fid import Inception
    from pbvs.metrics.perceptual import Trunk, pick

    source = get_source(net)
    path = find(net, folder)
    wanted = (Inception().net if net == "inception" else Trunk(net)).state_dict()
    wanted = {name: value for name, value in wanted.items() if not name.endswith("num_batches_tracked")}
    used = pick(wanted, read_tensors(path, source.prefix), path)
    result = (target or path.parent) / source.slim
    with atomic_path(result) as part:
        save_file({name: value.contiguous() for name, value in used.items()}, part, {"made_from": path.name})
    return result
