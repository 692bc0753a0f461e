"""What `pbvs checkpoint` does: import published checkpoints, describe any, export ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pbvs.checkpoint import Config, check_fit, kind_of, make_network, read_config, read_model, write_weights
from pbvs.errors import PbvsError, UsageError
from pbvs.files import sha256, sweep
from pbvs.networks.layers import count_parameters
from pbvs.published import read_published, write_published
from pbvs.training.state import read_tensors


def import_checkpoint(path: Path, out: Path) -> str:
    """Write a published checkpoint as safetensors and return what was found in it.

    Raises PbvsError when it does not fit the architecture that its weights imply.
    """
    if out.suffix != ".safetensors":
        raise UsageError(f"{out} must end in .safetensors.")
    published = read_published(path)
    facts = {"imported_from": path.name, "imported_sha256": sha256(path)}
    sweep(out.parent, deep=False)
    write_weights(out, published.tensors, published.config, facts)
    lines = [f"{out}: {summary(published.config)}", *published.notes]
    if published.dropped:
        lines.append(f"{len(published.dropped)} running statistics that the norm does not use were left out")
    return "\n".join(lines)


def describe_file(path: Path) -> str:
    """Return what a model file, a training state or a published checkpoint holds, a fact a line."""
    if path.suffix != ".safetensors":
        published = read_published(path)
        lines = [f"published checkpoint: {summary(published.config)}", *published.notes]
        return "\n".join([*lines, f"{len(published.dropped)} stale running statistics"])
    tensors, facts = read_tensors(path)
    if "progress" in facts:
        lines = [f"training state, {len(tensors)} tensors"]
    else:
        _, config, facts = read_model(path, str(facts.get("kind")))
        lines = [summary(config)]
    lines += [f"{key}: {json.dumps(value)}" for key, value in sorted(facts.items()) if key not in ("kind", "config")]
    return "\n".join(lines)


def export_checkpoint(path: Path, out: Path) -> str:
    """Write the network of a model file or training state as .pth (published form) or .safetensors."""
    tensors, config, facts = network_of(path)
    sweep(out.parent, deep=False)
    if out.suffix == ".safetensors":
        write_weights(out, tensors, config, facts)
    elif out.suffix == ".pth":
        write_published(out, tensors)
    else:
        raise UsageError(f"{out} must end in .pth or .safetensors.")
    return f"{out}: {summary(config)}"


def network_of(path: Path) -> tuple[dict[str, Tensor], Config, dict[str, Any]]:
    """Return weights, configuration and facts of a model file, or of the averaged network of a training state."""
    tensors, facts = read_tensors(path)
    if "progress" not in facts:
        return read_model(path, str(facts.get("kind")))
    try:
        identity, step = facts["identity"], facts["progress"]["step"]
        kind, table, task = str(identity["kind"]), identity["network"], identity.get("task")
    except (KeyError, TypeError, AttributeError):
        raise PbvsError(f"{path} does not say what its network is; export the model file beside it.") from None
    config = read_config(path, kind, table)
    prefix = "average/network/" if any(name.startswith("average/") for name in tensors) else "module/generator/"
    weights = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    with torch.device("meta"):
        check_fit(path, make_network(config), weights)
    return weights, config, {"task": task, "step": step}


def summary(config: Config) -> str:
    """Return a configuration and its number of weights in one line."""
    with torch.device("meta"):
        count = count_parameters(make_network(config))
    parts = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in vars(config).items())
    return f"{kind_of(config)}, {count:,} parameters ({parts})"
