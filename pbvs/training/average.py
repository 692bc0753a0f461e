"""The moving average of a network's weights, which validates and translates better than the last step's."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Average:
    """average <- decay * average + (1 - decay) * weights after every step.

    The decay rises to its value as (1 + step) / (10 + step), so that early weights are soon forgotten. With decay 0
    the network itself is used.
    """

    def __init__(self, network: nn.Module, decay: float):
        self.decay = decay
        self.source = network
        self.network = copy.deepcopy(network).requires_grad_(False) if decay else network

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` steps."""
        if not self.decay:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        for average, weight in zip(self.network.parameters(), self.source.parameters(), strict=True):
            average.lerp_(weight, 1 - decay)
