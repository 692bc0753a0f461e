"""The training step as a textbook has it: plain layers, three runs of the discriminator, nothing shared or saved.

Written out here with PyTorch's own layers alone, with the published names, so that our weights load into it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """x + F(x)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
            nn.ReLU(True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class Generator(nn.Module):
    """Stem, four halvings, nine blocks, four doublings, head."""

    def __init__(self, width: int, halvings: int = 4, blocks: int = 9):
        super().__init__()
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7), nn.InstanceNorm2d(width)]
        layers += [nn.ReLU(True)]
        for level in range(halvings):
            channels = width * 2**level
            layers += [nn.Conv2d(channels, 2 * channels, 3, 2, 1), nn.InstanceNorm2d(2 * channels), nn.ReLU(True)]
        layers += [Block(width * 2**halvings) for _ in range(blocks)]
        for level in reversed(range(halvings)):
            channels = width * 2**level
            layers += [nn.ConvTranspose2d(2 * channels, channels, 3, 2, 1, 1), nn.InstanceNorm2d(channels)]
            layers += [nn.ReLU(True)]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Discriminator(nn.Module):
    """Two patch classifiers, on the pair and on its halving; all features are returned."""

    def __init__(self, width: int, scales: int = 2):
        super().__init__()
        self.scales = scales
        for scale in range(scales):
            for number, layer in enumerate(self._layers(width)):
                self.add_module(f"scale{scale}_layer{number}", layer)

    @staticmethod
    def _layers(width: int) -> list[nn.Sequential]:
        widths = [width, 2 * width, 4 * width, 8 * width]
        layers = [nn.Sequential(nn.Conv2d(6, width, 4, 2, 2), nn.LeakyReLU(0.2, True))]
        for before, after, stride in zip(widths[:-1], widths[1:], (2, 2, 1), strict=True):
            layers.append(
                nn.Sequential(nn.Conv2d(before, after, 4, stride, 2), nn.InstanceNorm2d(after), nn.LeakyReLU(0.2, True))
            )
        return [*layers, nn.Sequential(nn.Conv2d(widths[-1], 1, 4, 1, 2))]

    def forward(self, pair: Tensor) -> list[list[Tensor]]:
        found = []
        for scale in reversed(range(self.scales)):
            x, features = pair, []
            for number in range(5):
                x = getattr(self, f"scale{scale}_layer{number}")(x)
                features.append(x)
            found.append(features)
            pair = functional.avg_pool2d(pair, 3, 2, 1, count_include_pad=False)
        return found


class Taps(nn.Module):
    """A frozen VGG whose activations at some layers are returned."""

    def __init__(self, features: nn.Sequential, taps: tuple[int, ...]):
        super().__init__()
        self.features, self.taps = features, taps
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in self.taps:
                found.append(x)
        return found


class Step:
    """One iteration of the published training with the paper's LPIPS and L2 added."""

    def __init__(self, generator: nn.Module, discriminator: nn.Module, vgg: nn.Module, lpips: nn.Module,
                 heads: list[Tensor]):  # fmt: skip
        self.generator, self.discriminator = generator, discriminator
        self.vgg, self.lpips, self.heads = vgg, lpips, heads
        self.optimizer_g = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
        self.optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))

    def __call__(self, source: Tensor, target: Tensor) -> dict[str, float]:
        fake = self.generator(source)
        judged_detached = self.discriminator(torch.cat((source, fake.detach()), 1))
        judged_real = self.discriminator(torch.cat((source, target), 1))
        judged_fake = self.discriminator(torch.cat((source, fake), 1))
        loss_d = (self.gan(judged_detached, 0.0) + self.gan(judged_real, 1.0)) / 2
        terms = {
            "gan": self.gan(judged_fake, 1.0),
            "feature_matching": 10 * self.matching(judged_fake, judged_real),
            "vgg": 10 * self.perceptual(fake, target),
            "lpips": self.lpips_distance(fake, target),
            "l2": ((fake - target) / 2).square().mean().sqrt(),
        }
        loss_g = sum(terms.values())
        self.optimizer_g.zero_grad()
        loss_g.backward()
        self.optimizer_g.step()
        self.optimizer_d.zero_grad()
        loss_d.backward()
        self.optimizer_d.step()
        return {"generator": loss_g.item(), "discriminator": loss_d.item()}

    @staticmethod
    def gan(judged: list[list[Tensor]], truth: float) -> Tensor:
        losses = [functional.mse_loss(scale[-1], torch.full_like(scale[-1], truth)) for scale in judged]
        return torch.stack(losses).sum()

    @staticmethod
    def matching(fake: list[list[Tensor]], real: list[list[Tensor]]) -> Tensor:
        total = torch.zeros(())
        for fakes, reals in zip(fake, real, strict=True):
            for x, y in zip(fakes[:-1], reals[:-1], strict=True):
                total = total + functional.l1_loss(x, y.detach()) / len(fake)
        return total

    def perceptual(self, fake: Tensor, real: Tensor) -> Tensor:
        total = torch.zeros(())
        for weight, x, y in zip((1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0), self.vgg(fake), self.vgg(real), strict=True):
            total = total + weight * functional.l1_loss(x, y.detach())
        return total

    def lpips_distance(self, fake: Tensor, real: Tensor) -> Tensor:
        shift = torch.tensor([-0.030, -0.088, -0.188], device=fake.device).view(1, 3, 1, 1)
        scale = torch.tensor([0.458, 0.448, 0.450], device=fake.device).view(1, 3, 1, 1)
        total = torch.zeros(())
        for head, x, y in zip(
            self.heads, self.lpips((fake - shift) / scale), self.lpips((real - shift) / scale), strict=True
        ):
            x = x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)
            y = y / (y.square().sum(1, keepdim=True).sqrt() + 1e-10)
            total = total + functional.conv2d((x - y).square(), head).mean()
        return total
