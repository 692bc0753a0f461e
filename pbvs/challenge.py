"""What the challenge fixes: four tasks, their modalities, channels, evaluation sizes and folder names.

Source: the challenge's submission page (256 x 256 for SAR2EO, 1024 x 1024 for the other three).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pbvs.errors import UsageError

Modality = Literal["sar", "eo", "rgb", "ir"]
Split = Literal["train", "val", "test"]

CHANNELS: dict[str, int] = {"sar": 1, "eo": 1, "rgb": 3, "ir": 1}
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Task:
    """One translation of the challenge; `name` is also its folder in a submission."""

    name: str
    source: Modality
    target: Modality
    challenge_size: int  # pixels a side at which the challenge evaluates

    @property
    def source_channels(self) -> int:
        """Channels of an input image."""
        return CHANNELS[self.source]

    @property
    def target_channels(self) -> int:
        """Channels of a target image."""
        return CHANNELS[self.target]


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("sar2eo", "sar", "eo", 256),
        Task("sar2rgb", "sar", "rgb", 1024),
        Task("sar2ir", "sar", "ir", 1024),
        Task("rgb2ir", "rgb", "ir", 1024),
    )
}


def get_task(name: str) -> Task:
    """Return the task called `name`; raise UsageError naming the four when there is none."""
    try:
        return TASKS[name]
    except KeyError:
        raise UsageError(f"There is no task {name!r}; the tasks are {', '.join(TASKS)}.") from None
