"""The paper's method, pix2pixHD with LPIPS and L2 added to its loss: what a recipe can say of it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pbvs.translators.settings import NetworkStage


class Pix2PixHDStage(NetworkStage):
    """Conditional GAN with the paper's losses; the published numbers are the defaults."""

    method: Literal["pix2pixhd"]
    """The paper's conditional GAN."""
    init_checkpoint: str | None = None
    """Path of a generator that `pbvs checkpoint import` wrote, to start from."""
    generator_width: int = Field(64, ge=1, le=4096)
    """Channels of the generator's first layer."""
    downsamplings: int = Field(4, ge=1, le=6)
    """Halvings of the global generator."""
    residual_blocks: int = Field(9, ge=0, le=256)
    """Residual blocks of the global generator."""
    local_enhancers: int = Field(0, ge=0, le=3)
    """Local enhancers around the global generator, each doubling the resolution."""
    local_blocks: int = Field(3, ge=0, le=256)
    """Residual blocks of each local enhancer."""
    fix_global_epochs: int = Field(0, ge=0, le=10**6)
    """First epochs in which only the last local enhancer learns."""
    upsampling: Literal["transpose", "resize"] = "transpose"
    """Transposed convolutions as published, or resizing and then a convolution."""
    discriminator_width: int = Field(64, ge=1, le=4096)
    """Channels of the discriminators' first layer."""
    discriminators: int = Field(2, ge=1, le=4)
    """Discriminators, each at half the resolution of the one before."""
    discriminator_layers: int = Field(3, ge=1, le=6)
    """Strided layers of each discriminator."""
    gan_weight: float = Field(1.0, ge=0)
    """Weight of the LSGAN loss; 0 leaves it out."""
    feature_matching_weight: float = Field(10.0, ge=0)
    """Weight of feature matching; 0 leaves it out."""
    vgg_weight: float = Field(10.0, ge=0)
    """Weight of the VGG perceptual loss; 0 leaves it out."""
    vgg_net: Literal["vgg19", "vgg16"] = "vgg19"
    """Network of the perceptual loss; vgg16 where VGG-19's weights are not to be had."""
    vgg_input: Literal["raw", "imagenet"] = "raw"
    """Feed that network as the published code does, or normalised as on ImageNet."""
    dihedral: bool = True
    """Flip and turn chips."""

    @property
    def multiple(self) -> int:
        """Two to the number of halvings."""
        return int(2 ** (self.downsamplings + self.local_enhancers))

    @property
    def least_size(self) -> int:
        """Two pixels a side at the coarsest resolution: one has no deviation to normalise by, and no reflection."""
        return 2 * self.multiple

    @property
    def vgg_trunk(self) -> str:
        """The perceptual loss's trunk by its name among the weights; LPIPS' vgg is VGG-16."""
        return "vgg" if self.vgg_net == "vgg16" else self.vgg_net

    @property
    def trunks(self) -> tuple[str, ...]:
        """Those of LPIPS, and the perceptual loss's."""
        return tuple(dict.fromkeys((*super().trunks, *((self.vgg_trunk,) if self.vgg_weight else ()))))

    @property
    def has_start(self) -> bool:
        """Also an imported checkpoint is a start."""
        return super().has_start or self.init_checkpoint is not None

    @model_validator(mode="after")
    def _enhances(self) -> Pix2PixHDStage:
        if self.fix_global_epochs and not self.local_enhancers:
            raise ValueError("fix_global_epochs needs local_enhancers, since there is only the global generator")
        return self
