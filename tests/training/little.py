"""A training small enough for tests: one pair of networks of a few hundred weights on images made from a seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pbvs.metrics.perceptual import Lpips
from pbvs.networks.pix2pixhd import DiscriminatorConfig, GeneratorConfig, build_discriminator, build_generator
from pbvs.seeds import generator, torch_generator
from pbvs.training.losses import PerceptualLoss, PerceptualTerm
from pbvs.training.step import Schedule
from pbvs.training.trainer import Settings, Trainer
from pbvs.translators.pix2pixhd.translator import GanStep, Weights

GENERATOR = GeneratorConfig(1, 1, width=4, downsamplings=1, blocks=1)


class LittleChips:
    """Images whose content, order and augmentation come from (seed, epoch, position), as the real ones."""

    def __init__(self, count: int = 6, side: int = 16, seed: int = 1):
        self.count, self.side, self.seed = count, side, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        epoch, position = key
        index = int(generator(self.seed, "order", epoch).permutation(self.count)[position])
        image = generator(self.seed, "image", index).integers(0, 256, (1, self.side, self.side), dtype="uint8")
        source = torch.from_numpy(image)
        if generator(self.seed, "augment", epoch, index).integers(2):
            source = source.flip(2)
        return source, 255 - source, torch.full_like(source, 255)


def little_method(config: GeneratorConfig = GENERATOR, **changes: Any) -> GanStep:
    """A GAN with all terms of the loss, on a random trunk."""
    channels = config.source_channels + config.target_channels
    return GanStep(
        build_generator(config, torch_generator(1, "generator")),
        build_discriminator(DiscriminatorConfig(channels, 4, 2, 2), torch_generator(1, "discriminator")),
        Weights(vgg=0.0),
        **{"rate": 1e-3, **changes},
    )


def random_lpips() -> PerceptualLoss:
    """The wiring check's distance."""
    return PerceptualLoss([PerceptualTerm("random")], {"random": Lpips("random")})


def little_trainer(folder: Path, method: GanStep | None = None, **changes: Any) -> Trainer:
    """Three epochs of three steps, the state saved after every step."""
    chips = changes.pop("chips", None) or LittleChips()
    options = {name: changes.pop(name) for name in ("validate", "publish", "kept") if name in changes}
    defaults: dict[str, Any] = {"schedule": Schedule(1e-3, 2, 1), "batch_size": 2, "save_minutes": 0.0}
    return Trainer(method or little_method(), chips, folder, Settings(**{**defaults, **changes}), **options)


def weights_of(trainer: Trainer) -> dict[str, Tensor]:
    """All that training changes: both networks and the average."""
    found = {f"average/{name}": value.clone() for name, value in trainer.average.network.state_dict().items()}
    for part, module in trainer.method.modules.items():
        found |= {f"{part}/{name}": value.clone() for name, value in module.state_dict().items()}
    return found


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether all tensors agree to the last bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
