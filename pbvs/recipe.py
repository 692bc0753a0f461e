"""What a team chooses, in one TOML file: read, checked, and written out resolved."""

from __future__ import annotations

import functools
import importlib
import operator
import re
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict, Field, GetPydanticSchema, PrivateAttr, field_validator, model_validator

from pbvs import aliases
from pbvs.challenge.model import DEFAULT, Challenge, load_challenge
from pbvs.errors import PbvsError, UsageError
from pbvs.files import digest, dump_toml, parse_toml, read_toml, write_text
from pbvs.settings import Library, Settings

EVERY = "*"  # a stage of this name is for every task that has none of its own
TaskName = str  # of the recipe's challenge


class Stage(Settings):
    """What every stage has in common; each method's folder in `pbvs.translators` has a class of its own."""

    ALIKE: ClassVar[tuple[str, ...]] = ()  # settings that are the same in the stage whose weights this one starts from

    method: str
    """The method of translation."""

    @property
    def requires(self) -> tuple[TaskName, ...]:
        """The tasks whose models must exist before this stage is trained or used."""
        return ()

    @property
    def all_epochs(self) -> int:
        """The epochs of a training; 0 where nothing is learnt."""
        return 0

    @property
    def chosen_on(self) -> str | None:
        """The images on which training chooses the epoch (val, train); None where none is chosen."""
        return None

    def replace(self, settings: Mapping[str, Any]) -> Stage:
        """Return the stage with those of these settings that it has."""
        return self.model_copy(update={key: value for key, value in settings.items() if hasattr(self, key)})

    def work(self, samples: int) -> float:
        """Return how many pixels training on so many samples an epoch goes through, for estimates of time."""
        return 0.0

    @property
    def trunks(self) -> tuple[str, ...]:
        """The frozen networks whose weights training needs, by the names of `pbvs weights list`."""
        return ()

    def identity(self, exclude: frozenset[str] = frozenset()) -> dict[str, Any]:
        """Return what a model is made from, without defaults and `exclude`, under the oldest names of everything."""
        told = self.model_dump(mode="json", exclude_defaults=True, exclude=set(exclude))
        found: dict[str, Any] = aliases.original({"stages": {"task": told}})["stages"]["task"]
        return found


def _any_stage(_: Any, handler: Any) -> Any:
    """Return pydantic's schema of a stage: one class for each method of the registry, told apart by `method`.

    The registry is asked for by name, since it lies above: a method's settings build on `Stage`.
    """
    classes: tuple[Any, ...] = importlib.import_module("pbvs.translators").stage_classes()
    return handler.generate_schema(Annotated[functools.reduce(operator.or_, classes), Field(discriminator="method")])


AnyStage = Annotated[Stage, GetPydanticSchema(_any_stage)]

# auto: the rule that build-pairs found and wrote into the manifest; the others are explained in data/intensity.py.
NUMBER = r"-?\d{1,20}(\.\d{0,20})?([eE][-+]?\d{1,2})?"
RULE_PATTERN = (
    rf"^(auto|(full(:{NUMBER})?|(percentile|window|power-db|amplitude-db):{NUMBER}:{NUMBER})(,nodata:{NUMBER})?)$"
)


def _known_rule(text: str) -> str:
    if not re.match(RULE_PATTERN, text):
        raise ValueError(
            f"there is no rule {text[:80]!r}; there are auto, full, full:N, window:LOW:HIGH, percentile:LOW:HIGH, "
            "power-db:LOW:HIGH and amplitude-db:LOW:HIGH, each with ,nodata:N behind it if need be"
        )
    return text


Rule = Annotated[str, AfterValidator(_known_rule)]
Policy = Literal["random", "nearest-date", "all"]


class Radiometry(Settings):
    """The rule that turns a file's numbers into [0, 1], for each modality of the challenge; `auto` where none is said.


    A recipe's knows the challenge whose images it is for; `of` says another.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Rule] = Field(init=False)

    archives: dict[str, dict[str, Rule]] = Field(default_factory=dict)
    """Rules for single archives, by the folder's name and then by modality; they go before the others."""

    _challenge: Challenge | None = PrivateAttr(None)

    @model_validator(mode="before")
    @classmethod
    def _own(cls, tables: Any) -> Any:
        return {name: rule for name, rule in tables.items() if rule != "auto"} if isinstance(tables, dict) else tables

    def __eq__(self, other: object) -> bool:
        """Return whether another has the same rules."""
        return isinstance(other, Radiometry) and self.model_dump() == other.model_dump()

    def __hash__(self) -> int:
        """Return the same for the same rules."""
        return hash(self.model_dump_json())

    @property
    def challenge(self) -> Challenge:
        """The challenge whose modalities the rules are for."""
        return self._challenge or load_challenge()

    def of(self, challenge: Challenge) -> Radiometry:
        """Return these rules for a challenge's modalities; raise ValueError for a modality that it does not have."""
        named = {*self.__pydantic_extra__, *(name for own in self.archives.values() for name in own)}
        if wrong := sorted(named - challenge.modalities.keys()):
            known = ", ".join(challenge.modalities)
            raise ValueError(f"radiometry.{wrong[0]}: there is no such modality; there are {known}")
        bound = self.model_copy()
        bound._challenge = challenge
        return bound

    def rule(self, modality: str, found: str = "", path: str = "") -> str:
        """Return the rule for an image of a modality at `path`, relative to the data root.

        It is the recipe's own for the archive (a folder of the path), else for the modality, else the one `found` in
        the manifest, else full.
        """
        rules = [own.get(modality, "auto") for name, own in self.archives.items() if f"/{name}/" in f"/{path}"]
        rules.append(self.__pydantic_extra__.get(modality, "auto"))
        return next((rule for rule in rules if rule != "auto"), found or "full")


class Chips(Settings):
    """How aligned pairs become training chips, and which of them are left out as bad."""

    mode: Literal["crop", "whole", "windows"] = "crop"
    """Random crops, whole images resized to the stage's `size`, or a fixed grid of windows."""
    stride: int = Field(default=0, ge=0, le=65536)
    """Pixels between windows; 0 is half a chip."""
    max_side: int = Field(default=1024, ge=32, le=8192)
    """Larger images are reduced to this many pixels a side; 1024 is the challenge's size."""
    max_invalid: float = Field(default=0.5, ge=0, le=1)
    """Largest share of a chip without data."""
    max_black: float = Field(default=0.6, ge=0, le=1)
    """Largest share of pixels that are exactly black in source or target."""
    max_clipped: float = Field(default=0.6, ge=0, le=1)
    """Largest share of pixels at full scale in source or target."""
    min_deviation: float = Field(default=0.004, ge=0, le=1)
    """Standard deviation, of [0, 1], below which a chip is flat and left out."""


class Sampling(Settings):
    """Which pairs of each location an epoch sees."""

    policy: Policy = "random"
    """Which pairs of a location: at random, those of the closest dates first, or all."""
    draw: Literal["each-epoch", "once"] = "each-epoch"
    """Draw from all candidates again in each epoch, or take the same pairs in every epoch."""
    pairs_per_location: int = Field(default=4, ge=0, le=10**6)
    """Most pairs of one location in an epoch; 0 is no limit."""


class Augmentation(Settings):
    """Changes to a chip that leave a translation true: the eight symmetries of the square, and where it is cut."""

    flips: bool = True
    """Chips are mirrored at random."""
    turns: bool = True
    """Chips are turned by quarter turns at random."""
    blur: float = Field(default=0.0, ge=0, le=1)
    """Inputs are made softer by up to this share of their detail."""
    sharpen: float = Field(default=0.0, ge=0, le=4)
    """Inputs are made crisper by up to this multiple of their detail."""
    brightness: float = Field(default=0.0, ge=0, lt=1)
    """Inputs are made darker or brighter by up to this share."""
    zoom: float = Field(default=1.0, ge=1, le=2)
    """Images are shown larger or smaller by up to this factor."""


class Recipe(Settings):
    """A whole system: a stage for each task, and what they share."""

    KEYS = "`pbvs recipe keys` lists them"

    model_config = ConfigDict(defer_build=True)  # until the registry of methods can be imported

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name of the recipe, and of its run unless `--run` gives another."""
    description: str = ""
    """What the recipe is, in a sentence."""
    challenge: str = DEFAULT
    """The challenge whose tasks the stages are for: a name, or the path of a TOML file."""
    seed: int = Field(2024, ge=0, lt=2**63)
    """Everything random is derived from it."""
    evaluation_size: Literal["challenge", "native"] = "challenge"
    """Predictions have the challenge's size, or that of their targets."""
    extra_data: bool = False
    """Whether data beyond the challenge's were used, as the submission's readme declares."""
    radiometry: Radiometry = Radiometry()
    """How a file's numbers become [0, 1]: the table `[radiometry]`."""
    chips: Chips = Chips()
    """How pairs become training chips: the table `[chips]`."""
    sampling: Sampling = Sampling()
    """Which pairs an epoch sees: the table `[sampling]`."""
    stages: dict[TaskName, AnyStage]
    """A stage for each task, `[stages.TASK]`; the one called `*` is for every task without its own."""

    @model_validator(mode="before")
    @classmethod
    def _for_every_task(cls, tables: Any) -> Any:
        """Give every task of the challenge that has no stage a stage of its own like the one called `*`."""
        stages = tables.get("stages") if isinstance(tables, dict) else None
        if not isinstance(stages, dict) or EVERY not in stages:
            return tables
        named = {task: stage for task, stage in stages.items() if task != EVERY}
        tasks = load_challenge(str(tables.get("challenge", DEFAULT))).tasks
        return {**tables, "stages": named | {task: stages[EVERY] for task in tasks if task not in named}}

    @field_validator("stages")
    @classmethod
    def _graph(cls, stages: dict[TaskName, Stage]) -> dict[TaskName, Stage]:
        if not stages:
            raise ValueError("a recipe needs at least one stage")
        order_of(stages)
        return stages

    @model_validator(mode="after")
    def _serves(self) -> Recipe:
        """Check that stages and rules are for what the challenge has; its error is a sentence of its own."""
        challenge = load_challenge(self.challenge)
        tasks = challenge.tasks
        object.__setattr__(self, "radiometry", self.radiometry.of(challenge))
        if wrong := [task for task in self.stages if task not in tasks]:
            raise ValueError(
                f"stages.{wrong[0]}: the challenge {self.challenge} has no such task; it has {', '.join(tasks)}"
            )
        for name, stage in self.stages.items():
            own, first = tasks[name], tasks.get(getattr(stage, "first", ""))
            several = first is not None and bool(first.further or own.further)
            if first is not None and several and own.sources[: len(first.sources)] != first.sources:
                raise ValueError(f"stages.{name}.first: {name} does not begin with the sources of {first.name}")
        return self

    def order(self) -> list[TaskName]:
        """Return the tasks in the order in which their stages can be made."""
        return order_of(self.stages)

    def tables(self) -> dict[str, Any]:
        """Return all that the recipe says, defaults too, as JSON has it."""
        tables = self.model_dump(mode="json")
        rules = self.radiometry
        own = {} if not rules.archives else {"archives": tables["radiometry"]["archives"]}
        tables["radiometry"] = {name: rules.rule(name, "auto") for name in rules.challenge.modalities} | own
        return tables

    def replace(self, key: str, value: Any) -> Recipe:
        """Return the recipe with one setting changed; the key is what the TOML file says, with dots.

        `stages.*.KEY` is that key of every stage.

        Raises PbvsError naming the key when there is none, or when the value cannot be.

        >>> load_recipe("demo").replace("stages.sar2eo.epochs", 5).stages["sar2eo"].epochs
        5
        """
        tables = self.model_dump(mode="json")
        *path, last = key.split(".")
        if path[:2] == ["stages", EVERY]:  # by now each task has a stage of its own
            changed = self
            for task in self.stages:
                changed = changed.replace(".".join(["stages", task, *path[2:], last]), value)
            return changed
        table = tables
        for part in path:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise PbvsError(f"The recipe {self.name} has no key {key!r}: {part} is no table.")
        table[last] = value
        return parse_recipe(tables, self.name)

    def save(self, path: str | Path) -> Path:
        """Write the recipe as TOML with every default, for `--recipe PATH`; returns the path."""
        write_text(Path(path), dump_recipe(self))
        return Path(path)

    def digest(self) -> str:
        """Return the SHA-256 of everything the recipe and, unless it is the default, its challenge say."""
        tables = {key: value for key, value in self.tables().items() if key != "challenge"}
        if self.challenge != DEFAULT:
            tables["challenge"] = load_challenge(self.challenge).digest()
        return digest(aliases.original(tables))


def order_of(stages: dict[TaskName, Stage]) -> list[TaskName]:
    """Sort stages so that each comes after those it requires; raise ValueError on a gap or a circle."""
    for task, stage in stages.items():
        if missing := [name for name in stage.requires if name not in stages]:
            raise ValueError(f"stage {task} needs a stage {missing[0]}, which the recipe does not have")
    sorter = TopologicalSorter({task: stage.requires for task, stage in stages.items()})
    try:
        sorter.prepare()
    except CycleError as error:
        circle = ", ".join(task for task in stages if task in error.args[1])
        raise ValueError(f"the stages {circle} wait for each other in a circle") from None
    done: list[TaskName] = []
    while ready := sorted(sorter.get_ready(), key=list(stages).index):
        done += ready
        sorter.done(*ready)
    return done


RECIPES = Library("recipe", Recipe, "recipes")


def load_recipe(name_or_path: str | Path, challenge: str | None = None, otherwise: str = DEFAULT) -> Recipe:
    """Read a built-in recipe by its name, or any recipe by its path.

    It is for `challenge` where that is given, else for the one that it names, else for `otherwise`.

    Raises UsageError when there is none, PbvsError naming the key when it says something that cannot be.

    >>> load_recipe("paper").stages["rgb2ir"].method
    'grayscale'
    """
    return read_recipe(RECIPES.file(name_or_path), challenge, otherwise)


def read_recipe(path: Path, challenge: str | None = None, otherwise: str = DEFAULT) -> Recipe:
    """Read a recipe's file; a challenge that it names by path lies beside it, or below the working folder."""
    tables = read_toml(path)
    beside = path.parent / str(tables.get("challenge", DEFAULT))
    if beside.suffix == ".toml" and beside.is_file():
        tables["challenge"] = str(beside)
    tables["challenge"] = challenge or tables.get("challenge", otherwise)
    return parse_recipe(tables, str(path))


def parse_recipe(tables: dict[str, Any], where: str) -> Recipe:
    """Check the tables of a recipe; raise PbvsError with every mistake and the key it is at."""
    return RECIPES.parse(aliases.recipe(tables), where)


def dump_recipe(recipe: Recipe) -> str:
    """Return the recipe as TOML with every default written out, so that nothing else needs to be read again."""
    return dump_toml(recipe.tables())


def with_changes(recipe: Recipe, changes: Iterable[str]) -> Recipe:
    """Return the recipe with settings as they are typed: `stages.sar2eo.epochs=5`, the value as in a TOML file.

    A value that is no TOML is a text. Raises UsageError without a `=`, PbvsError for a key or value that cannot be.
    """
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {change!r} is not understood; say KEY=VALUE, such as stages.TASK.epochs=5.")
        try:
            value = parse_toml(f"value = {text}", "--set")["value"]
        except PbvsError:
            value = text
        recipe = recipe.replace(key, value)
    return recipe
