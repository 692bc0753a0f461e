"""The whole step learns: one pair is learnt by heart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pbvs.networks.pix2pixhd import GeneratorConfig
from pbvs.training.step import Schedule
from tests.training.little import little_method, little_trainer


class OnePair:
    """A smooth image, and the same turned upside down in brightness, always the same."""

    def __init__(self, side: int = 32):
        x, y = np.meshgrid(np.linspace(0, 3, side), np.linspace(0, 2, side))
        image = (127 + 60 * np.sin(2 * x) + 60 * np.cos(3 * y)).astype(np.uint8)
        self.source = torch.from_numpy(image)[None]

    def __len__(self) -> int:
        return 1

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        return self.source, 255 - self.source, torch.full_like(self.source, 255)


def test_one_pair_is_learnt_by_heart(tmp_path: Path) -> None:
    chips = OnePair()
    trainer = little_trainer(
        tmp_path,
        little_method(GeneratorConfig(1, 1, width=8, downsamplings=2, blocks=2)),
        chips=chips,
        batch_size=1,
        schedule=Schedule(2e-3, 150, 150),
        ema_decay=0.9,
        save_minutes=10.0,
    )
    trainer.save = lambda: None  # an epoch is one step here
    trainer._draw = lambda log: None
    trainer.run()
    with torch.inference_mode():
        found = trainer.average.network(chips.source[None] / 127.5 - 1)
    wanted = (255 - chips.source[None]) / 127.5 - 1
    assert float(((found - wanted) / 2).square().mean().sqrt()) < 0.03
