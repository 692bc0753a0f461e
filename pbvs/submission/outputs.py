"""The files of a submission as its challenge asks for them: names, formats, number types and ranges."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pbvs.challenge import Challenge
from pbvs.challenge.model import Container, Outputs

SUFFIXES: dict[Container, tuple[str, ...]] = {"png": (".png",), "tiff": (".tiff", ".tif"), "npy": (".npy",)}
FORMATS = {".png": "PNG", ".tiff": "TIFF", ".tif": "TIFF", ".npy": "NPY"}
_FIELD = re.compile(r"\{(task|id|name|location)\}")


class OutputName(NamedTuple):
    """What the name of an image in an archive says."""

    task: str
    key: str  # the path below the task's folder without suffix; a flat archive has all of the path
    suffix: str  # as written, with the dot


@dataclass(frozen=True)
class OutputNames:
    """Where the predictions of a challenge lie in an archive.

    >>> from pbvs.challenge import load_challenge
    >>> names = OutputNames(load_challenge("mavic-t-2026"))
    >>> names.path("rgb2ir", names.key("rgb2ir", "7"), ".png"), names.read("rgb2ir/7.png").key
    ('rgb2ir/7.png', '7')
    """

    challenge: Challenge
    folders: dict[str, str] = field(init=False)  # task -> folder
    by_folder: bool = field(init=False)  # whether each task has a folder of its own at the root
    inner: str = field(init=False)  # the path below that folder
    _expression: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        path = self.challenge.outputs.path
        set_ = object.__setattr__
        set_(self, "folders", {name: task.folder or name for name, task in self.challenge.tasks.items()})
        set_(self, "by_folder", path.startswith("{task}/"))
        set_(self, "inner", path.removeprefix("{task}/"))
        set_(self, "_expression", self._compiled())

    @property
    def depth(self) -> int:
        """How many parts the path of an image has."""
        return self.challenge.outputs.path.count("/") + 1

    @property
    def pattern(self) -> str:
        """The path as people read it: <task>/<id>."""
        return _FIELD.sub(r"<\1>", self.challenge.outputs.path)

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The suffixes, in lower case, of the containers that are taken."""
        outputs = self.challenge.outputs
        return tuple(suffix for kind in (outputs.container, *outputs.accepts) for suffix in SUFFIXES[kind])

    def key(self, task: str, id: str, name: str = "", location: str = "") -> str:
        """Return what tells a prediction from the others of its task: its path without the task's folder and suffix."""
        return self.inner.format(task=self.folders[task], id=id, name=name or id, location=location)

    def path(self, task: str, key: str, suffix: str = "") -> str:
        """Return where a prediction lies in the archive."""
        return f"{self.folders[task]}/{key}{suffix}" if self.by_folder else f"{key}{suffix}"

    def label(self, task: str) -> str:
        """Return what findings about all of a task's images name: its folder, or the task itself."""
        return f"{self.folders[task]}/" if self.by_folder else task

    def channels(self, task: str) -> int:
        """Return how many channels the images of a task have."""
        asked = self.challenge.outputs.channels
        return self.challenge.tasks[task].target_channels if asked == "target" else {"gray": 1, "rgb": 3}[asked]

    def read(self, path: str, known: Mapping[str, Mapping[str, str]] | None = None) -> OutputName | None:
        """Return what a path in the archive says, None when it is no image's.

        Where the path does not say the task, it is the one of which `known` has the key, else the first.
        """
        stem, dot, suffix = path.rpartition(".")
        if not stem or f"{dot}{suffix}".lower() not in self.suffixes:
            return None
        match = self._expression.fullmatch(stem)
        if match is None:
            return None
        key = match["key"]
        said = match.groupdict()
        folder = said.get("folder") or said.get("task0")
        if folder is not None:
            task = next(task for task, name in self.folders.items() if name == folder)
        else:
            tasks = list(self.challenge.tasks)
            task = next((task for task in tasks if key in (known or {}).get(task, {})), tasks[0])
        return OutputName(task, key, f"{dot}{suffix}")

    def _compiled(self) -> re.Pattern[str]:
        names = "|".join(re.escape(folder) for folder in sorted(self.folders.values(), key=len, reverse=True))
        count = 0

        def replaced(kind: str) -> str:
            nonlocal count
            if kind != "task":
                return "[^/]+"
            count += 1
            return f"(?P<task{count - 1}>{names})"

        parts = _FIELD.split(self.inner)
        text = "".join(replaced(part) if number % 2 else re.escape(part) for number, part in enumerate(parts))
        head = f"(?P<folder>{names})/" if self.by_folder else ""
        return re.compile(f"{head}(?P<key>{text})")


# --- Number types: what 0 and 1 are written as.


def value_range(outputs: Outputs) -> tuple[float, float]:
    """Return the numbers that 0 and 1 are written as."""
    if outputs.range is not None:
        return outputs.range
    return (0.0, 1.0) if outputs.dtype == "float32" else (0.0, float(np.iinfo(outputs.dtype).max))


def is_plain(outputs: Outputs) -> bool:
    """Return whether files hold 8 bits of which all are used, as predictions are stored."""
    return outputs.dtype == "uint8" and value_range(outputs) == (0.0, 255.0)


def to_numbers(stored: NDArray[np.unsignedinteger[Any]], outputs: Outputs) -> NDArray[Any]:
    """Return a stored prediction (8 or 16 bits, all of them used) in the submission's type and range."""
    if is_plain(outputs) and stored.dtype == np.uint8:
        return stored
    low, high = value_range(outputs)
    values = stored / float(np.iinfo(stored.dtype).max) * (high - low) + low
    return values.astype(np.float32) if outputs.dtype == "float32" else np.rint(values).astype(outputs.dtype)


def from_numbers(values: NDArray[Any], outputs: Outputs) -> NDArray[np.float32]:
    """Return a submission's numbers as float32 in [0, 1]; those outside of the range are clipped, NaN becomes 0."""
    low, high = value_range(outputs)
    unit = (values.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    clipped: NDArray[np.float32] = np.clip(np.nan_to_num(unit, nan=0.0), 0.0, 1.0)
    return clipped
