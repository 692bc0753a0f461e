"""How a year turns components into one number, as data: a small TOML file that anyone can read and change."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from pbvs.challenge import TASKS
from pbvs.errors import PbvsError, UsageError
from pbvs.files import read_toml
from pbvs.settings import Settings, explain

BUILT_IN = Path(__file__).parent / "protocols"
DEFAULT = "l2-lpips"

Term = Literal["pixel", "lpips", "fid"]
PixelNorm = Literal["l1", "rmse", "mse"]
FidLayer = Literal[64, 192, 768, 2048]


class Protocol(Settings):
    """One rule of scoring; a task's score is the mean of its terms, the combined score the mean of the four tasks."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    description: str = ""
    source: str = ""
    terms: tuple[Term, ...] = Field(("pixel", "lpips"), min_length=1)
    pixel: PixelNorm = "rmse"
    lpips_net: Literal["alex", "vgg", "squeeze", "random"] = "alex"
    fid_layer: FidLayer = 2048
    fid_weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    evaluation_size: Literal["recipe", "challenge", "native"] = "recipe"
    resampling: Literal["bicubic"] = "bicubic"  # how targets are brought to the evaluation size; antialiased
    other_size: Literal["refuse", "resample"] = "refuse"  # what happens to a prediction of another size
    grey: Literal["replicate"] = "replicate"  # how one channel is shown to networks that want three
    missing_counts: float = Field(1.0, ge=0, le=10)  # the score of a task that was not attempted
    missing_adds: float = Field(0.0, ge=0, le=10)  # added to the combined score for each of them
    unsettled_pixel: tuple[PixelNorm, ...] = ("rmse", "l1", "mse")
    unsettled_fid_layer: tuple[FidLayer, ...] = ()
    unsettled_fid_weight: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _each_once(self) -> Protocol:
        if len(set(self.terms)) != len(self.terms):
            raise ValueError("terms: each term may be named once")
        if any(not (weight > 0 and math.isfinite(weight)) for weight in self.unsettled_fid_weight):
            raise ValueError("unsettled_fid_weight: weights are greater than 0")
        return self

    @property
    def needs_fid(self) -> bool:
        """Whether the score cannot be computed without Inception's weights."""
        return "fid" in self.terms

    def task_score(self, components: Mapping[str, float | None]) -> float | None:
        """Return a task's score from its raw `l1`, `rmse`, `mse`, `lpips` and `fid`; None when one that counts is."""
        values = [self.term(term, components) for term in self.terms]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if len(known) == len(values) else None

    def term(self, term: Term, components: Mapping[str, float | None]) -> float | None:
        """Return one term of the sum, in [0, 1] for FID as 2/pi arctan(FID / w) (the 2026 evaluation page)."""
        if term == "fid":
            fid = components.get("fid")
            return None if fid is None else 2 / math.pi * math.atan(max(fid, 0.0) / self.fid_weight)
        return components.get(self.pixel if term == "pixel" else "lpips")

    def combined(self, scores: Mapping[str, float | None]) -> float:
        """Return the mean over the four tasks; one that is absent or None counts and adds as the protocol says."""
        values = [scores.get(task) for task in TASKS]
        missing = sum(value is None for value in values)
        total = sum(self.missing_counts if value is None else value for value in values)
        return total / len(values) + self.missing_adds * missing


def built_in_protocols() -> list[str]:
    """Return the names of the protocols that come with the package, the default first."""
    return sorted((path.stem for path in BUILT_IN.glob("*.toml")), key=lambda name: (name != DEFAULT, name))


def load_protocol(name_or_path: str | Path | Protocol = DEFAULT, **changes: Any) -> Protocol:
    """Return a protocol by its name or the path of a TOML file, with single values changed.

    A file may say `base = "mavic-t-2026"` and then only what differs. Raises UsageError when there is no such
    protocol, PbvsError naming the key that cannot be.
    """
    if isinstance(name_or_path, Protocol):
        tables, where = name_or_path.model_dump(), name_or_path.name
    else:
        tables, where = _read(str(name_or_path))
    try:
        return Protocol.model_validate(tables | {key: value for key, value in changes.items() if value is not None})
    except ValidationError as error:
        raise PbvsError(f"The protocol {where} cannot be used: {explain(error)}.") from None


def _read(name_or_path: str) -> tuple[dict[str, Any], str]:
    if name_or_path in built_in_protocols():
        path = BUILT_IN / f"{name_or_path}.toml"
        return read_toml(path), str(path)
    if not Path(name_or_path).is_file():
        names = ", ".join(built_in_protocols())
        raise UsageError(f"There is no protocol {name_or_path!r}; name a .toml file or one of {names}.")
    tables = read_toml(Path(name_or_path))
    base = tables.pop("base", None)
    if base is None:
        return tables, name_or_path
    if base not in built_in_protocols():
        raise PbvsError(f"{name_or_path}: the base {base!r} is none of {', '.join(built_in_protocols())}.")
    return {**_read(base)[0], "description": "", "source": "", **tables}, name_or_path


# --- What the combined score would be under the readings of the rule that are not settled.

Components = Mapping[str, Mapping[str, Any]]  # task -> l1, mse, rmse, lpips and `fids`, its FID at each layer


def readings(protocol: Protocol) -> Iterator[tuple[str, Protocol]]:
    """Yield the protocol and those that differ from it in what it calls unsettled, with what each is called."""
    yield "as stated", protocol
    for pixel in protocol.unsettled_pixel:
        if pixel != protocol.pixel and "pixel" in protocol.terms:
            yield f"pixel error {pixel}", protocol.model_copy(update={"pixel": pixel})
    if not protocol.needs_fid:
        return
    layers = protocol.unsettled_fid_layer or (protocol.fid_layer,)
    weights = protocol.unsettled_fid_weight or (protocol.fid_weight,)
    for layer in layers:
        for weight in weights:
            if (layer, weight) != (protocol.fid_layer, protocol.fid_weight):
                yield (
                    f"FID layer {layer}, w {weight:g}",
                    protocol.model_copy(update={"fid_layer": layer, "fid_weight": weight}),
                )


def sensitivity(protocol: Protocol, tasks: Components) -> list[dict[str, Any]]:
    """Return {reading, combined, tasks} for each reading; a task without a score is None and counts as missing."""
    rows = []
    for name, reading in readings(protocol):
        scores = {task: _score(reading, facts) for task, facts in tasks.items()}
        rows.append({"reading": name, "combined": reading.combined(scores), "tasks": scores})
    return rows


def _score(protocol: Protocol, facts: Mapping[str, Any]) -> float | None:
    if facts["lpips"] is None:
        return None
    fids = facts.get("fids") or {}
    return protocol.task_score({**facts, "fid": fids.get(str(protocol.fid_layer))})
