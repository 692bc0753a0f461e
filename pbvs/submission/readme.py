"""The readme of a submission: its lines as the challenge lists them, written and read back as scorers do.

Scorers of this family go by the order of the lines that hold a colon, not by their labels; the value is what stands
after a line's first colon: a float, an int, an int and text for the four lines of MAVIC-T.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pbvs import __version__
from pbvs.challenge.model import ReadmeLine
from pbvs.recipe import Recipe
from pbvs.text import escaped

SHORTEST = 1e-4  # seconds; less would be written as nought, which says that nothing was measured
LIMIT = 65_536  # bytes; a longer readme is no readme


@dataclass(frozen=True)
class Readme:
    """What the lines say."""

    runtime: float = 0.0  # seconds per image, over all tasks
    cpu: bool = True  # measured on a CPU rather than a GPU
    extra_data: bool = False
    description: str = ""


class ReadmeError(ValueError):
    """A line of the readme that a scorer could not parse; the message says which and what it should be."""


def write_readme(readme: Readme, lines: Sequence[ReadmeLine]) -> str:
    """Return the lines; texts are brought onto one line of ASCII, as scorers open it with any encoding.

    Raises ReadmeError when the runtime is not a finite, non-negative number.
    """
    return "".join(f"{line.label} : {_value(readme, line)}\n" for line in lines)


def _value(readme: Readme, line: ReadmeLine) -> str:
    if line.kind == "runtime":
        if not math.isfinite(readme.runtime) or readme.runtime < 0:
            raise ReadmeError(f"the runtime per image is {readme.runtime}, not a number of seconds")
        return f"{max(readme.runtime, SHORTEST) if readme.runtime else 0.0:.4f}"
    if line.kind in ("cpu", "extra-data"):
        return str(int(readme.cpu if line.kind == "cpu" else readme.extra_data))
    text = readme.description if line.kind == "description" else line.value
    return " ".join(escaped(" ".join(text.split())).encode("ascii", "replace").decode().split()) or "none"


def parse_readme(text: str, lines: Sequence[ReadmeLine]) -> Readme:
    """Read the lines as a scorer does, by their order; raise ReadmeError for the first that does not parse."""
    there = [line for line in text.splitlines() if ":" in line]
    if len(there) < len(lines):
        raise ReadmeError(f"it has {len(there)} lines with a colon where {count_word(len(lines))} are read")
    found: dict[str, Any] = {}
    for number, (line, said) in enumerate(zip(lines, there, strict=False), 1):
        value = said.split(":", 1)[1].strip()
        if line.kind == "runtime":
            found["runtime"] = _runtime(value, number)
        elif line.kind in ("cpu", "extra-data"):
            found[line.kind.replace("-", "_")] = _flag(value, number)
        elif line.kind == "description":
            found["description"] = value
    return Readme(**found)


def count_word(count: int) -> str:
    """Return a small number as a word."""
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    return words[count] if count < len(words) else str(count)


def _runtime(value: str, line: int) -> float:
    try:
        number = float(value)
    except ValueError:
        raise ReadmeError(
            f"line {line} says {value!r} where a bare number of seconds must stand, such as 0.85"
        ) from None
    if not math.isfinite(number) or number < 0:
        raise ReadmeError(f"line {line} says {value!r}, which is no number of seconds")
    return number


def _flag(value: str, line: int) -> bool:
    if value not in ("0", "1"):
        raise ReadmeError(f"line {line} says {value!r} where a bare 0 or 1 must stand")
    return value == "1"


def order_faults(text: str, lines: Sequence[ReadmeLine]) -> list[str]:
    """Return, for each line whose label is not the one expected there, what stands there instead."""
    there = [line for line in text.splitlines() if ":" in line]
    faults = []
    for number, (line, said) in enumerate(zip(lines, there, strict=False), 1):
        label = said.split(":", 1)[0].strip()
        if (line.keyword or line.label).lower() not in label.lower():
            faults.append(f"line {number} is {label!r} where {line.label!r} is expected")
    return faults


# --- A recipe in one line, for the readme's description.


def describe(recipe: Recipe, made: Mapping[str, dict[str, Any] | None] | None = None) -> str:
    """Return what a recipe does, in one line: its name and description, then a clause for each stage.

    `made` has the stages that predictions were made with, as far as their records say, by task.
    """
    tables = {task: (made or {}).get(task) or stage.model_dump() for task, stage in recipe.stages.items()}
    stages = ", ".join(f"{task}: {_stage(table)}" for task, table in tables.items())
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
