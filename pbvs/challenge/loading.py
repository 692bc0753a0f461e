"""Challenges by name or by file: those that come with the package, and a team's own."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pbvs.challenge.model import Challenge
from pbvs.errors import PbvsError, UsageError
from pbvs.files import dump_toml, read_toml
from pbvs.settings import explain

BUILT_IN = Path(__file__).parents[1] / "challenges"
DEFAULT = "mavic-t-2026"


def built_in_challenges() -> list[str]:
    """Return the names of the challenges that come with the package, the default first."""
    return sorted((path.stem for path in BUILT_IN.glob("*.toml")), key=lambda name: (name != DEFAULT, name))


def load_challenge(name_or_path: str | Path | Challenge = DEFAULT) -> Challenge:
    """Return a challenge by its name or by the path of its TOML file.

    A file may say `base = "mavic-t-2026"` and then only what differs, table by table.
    Raises UsageError when there is none, PbvsError naming the key when it says something that cannot be.

    >>> load_challenge("mavic-t-2026").task("sar2eo").target
    'eo'
    """
    if isinstance(name_or_path, Challenge):
        return name_or_path
    name = str(name_or_path)
    if name in built_in_challenges():
        return _built_in(name)
    return parse_challenge(_tables(Path(name)), name)


@lru_cache(maxsize=16)
def _built_in(name: str) -> Challenge:
    path = BUILT_IN / f"{name}.toml"
    return parse_challenge(_tables(path), str(path))


def _tables(path: Path) -> dict[str, Any]:
    if not path.is_file():
        names = ", ".join(built_in_challenges())
        raise UsageError(
            f"There is no challenge {str(path)!r}; name a .toml file or one of {names} (`pbvs challenge list`)."
        )
    tables = read_toml(path)
    base = tables.pop("base", None)
    if base is None:
        return tables
    if base not in built_in_challenges():
        raise PbvsError(f"The challenge {path} cannot be used: base: there is no challenge {base!r}.")
    return _merged(_tables(BUILT_IN / f"{base}.toml"), tables)


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with what `own` says instead; tables are merged, everything else is replaced."""
    merged = dict(base)
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merged(base[key], value) if both else value
    return merged


def parse_challenge(tables: dict[str, Any], where: str) -> Challenge:
    """Check the tables of a challenge; raise PbvsError with every mistake and the key it is at."""
    try:
        return Challenge.model_validate(tables)
    except ValidationError as error:
        raise PbvsError(f"The challenge {where} cannot be used: {explain(error, '', Challenge)}.") from None


def dump_challenge(challenge: Challenge) -> str:
    """Return the challenge as TOML, from which `parse_challenge` makes the same again."""
    return dump_toml(challenge.model_dump(mode="json", exclude_defaults=True))
