"""Small data sets seen several times in one epoch, so that what is done once an epoch stays cheap."""

from __future__ import annotations

from typing import Any

from pbvs.training.loader import Chips, Key


class Rounds:
    """`chips` seen `rounds` times an epoch; each round has the order and augmentation of an epoch of its own."""

    def __init__(self, chips: Chips, rounds: int):
        self.chips, self.rounds = chips, rounds

    def __len__(self) -> int:
        return len(self.chips) * self.rounds

    def __getitem__(self, key: Key) -> Any:
        epoch, position = key
        done, within = divmod(position, len(self.chips))
        return self.chips[epoch * self.rounds + done, within]
