"""What a challenge fixes is data: tasks, modalities, files, outputs and rules, in one TOML file."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pbvs.challenge.model import CHALLENGES as CHALLENGES
    from pbvs.challenge.model import DEFAULT as DEFAULT
    from pbvs.challenge.model import Challenge as Challenge
    from pbvs.challenge.model import Modality as Modality
    from pbvs.challenge.model import Task as Task
    from pbvs.challenge.model import dump_challenge as dump_challenge
    from pbvs.challenge.model import load_challenge as load_challenge

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")  # of every challenge


def __getattr__(name: str) -> Any:
    """Return what `model` defines when it is asked for: `pbvs --help` waits for no pydantic."""
    found = vars(import_module("pbvs.challenge.model"))
    if not name.startswith("_") and name in found:
        return found[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
