"""The paper's translator: pix2pixHD with LPIPS and L2 added to its loss."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from pbvs.errors import PbvsError
from pbvs.metrics.perceptual import load_trunk
from pbvs.networks.pix2pixhd import (
    DiscriminatorConfig,
    GeneratorConfig,
    GlobalGenerator,
    LocalEnhancer,
    MultiscaleDiscriminator,
    adapt_discriminator,
    adapt_generator,
    build_discriminator,
    build_generator,
    set_deterministic,
)
from pbvs.recipe import Augmentation
from pbvs.seeds import torch_generator
from pbvs.training import checkpoint
from pbvs.training.losses import Distance, PerceptualLoss, vgg_distance
from pbvs.training.step import TrainingStep
from pbvs.translators.base import FitContext
from pbvs.translators.network import MODEL, NetworkTranslator
from pbvs.translators.pix2pixhd import Pix2PixHDStage
from pbvs.translators.pix2pixhd.training import GanStep, Weights

DISCRIMINATOR = "discriminator.safetensors"


class Pix2PixHD(NetworkTranslator):
    """A conditional GAN; the moving average of its generator translates."""

    method: ClassVar[str] = "pix2pixhd"
    stage: Pix2PixHDStage

    @property
    def config(self) -> GeneratorConfig:
        """The generator that the recipe asks for."""
        stage = self.stage
        return GeneratorConfig(
            self.channels(self.task.source_channels),
            self.channels(self.task.target_channels),
            stage.generator_width,
            stage.downsamplings,
            stage.residual_blocks,
            stage.local_enhancers,
            stage.local_blocks,
            stage.upsampling,
        )

    @property
    def augmentation(self) -> Augmentation:
        """Flips and turns, where the recipe has them."""
        return Augmentation(flips=self.stage.dihedral, turns=self.stage.dihedral)

    @property
    def discriminator_config(self) -> DiscriminatorConfig:
        """The discriminator that the recipe asks for."""
        stage = self.stage
        channels = self.config.source_channels + self.config.target_channels
        return DiscriminatorConfig(
            channels, stage.discriminator_width, stage.discriminators, stage.discriminator_layers
        )

    @property
    def configs(self) -> tuple[GeneratorConfig | DiscriminatorConfig, ...]:
        """The generator and the discriminator."""
        return (self.config, self.discriminator_config)

    def prepare(self, context: FitContext, perceptual: PerceptualLoss | None) -> GanStep:
        """Return both networks with their first weights, and the losses that train them."""
        stage = self.stage
        vgg = self._vgg(context)
        generator, discriminator = self._first_networks(context)
        return GanStep(
            generator,
            discriminator,
            Weights(stage.gan_weight, stage.feature_matching_weight, stage.vgg_weight, stage.l2_weight),
            vgg=vgg,
            perceptual=perceptual,
            rate=stage.learning_rate,
            execution=self.execution,
            fix_global_epochs=stage.fix_global_epochs,
        )

    def publish(self, folder: Path, method: TrainingStep, network: nn.Module, metadata: Mapping[str, Any]) -> None:
        """Write the generator, and the discriminator for stages that start from this one."""
        described = self.describe(metadata)
        discriminator = method.modules["discriminator"]
        channels = {"channels": [self.config.source_channels, self.config.target_channels]}
        checkpoint.write_model(
            folder / DISCRIMINATOR, discriminator, self.discriminator_config, {**described, **channels}
        )
        checkpoint.write_model(folder / MODEL, network, self.config, described)

    def _vgg(self, context: FitContext) -> Distance | None:
        if not self.stage.vgg_weight:
            return None
        trunk = load_trunk(self.stage.vgg_trunk, context.weights).to(self.device)
        imagenet = self.stage.vgg_input == "imagenet"

        def distance(fake: Tensor, real: Tensor) -> Tensor:
            return vgg_distance(trunk, fake, real, imagenet=imagenet)

        return distance

    def _first_networks(self, context: FitContext) -> tuple[GlobalGenerator | LocalEnhancer, MultiscaleDiscriminator]:
        seed, task = context.recipe.seed, self.task.name
        generator = build_generator(self.config, torch_generator(seed, "generator", task))
        discriminator = build_discriminator(self.discriminator_config, torch_generator(seed, "discriminator", task))
        if context.initial is not None:
            self._start_generator(context.initial / MODEL, generator)
            self._start_discriminator(context.initial / DISCRIMINATOR, discriminator)
        elif self.stage.init_checkpoint:
            self._start_generator(Path(self.stage.init_checkpoint), generator)
        for network in (generator, discriminator):
            set_deterministic(network, self.stage.deterministic)
        generator.recompute = self.stage.recompute
        return generator.to(self.device), discriminator.to(self.device)

    def _start_generator(self, path: Path, generator: nn.Module) -> None:
        """Take weights of a model for other channels, or of a global generator into a local enhancer."""
        tensors, config, _ = checkpoint.read_model(path, "generator")
        old = cast(GeneratorConfig, config)
        adapted = adapt_generator(tensors, old, self.config)
        checkpoint.start_from(path, generator, adapted, partly=bool(self.config.enhancers) and not old.enhancers)

    def _start_discriminator(self, path: Path, discriminator: nn.Module) -> None:
        """Take the weights of an earlier stage's discriminator, where it has one of the same shape."""
        if not path.is_file():
            return
        tensors, config, metadata = checkpoint.read_model(path, "discriminator")
        old = cast(DiscriminatorConfig, config)
        channels = tuple(metadata.get("channels", ()))
        if len(channels) != 2 or sum(channels) != old.channels:
            raise PbvsError(
                f"{path} does not say how its channels divide into source and target; train that stage again."
            )
        wanted = (self.config.source_channels, self.config.target_channels)
        adapted = adapt_discriminator(tensors, (channels[0], channels[1]), wanted)
        checkpoint.start_from(path, discriminator, adapted)
