"""What files of settings share: found by name or path, unknown keys rejected, mistakes named, keys described."""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from pbvs.errors import PbvsError, UsageError
from pbvs.files import read_toml


class Settings(BaseModel):
    """A table of a recipe, protocol or challenge: unknown keys are refused, values never change after reading.

    Models are recognised by what their recipe says beside the defaults: a default never changes, and a new setting's
    leaves everything as it was, so that a newer version goes on with an older one's runs. The string below a field is
    its description, which `describe` shows.
    """

    KEYS: ClassVar[str] = "check its spelling"  # where the keys are listed, for one that is no other's neighbour

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


T = TypeVar("T", bound=Settings)


class Library(Generic[T]):
    """One kind of settings as TOML files: those that come with the package by their names, any other by its path.

    A file may say `base = "NAME"` and then only what differs from that one, table by table.
    """

    def __init__(self, kind: str, model: type[T], folder: str, first: str = "") -> None:
        self.kind, self.model, self.first = kind, model, first
        self.folder = Path(__file__).parent / folder

    @cached_property
    def names(self) -> list[str]:
        """The names of those that come with the package, the default first."""
        return sorted((path.stem for path in self.folder.glob("*.toml")), key=lambda name: (name != self.first, name))

    def load(self, name_or_path: str | Path) -> T:
        """Read and check a file; raise UsageError when there is none, PbvsError naming the key that cannot be."""
        path = self.file(name_or_path)
        return self.parse(self.complete(read_toml(path), path), path)

    def file(self, name_or_path: str | Path) -> Path:
        """Return the file of that name or path; raise UsageError, with the nearest name, when there is none."""
        name = str(name_or_path)
        path = self.folder / f"{name}.toml" if name in self.names else Path(name)
        if path.is_file():
            return path
        near = difflib.get_close_matches(name, self.names, n=1)
        hint = f"did you mean {near[0]}? Else " if near else ""
        raise UsageError(
            f"There is no {self.kind} {name!r}; {hint}give the path of a .toml file or one of {', '.join(self.names)}."
        )

    def complete(self, tables: Mapping[str, Any], where: str | Path) -> dict[str, Any]:
        """Return the tables with what they leave to their `base`; raise PbvsError where that does not exist."""
        own = dict(tables)
        base = own.pop("base", None)
        if base is None:
            return own
        if base not in self.names:
            there = f"base: there is no {self.kind} {base!r}; there are {', '.join(self.names)}"
            raise PbvsError(f"The {self.kind} {where} cannot be used: {there}.")
        path = self.file(base)
        return merged(self.complete(read_toml(path), path), own)

    def parse(self, tables: Any, where: str | Path) -> T:
        """Check tables; raise PbvsError with every mistake and the key it is at."""
        try:
            return self.model.model_validate(tables)
        except ValidationError as error:
            raise PbvsError(f"The {self.kind} {where} cannot be used: {explain(error, self.model)}.") from None


def explain(error: ValidationError, model: type[Settings]) -> str:
    """Return pydantic's findings as one clause: `stages.sar2eo.epochs: Input should be ...; ...`.

    What is said of the whole stands alone. A key that does not exist in the `model` gets the nearest one that does.
    """
    parts = []
    for finding in error.errors():
        path, table = _followed(model, finding["loc"])
        key = ".".join(path)
        message = finding["msg"].removeprefix("Value error, ")
        if finding["type"] == "extra_forbidden":
            close = difflib.get_close_matches(path[-1], table.model_fields, n=1) if table else []
            message = "there is no such key" + (f" (did you mean {close[0]}?)" if close else f"; {model.KEYS}")
        if finding["type"] == "missing":
            message = "this key is missing"
        parts.append(f"{key}: {message}" if key else message)
    return "; ".join(parts)


def _followed(model: type[Settings] | None, location: tuple[int | str, ...]) -> tuple[list[str], type[Settings] | None]:
    """Follow pydantic's location of a mistake to its table and path in the file, which names no class of a stage."""
    path, table = [], model
    for part in location:
        chosen = next(
            (kind for kind in _kinds(table) if part in get_args(kind.model_fields["method"].annotation)), None
        )
        if chosen:
            table = chosen
            continue
        path.append(str(part))
        if table and part in table.model_fields and part != location[-1]:
            table = next(tables_of(table.model_fields[str(part)].annotation), None)
    return path, table


def _kinds(table: type[Settings] | None) -> Iterator[type[Settings]]:
    """Yield the classes below a table that a key `method` tells apart."""
    for kind in table.__subclasses__() if table and "method" in table.model_fields else ():
        yield kind
        yield from _kinds(kind)


def tables_of(annotation: Any) -> Iterator[type[Settings]]:
    """Yield the classes of settings that a type names: itself, or those in a list, a table of tables or a choice."""
    parts = get_args(annotation)  # asked for first: on Python 3.10 list[str] calls itself a type
    if not parts and isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation
    for part in parts:
        yield from tables_of(part)


class Key(NamedTuple):
    """One key of a table: its default as TOML has it, which values it takes, what it is.

    The default of a key that has no value unless one is given is "", that of a key that must be given None.
    """

    name: str
    default: str | None
    values: str
    meaning: str


def describe(model: type[Settings], beside: type[Settings] | None = None) -> list[Key]:
    """Return the keys of a table, in the order of its class; those that `beside` has just so are left out.

    >>> describe(Settings)
    []
    """
    found = [
        Key(name, _default(field), _values(field.annotation, field), field.description or "")
        for name, field in model.model_fields.items()
    ]
    return [key for key in found if not beside or key not in describe(beside)]


def _default(field: FieldInfo) -> str | None:
    if field.is_required():
        return None
    value = field.get_default(call_default_factory=True)
    if value is None:
        return ""
    if isinstance(value, BaseModel) or value == {}:
        return "{}"
    return json.dumps(value)


def _values(annotation: Any, field: FieldInfo | None = None) -> str:
    """Say in a few words which values a type takes, within the bounds of its field."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _values(parts[0])
    if origin is Literal:
        return ", ".join(map(json.dumps, parts))
    if origin in (Union, types.UnionType):
        return " or ".join(_values(part) for part in parts if part is not type(None))
    if origin is tuple:
        return f"a list of {_values(parts[0]).removeprefix('a ')}s"
    if annotation in (int, float):
        kind = "a whole number" if annotation is int else "a number"
        return ", ".join([kind, *_bounds(field)])
    return {bool: "true or false", str: "a text"}.get(annotation, "a table")


def _bounds(field: FieldInfo | None) -> list[str]:
    found = {
        sign: getattr(rule, sign)
        for rule in (field.metadata if field else ())
        for sign in ("ge", "gt", "le", "lt")
        if hasattr(rule, sign)
    }
    if "ge" in found and "le" in found:
        return [f"{found['ge']:g} to {found['le']:g}"]
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    return [f"{words[sign]} {'2^63' if bound == 2**63 else f'{bound:g}'}" for sign, bound in found.items()]


def merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with what `own` says instead; tables are merged, everything else is replaced.

    >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
    {'a': {'b': 3, 'c': 2}}
    """
    result = dict(base)
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        result[key] = merged(base[key], value) if both else value
    return result
