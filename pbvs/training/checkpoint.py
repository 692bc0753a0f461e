"""Model files: weights as safetensors, with everything that the network is made of in their metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pbvs.errors import PbvsError
from pbvs.networks.pix2pixhd import DiscriminatorConfig, GeneratorConfig, MultiscaleDiscriminator, make_generator
from pbvs.networks.unet import UNet, UNetConfig
from pbvs.training.state import read_tensors, write_tensors

LARGEST = 4096  # channels, blocks: no configuration has a larger number
TranslatorConfig = GeneratorConfig | UNetConfig
Config = TranslatorConfig | DiscriminatorConfig


@dataclass(frozen=True)
class Kind:
    """A kind of network: its configuration, and how an untrained one is made of it."""

    config: type[Any]
    make: Callable[[Any], nn.Module]


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


def write_model(path: Path, network: nn.Module, config: Config, facts: Mapping[str, Any]) -> None:
    """Write a network's weights, its configuration and `facts` of how it was made, whole or not at all."""
    write_weights(path, network.state_dict(), config, facts)


def write_weights(path: Path, tensors: Mapping[str, Tensor], config: Config, facts: Mapping[str, Any]) -> None:
    """Write weights as `write_model` does, without a network around them."""
    write_tensors(path, tensors, {**facts, "kind": kind_of(config), "config": asdict(config)})


def read_model(path: Path, kind: str) -> tuple[dict[str, Tensor], Config, dict[str, Any]]:
    """Return weights, configuration and facts of a model file.

    Raises PbvsError when it is missing, damaged, of another kind, or its weights do not fit its configuration.
    """
    tensors, facts = read_tensors(path)
    if facts.get("kind") != kind or kind not in KINDS:
        raise PbvsError(f"{path} holds a {facts.get('kind') or 'training state'}, not a {kind}; name the right file.")
    config = read_config(path, kind, facts.get("config"))
    with torch.device("meta"):
        check_fit(path, make_network(config), tensors)
    return tensors, config, facts


def read_config(path: Path, kind: str, table: Any) -> Config:
    """Return the configuration that a file states; raise PbvsError when no network can be made of it.

    Numbers are limited, since a network of a million layers takes hours to make even without its weights.
    """
    try:
        if any(isinstance(value, int) and abs(value) > LARGEST for value in table.values()):
            raise ValueError(f"a number is over {LARGEST}")
        config: Config = KINDS[kind].config(**table)
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
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        listed = "; ".join(problems[:5])
        raise PbvsError(f"The weights in {path} do not fit: {listed}{more}; name the right checkpoint.")


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
