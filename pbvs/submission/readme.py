"""readme.txt: its four lines, written and read back by the rule of the scorers that read it.

The lines are those of the challenge's submission page. Scorers of this family go by the order of the lines that hold
a colon, not by their labels: float, int, int, text, each after the line's first colon.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pbvs import __version__
from pbvs.recipe import Recipe

NAME = "readme.txt"
LABELS = (
    "runtime per image [s]",
    "CPU[1] / GPU[0]",
    "Extra Data [1] / No Extra Data [0]",
    "Other description",
)
KEYWORDS = ("runtime", "cpu", "extra", "description")  # what tells the four labels apart, in lower case
SHORTEST = 1e-4  # seconds; less would be written as nought, which says that nothing was measured
LIMIT = 65_536  # bytes; a longer readme is no readme


@dataclass(frozen=True)
class Readme:
    """What the four lines say."""

    runtime: float  # seconds per image, over all tasks
    cpu: bool  # measured on a CPU rather than a GPU
    extra_data: bool
    description: str


class ReadmeError(ValueError):
    """A line of the readme that a scorer could not parse; the message says which and what it should be."""


def write_readme(readme: Readme) -> str:
    """Return the four lines; the description is brought onto one line of ASCII, as scorers open it with any encoding.

    Raises ReadmeError when the runtime is not a finite, non-negative number.
    """
    if not math.isfinite(readme.runtime) or readme.runtime < 0:
        raise ReadmeError(f"the runtime per image is {readme.runtime}, not a number of seconds")
    description = " ".join(readme.description.encode("ascii", "replace").decode().split()) or "none"
    runtime = max(readme.runtime, SHORTEST) if readme.runtime else 0.0
    values = (f"{runtime:.4f}", str(int(readme.cpu)), str(int(readme.extra_data)), description)
    return "".join(f"{label} : {value}\n" for label, value in zip(LABELS, values, strict=True))


def parse_readme(text: str) -> Readme:
    """Read the four lines as a scorer does, by their order; raise ReadmeError for the first that does not parse."""
    lines = [line for line in text.splitlines() if ":" in line]
    if len(lines) < len(LABELS):
        raise ReadmeError(f"it has {len(lines)} lines with a colon where four are read")
    values = [line.split(":", 1)[1].strip() for line in lines[:4]]
    return Readme(_runtime(values[0]), _flag(values[1], 2), _flag(values[2], 3), values[3])


def _runtime(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        raise ReadmeError(f"line 1 says {value!r} where a bare number of seconds must stand, such as 0.85") from None
    if not math.isfinite(number) or number < 0:
        raise ReadmeError(f"line 1 says {value!r}, which is no number of seconds")
    return number


def _flag(value: str, line: int) -> bool:
    if value not in ("0", "1"):
        raise ReadmeError(f"line {line} says {value!r} where a bare 0 or 1 must stand")
    return value == "1"


def order_faults(text: str) -> list[str]:
    """Return, for each line whose label is not the one expected at its place, what stands there instead."""
    lines = [line for line in text.splitlines() if ":" in line][: len(LABELS)]
    faults = []
    for number, (line, keyword) in enumerate(zip(lines, KEYWORDS, strict=False), 1):
        label = line.split(":", 1)[0].strip()
        if keyword not in label.lower():
            faults.append(f"line {number} is {label!r} where {LABELS[number - 1]!r} is expected")
    return faults


# --- A recipe in one line, for the readme's description.


def describe(recipe: Recipe) -> str:
    """Return what the recipe does, in one line: its name and description, then a clause for each stage."""
    stages = ", ".join(f"{task}: {_stage(stage.model_dump())}" for task, stage in recipe.stages.items())
    said = f" ({recipe.description})" if recipe.description else ""
    return f"pbvs {__version__}, recipe {recipe.name}{said}; {stages}"


def _stage(stage: dict[str, Any]) -> str:
    words = [str(stage["method"])]
    if "size" in stage:
        words.append(f"{stage['size']} px")
    if "epochs" in stage:
        words.append(f"{stage['epochs'] + stage.get('half_rate_epochs', 0)} epochs")
    if stage.get("init_from"):
        words.append(f"from {stage['init_from']}")
    if stage.get("first"):
        words.append(f"on {stage['first']}")
    if "intensity" in stage:
        words.append(f"x {stage['intensity']:g}")
    return " ".join(words)
