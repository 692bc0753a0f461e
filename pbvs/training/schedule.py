"""The learning rate as a function of the epoch, so that a resumed run needs to remember nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """`full` epochs at `rate`, then `half` at half of it, then `decay` falling linearly.

    The first two phases are the paper's (section 4.2: 30, then 10 at half the rate). The linear phase is the published
    pix2pixHD's, whose first epoch still runs at the rate before it and whose last at 1/decay of it.
    """

    rate: float
    full: int
    half: int = 0
    decay: int = 0

    @property
    def epochs(self) -> int:
        """All epochs."""
        return self.full + self.half + self.decay

    def at(self, epoch: int) -> float:
        """Return the rate of the epoch with this number, counted from 1."""
        if epoch <= self.full:
            return self.rate
        reached = self.rate / 2 if self.half else self.rate
        falling = epoch - self.full - self.half - 1
        return reached if falling < 0 else reached * (1 - falling / self.decay)
