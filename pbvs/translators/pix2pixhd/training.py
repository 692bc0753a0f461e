"""One training step of the conditional GAN: each image goes through each network once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pbvs.networks.pix2pixhd import Features, GlobalGenerator, LocalEnhancer, MultiscaleDiscriminator
from pbvs.training import losses
from pbvs.training.losses import Distance, PerceptualLoss
from pbvs.training.step import Batch, Execution, TrainingStep, adam


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
        self.generator, self.discriminator = generator, discriminator
        self.modules = {"generator": generator, "discriminator": discriminator}
        self.optimizers = {name: adam(module, rate) for name, module in self.modules.items()}
        self.weights, self.vgg, self.perceptual = weights, vgg, perceptual
        self.execution, self.fix_global_epochs = execution or Execution(), fix_global_epochs
        self._called: dict[str, nn.Module] = {}

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
        if not self._called:
            self._called = {name: self.execution.prepare(module) for name, module in self.modules.items()}

    def accumulate(self, batch: Batch, share: float, last: bool) -> Mapping[str, Tensor]:
        """Add the gradients of both losses to the networks that each is for."""
        batch = self.execution.batch(batch)
        with self.execution.exchange(self._called.values(), last):
            with torch.autocast(batch.source.device.type, torch.bfloat16, enabled=self.execution.half_precision):
                fake = self._forward("generator")(batch.source)
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
        features = self._forward("discriminator")(
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

    def _forward(self, name: str) -> nn.Module:
        return self._called.get(name, self.modules[name])


def learning(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that get gradients."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
