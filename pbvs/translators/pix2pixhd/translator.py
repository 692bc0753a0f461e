"""The paper's translator: pix2pixHD with LPIPS and L2 added to its loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from pbvs.errors import PbvsError
from pbvs.metrics.perceptual import load_trunk
from pbvs.networks.pix2pixhd import (
    DiscriminatorConfig,
    Features,
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
from pbvs.training import checkpoint, losses
from pbvs.training.losses import Distance, PerceptualLoss, vgg_distance
from pbvs.training.step import Batch, Execution, TrainingStep, adam
from pbvs.translators.base import FitContext
from pbvs.translators.network import MODEL, NetworkTranslator
from pbvs.translators.pix2pixhd import Pix2PixHDStage

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
            width=stage.generator_width,
            downsamplings=stage.downsamplings,
            blocks=stage.residual_blocks,
            enhancers=stage.local_enhancers,
            enhancer_blocks=stage.local_blocks,
            upsampling=stage.upsampling,
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
        known = {**described, "channels": [self.config.source_channels, self.config.target_channels]}
        checkpoint.write_model(
            folder / DISCRIMINATOR, method.modules["discriminator"], self.discriminator_config, known
        )
        checkpoint.write_model(folder / MODEL, network, self.config, described)

    def _vgg(self, context: FitContext) -> Distance | None:
        if not self.stage.vgg_weight:
            return None
        trunk = load_trunk(self.stage.vgg_trunk, context.weights).to(self.device)
        return partial(vgg_distance, trunk, imagenet=self.stage.vgg_input == "imagenet")

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


# --- One training step of the conditional GAN: each image goes through each network once.


@dataclass(frozen=True)
class Weights:
    """What each term of the generator's loss counts; the defaults are the published ones and the paper's.

    LPIPS has its weights in itself (`losses.PerceptualLoss`).
    """

    gan: float = 1.0
    feature_matching: float = 10.0
    vgg: float = 10.0
    l2: float = 1.0


class GanStep(TrainingStep):
    """LSGAN + feature matching + VGG + LPIPS + L2 (paper, section 3.2, equation 6).

    The published step runs the discriminator three times and throws away the gradients that the generator's loss
    leaves in it. Both losses are taken before either network changes, so one run of it on fake and real together
    gives the same numbers; each loss then goes back only to the parameters that it is for.
    """

    losses = ("generator", "gan", "feature_matching", "vgg", "lpips", "l2", "discriminator")

    def __init__(
        self,
        generator: GlobalGenerator | LocalEnhancer,
        discriminator: MultiscaleDiscriminator,
        weights: Weights,
        *,
        vgg: Distance | None = None,
        perceptual: PerceptualLoss | None = None,
        rate: float = 2e-4,
        execution: Execution | None = None,
        fix_global_epochs: int = 0,
    ):
        modules = {"generator": generator, "discriminator": discriminator}
        super().__init__(modules, {name: adam(module, rate) for name, module in modules.items()}, execution)
        self.generator, self.discriminator = generator, discriminator
        self.weights, self.vgg, self.perceptual = weights, vgg, perceptual
        self.fix_global_epochs = fix_global_epochs

    @property
    def network(self) -> nn.Module:
        """The generator."""
        return self.generator

    def begin_epoch(self, epoch: int) -> None:
        """Hold the global part still while the local enhancer learns to use it (published: niter_fix_global)."""
        if isinstance(self.generator, LocalEnhancer):
            for parameter in self.generator.global_parameters():
                learns = epoch > self.fix_global_epochs
                if parameter.requires_grad != learns:
                    parameter.requires_grad_(learns)
                    self._called.clear()
        super().begin_epoch(epoch)

    def accumulate(self, batch: Batch, share: float, last: bool) -> Mapping[str, Tensor]:
        """Add the gradients of both losses to the networks that each is for."""
        batch = self.execution.batch(batch)
        with self.execution.exchange(self._called.values(), last):
            with torch.autocast(batch.source.device.type, torch.bfloat16, enabled=self.execution.half_precision):
                fake = self.called("generator")(batch.source)
                fake = torch.where(batch.valid, fake, batch.target.to(fake.dtype))
                fakes, reals = self.judge(batch, fake)
                loss_d = (losses.lsgan(fakes, 0.0) + losses.lsgan(reals, 1.0)) / 2
                terms = self.terms(batch, fake, fakes, reals)
            loss_g = torch.stack([getattr(self.weights, name, 1.0) * term for name, term in terms.items()]).sum()
            torch.autograd.backward(loss_d * share, retain_graph=True, inputs=learning(self.discriminator))
            torch.autograd.backward(loss_g * share, inputs=learning(self.generator))
        found = {"generator": loss_g, **terms, "discriminator": loss_d}
        return {name: loss.detach() for name, loss in found.items()}

    def judge(self, batch: Batch, fake: Tensor) -> tuple[Features, Features]:
        """Return the discriminator's features of fake and real, from one run on both: its norm keeps images apart."""
        features = self.called("discriminator")(
            torch.cat((batch.source, batch.source)), torch.cat((fake, batch.target.to(fake.dtype)))
        )
        n = len(fake)
        return [[x[:n] for x in scale] for scale in features], [[x[n:] for x in scale] for scale in features]

    def terms(self, batch: Batch, fake: Tensor, fakes: Features, reals: Features) -> dict[str, Tensor]:
        """Return the terms of the generator's loss before weighting; those without weight are 0 and cost nothing."""
        zero = fake.new_zeros(())
        weights = self.weights
        matched = losses.feature_matching(fakes, reals) if weights.feature_matching else zero
        return {
            "gan": losses.lsgan(fakes, 1.0),
            "feature_matching": matched,
            "vgg": self.vgg(fake, batch.target) if self.vgg and weights.vgg else zero,
            "lpips": self.perceptual(fake, batch.target, batch.first) if self.perceptual else zero,
            "l2": losses.l2(fake, batch.target),
        }


def learning(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that get gradients."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
