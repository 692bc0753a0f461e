"""What a recipe says of the data: how numbers become brightness, how chips are cut, which pairs an epoch sees."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pbvs.stages import Settings

# auto: the rule that build-pairs found and wrote into the manifest; the others are explained in data/radiometry.py.
NUMBER = r"-?\d+(\.\d+)?"
RULE_PATTERN = rf"^(auto|full|full:{NUMBER}|(percentile|window|power-db|amplitude-db):{NUMBER}:{NUMBER})$"
Rule = Annotated[str, Field(pattern=RULE_PATTERN)]
Policy = Literal["random", "nearest-date", "all"]


class Radiometry(Settings):
    """The rule that turns a file's numbers into [0, 1], for each modality."""

    sar: Rule = "auto"
    eo: Rule = "auto"
    rgb: Rule = "auto"
    ir: Rule = "auto"

    def rule(self, modality: str, found: str = "") -> str:
        """Return the rule for a modality: the recipe's own, else the one `found` in the manifest, else full."""
        own: str = getattr(self, modality)
        if own != "auto":
            return own
        return found or "full"


class Chips(Settings):
    """How aligned pairs become training chips, and which of them are left out as bad."""

    mode: Literal["crop", "whole", "windows"] = "crop"  # random crops, whole pictures resized, or a fixed grid
    stride: int = Field(default=0, ge=0)  # pixels between windows; 0 is half a chip
    max_side: int = Field(default=1024, ge=32, le=8192)  # larger pictures are reduced; 1024 is the challenge's size
    max_invalid: float = Field(default=0.5, ge=0, le=1)  # share of a chip without data
    max_black: float = Field(default=0.6, ge=0, le=1)  # share of pixels that are exactly black in source or target
    max_clipped: float = Field(default=0.6, ge=0, le=1)  # share of pixels at full scale in source or target
    min_deviation: float = Field(default=0.004, ge=0, le=1)  # standard deviation below which a chip is flat


class Sampling(Settings):
    """Which pairs of each location an epoch sees."""

    policy: Policy = "random"
    pairs_per_location: int = Field(default=4, ge=0)  # most pairs of one location in an epoch; 0 is no limit


class Augmentation(Settings):
    """Changes to a chip that leave a translation true: the eight symmetries of the square, and where it is cut."""

    flips: bool = True
    turns: bool = True
    blur: float = Field(default=0.0, ge=0, le=1)  # inputs are made softer by up to this share of their detail,
    sharpen: float = Field(default=0.0, ge=0, le=4)  # or crisper by up to this multiple of it
    brightness: float = Field(default=0.0, ge=0, lt=1)  # inputs are made darker or brighter by up to this share
    zoom: float = Field(default=1.0, ge=1, le=2)  # pictures are shown larger or smaller by up to this factor
