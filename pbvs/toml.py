"""Read TOML files on every Python this package supports, with the line of a mistake."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pbvs.errors import PbvsError
from pbvs.files import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file; raise PbvsError naming the file and line when it is not TOML."""
    try:
        tables: dict[str, Any] = tomllib.loads(read_text(path))
        return tables
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise PbvsError(f"{path} is not valid TOML: {error}; mend that line.") from None


def dump_toml(tables: dict[str, Any]) -> str:
    """Return TOML text for nested dictionaries of strings, numbers, booleans and lists (None is left out)."""
    lines: list[str] = []
    _dump_table(tables, (), lines)
    return "\n".join(lines).strip() + "\n"


def _dump_table(table: dict[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    scalars = {key: value for key, value in table.items() if not isinstance(value, dict) and value is not None}
    if path and (scalars or not table):
        lines.append(f"\n[{'.'.join(_key(part) for part in path)}]")
    lines.extend(f"{_key(key)} = {_value(value)}" for key, value in scalars.items())
    for key, value in table.items():
        if isinstance(value, dict):
            _dump_table(value, (*path, key), lines)


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else _string(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None) + "}"
    return _string(str(value))


def _string(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    controls = {ord(c): f"\\u{ord(c):04x}" for c in map(chr, [*range(32), 127])}
    return f'"{escaped.translate(controls)}"'
