"""Model files and training states as safetensors, whole or not at all; reading one runs no code.

A model file holds weights and, in its metadata, everything that the network is made of. A state holds everything that
a training needs to go on bit for bit: tensors as such, the rest as JSON in the metadata.
"""

from __future__ import annotations

import errno
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from pbvs import aliases
from pbvs.errors import PbvsError
from pbvs.files import atomic_path, disk_errors, misfit, parse_json
from pbvs.networks.pix2pixhd import DiscriminatorConfig, GeneratorConfig, MultiscaleDiscriminator, make_generator
from pbvs.networks.unet import UNet, UNetConfig
from pbvs.tensors import check_safetensors
from pbvs.text import few

LARGEST = 4096  # channels, blocks: no configuration has a larger number
MOST_LAYERS = 2048  # blocks of all levels and scales: more take minutes to make, even without weights
_COUNTS = re.compile(r"levels|layers|scales|downsamplings|enhancers|(\w+_)?blocks|depth")
TranslatorConfig = GeneratorConfig | UNetConfig
Config = TranslatorConfig | DiscriminatorConfig


@dataclass(frozen=True)
class Kind:
    """A kind of network: its configuration, and how an untrained one is made of it."""

    config: type[Any]
    make: Callable[[Any], nn.Module]


# A method with a network of its own adds it here when its translator is imported.
KINDS = {
    "generator": Kind(GeneratorConfig, make_generator),
    "unet": Kind(UNetConfig, UNet),
    "discriminator": Kind(DiscriminatorConfig, MultiscaleDiscriminator),
}


def kind_of(config: Config) -> str:
    """Return the name of the kind of network that this is the configuration of."""
    return next(name for name, kind in KINDS.items() if isinstance(config, kind.config))


def make_network(config: Config) -> nn.Module:
    """Return an untrained network of this configuration."""
    return KINDS[kind_of(config)].make(config)


def write_model(path: Path, network: nn.Module, config: Config, metadata: Mapping[str, Any]) -> None:
    """Write a network's weights, its configuration and `metadata` of how it was made, whole or not at all."""
    write_weights(path, network.state_dict(), config, metadata)


def write_weights(path: Path, tensors: Mapping[str, Tensor], config: Config, metadata: Mapping[str, Any]) -> None:
    """Write weights as `write_model` does, without a network around them."""
    write_tensors(path, tensors, {**metadata, "kind": kind_of(config), "config": asdict(config)})


def read_model(path: Path, kind: str) -> tuple[dict[str, Tensor], Config, dict[str, Any]]:
    """Return weights, configuration and metadata of a model file.

    Raises PbvsError when it is missing, damaged, of another kind, or its weights do not fit its configuration.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("kind") != kind or kind not in KINDS:
        raise PbvsError(
            f"{path} holds a {metadata.get('kind') or 'training state'}, not a {kind}; name the right file."
        )
    config = read_config(path, kind, metadata.get("config"))
    with torch.device("meta"):
        check_fit(path, make_network(config), tensors)
    return tensors, config, metadata


def read_config(path: Path, kind: str, table: Any) -> Config:
    """Return the configuration that a file states; raise PbvsError when no network can be made of it.

    Numbers are limited, since a network of a million layers takes hours to make even without its weights.
    """
    try:
        if any(isinstance(value, int) and abs(value) > LARGEST for value in table.values()):
            raise ValueError(f"a number is over {LARGEST}")
        counts = [value for key, value in table.items() if _COUNTS.fullmatch(key) and isinstance(value, int)]
        if math.prod(max(1, count) for count in counts) > MOST_LAYERS:
            raise ValueError(f"it has more than {MOST_LAYERS} layers")
        config: Config = KINDS[kind].config(**aliases.stored(table))
        with torch.device("meta"):
            make_network(config)
    except Exception as error:  # whatever a network makes of numbers and types that it never expected
        reason = " ".join(str(error).split())[:200]
        raise PbvsError(
            f"{path} has no usable configuration ({reason}); it is damaged or of another version of pbvs."
        ) from None
    return config


def differences(found: Config, wanted: Config) -> str:
    """Return what two configurations do not agree on: `width 64 instead of 32, ...`."""
    a, b = asdict(found), asdict(wanted)
    return ", ".join(f"{key} {a.get(key)} instead of {value}" for key, value in b.items() if a.get(key) != value)


def check_fit(path: Path, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Raise PbvsError naming what does not fit when `tensors` are not exactly the weights of `network`."""
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    problems = [f"{name} is missing" for name in wanted if name not in found]
    problems += [f"{name} is not part of the network" for name in found if name not in wanted]
    problems += [
        f"{name} has the shape {found[name]} instead of {wanted[name]}"
        for name in wanted
        if name in found and found[name] != wanted[name]
    ]
    if problems:
        raise PbvsError(f"The weights in {path} do not fit: {few(problems, 5, '; ')}; name the right checkpoint.")


def start_from(path: Path, network: nn.Module, tensors: Mapping[str, Tensor], *, partly: bool = False) -> None:
    """Load `tensors` into `network`; `partly` allows it to have more weights, which keep their first values.

    Raises PbvsError naming what does not fit.
    """
    own = network.state_dict()
    if partly:
        common = {name: value for name, value in tensors.items() if name in own}
        tensors = {**own, **common}
    check_fit(path, network, tensors)
    network.load_state_dict(dict(tensors))


# --- Tensors in a file, and the state of a training.


@dataclass
class Progress:
    """Where a run is; `step` counts the optimisers' steps done since the beginning."""

    step: int = 0
    seconds: float = 0.0
    best_score: float | None = None
    best_step: int = 0
    stale: int = 0  # validations since the best one
    lowest: float | None = None  # the lowest mean of the watched loss in an epoch
    lowest_unseen: float | None = None  # the lowest distance by a network that no loss has seen
    parted: bool = False  # whether that network thinks the best epoch worse than an earlier one
    per_step: int = 0  # samples of a step, all processes together; 0: written by a version that did not say


_NUMBER, _MAYBE = (int, float), (int, float, type(None))
_STATE = {
    "ends": [int],
    "progress": {
        "step": int, "seconds": _NUMBER, "best_score": _MAYBE, "best_step": int, "stale": int, "lowest": _MAYBE,
        "lowest_unseen": _MAYBE, "parted": bool, "per_step": int, "*": ()
    },
}  # fmt: skip
_MOST = 1e15  # larger numbers no training has


def check_state(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], wanted: Mapping[str, Tensor]
) -> Progress:
    """Return how far a state is; raise PbvsError where it is damaged or lacks one of the `wanted` tensors."""
    wrong = misfit(dict(metadata), _STATE).removeprefix(".")
    known = dict(metadata.get("progress") or {}) if not wrong else {}
    counts = [] if not known else [known.get("step", -1), *metadata.get("ends", ())]
    if not counts or min(counts) < 0 or any(abs(value or 0) > _MOST for value in [*counts, *known.values()]):
        raise _damaged(path, f"it says no valid {wrong or 'progress'}")
    parts = {name.partition("/")[0] for name in wanted}
    for name in (*wanted, *(name for name in tensors if name.partition("/")[0] in parts)):
        if name not in tensors or name not in wanted or tensors[name].shape != wanted[name].shape:
            raise _damaged(path, f"{name} is missing, of another shape or of no network")
    return Progress(**known)


def _damaged(path: Path, reason: str) -> PbvsError:
    return PbvsError(f"The training state {path} is damaged ({reason}); remove it and run again to start over.")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write named tensors with `metadata` (JSON values) in the file's header, whole or not at all."""
    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    # One key: safetensors writes several in an order that changes from process to process.
    header = {"pbvs": json.dumps(dict(metadata), sort_keys=True)}
    with atomic_path(path) as part:
        try:
            save_file(whole, part, header)
            part.chmod(0o644)  # safetensors makes it readable by its owner alone
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error


def read_tensors(path: Path, device: str = "cpu", *, whole: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and metadata of a file that `write_tensors` wrote; no tensors unless `whole`.

    Raises PbvsError when it is missing, truncated or not written by this package.
    """
    if not path.is_file():
        raise PbvsError(f"There is no checkpoint {path}; train the model first (`pbvs predict`), or check the path.")
    check_safetensors(path)
    try:
        with disk_errors(path), safe_open(path, framework="pt", device=device) as file:
            metadata = parse_json((file.metadata() or {}).get("pbvs", "null"), f"What {path} says of itself")
            names = file.keys() if whole else ()
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise PbvsError(
            f"The checkpoint {path} is damaged or no safetensors file ({error}); take another copy, or train again."
        ) from None
    if not isinstance(metadata, dict):
        raise PbvsError(f"{path} says nothing of how it was made; import it with `pbvs checkpoint import`.")
    return tensors, metadata


def module_tensors(modules: Mapping[str, nn.Module], prefix: str = "module") -> dict[str, Tensor]:
    """Return the weights and buffers of all modules, named prefix/module/weight."""
    return {
        f"{prefix}/{name}/{key}": value
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }


def optimizer_tensors(optimizers: Mapping[str, Optimizer]) -> dict[str, Tensor]:
    """Return the moments and counts of all optimisers, named optimizer/name/parameter's number/field."""
    return {
        f"optimizer/{name}/{number}/{key}": value
        for name, optimizer in optimizers.items()
        for number, parameter in enumerate(_parameters(optimizer))
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def restore_modules(modules: Mapping[str, nn.Module], tensors: Mapping[str, Tensor], prefix: str = "module") -> None:
    """Put back what `module_tensors` returned, in place."""
    for name, module in modules.items():
        start = f"{prefix}/{name}/"
        module.load_state_dict({key[len(start) :]: value for key, value in tensors.items() if key.startswith(start)})


def restore_optimizers(optimizers: Mapping[str, Optimizer], tensors: Mapping[str, Tensor], path: Path = Path()) -> None:
    """Put back what `optimizer_tensors` returned; parameters that never stepped stay without moments.

    Raises PbvsError naming `path`, the state, where a moment is of no parameter or of another shape, or one is missing.
    """
    for name, optimizer in optimizers.items():
        parameters = {str(number): parameter for number, parameter in enumerate(_parameters(optimizer))}
        optimizer.state.clear()
        start = f"optimizer/{name}/"
        for key, value in tensors.items():
            if key.startswith(start):
                number, _, field_name = key[len(start) :].partition("/")
                parameter = parameters.get(number)
                if parameter is None or not _fits(field_name, value, parameter):
                    raise _damaged(path, f"{key} fits no parameter")
                optimizer.state[parameter][field_name] = value.to(parameter.device, copy=True)
        if isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)) and any(
            not state.keys() >= _SHAPES.keys() for state in optimizer.state.values()
        ):
            raise _damaged(path, f"{start} lacks a moment")


_SHAPES = {"step": False, "exp_avg": True, "exp_avg_sq": True}  # of Adam's moments: the parameter's, or none


def _fits(name: str, value: Tensor, parameter: Tensor) -> bool:
    whole = _SHAPES.get(name, value.shape != ())
    shape, dtype = (parameter.shape, parameter.dtype) if whole else ((), torch.float32)
    return value.shape == shape and value.dtype == dtype


def _parameters(optimizer: Optimizer) -> list[torch.nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
