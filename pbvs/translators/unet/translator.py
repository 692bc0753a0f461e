"""The stronger baseline: a light U-Net that minimises the challenge's own score, RMSE and LPIPS."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, cast

from torch import Tensor

from pbvs.errors import PbvsError
from pbvs.networks.pix2pixhd import adapt_inputs, adapt_outputs
from pbvs.networks.unet import UNet, UNetConfig, build_unet
from pbvs.recipe import Augmentation
from pbvs.seeds import torch_generator
from pbvs.training import checkpoint
from pbvs.training.loader import Chips, Rounds
from pbvs.training.losses import PerceptualLoss
from pbvs.training.step import Schedule
from pbvs.translators.base import FitContext
from pbvs.translators.network import MODEL, NetworkTranslator
from pbvs.translators.unet import UNetStage
from pbvs.translators.unet.training import Cosine, UNetStep, Weights


class UNetTranslator(NetworkTranslator):
    """One network and no discriminator; its moving average translates."""

    method: ClassVar[str] = "unet"
    stage: UNetStage

    @property
    def config(self) -> UNetConfig:
        """The U-Net that the recipe asks for."""
        stage = self.stage
        return UNetConfig(
            self.channels(self.task.source_channels),
            self.channels(self.task.target_channels),
            stage.width,
            stage.levels,
            stage.widest,
            stage.blocks,
            stage.style,
            stage.shuffle,
            stage.residual,
        )

    @property
    def augmentation(self) -> Augmentation:
        """Flips and turns, zoom, and inputs made softer, crisper, darker or brighter, as the recipe says."""
        stage = self.stage
        return Augmentation(
            flips=stage.dihedral,
            turns=stage.dihedral,
            blur=stage.blur,
            sharpen=stage.sharpen,
            brightness=stage.brightness,
            zoom=stage.zoom,
        )

    @property
    def schedule(self) -> Schedule:
        """Half a cosine over all epochs, or over those that are added to a finished training."""
        stage = self.stage
        return Cosine(stage.learning_rate, stage.all_epochs, warm_up=stage.warm_up)

    def prepare(self, context: FitContext, perceptual: PerceptualLoss | None) -> UNetStep:
        """Return the network with its first weights, and the loss that trains it."""
        stage = self.stage
        network = build_unet(self.config, torch_generator(context.recipe.seed, "unet", self.task.name))
        if context.initial is not None:
            self._start(context.initial / MODEL, network)
        return UNetStep(
            network.to(self.device),
            Weights(stage.l2_weight, stage.shift_tolerance),
            perceptual=perceptual,
            rate=stage.learning_rate,
            weight_decay=stage.weight_decay,
            execution=self.execution,
        )

    def _chips(self, context: FitContext) -> Chips:
        return Rounds(super()._chips(context), self.stage.rounds)

    def _start(self, path: Path, network: UNet) -> None:
        """Take the weights of another stage's U-Net, its stem and head changed to this one's channels."""
        tensors, config, _ = checkpoint.read_model(path, "unet")
        checkpoint.start_from(path, network, adapt_unet(tensors, cast(UNetConfig, config), self.config))


def adapt_unet(tensors: dict[str, Tensor], old: UNetConfig, new: UNetConfig) -> dict[str, Tensor]:
    """Return U-Net weights with stem and head changed from `old` to the channels of `new`.

    Channels move in blocks of shuffle^2: one image channel's square of pixels. Raises PbvsError when the squares
    differ in size.
    """
    if old.shuffle != new.shuffle:
        raise PbvsError(
            f"A U-Net with shuffle {new.shuffle} cannot start from one with {old.shuffle}; set both stages' the same."
        )
    area = new.shuffle**2
    adapted = dict(tensors)
    stem = tensors["stem.weight"]
    stem = stem.reshape(len(stem), old.source_channels, area, *stem.shape[2:])
    adapted["stem.weight"] = adapt_inputs(stem, new.source_channels).flatten(1, 2)
    for part in ("head.weight", "head.bias"):
        head = tensors[part].reshape(old.target_channels, area, *tensors[part].shape[1:])
        adapted[part] = adapt_outputs(head, new.target_channels).flatten(0, 1)
    return adapted
