"""pix2pixHD's generators: the global one, and local enhancers around it for fine detail.

Architecture and parameter names after Wang et al., "High-Resolution Image Synthesis and Semantic Manipulation with
Conditional GANs" (CVPR 2018), and its published code, so that published checkpoints fit key by key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

Upsampling = Literal["transpose", "resize"]


@dataclass(frozen=True)
class GeneratorConfig:
    """What makes one generator different from another; `width` is the channels at full resolution."""

    source_channels: int = 3
    target_channels: int = 3
    width: int = 64
    downsamplings: int = 4
    blocks: int = 9
    enhancers: int = 0  # local enhancers around the global generator; 0 is the global one alone
    enhancer_blocks: int = 3
    upsampling: Upsampling = "transpose"

    @property
    def multiple(self) -> int:
        """Sides of the input must be multiples of this."""
        return int(2 ** (self.downsamplings + self.enhancers))


def convolution(channels_in: int, channels_out: int, kernel: int, stride: int = 1, padding: int = 0) -> list[nn.Module]:
    """Return convolution, instance norm without parameters, and ReLU."""
    return [
        nn.Conv2d(channels_in, channels_out, kernel, stride, padding),
        nn.InstanceNorm2d(channels_out),
        nn.ReLU(inplace=True),
    ]


def enlargement(channels_in: int, channels_out: int, upsampling: Upsampling) -> list[nn.Module]:
    """Return the layers which double both sides, with norm and ReLU."""
    layer: nn.Module
    if upsampling == "transpose":
        layer = nn.ConvTranspose2d(channels_in, channels_out, 3, stride=2, padding=1, output_padding=1)
    else:
        layer = EnlargingConv(channels_in, channels_out)
    return [layer, nn.InstanceNorm2d(channels_out), nn.ReLU(inplace=True)]


def stem(channels_in: int, width: int) -> list[nn.Module]:
    """Return the 7 x 7 convolution at full resolution with which a generator begins."""
    return [ReflectionPad(3), *convolution(channels_in, width, 7)]


def head(width: int, channels_out: int) -> list[nn.Module]:
    """Return the 7 x 7 convolution and tanh with which a generator ends."""
    return [ReflectionPad(3), nn.Conv2d(width, channels_out, 7), FloatTanh()]


class ResidualBlock(nn.Module):
    """x + F(x) with two 3 x 3 convolutions in F and no activation after the sum."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv_block = nn.Sequential(
            ReflectionPad(1),
            *convolution(channels, channels, 3),
            ReflectionPad(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the input's shape."""
        return cast(Tensor, x + self.conv_block(x))


class Staged(nn.Module):
    """A network that can forget activations between its stages and compute them again in the backward pass."""

    recompute = False

    def run(self, layers: nn.Sequential, x: Tensor) -> Tensor:
        """Apply `layers`, in stages that begin at each change of resolution and every third block."""
        if not (self.recompute and self.training and torch.is_grad_enabled()):
            return cast(Tensor, layers(x))
        for stage in stages_of(layers):
            x = cast(Tensor, checkpoint(stage, x, use_reentrant=False, preserve_rng_state=False))
        return x


def stages_of(layers: nn.Sequential) -> Iterator[nn.Sequential]:
    """Cut `layers` before each convolution (with the padding before it) and before every third residual block."""
    stage: list[nn.Module] = []
    blocks = 0
    for layer in layers:
        last = stage[-1] if stage else layer
        if isinstance(layer, ResidualBlock):
            begins = blocks % 3 == 0
            blocks += 1
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            begins = not isinstance(last, ReflectionPad)
        else:
            begins = isinstance(layer, ReflectionPad)
        if stage and begins:
            yield nn.Sequential(*stage)
            stage = []
        stage.append(layer)
    yield nn.Sequential(*stage)


class GlobalGenerator(Staged):
    """Stem, halvings, residual blocks, doublings, head; `model` numbers the layers as published checkpoints do."""

    def __init__(self, config: GeneratorConfig, *, with_head: bool = True):
        super().__init__()
        width, depth = config.width, config.downsamplings
        layers = stem(config.source_channels, width)
        for level in range(depth):
            layers += convolution(width << level, width << (level + 1), 3, stride=2, padding=1)
        layers += [ResidualBlock(width << depth) for _ in range(config.blocks)]
        for level in reversed(range(depth)):
            layers += enlargement(width << (level + 1), width << level, config.upsampling)
        if with_head:
            layers += head(width, config.target_channels)
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Translate (N, C_source, H, W) to (N, C_target, H, W), both in [-1, 1]; sides multiples of 2^downsamplings."""
        return self.run(self.model, x)


class LocalEnhancer(Staged):
    """A global generator at reduced resolution, refined by one enhancer for each doubling up to the full one.

    `model{n}_1` brings the image to the resolution before, where the coarser features are added; `model{n}_2`
    refines and enlarges the sum.
    """

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        self.enhancers = config.enhancers
        inner = GeneratorConfig(**{**vars(config), "width": config.width << config.enhancers, "enhancers": 0})
        self.model = GlobalGenerator(inner, with_head=False).model
        for number in range(1, config.enhancers + 1):
            width = config.width << (config.enhancers - number)
            down = stem(config.source_channels, width) + convolution(width, 2 * width, 3, stride=2, padding=1)
            up: list[nn.Module] = [ResidualBlock(2 * width) for _ in range(config.enhancer_blocks)]
            up += enlargement(2 * width, width, config.upsampling)
            if number == config.enhancers:
                up += head(config.width, config.target_channels)
            self.add_module(f"model{number}_1", nn.Sequential(*down))
            self.add_module(f"model{number}_2", nn.Sequential(*up))

    def forward(self, x: Tensor) -> Tensor:
        """Translate (N, C_source, H, W) to (N, C_target, H, W), both in [-1, 1]."""
        pyramid = [x]
        for _ in range(self.enhancers):
            pyramid.append(halved(pyramid[-1]))
        output = self.run(self.model, pyramid[-1])
        for number in range(1, self.enhancers + 1):
            down = cast(nn.Sequential, getattr(self, f"model{number}_1"))
            up = cast(nn.Sequential, getattr(self, f"model{number}_2"))
            output = self.run(up, self.run(down, pyramid[self.enhancers - number]) + output)
        return output

    def global_parameters(self) -> list[nn.Parameter]:
        """Return the parameters which the first phase of training leaves as they are.

        All but those of the last enhancer, as in the published training with `niter_fix_global`.
        """
        free = f"model{self.enhancers}_"
        return [parameter for name, parameter in self.named_parameters() if not name.startswith(free)]


def halved(x: Tensor) -> Tensor:
    """Return (N, C, ceil(H / 2), ceil(W / 2)): means over 3 x 3 at every second pixel, the border not counted."""
    return functional.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)


def make_generator(config: GeneratorConfig) -> GlobalGenerator | LocalEnhancer:
    """Return the generator of `config` with PyTorch's own first weights."""
    return LocalEnhancer(config) if config.enhancers else GlobalGenerator(config)


def build_generator(config: GeneratorConfig, rng: torch.Generator) -> GlobalGenerator | LocalEnhancer:
    """Return the generator of `config` with first weights from `rng` (see `layers.build`)."""
    return build(lambda: make_generator(config), rng)


# --- Layers that networks share: reflection with a deterministic backward, enlargement, and weights from a seed.

Net = TypeVar("Net", bound=nn.Module)


def reflected(size: int, before: int, after: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the indices which extend 0..size-1 by reflection, the edge itself not repeated.

    Works for any widths: where they reach beyond the image the reflection goes back and forth.
    """
    positions = torch.arange(-before, size + after, device=device)
    if size == 1:
        return torch.zeros_like(positions)
    folded = positions.remainder(2 * (size - 1))
    return torch.minimum(folded, 2 * (size - 1) - folded)


class ReflectionPad(nn.Module):
    """Pad (N, C, H, W) by reflection on all sides.

    With `deterministic` it gathers by index, since PyTorch's own layer has no deterministic backward on CUDA; the
    values are the same bit for bit. It has no parameters, as the layer which it stands for.
    """

    deterministic = False

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, H + 2 width, W + 2 width)."""
        if not self.deterministic:
            return functional.pad(x, (self.width,) * 4, mode="reflect")
        rows = reflected(x.shape[2], self.width, self.width, x.device)
        columns = reflected(x.shape[3], self.width, self.width, x.device)
        return x.index_select(2, rows).index_select(3, columns)


class EnlargingConv(nn.Conv2d):
    """Each pixel repeated 2 x 2, then a 3 x 3 convolution: no checkerboard, unlike a transposed convolution.

    The repetition is a view and a copy, so that its backward is a plain sum and deterministic on every device.
    """

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__(channels_in, channels_out, 3, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        """Return (N, C_out, 2 H, 2 W)."""
        n, c, h, w = input.shape
        repeated = input[:, :, :, None, :, None].expand(n, c, h, 2, w, 2).reshape(n, c, 2 * h, 2 * w)
        return super().forward(repeated)


class FloatTanh(nn.Module):
    """Tanh in single precision also where the layers before it ran in half: the output's steps stay fine."""

    def forward(self, x: Tensor) -> Tensor:
        """Return values in [-1, 1], float32 unless the input is wider."""
        return torch.tanh(x if x.dtype == torch.float64 else x.float())


def build(make: Callable[[], Net], generator: torch.Generator) -> Net:
    """Make a network whose first weights come from `generator` alone, never from the global one.

    Convolutions get pix2pixHD's start: weights from N(0, 0.02), biases PyTorch's uniform +-1/sqrt(fan in).
    """
    with torch.device("meta"):
        network = make()
    network = network.to_empty(device="cpu")
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                module.weight.normal_(0.0, 0.02, generator=generator)
                if module.bias is not None:
                    bound = module.weight[0].numel() ** -0.5
                    module.bias.uniform_(-bound, bound, generator=generator)
    return network


def set_deterministic(network: nn.Module, on: bool) -> None:
    """Choose how all reflections of `network` are computed."""
    for module in network.modules():
        if isinstance(module, ReflectionPad):
            module.deterministic = on


def count_parameters(network: nn.Module) -> int:
    """Return the number of trainable and frozen weights together."""
    return sum(parameter.numel() for parameter in network.parameters())


# --- pix2pixHD's discriminator: the same patch classifier at several resolutions, its features given out for matching.

WIDEST = 512
Features = list[list[Tensor]]  # [scale, full resolution first][layer, the last being the verdict]


@dataclass(frozen=True)
class DiscriminatorConfig:
    """What makes one discriminator different from another; `channels` counts source and target together."""

    channels: int = 6
    width: int = 64
    scales: int = 2
    layers: int = 3


def patch_layers(config: DiscriminatorConfig) -> list[nn.Sequential]:
    """Return the layers of one scale: 4 x 4 convolutions, padding 2, each twice as wide as the one before, at most 512.

    The first has no norm; the last but one and the last keep the resolution; the verdict has no sigmoid (LSGAN).
    """
    widths = [min(config.width << level, WIDEST) for level in range(config.layers + 1)]
    layers = [nn.Sequential(nn.Conv2d(config.channels, widths[0], 4, 2, 2), nn.LeakyReLU(0.2, inplace=True))]
    for level in range(1, config.layers + 1):
        stride = 1 if level == config.layers else 2
        layers.append(
            nn.Sequential(
                nn.Conv2d(widths[level - 1], widths[level], 4, stride, 2),
                nn.InstanceNorm2d(widths[level]),
                nn.LeakyReLU(0.2, inplace=True),
            )
        )
    return [*layers, nn.Sequential(nn.Conv2d(widths[-1], 1, 4, 1, 2))]


class MultiscaleDiscriminator(nn.Module):
    """Patch classifiers on the image and its halvings.

    Parameters are called `scale{s}_layer{j}`; s counts from the coarsest, so the full resolution is judged by the
    highest s, as in published checkpoints.
    """

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        self.config = config
        for scale in range(config.scales):
            for number, layer in enumerate(patch_layers(config)):
                self.add_module(f"scale{scale}_layer{number}", layer)

    def forward(self, source: Tensor, target: Tensor) -> Features:
        """Judge (N, C_target, H, W) given (N, C_source, H, W), both in [-1, 1]; return all layers of all scales."""
        x = torch.cat((source, target), dim=1)
        features: Features = []
        for scale in reversed(range(self.config.scales)):
            features.append(self._judge(scale, x))
            if scale:
                x = halved(x)
        return features

    def _judge(self, scale: int, x: Tensor) -> list[Tensor]:
        outputs = []
        for number in range(self.config.layers + 2):
            x = cast(nn.Module, getattr(self, f"scale{scale}_layer{number}"))(x)
            outputs.append(x)
        return outputs


def build_discriminator(config: DiscriminatorConfig, rng: torch.Generator) -> MultiscaleDiscriminator:
    """Return the discriminator of `config` with first weights from `rng` (see `layers.build`)."""
    return build(lambda: MultiscaleDiscriminator(config), rng)


# --- Weights for other channels: the first and last convolutions changed with as little harm as possible.


def adapt_inputs(weight: Tensor, channels: int) -> Tensor:
    """Return a convolution's weight (out, in, k, k) for another number of input channels.

    To one channel: the sum over the old ones, so that gray gives what gray replicated gave. To more: the old ones in
    turn, scaled by old / new, so that what comes in keeps its size (timm's rule for stems).
    """
    old = weight.shape[1]
    if old == channels:
        return weight
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    return weight[:, [channel % old for channel in range(channels)]] * (old / channels)


def adapt_outputs(weight: Tensor, channels: int) -> Tensor:
    """Return a convolution's weight (out, in, k, k) or bias (out,) for another number of output channels.

    To one channel: the mean of the old ones, the gray of what they made. To more: the old ones in turn.
    """
    old = weight.shape[0]
    if old == channels:
        return weight
    if channels == 1:
        return weight.mean(dim=0, keepdim=True)
    return weight[[channel % old for channel in range(channels)]]


def adapt_generator(tensors: Mapping[str, Tensor], old: GeneratorConfig, new: GeneratorConfig) -> dict[str, Tensor]:
    """Return generator weights with stems and head changed from `old` to the channels of `new`."""
    adapted = dict(tensors)
    head = head_key(old)
    for stem in ["model.1", *(f"model{number}_1.1" for number in range(1, old.enhancers + 1))]:  # see the image itself
        adapted[f"{stem}.weight"] = adapt_inputs(tensors[f"{stem}.weight"], new.source_channels)
    for part in ("weight", "bias"):
        adapted[f"{head}.{part}"] = adapt_outputs(tensors[f"{head}.{part}"], new.target_channels)
    return adapted


def head_key(config: GeneratorConfig) -> str:
    """Return the name of the last convolution."""
    if config.enhancers:
        return f"model{config.enhancers}_2.{config.enhancer_blocks + 4}"
    return f"model.{4 + 6 * config.downsamplings + config.blocks + 1}"


def adapt_discriminator(tensors: Mapping[str, Tensor], old: tuple[int, int], new: tuple[int, int]) -> dict[str, Tensor]:
    """Return discriminator weights with stems changed from `old` to `new` (source channels, target channels)."""
    adapted = dict(tensors)
    for name, weight in tensors.items():
        if name.endswith("_layer0.0.weight"):
            source, target = weight[:, : old[0]], weight[:, old[0] :]
            adapted[name] = torch.cat((adapt_inputs(source, new[0]), adapt_inputs(target, new[1])), dim=1)
    return adapted
