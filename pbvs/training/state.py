"""Everything that a run needs to go on bit for bit, in one file that appears whole or not at all.

Tensors as safetensors, the rest as JSON in its metadata: reading it can run no code.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from pbvs.errors import PbvsError
from pbvs.files import atomic_path

FORMAT = "pbvs-1"


@dataclass
class Progress:
    """Where a run is; `step` counts the optimisers' steps done since the beginning."""

    step: int = 0
    seconds: float = 0.0
    best_score: float | None = None
    best_step: int = 0
    stale: int = 0  # validations since the best one
    lowest: float | None = None  # the lowest mean of the watched loss in an epoch


def write_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write named tensors with `facts` (JSON values) in the metadata, whole or not at all."""
    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": FORMAT, "pbvs": json.dumps(dict(facts), sort_keys=True)}
    with atomic_path(path) as part:
        try:
            save_file(whole, part, metadata)
            part.chmod(0o644)  # safetensors makes it readable by its owner alone
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error


def read_tensors(path: Path, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and facts of a file that `write_tensors` wrote.

    Raises PbvsError when it is missing, truncated or not written by this package.
    """
    if not path.is_file():
        raise PbvsError(f"There is no checkpoint {path}; train the model first (`pbvs predict`), or check the path.")
    try:
        with safe_open(path, framework="pt", device=device) as file:
            facts = json.loads((file.metadata() or {}).get("pbvs", "null"))
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise PbvsError(
            f"The checkpoint {path} is damaged or no safetensors file ({error}); take another copy, or train again."
        ) from None
    if not isinstance(facts, dict):
        raise PbvsError(f"{path} says nothing of how it was made; import it with `pbvs checkpoint import`.")
    return tensors, facts


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


def restore_optimizers(optimizers: Mapping[str, Optimizer], tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` returned; parameters that never stepped stay without moments."""
    for name, optimizer in optimizers.items():
        parameters = _parameters(optimizer)
        optimizer.state.clear()
        start = f"optimizer/{name}/"
        for key, value in tensors.items():
            if key.startswith(start):
                number, _, field_name = key[len(start) :].partition("/")
                parameter = parameters[int(number)]
                optimizer.state[parameter][field_name] = value.to(parameter.device, copy=True)


def progress_facts(progress: Progress) -> dict[str, Any]:
    """Return progress as JSON values; Python writes and reads floats exactly."""
    return asdict(progress)


def _parameters(optimizer: Optimizer) -> list[torch.nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
