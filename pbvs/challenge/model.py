"""What a challenge fixes, as one file says it: modalities, tasks, folders, outputs, rules of a submission, scoring."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from pbvs.challenge import Split
from pbvs.errors import UsageError
from pbvs.files import digest, dump_toml
from pbvs.settings import Library, Settings

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Kind = Literal["radar", "optical", "thermal", "other"]
Pairing = Literal["name", "base", "location"]
Role = Literal["image", "mosaic", "input", "mask", "unused"]
Container = Literal["png", "tiff", "npy"]
Line = Literal["runtime", "cpu", "extra-data", "description", "text"]
Note = Literal["names", "missing-task", "wrong-size", "one-band"]

GROUPS = ("modality", "split", "task", "source", "location", "base", "date", "id")
DATE = r"\d{4}[-_]?\d\d[-_]?\d\d"
_GROUP = re.compile(r"(.+?)[2-9]?")  # base2, base3 ... are further parts of base


class Modality(Settings):
    """A kind of image: how many channels it has, what sensor it is from, and which numbers its files hold.

    `bands` says which bands, from 0, a file of at least so many has them in: `{8 = [3, 2, 1]}`; else the first ones.
    """

    title: str = ""  # as tables and pages show it; without it the name in capitals
    channels: int = Field(default=1, ge=1, le=16)
    kind: Kind = "other"
    dtype: str = Field(default="", pattern=r"^(u?int(8|16|32)|float(32|64))?$")  # of the files; empty: as they are
    bands: dict[Annotated[int, Field(ge=1)], tuple[Annotated[int, Field(ge=0)], ...]] = Field(default_factory=dict)
    mask: tuple[str, str] | None = None  # in a target's path the first text becomes the second: there is its mask
    range: tuple[float, float] | None = None  # the numbers that become 0 and 1; None: found from the data

    @field_validator("range")
    @classmethod
    def _rises(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value and not value[0] < value[1]:
            raise ValueError(f"the first number must be below the second, not {value[0]:g} and {value[1]:g}")
        return value


class Task(Settings):
    """One translation: what it makes of what, how big, and how its images are paired.

    A file's `source` is a modality or a list of them; `source` here is the first, whose grid the `further` ones are
    brought onto, and an input image has the channels of all of them, in the list's order.
    """

    source: str
    further: tuple[str, ...] = ()
    target: str
    size: Annotated[int, Field(ge=1, le=8192)] | Literal["native"] = "native"  # pixels a side that are evaluated
    scale: int = Field(default=1, ge=1, le=16)  # with "native": of a prediction's side to its input's
    pairing: Pairing = "name"
    mosaics: bool = True  # with "location": a location's mosaics, where it has them, are its only targets
    inputs: dict[Split, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)  # expected number of official inputs
    folder: str = ""  # of its predictions in an archive, where that is not the task's name
    container: Container | None = None  # the only one its images are written in; None: as for all tasks

    _name: str = PrivateAttr("")
    _modalities: tuple[Modality, ...] = PrivateAttr()  # of the sources, and of the target

    @property
    def name(self) -> str:
        """The task's key in the challenge."""
        return self._name

    @property
    def sources(self) -> tuple[str, ...]:
        """The modalities that an input is made of."""
        return self.source, *self.further

    @property
    def source_channels(self) -> int:
        """Channels of an input image, of all its sources."""
        return sum(modality.channels for modality in self._modalities[:-1])

    @property
    def first_channels(self) -> int:
        """Channels of an input image that are of the first source."""
        return self._modalities[0].channels

    @property
    def target_channels(self) -> int:
        """Channels of a target image."""
        return self._modalities[-1].channels

    @model_validator(mode="before")
    @classmethod
    def _one_or_several(cls, table: Any) -> Any:
        if not isinstance(table, dict) or not isinstance(table.get("source"), (list, tuple)):
            return table
        first, *others = table["source"] or [""]
        more = table.get("further", ())
        return {**table, "source": first, "further": (*others, *more) if isinstance(more, (list, tuple)) else more}

    @model_validator(mode="after")
    def _none_twice(self) -> Task:
        if len(set(self.sources)) < len(self.sources):
            raise ValueError(f"source: a modality is named twice in {', '.join(self.sources)}")
        return self

    @model_serializer(mode="wrap")
    def _as_in_the_file(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        table: dict[str, Any] = handler(self)
        if further := table.pop("further", ()):
            table["source"] = [self.source, *further]
        return table

    def serves(self, modality: str, own_task: str = "", tasks: tuple[str, ...] = ()) -> bool:
        """Return whether an image of a modality, of a pattern with a `task` or `tasks`, may be in the pairs."""
        if (own_task and own_task != self.name) or (tasks and self.name not in tasks):
            return False
        return modality in (self.source, self.target) or modality in self.further

    @property
    def challenge_size(self) -> int | None:
        """Pixels a side at which the challenge evaluates; None where that is each image's own size."""
        return None if self.size == "native" else self.size


class FilePattern(Settings):
    """Which files are what: a glob, a regular expression or both, on the path below the data root, '/' between folders.

    What a file is comes from the named groups of GROUPS: as `{split}/{modality}/{id}.png` in a glob, where `{split}`,
    `{modality}` and `{task}` take only names that there are, and as `(?P<id>...)` in an expression, which must match
    the whole path; there `{tasks}` and `{modalities}` stand for the challenge's names. `source` is the archive, `base`
    what images of one moment share (`base2`, `base3` ... are added to it), `id` the name that a pair's images share.
    A key of a group's name is the value where there is no such group, or it took nothing.

    >>> sorted(FilePattern(glob="{split}/{modality}/{id}.png").groups())
    ['id', 'modality', 'split']
    """

    glob: str = ""
    regex: str = ""
    ignore_case: bool = True
    role: Role = "image"
    reason: str = ""  # with role "unused": why such files are not used
    modality: str = ""
    split: Split | Literal[""] = ""
    task: str = ""
    source: str = ""
    location: str = ""
    tasks: tuple[str, ...] = ()  # the tasks that such images serve; empty: all that have the modality
    find_date: bool = False  # the first date in the file's name counts where there is no group `date`
    otherwise: bool = False  # only for files that no pattern above took
    values: dict[str, dict[str, str]] = Field(default_factory=dict)  # group -> what it took -> what that means

    def groups(self) -> frozenset[str]:
        """Return which of GROUPS a file's path is asked for."""
        return frozenset(match[1] for one in self.compiled() for name in one.groupindex if (match := _group(name)))

    def compiled(self, tasks: Iterable[str] = (), modalities: Iterable[str] = ()) -> tuple[re.Pattern[str], ...]:
        """Return the expressions that must all match a path, for a challenge's names."""
        names = {"task": tuple(tasks), "modality": tuple(modalities), "split": get_args(Split)}
        known = {key: _one_of((*found, *self.values.get(key, ()))) for key, found in names.items()}
        texts = []
        if self.glob or not self.regex:
            texts.append(_glob_expression(self.glob or "**", known))
        if self.regex:
            shown = self.regex.replace("{tasks}", f"(?:{_one_of(names['task'])})")
            texts.append(shown.replace("{modalities}", f"(?:{_one_of(names['modality'])})"))
        return tuple(re.compile(text, re.IGNORECASE if self.ignore_case else 0) for text in texts)

    @field_validator("glob", "regex")
    @classmethod
    def _compiles(cls, text: str, info: ValidationInfo) -> str:
        try:
            shown = _glob_expression(text, {}) if info.field_name == "glob" else text
            names = re.compile(shown.replace("{tasks}", "x").replace("{modalities}", "x")).groupindex
        except re.error as error:
            raise ValueError(f"{text!r} cannot be understood ({error})") from None
        if unknown := [name for name in names if not _group(name)]:
            raise ValueError(f"there is no group {unknown[0]!r}; the groups are {', '.join(GROUPS)}")
        return text

    @model_validator(mode="after")
    def _says_enough(self) -> FilePattern:
        if self.role == "unused":
            return self
        given = self.groups() | {key for key in ("modality", "split", "task") if getattr(self, key)}
        needed = ("task", "split") if self.role == "input" else ("modality",)
        for key in needed:
            if key not in given:
                raise ValueError(f"role {self.role!r} needs a group {key!r}, or a key {key!r}")
        return self


def _one_of(names: Iterable[str]) -> str:
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)) or "[^/]+?"


def _glob_expression(glob: str, known: Mapping[str, str]) -> str:
    """Return a glob as a regular expression: `**` takes folders, `*` and `?` stay in one, `{name}` is a group."""
    text = ""
    for part in re.split(r"(\*\*/?|\*|\?|\{\w*\})", glob):
        if part.startswith("{"):
            text += f"(?P<{part[1:-1]}>{known.get(part[1:-1], DATE if part == '{date}' else '[^/]+?')})"
        else:
            text += {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part))
    return text


def _group(name: str) -> re.Match[str] | None:
    match = _GROUP.fullmatch(name)
    return match if match and match[1] in GROUPS else None


class Layout(Settings):
    """Where a challenge's files lie: named patterns, of which the first that takes a file says what it is."""

    description: str = "the challenge's layout"
    junk: tuple[str, ...] = ()  # globs on the names of files and folders that are skipped without a word
    files: dict[Name, FilePattern] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _each_file_once(self) -> Layout:
        seen: dict[tuple[str, str], str] = {}
        for name, pattern in self.files.items():
            earlier = seen.setdefault((pattern.glob, pattern.regex), name)
            if earlier != name:
                raise ValueError(f"files.{name} takes the files that files.{earlier} takes already")
        return self


class HoldOut(Settings):
    """What is kept from training for validation where the data have no validation targets of their own.

    Whole locations where images have one, else blocks of files whose names end in consecutive numbers.
    """

    share: float = Field(default=0.15, ge=0, lt=1)
    block: int = Field(default=1, ge=1)  # consecutive numbers that show one scene


class Outputs(Settings):
    """The files of a submission: format, number type, channels, range, and where each lies in the archive.

    In `path` {task} is the task's folder, {id} the input's name without suffix, {name} the prediction's unique name,
    {location} the input's location. `"{task}/{id}"` is a folder a task, `"{id}"` a flat archive; the suffix follows.
    """

    container: Container = "png"
    accepts: tuple[Container, ...] = ()  # other containers that are scored too
    dtype: Literal["uint8", "uint16", "float32"] = "uint8"
    channels: Literal["target", "gray", "rgb"] = "target"
    range: tuple[float, float] | None = None  # what 0 and 1 are written as; None: the type's whole range
    path: str = "{task}/{id}"

    @property
    def stored(self) -> Literal["uint8", "uint16"]:
        """The number type of predictions in a run's folder, which are PNG files: floats are kept as 16 bits."""
        return "uint8" if self.dtype == "uint8" else "uint16"

    @field_validator("path")
    @classmethod
    def _placeholders(cls, path: str) -> str:
        known = {"task", "id", "name", "location"}
        found = re.findall(r"\{([^{}]*)\}", path)
        if wrong := [name for name in found if name not in known]:
            raise ValueError(f"{{{wrong[0]}}} is none of {{task}}, {{id}}, {{name}}, {{location}}")
        if not {"id", "name"} & set(found):
            raise ValueError("it must hold {id} or {name}, or all predictions would have one name")
        if path.startswith("/") or ".." in path.split("/"):
            raise ValueError("it must stay inside the archive")
        return path


class ReadmeLine(Settings):
    """One line of the readme, `label : value`; lines are read by their order."""

    label: str
    kind: Line = "text"
    value: str = ""  # of a line of kind "text"
    keyword: str = ""  # what tells the label from the others, in lower case; empty: the label itself


class SizeWarning(Settings):
    """A size from which on a zip is known to have failed, and how."""

    bytes: int = Field(ge=1)
    message: str


class Submission(Settings):
    """What an archive must be: its readme, how much it may hold, and how often one may be uploaded.

    `readme` has the lines in their order; none: the archive has no readme. Limits of 0 are no limits. `notes` are
    what is known of the challenge's scorer, each by the rule of `pbvs check` that says it.
    """

    readme_name: str = "readme.txt"
    readme: tuple[ReadmeLine, ...] = ()
    max_bytes: int = Field(default=0, ge=0)  # of the zip
    max_file_bytes: int = Field(default=0, ge=0)  # of each file in it, unpacked
    warnings: tuple[SizeWarning, ...] = ()  # the largest that a zip exceeds is told
    max_files: int = Field(default=0, ge=0)
    files: tuple[str, ...] = ()  # globs of further files that may lie in the archive
    a_day: int = Field(default=0, ge=0)  # uploads in a calendar day
    in_all: int = Field(default=0, ge=0)
    tasks: Literal["any", "all"] = "any"  # whether a task may be left out
    notes: dict[Note, str] = Field(default_factory=dict)


class Challenge(Settings):
    """All that a challenge fixes; `load_challenge` reads one from `challenges/<name>.toml` or a file of one's own.

    `protocol` is the scoring rule that is used where none is named: one of `protocols`, the challenge's own rules in
    this file (as pbvs/metrics/protocol.py reads them), or one that comes with the package.
    """

    KEYS = "`pbvs challenge show --toml` writes a file with all of them"

    name: Name
    title: str = ""
    description: str = ""
    links: dict[str, str] = Field(default_factory=dict)
    dates: dict[str, str] = Field(default_factory=dict)
    modalities: dict[Name, Modality] = Field(min_length=1)
    tasks: dict[Name, Task] = Field(min_length=1)
    layout: Layout = Layout()
    hold_out: HoldOut = HoldOut()
    outputs: Outputs = Outputs()
    submission: Submission = Submission()
    columns: tuple[str, ...] = ()  # the order of tasks in tables of scores; empty: their own
    protocol: str = "l2-lpips"
    protocols: dict[Name, dict[str, Any]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _refers(self) -> Challenge:
        for name, task in self.tasks.items():
            for source in task.sources:
                self._known(f"tasks.{name}.source", "modality", source, self.modalities)
            self._known(f"tasks.{name}.target", "modality", task.target, self.modalities)
        for name in self.columns:
            self._known("columns", "task", name, self.tasks)
        if self.columns and set(self.columns) != set(self.tasks):
            raise ValueError("columns: every task must be named once")
        for name, pattern in self.layout.files.items():
            where = f"layout.files.{name}"
            self._known(f"{where}.modality", "modality", pattern.modality, ("", *self.modalities))
            self._known(f"{where}.task", "task", pattern.task, ("", *self.tasks))
            for task_name in pattern.tasks:
                self._known(f"{where}.tasks", "task", task_name, self.tasks)
        return self

    @staticmethod
    def _known(key: str, what: str, name: str, names: Any) -> None:
        if name not in names:
            raise ValueError(f"{key}: there is no {what} {name!r}; there are {', '.join(filter(None, names))}")

    def model_post_init(self, context: Any) -> None:
        """Tell each task its name and modalities."""
        for name, task in self.tasks.items():
            task._name = name
            if self.modalities.keys() >= {*task.sources, task.target}:
                task._modalities = tuple(self.modalities[each] for each in (*task.sources, task.target))

    def task(self, name: str) -> Task:
        """Return the task called `name`; raise UsageError naming those that there are when there is none."""
        if name not in self.tasks:
            raise UsageError(f"There is no task {name!r}; the tasks are {', '.join(self.tasks)}.")
        return self.tasks[name]

    @property
    def ordered(self) -> tuple[str, ...]:
        """The tasks' names in the order of tables of scores."""
        return self.columns or tuple(self.tasks)

    def title_of(self, modality: str) -> str:
        """Return a modality's name as tables and pages show it."""
        return self.modalities[modality].title or modality.upper()

    def source_title(self, task: Task) -> str:
        """Return the names of a task's sources as tables and pages show them, for instance `SAR + RGB`."""
        return " + ".join(map(self.title_of, task.sources))

    def digest(self) -> str:
        """Return the SHA-256 of everything the challenge says, defaults apart."""
        return digest(self.model_dump(mode="json", exclude_defaults=True))

    def data_digest(self) -> str:
        """Return the SHA-256 of what decides how data become pairs: modalities, tasks, layout and hold-out."""
        keys = {"modalities", "tasks", "layout", "hold_out"}
        return digest(self.model_dump(mode="json", exclude_defaults=True, include=keys))


# --- Challenges by name or by file: those that come with the package, and a team's own.

DEFAULT = "mavic-t-2026"
CHALLENGES = Library("challenge", Challenge, "challenges", DEFAULT)


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
    return _built_in(name) if name in CHALLENGES.names else CHALLENGES.load(name)


_built_in = lru_cache(maxsize=16)(CHALLENGES.load)


def dump_challenge(challenge: Challenge) -> str:
    """Return the challenge as TOML, from which `load_challenge` makes the same again."""
    return dump_toml(challenge.model_dump(mode="json", exclude_defaults=True))
