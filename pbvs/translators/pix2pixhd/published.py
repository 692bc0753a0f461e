"""Checkpoints of the published pix2pixHD: read without running code, understood from their shapes, taken whole.

The files hold a plain state dict and nothing of how they were made. Key patterns: NVIDIA/pix2pixHD, models/networks.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pbvs.errors import PbvsError, UsageError
from pbvs.files import atomic_path, sha256, sweep
from pbvs.networks.pix2pixhd import DiscriminatorConfig, GeneratorConfig, Upsampling, count_parameters
from pbvs.tensors import load_tensors
from pbvs.training.checkpoint import (
    Config,
    check_fit,
    kind_of,
    make_network,
    read_config,
    read_model,
    read_tensors,
    write_weights,
)
from pbvs.translators import import_methods

STALE = (".running_mean", ".running_var", ".num_batches_tracked")


@dataclass(frozen=True)
class Published:
    """What a published checkpoint holds, with our names, and what was left out of it."""

    tensors: dict[str, Tensor]
    config: Config
    dropped: tuple[str, ...]  # running statistics that old versions wrote and nothing uses
    notes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """`generator` or `discriminator`."""
        return kind_of(self.config)


def read_published(path: Path) -> Published:
    """Read a .pth checkpoint of pix2pixHD and infer its architecture.

    Raises PbvsError when it is missing, truncated, a pickle with code in it, or of another architecture; the message
    names what did not fit. Nothing is dropped silently.
    """
    raw = load_tensors(path)
    kept = {name: value.float() for name, value in raw.items() if not name.endswith(STALE)}
    dropped = tuple(name for name in raw if name.endswith(STALE))
    notes = []
    if kept and all(name.startswith("module.") for name in kept):
        kept = {name.removeprefix("module."): value for name, value in kept.items()}
        notes.append("the prefix module. of a parallel wrapper was taken off")
    if any(re.match(r"layer\d+\.\d+\.", name) for name in kept):
        kept = with_scales(kept)
        notes.append("a discriminator without feature matching: its layers were renamed")
    config = infer(kept, path)
    read_config(path, kind_of(config), vars(config))
    with torch.device("meta"):
        check_fit(path, make_network(config), kept)
    broken = [name for name, value in kept.items() if not torch.isfinite(value).all()]
    if broken:
        raise PbvsError(f"{path} holds numbers that are not finite in {broken[0]}; its training had broken down.")
    return Published(kept, config, dropped, tuple(notes))


def write_published(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write weights as the plain state dict that the published code loads."""
    whole = {name: value.detach().cpu().clone() for name, value in tensors.items()}
    with atomic_path(path) as part, part.open("wb") as file:  # given a name, torch writes it into the file
        torch.save(whole, file)


def with_scales(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename `layer{s}.{index}.*`, as written without feature matching, to `scale{s}_layer{j}.0.*`."""
    found = [re.fullmatch(r"layer(\d+)\.(\d+)\.(weight|bias)", name) for name in tensors]
    order: dict[str, list[int]] = {}
    for match in found:
        if match:
            order.setdefault(match[1], []).append(int(match[2]))
    renamed = {}
    for match, (name, value) in zip(found, tensors.items(), strict=True):
        if match:
            number = sorted(set(order[match[1]])).index(int(match[2]))
            name = f"scale{match[1]}_layer{number}.0.{match[3]}"
        renamed[name] = value
    return renamed


def infer(tensors: Mapping[str, Tensor], path: Path) -> Config:
    """Return the configuration that weights of these names and shapes belong to; raise PbvsError when there is none."""
    try:
        if any(name.startswith("scale0_layer0.") for name in tensors):
            return infer_discriminator(tensors)
        if "model.1.weight" in tensors:
            return infer_generator(tensors)
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise PbvsError(
            f"{path} is neither a generator nor a discriminator of pix2pixHD: it looks like one but {error} is missing."
        ) from None
    first = ", ".join(list(tensors)[:3])
    raise PbvsError(
        f"{path} is neither a generator nor a discriminator of pix2pixHD; its weights are called {first}..."
    )


def infer_generator(tensors: Mapping[str, Tensor]) -> GeneratorConfig:
    """Return a generator's configuration: global, or local enhancers around one."""
    width, source = tensors["model.1.weight"].shape[:2]
    depth = 0
    while (key := f"model.{4 + 3 * depth}.weight") in tensors and (
        tensors[key].shape[:2] == (width << (depth + 1), width << depth)
    ):
        depth += 1
    blocks = count(tensors, r"model\.\d+\.conv_block\.1\.weight")
    first_up = tensors[f"model.{4 + 3 * depth + blocks}.weight"]
    upsampling: Upsampling = "transpose" if first_up.shape[0] > first_up.shape[1] else "resize"
    config = GeneratorConfig(source, 0, width, depth, blocks, upsampling=upsampling)
    enhancers = count(tensors, r"model\d+_1\.1\.weight")
    if not enhancers:
        return replace(config, target_channels=len(tensors[f"model.{5 + 6 * depth + blocks}.bias"]))
    local = count(tensors, r"model1_2\.\d+\.conv_block\.1\.weight")
    target = len(tensors[f"model{enhancers}_2.{local + 4}.bias"])
    return replace(config, target_channels=target, width=width >> enhancers, enhancers=enhancers, enhancer_blocks=local)


def infer_discriminator(tensors: Mapping[str, Tensor]) -> DiscriminatorConfig:
    """Return a multi-scale discriminator's configuration."""
    width, channels = tensors["scale0_layer0.0.weight"].shape[:2]
    scales = count(tensors, r"scale\d+_layer0\.0\.weight")
    return DiscriminatorConfig(channels, width, scales, count(tensors, r"scale0_layer\d+\.0\.weight") - 2)


def count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """Return how many names match the whole pattern."""
    return sum(re.fullmatch(pattern, name) is not None for name in tensors)


# --- What `pbvs checkpoint` does: import published checkpoints, describe any, export ours.


def import_checkpoint(path: Path, out: Path) -> str:
    """Write a published checkpoint as safetensors and return what was found in it.

    Raises PbvsError when it does not fit the architecture that its weights imply.
    """
    if out.suffix != ".safetensors":
        raise UsageError(f"{out} must end in .safetensors.")
    published = read_published(path)
    metadata = {"imported_from": path.name, "imported_sha256": sha256(path)}
    sweep(out.parent, deep=False)
    write_weights(out, published.tensors, published.config, metadata)
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
    import_methods()
    tensors, metadata = read_tensors(path)
    if "progress" in metadata:
        lines = [f"training state, {len(tensors)} tensors"]
    else:
        _, config, metadata = read_model(path, str(metadata.get("kind")))
        lines = [summary(config)]
    lines += [f"{key}: {json.dumps(value)}" for key, value in sorted(metadata.items()) if key not in ("kind", "config")]
    return "\n".join(lines)


def export_checkpoint(path: Path, out: Path) -> str:
    """Write the network of a model file or training state as .pth (published form) or .safetensors."""
    tensors, config, metadata = network_of(path)
    sweep(out.parent, deep=False)
    if out.suffix == ".safetensors":
        write_weights(out, tensors, config, metadata)
    elif out.suffix == ".pth":
        write_published(out, tensors)
    else:
        raise UsageError(f"{out} must end in .pth or .safetensors.")
    return f"{out}: {summary(config)}"


def network_of(path: Path) -> tuple[dict[str, Tensor], Config, dict[str, Any]]:
    """Return weights, configuration and metadata of a model file, or of the averaged network of a training state."""
    import_methods()
    tensors, metadata = read_tensors(path)
    if "progress" not in metadata:
        return read_model(path, str(metadata.get("kind")))
    try:
        identity, step = metadata["identity"], metadata["progress"]["step"]
        kind, table, task = str(identity["kind"]), identity["network"], identity.get("task")
    except (KeyError, TypeError, AttributeError):
        raise PbvsError(f"{path} does not say what its network is; export the model file beside it.") from None
    config = read_config(path, kind, table)
    prefix = "average/network/" if any(name.startswith("average/") for name in tensors) else f"module/{kind}/"
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
