"""Old names of what runs store and users type, each with today's name: the one table, applied where things are read.

To rename something that is stored or typed, add a line here: runs, recipes and command lines of earlier versions go
on working, and digests that say what a model was made from keep their values (`original`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Keys of a recipe by their path; `*` stands for one part, such as the task of a stage.
RECIPE_KEYS: dict[str, str] = {}
# Values of a recipe's keys: path of the key -> old value -> today's.
RECIPE_VALUES: dict[str, dict[str, str]] = {
    "stages.*.method": {"regression": "unet"},
    "stages.*.residual": {"grey": "gray"},
}
# Keys of the JSON files of runs and manifests, at any depth.
STORED_KEYS: dict[str, str] = {"pictures": "images", "litter": "junk"}
# Values there and in model files, by their key.
STORED_VALUES: dict[str, dict[str, str]] = {"residual": {"grey": "gray"}}
# Commands, and options as they are typed.
COMMANDS: dict[str, str] = {}
FLAGS: dict[str, str] = {}


def recipe(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's (nested) tables with today's keys and values.

    A key that is given under both names keeps today's.

    >>> recipe({"stages": {"rgb2ir": {"method": "grayscale"}}})
    {'stages': {'rgb2ir': {'method': 'grayscale'}}}
    """
    return _renamed(tables, RECIPE_KEYS, RECIPE_VALUES)


def original(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's tables with the oldest name of everything, as digests take them: renaming changes none."""
    keys = {new: old for old, new in RECIPE_KEYS.items()}
    values = {
        keys.get(path, path): {new: old for old, new in renamed.items()} for path, renamed in RECIPE_VALUES.items()
    }
    return _renamed(tables, keys, values)


def stored(value: Any) -> Any:
    """Return a JSON value of a run or of a model file with today's keys and values.

    >>> stored({"pictures": 3, "pairs": [{"litter": 0}]})
    {'images': 3, 'pairs': [{'junk': 0}]}
    """
    if isinstance(value, Mapping):
        old = {STORED_KEYS[key]: item for key, item in value.items() if key in STORED_KEYS}
        new = {key: item for key, item in value.items() if key not in STORED_KEYS}
        now = {key: stored(item) for key, item in {**old, **new}.items()}
        return now | {key: names.get(now[key], now[key]) for key, names in STORED_VALUES.items() if key in now}
    return [stored(item) for item in value] if isinstance(value, list) else value


def arguments(typed: Sequence[str]) -> list[str]:
    """Return a command line with today's command and options; what follows `--` is left alone."""
    found: list[str] = []
    for word in typed:
        if "--" in found:
            found.append(word)
            continue
        name, equals, value = word.partition("=")
        command = not any(not earlier.startswith("-") for earlier in found)
        found.append(COMMANDS.get(word, word) if command else f"{FLAGS.get(name, name)}{equals}{value}")
    return found


def _renamed(
    tables: Mapping[str, Any], keys: Mapping[str, str], values: Mapping[str, Mapping[str, str]], path: str = ""
) -> dict[str, Any]:
    old: dict[str, Any] = {}
    found: dict[str, Any] = {}
    for key, item in tables.items():
        here = f"{path}{key}"
        now = next((new for pattern, new in keys.items() if _matches(pattern, here)), None)
        name = key if now is None else now.rpartition(".")[2]
        if isinstance(item, Mapping):
            item = _renamed(item, keys, values, f"{path}{name}.")
        elif isinstance(item, str):
            item = next((new[item] for where, new in values.items() if item in new and _matches(where, here)), item)
        (found if now is None else old)[name] = item
    return {**found, **{key: item for key, item in old.items() if key not in found}}


def _matches(pattern: str, path: str) -> bool:
    parts, given = pattern.split("."), path.split(".")
    return len(parts) == len(given) and all(part in ("*", name) for part, name in zip(parts, given, strict=True))
