"""A rule of scoring as data: which metrics, how each becomes a term, how terms and tasks become one number.

A protocol is a small TOML file (pbvs/protocols/, or one of your own) that anyone can read and change; its terms name
metrics of the registry (pbvs.metrics.base).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from pbvs.challenge import Challenge
from pbvs.errors import PbvsError
from pbvs.files import read_toml
from pbvs.metrics.base import SetMetric, get_metric, registry
from pbvs.metrics.weights import look
from pbvs.settings import Library, Settings

DEFAULT = "l2-lpips"
PIXEL = ("l1", "rmse", "mse")  # what the key `pixel` chooses from
BASELINES = ("input", "gray")
IGNORED = frozenset({"description", "source", "shown"})  # what makes no number another

Transform = Literal["identity", "complement", "arctan", "log", "ratio", "inverse-ratio"]
FidLayer = Literal[64, 192, 768, 2048]
LpipsNet = Literal["alex", "vgg", "squeeze", "random"]
NETS: tuple[LpipsNet, ...] = get_args(LpipsNet)
Numbers = Mapping[str, float | None]  # metric -> value


class Term(Settings):
    """One summand of a score: weight * transform(metric).

    Transforms of x: identity; complement, 1 - x; arctan, 2/pi arctan(x / width), which brings FID into [0, 1); log, the
    logarithm to `base`; ratio, x / baseline, and inverse-ratio, baseline / x. `baseline` is a number, or "input" or
    "gray": the same image's number for the input as it is, or for its gray.
    """

    metric: str
    transform: Transform = "identity"
    weight: float = Field(1.0, allow_inf_nan=False)
    width: float = Field(1.0, gt=0, allow_inf_nan=False)
    base: float = Field(10.0, gt=0, allow_inf_nan=False)
    baseline: float | Literal["input", "gray"] | None = None

    @model_validator(mode="after")
    def _usable(self) -> Term:
        if self.weight == 0:
            raise ValueError("weight: a term of weight 0 says nothing; list its metric in `shown` instead")
        if self.base == 1:
            raise ValueError("base: there is no logarithm to base 1")
        if (self.baseline is not None) != (self.transform in ("ratio", "inverse-ratio")):
            raise ValueError("baseline: the transforms ratio and inverse-ratio need one, the others take none")
        if self.baseline == 0:
            raise ValueError("baseline: it may not be 0")
        return self

    def value(self, numbers: Numbers, baseline: Numbers | None = None) -> float | None:
        """Return the weighed term of an image's or task's numbers; None where the metric has no value."""
        x = numbers.get(self.metric)
        if x is None:
            return None
        reference = self.baseline if not isinstance(self.baseline, str) else (baseline or {}).get(self.metric)
        if self.baseline is not None and not reference:
            return None
        transformed = self._transform(x, reference or 1.0)
        return None if transformed is None else self.weight * transformed

    def _transform(self, x: float, reference: float) -> float | None:
        if self.transform == "complement":
            return 1.0 - x
        if self.transform == "arctan":
            return 2 / math.pi * math.atan(max(x, 0.0) / self.width)
        if self.transform == "log":
            return math.log(x, self.base) if x > 0 else None
        if self.transform == "ratio":
            return x / reference
        if self.transform == "inverse-ratio":
            return reference / x if x else None
        return x

    def range(self, low: float, high: float) -> tuple[float, float]:
        """Return between which values the term lies where its metric lies between `low` and `high`.

        >>> Term(metric="ssim", transform="complement").range(0, 1)
        (0.0, 1.0)
        """
        ends = [None if isinstance(self.baseline, str) else self.value({self.metric: end}) for end in (low, high)]
        known = [end for end in ends if end is not None]
        return (min(known), max(known)) if len(known) == len(ends) else (-math.inf, math.inf)

    @property
    def turns(self) -> bool:
        """Whether the term falls where its metric rises."""
        falls = self.transform in ("complement", "inverse-ratio") or (self.transform == "log" and self.base < 1)
        return falls != (self.weight < 0)


class Protocol(Settings):
    """One rule of scoring; lower is better unless its terms say otherwise (`higher_is_better`).

    The metrics `lpips`, `fid` and `kid` stand for `lpips-<lpips_net>`, `fid-<fid_layer>` and `kid-<fid_layer>`. A list
    of nets says which is taken first: `settle` takes the first whose weights are found.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    description: str = ""
    source: str = ""
    terms: tuple[Term, ...] = Field(
        (Term.model_validate({"metric": "rmse"}), Term.model_validate({"metric": "lpips"})), min_length=1
    )
    reduction: Literal["mean", "sum"] = "mean"  # of the terms
    lpips_net: LpipsNet | tuple[LpipsNet, ...] = "alex"
    fid_layer: FidLayer = 2048
    shown: tuple[str, ...] = ("l1", "mse", "rmse", "psnr", "ssim", "lpips")  # measured beside the terms
    # What of an image counts.
    border: int = Field(0, ge=0, le=1024)  # pixels of each side that are ignored
    channels: Literal["all", "luma"] = "all"  # luma: the Y of YCbCr (ITU-R BT.601)
    pixels: Literal["all", "valid"] = "all"  # valid: those that the target's mask or no-data value leaves
    value_range: Literal["fixed", "image"] = "fixed"  # of PSNR and SSIM: 1, or each target's own span
    shifts: int = Field(0, ge=0, le=8)  # the best of all whole shifts up to so many pixels counts, for pixel metrics
    bias: bool = False  # pixel metrics after the mean difference was taken away, as PROBA-V's cPSNR
    # How images become comparable.
    evaluation_size: Literal["recipe", "challenge", "native"] = "recipe"
    resampling: Literal["bicubic"] = "bicubic"  # how targets are brought to the evaluation size; antialiased
    other_size: Literal["refuse", "resample"] = "refuse"  # what happens to a prediction of another size
    grey: Literal["replicate"] = "replicate"  # how one channel is shown to networks that want three
    # How tasks become one number.
    tasks: Literal["mean", "ranks"] = "mean"  # ranks: leaderboards order runs by their mean rank over the tasks
    missing_counts: float = Field(1.0, ge=-1000, le=1000)  # the score of a task that was not attempted
    missing_adds: float = Field(0.0, ge=-1000, le=1000)  # added to the combined score for each of them
    # Readings of the rule that are not settled.
    unsettled_pixel: tuple[Literal["l1", "rmse", "mse"], ...] = ()
    unsettled_fid_layer: tuple[FidLayer, ...] = ()
    unsettled_fid_weight: tuple[float, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _written_out(cls, tables: Any) -> Any:
        return with_terms(tables) if isinstance(tables, dict) else tables

    @field_validator("lpips_net", mode="before")
    @classmethod
    def _known_nets(cls, value: Any) -> Any:
        nets = list(value) if isinstance(value, (list, tuple)) else [value]
        if not nets or any(net not in NETS for net in nets) or (nets != [value] and "random" in nets):
            raise ValueError("it is 'alex', 'vgg', 'squeeze' or 'random', or a list of the first three")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Protocol:
        names = [term.metric for term in self.terms]
        if len(set(names)) != len(names):
            raise ValueError("terms: each metric may be named once")
        for key, found in (("terms", names), ("shown", list(self.shown))):
            for number, name in enumerate(found):
                if self.resolve(name) not in registry():
                    raise ValueError(f"{key}.{number}: there is no metric {name!r}; there are {', '.join(known())}")
        if len({self.rises(term) for term in self.terms}) > 1:
            raise ValueError("terms: some rise and others fall as images get better; turn them by weight or transform")
        if any(not (weight > 0 and math.isfinite(weight)) for weight in self.unsettled_fid_weight):
            raise ValueError("unsettled_fid_weight: weights are greater than 0")
        return self

    def resolve(self, metric: str) -> str:
        """Return the registry's name of a metric as terms name it.

        >>> load_protocol("mavic-t-2026").resolve("lpips")
        'lpips-vgg'
        """
        special = {"lpips": f"lpips-{self.net}", "fid": f"fid-{self.fid_layer}", "kid": f"kid-{self.fid_layer}"}
        return special.get(metric, metric)

    @property
    def net(self) -> LpipsNet:
        """The network of LPIPS; of a list the first."""
        return self.lpips_net if isinstance(self.lpips_net, str) else self.lpips_net[0]

    def settle(self, lpips_net: str | None = None, weights: Path | None = None) -> Protocol:
        """Return the protocol with one LPIPS net: `lpips_net`, else the first of its list whose weights are found.

        Where none is found it is the first of all, whose weights are then asked for. Raises PbvsError for a net that
        there is not.
        """
        listed = () if isinstance(self.lpips_net, str) else self.lpips_net
        return load_protocol(self, lpips_net=lpips_net or next((n for n in listed if look(n, weights)), self.net))

    def other_net(self, settled: Protocol) -> str:
        """Return, as a sentence, why `settle` took another net than the first of the list; "" where it did not."""
        if isinstance(self.lpips_net, str) or settled.net not in self.lpips_net[1:]:
            return ""
        return (
            f"LPIPS is of {settled.net} and not of {self.net}, which {self.name} prefers and whose weights are not "
            f"here: get them with `pbvs weights fetch {self.net}`; scores by two nets cannot be compared."
        )

    def rises(self, term: Term) -> bool:
        """Return whether a term is higher for better images."""
        return get_metric(self.resolve(term.metric)).higher_is_better != term.turns

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher score is the better one."""
        return self.rises(self.terms[0])

    def combined_range(self, tasks: int) -> tuple[float, float]:
        """Return between which values the combined score of so many tasks lies, LPIPS taken to end at 1.

        >>> load_protocol("mavic-t-2026").combined_range(4)
        (0.0, 5.0)
        """
        low = high = 0.0
        for term in self.terms:
            least, most = get_metric(self.resolve(term.metric)).bounds
            bottom, top = term.range(least, min(most, 1.0) if term.metric.startswith("lpips") else most)
            low, high = low + bottom, high + top
        count = len(self.terms) if self.reduction == "mean" else 1
        low, high = min(low / count, self.missing_counts), max(high / count, self.missing_counts)
        return low + min(0.0, self.missing_adds) * tasks, high + max(0.0, self.missing_adds) * tasks

    @property
    def metrics(self) -> tuple[str, ...]:
        """All metrics that are measured, those shown first."""
        return tuple(dict.fromkeys([*self.shown, *(term.metric for term in self.terms)]))

    def is_set(self, metric: str) -> bool:
        """Return whether a metric is of sets of images, so that no single image has a value."""
        return issubclass(get_metric(self.resolve(metric)), SetMetric)

    @property
    def set_terms(self) -> tuple[Term, ...]:
        """The terms that no single image has."""
        return tuple(term for term in self.terms if self.is_set(term.metric))

    def of_images(self) -> Protocol:
        """Return the protocol without the terms of sets, as single images are compared and epochs chosen.

        Raises PbvsError when nothing is left.
        """
        terms = tuple(term for term in self.terms if not self.is_set(term.metric))
        if not terms:
            names = ", ".join(term.metric for term in self.terms)
            raise PbvsError(f"The protocol {self.name} has no term but {names}, which no single image has.")
        return self.model_copy(update={"terms": terms, "shown": tuple(m for m in self.shown if not self.is_set(m))})

    def task_score(self, numbers: Numbers, baseline: Numbers | None = None) -> float | None:
        """Return the score of a task's or an image's metrics; None when one that counts has no value.

        >>> load_protocol().task_score({"rmse": 0.2, "lpips": 0.4})
        0.3
        """
        values = [term.value(numbers, baseline) for term in self.terms]
        found = [value for value in values if value is not None]
        if len(found) < len(values):
            return None
        return sum(found) / len(found) if self.reduction == "mean" else sum(found)

    def combined(self, scores: Mapping[str, float | None]) -> float:
        """Return the mean over the challenge's tasks; one that is None counts and adds as the protocol says."""
        missing = sum(value is None for value in scores.values())
        total = sum(self.missing_counts if value is None else value for value in scores.values())
        return total / max(1, len(scores)) + self.missing_adds * missing


def known() -> list[str]:
    """Return the names of metrics that terms may use."""
    return sorted({"lpips", "fid", "kid", *registry()})


def with_terms(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return a protocol's tables with their terms written out.

    Short forms, which earlier versions wrote: a term may be its metric's name alone, with `pixel` for the metric that
    the key `pixel` names, and `fid` brought into [0, 1) with the key `fid_weight` as its width.
    """
    tables = dict(tables)
    pixel, width = tables.pop("pixel", None), tables.pop("fid_weight", None)
    if pixel is not None and pixel not in PIXEL:
        raise ValueError(f"pixel: it is one of {', '.join(PIXEL)}")
    if width is not None and not (isinstance(width, (int, float)) and width > 0):
        raise ValueError("fid_weight: it must be greater than 0")
    terms = tables.get("terms", ("rmse", "lpips"))
    if isinstance(terms, (list, tuple)):
        tables["terms"] = [_term(term, pixel, width) for term in terms]
    return tables


def _term(term: Any, pixel: str | None, width: float | None) -> Any:
    if isinstance(term, str):
        term = {"metric": "rmse" if term == "pixel" else term, **({"transform": "arctan"} if term == "fid" else {})}
    if not isinstance(term, Mapping):
        return term
    changes: dict[str, Any] = {}
    if pixel and term.get("metric") in PIXEL:
        changes["metric"] = pixel
    if width and term.get("metric") == "fid":
        changes["width"] = width
    return {**term, **changes}


PROTOCOLS = Library("protocol", Protocol, "protocols", DEFAULT)


def load_protocol(source: str | Path | Mapping[str, Any] | Protocol = DEFAULT, **changes: Any) -> Protocol:
    """Return a protocol by its name, the path of a TOML file or its tables, with single values changed.

    A file may say `base = "mavic-t-2026"` and then only what differs. Raises UsageError when there is no such
    protocol, PbvsError naming the key that cannot be.
    """
    if isinstance(source, Protocol):
        tables, where = source.model_dump(), source.name
    elif isinstance(source, Mapping):
        tables, where = dict(source), str(source.get("name", "of the challenge"))
    else:
        file = PROTOCOLS.file(source)
        tables, where = read_toml(file), str(file)
    tables = PROTOCOLS.complete({"description": "", "source": "", **tables}, where)
    with contextlib.suppress(ValueError):  # tables that are wrong stay as they are: validation says how
        tables = with_terms(tables)
    return PROTOCOLS.parse(tables | {key: value for key, value in changes.items() if value is not None}, where)


def is_current(tables: Mapping[str, Any]) -> bool:
    """Return whether a recorded protocol is still that of its name; one that does not come with the package is."""
    if (name := tables.get("name")) not in PROTOCOLS.names:
        return True
    try:
        then = load_protocol(tables)
    except PbvsError:
        return False
    now = load_protocol(str(name), lpips_net=then.lpips_net)
    return then.model_dump(exclude=set(IGNORED)) == now.model_dump(exclude=set(IGNORED))


def options_of(tables: Mapping[str, Any]) -> str:
    """Return the words by which `pbvs score` takes a recorded protocol again.

    >>> options_of({"name": "mavic-t-2026", "lpips_net": "alex"})
    ' --protocol mavic-t-2026 --lpips-net alex'
    """
    name, net = str(tables.get("name", "")), tables.get("lpips_net")
    usual = load_protocol(name).lpips_net if name in PROTOCOLS.names else net
    return (f" --protocol {name}" if name else "") + (f" --lpips-net {net}" if net in NETS and net != usual else "")


def choose_protocol(challenge: Challenge, asked: str | Path | Protocol | None = None) -> Protocol:
    """Return the rule of scoring that is asked for by name, path or itself, else the challenge's own.

    A name is one of the challenge's `protocols`, or one that comes with the package.
    """
    name = challenge.protocol if asked is None else asked
    own = challenge.protocols.get(str(name)) if not isinstance(name, Protocol) else None
    return load_protocol({"name": str(name), **own} if own is not None else name)


# --- What the combined score would be under the readings of the rule that are not settled.

Components = Mapping[str, Mapping[str, Any]]  # task -> its metrics and `fids`, its FID at each layer


def readings(protocol: Protocol) -> Iterator[tuple[str, Protocol]]:
    """Yield the protocol and those that differ from it in what it calls unsettled, with what each is called."""
    yield "as stated", protocol
    pixel = next((term.metric for term in protocol.terms if term.metric in PIXEL), None)
    for other in protocol.unsettled_pixel:
        if pixel and other != pixel:
            yield f"pixel error {other}", _with_term(protocol, pixel, metric=other)
    fid = next((term for term in protocol.terms if term.metric == "fid"), None)
    if fid is None:
        return
    for layer in protocol.unsettled_fid_layer or (protocol.fid_layer,):
        for width in protocol.unsettled_fid_weight or (fid.width,):
            if (layer, width) != (protocol.fid_layer, fid.width):
                other_layer = protocol.model_copy(update={"fid_layer": layer})
                yield f"FID layer {layer}, w {width:g}", _with_term(other_layer, "fid", width=width)


def _with_term(protocol: Protocol, changed: str, **changes: Any) -> Protocol:
    terms = tuple(term.model_copy(update=changes) if term.metric == changed else term for term in protocol.terms)
    return protocol.model_copy(update={"terms": terms})


def sensitivity(protocol: Protocol, tasks: Components) -> list[dict[str, Any]]:
    """Return {reading, combined, tasks} for each reading; a task without a score is None and counts as missing."""
    rows = []
    for name, reading in readings(protocol):
        scores = {task: _score(reading, found) for task, found in tasks.items()}
        rows.append({"reading": name, "combined": reading.combined(scores), "tasks": scores})
    return rows


def _score(protocol: Protocol, found: Mapping[str, Any]) -> float | None:
    fids = found.get("fids") or {}
    return protocol.task_score({**found, "fid": fids.get(str(protocol.fid_layer), found.get("fid"))})
