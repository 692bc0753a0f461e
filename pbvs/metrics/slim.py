"""Weights files checked against what is published, and cut down to the part of a network that is used."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file

from pbvs.errors import PbvsError
from pbvs.files import atomic_path, sha256
from pbvs.metrics.fid import Inception, load_inception
from pbvs.metrics.perceptual import Trunk, load_trunk, pick
from pbvs.metrics.weights import find, get_source, read_tensors

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
    source = get_source(net)
    path = find(net, folder)
    wanted = (Inception().net if net == "inception" else Trunk(net)).state_dict()
    wanted = {name: value for name, value in wanted.items() if not name.endswith("num_batches_tracked")}
    used = pick(wanted, read_tensors(path, source.prefix), path)
    result = (target or path.parent) / source.slim
    with atomic_path(result) as part:
        save_file({name: value.contiguous() for name, value in used.items()}, part, {"made_from": path.name})
    return result
