"""What a call of `predict` finds there, checked for everything that could stop it before the first step."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pbvs import devices
from pbvs.challenge.model import DEFAULT, Challenge, load_challenge
from pbvs.data.chips import Prepared, look_up
from pbvs.data.headers import Header, read_headers
from pbvs.data.manifest import Pair, check_content, manifest_path, read_manifest
from pbvs.data.split import split_for_tuning
from pbvs.errors import PbvsError
from pbvs.files import inside, matching, visible_names
from pbvs.lineage import Lineage, changes, free_settings, learns
from pbvs.logs import duration, size_text
from pbvs.metrics.protocol import choose_protocol
from pbvs.metrics.weights import look
from pbvs.recipe import Recipe, Stage, TaskName
from pbvs.run import CACHE, STATE, Run, read_metadata
from pbvs.seeds import evenly_spaced
from pbvs.text import folded, terminal_width
from pbvs.translators import make_translator, translator_class
from pbvs.translators.base import FitContext, Translator
from pbvs.translators.settings import NetworkStage


@dataclass
class Work:
    """One call of `predict`: what it works on, what is there already, and what could stop it. Nothing is written."""

    recipe: Recipe
    run: Run
    root: Path
    manifests: Path
    weights: Path | None
    device: str
    jobs: int
    asked: frozenset[str]  # the tasks whose predictions are wanted
    retrain: bool = False  # make the models of the tasks asked for again
    instead: Mapping[str, Any] = field(default_factory=dict)  # settings of stages that options replace
    challenge: Challenge = field(init=False)
    trained: set[str] = field(default_factory=set)  # by this call

    def __post_init__(self) -> None:
        self.challenge = load_challenge(self.recipe.challenge)

    @property
    def lineage(self) -> Lineage:
        """What the run's models and predictions are made from; until they are trained again, as if they were not."""
        fresh = self.asked - self.trained if self.retrain else frozenset()
        return Lineage(self.run, self.recipe, self.manifests, frozenset(fresh))

    def _check_manifests(self) -> None:
        """Raise PbvsError when the pairs were made for another challenge than the recipe's."""
        path = self.manifests / "summary.json"
        made_for = read_metadata(path).get("challenge")
        if isinstance(made_for, dict) and made_for.get("digest") != self.challenge.data_digest():
            raise PbvsError(
                f"The manifests in {self.manifests} were made for the challenge {made_for.get('name')}, or an earlier "
                f"version of it, not for {self.challenge.name} of the recipe {self.recipe.name!r}; run `pbvs "
                f"build-pairs --challenge {self.recipe.challenge}` again."
            )

    def wanted(self) -> list[TaskName]:
        """Return the tasks asked for and those they require, in the order of the graph."""
        return tasks_with_parts(self.recipe, self.asked)

    def to_train(self) -> list[TaskName]:
        """Return the tasks whose networks will be trained, in the order of the graph."""
        learning = [task for task in self.wanted() if learns(self.recipe.stages[task])]
        return [task for task in learning if self._remakes(task) or not self.lineage.has_model(task)]

    def check(self, splits: Iterable[str], change_recipe: bool = False) -> None:
        """Raise for all that would stop the work later: recipe, models, data, weights, device. Nothing is written."""
        self.check_data(splits, change_recipe)
        self.check_machine()

    def check_data(self, splits: Iterable[str], change_recipe: bool = False) -> None:
        """Raise PbvsError for what is wrong with the recipe, the run's models, the manifests or the images."""
        self._check_manifests()
        self._check_recipe(change_recipe)
        self._check_models()
        self._check_folders()
        check_inputs(self._needed_pairs(splits), self.root)
        check_content(list(self._needed_pairs(splits)), self.root, self.manifests, self.jobs)
        self._check_training()

    def check_machine(self) -> None:
        """Raise PbvsError naming all weights that are missing, UsageError for a device that is not there."""
        self._check_weights()
        if self.device != "auto" or any(self._class(task).uses_device for task in self.wanted()):
            devices.resolve_device(self.device)  # torch, which grayscale never waits for

    def plan(self, splits: Iterable[str], measure: bool = False) -> Plan:
        """Return what will be done; with `measure`, how long training takes by a few steps of each stage."""
        works = any(self._class(task).uses_device for task in self.wanted())
        device = devices.resolve_device(self.device) if works else "cpu"
        training = self.to_train()
        nets = dict.fromkeys(net for task in training for net in self.recipe.stages[task].trunks)
        weights = {net: look(net, self.weights) for net in nets}
        seconds = {}
        if measure and None not in weights.values():
            context = FitContext(self.recipe, self.root, (), (), self.run.folder, CACHE, None, self.weights, device)
            tasks, stages = self.challenge.tasks, self.recipe.stages
            made = {task: make_translator(tasks[task], stages[task], {}, device) for task in training}
            seconds = {task: translator.measure(context) for task, translator in made.items()}
        return Plan(
            f"run {self.run.name}, recipe {self.recipe.name}, challenge {self.challenge.name}, on {device}",
            tuple(self._stage_plan(task, tuple(splits), task in training, device) for task in self.wanted()),
            weights,
            seconds,
            free_space(self.run.submissions, CACHE),
        )

    def _stage_plan(self, task: TaskName, splits: tuple[str, ...], trains: bool, device: str) -> StagePlan:
        stage, parts = self.recipe.stages[task], self.recipe.stages[task].requires
        images = {split: self._missing(task, split, trains) for split in splits if task in self.asked}
        shape, wide = self.challenge.tasks[task], self.challenge.outputs.stored == "uint16"
        sources = [pair.source for split in images for pair in self._pairs(task, split)]
        area = (shape.challenge_size or 0) ** 2 if self.recipe.evaluation_size == "challenge" else 0
        area = area or self._pixels(sources) * shape.scale**2
        predicted = area * shape.target_channels * (1 + wide) * sum(missing for missing, _ in images.values())
        if not trains:
            return StagePlan(task, stage.method, parts, learns(stage), False, images, images_size=predicted)
        train, val = self._learnt_from(task)
        known, epochs, steps = self._steps(task)
        chip = min(self.recipe.chips.max_side**2, self._pixels([pair.target for pair in train]))
        if self.recipe.chips.mode == "whole" and isinstance(stage, NetworkStage):
            chip = stage.size**2
        unknown = sum(found is None for found in known)
        pairs = (len(train), min(len(val), getattr(stage, "validation_images", len(val))))
        chips = unknown * chip * (shape.source_channels + shape.target_channels + 1)
        model, made = make_translator(shape, stage, {}, device).disk(), self.made(task)
        return StagePlan(
            task, stage.method, parts, True, True, images, pairs, epochs, steps, chips, model, predicted, made
        )

    def made(self, task: TaskName) -> int:
        """Return the epochs of the finished model that training goes on from; 0 where it begins."""
        metadata = read_metadata(self.run.model_metadata_file(task))
        if self._remakes(task) or not metadata or (then := self.lineage.goes_on(task)) is None:
            return 0
        return int((metadata.get("training") or {}).get("ends", [then.all_epochs])[-1])

    def _learnt_from(self, task: TaskName) -> tuple[list[Pair], list[Pair]]:
        """Return the pairs with targets that a stage trains on, and those that choose its epoch."""
        train = [pair for pair in self._pairs(task, "train") if pair.target]
        val = [pair for pair in self._pairs(task, "val") if pair.target]
        if getattr(self.recipe.stages[task], "choose_on", "val") == "train":
            return split_for_tuning(train, seed=self.recipe.seed)
        return train, val

    def _steps(self, task: TaskName) -> tuple[list[Prepared | None], int, int | None]:
        """Return what the cache has of a stage's pairs, its epochs, and the steps of each; None: not known yet.

        Raises PbvsError when a step takes more images than an epoch has.
        """
        stage, (train, _) = self.recipe.stages[task], self._learnt_from(task)
        if not isinstance(stage, NetworkStage):
            return [], 0, None
        from pbvs.data.dataset import samples_in_epoch
        from pbvs.training.step import BatchPlan  # torch, which grayscale never waits for

        recipe = self.recipe
        known = look_up(train, recipe.radiometry, recipe.chips, stage.size, CACHE)
        samples = samples_in_epoch(train, known, self.challenge.tasks[task], recipe.chips, recipe.sampling)
        epochs = stage.all_epochs
        if not samples or not epochs:
            return known, epochs, None if epochs else 0
        rounds = stage.passes // epochs
        epoch = BatchPlan(samples * rounds, stage.batch_size, stage.accumulate, devices.world_size())
        return known, epochs, epoch.steps

    def _missing(self, task: TaskName, split: str, trains: bool) -> tuple[int, int]:
        """Return how many images of a split are still to predict, and how many are there."""
        pairs = self._pairs(task, split)
        if trains or self.retrain or not self.lineage.has_predicted(task, split, self.root):
            return len(pairs), 0
        there = set(visible_names(self.run.prediction_folder(split, task)))
        done = sum(f"{pair.name}.png" in there for pair in pairs)
        return len(pairs) - done, done

    def _pixels(self, files: Sequence[str]) -> int:
        """Return about how many pixels these images have each, by the headers of a few."""
        few = [(name, inside(self.root, name).stat().st_size, False) for name in evenly_spaced(files, 3)]
        found = [header for header in read_headers(self.root, few) if isinstance(header, Header)]
        return sum(header.width * header.height for header in found) // max(1, len(found))

    def _check_training(self) -> None:
        """Raise for what would stop training at its beginning: a batch too large, a start or a protocol not there."""
        for task in self.to_train():
            stage = self.recipe.stages[task]
            self._steps(task)
            start = getattr(stage, "init_checkpoint", None)
            if start and not Path(start).is_file():
                raise PbvsError(f"There is no {start}, which {task} starts from; correct its init_checkpoint.")
            first = getattr(stage, "init_from", None) or task
            for key in stage.ALIKE:
                has, other = (getattr(self.recipe.stages[name], key, None) for name in (task, first))
                if has != other:
                    raise PbvsError(
                        f"{task} starts from {first}, and its {key} is {has} where {first} has {other}; "
                        f"give both the same, as with --set stages.{task}.{key}={other}."
                    )
            if (chooses := getattr(stage, "choose_by", "auto")) != "auto":
                choose_protocol(self.challenge, chooses)

    def _class(self, task: TaskName) -> type[Translator]:
        return translator_class(self.recipe.stages[task].model_dump()["method"])

    def _pairs(self, task: str, split: str) -> list[Pair]:
        return read_manifest(manifest_path(self.manifests, task, split))

    def _remakes(self, task: str) -> bool:
        return self.retrain and task in self.asked

    def _needed_pairs(self, splits: Iterable[str]) -> Iterator[Pair]:
        """Yield the pairs that are trained on and predicted."""
        for task in self.to_train():
            yield from (pair for split in ("train", "val") for pair in self._pairs(task, split))
        for task in self.wanted():
            if task in self.asked:
                yield from (pair for split in splits for pair in self._pairs(task, split))

    def _check_recipe(self, change_recipe: bool) -> None:
        """Refuse another recipe than the run's, but for what training can go on with (more epochs)."""
        if change_recipe or not self.run.exists():
            return
        # What an option sets matters only where a model was trained otherwise, and then `_check_models` says so.
        before = with_settings(self.run.recipe(), self.instead, self.wanted())
        said = changes(_told(before), _told(self.recipe))
        if said:
            raise PbvsError(
                f"The run {self.run.name!r} was begun with another recipe ({said}). Give another --run, or take this "
                "recipe with --change-recipe: what it changes is then made again, trained models with --retrain."
            )

    def _check_models(self) -> None:
        """Refuse to train over a model that was made with other settings or pairs."""
        for task in self.wanted():
            metadata = read_metadata(self.run.model_metadata_file(task))
            if self._remakes(task) or not metadata or not learns(self.recipe.stages[task]):
                continue
            if self.lineage.has_model(task) and not metadata.get("installed"):
                continue
            before = self.lineage.as_trained(task) if metadata.get("installed") else self.lineage.goes_on(task)
            if before is not None:
                self._check_epochs(task, before, bool(metadata.get("installed")))
                continue
            then = metadata.get("parts")
            said = changes(then, self.lineage.model_parts(task)) if isinstance(then, dict) else ""
            raise PbvsError(
                f"The model {self.run.model(task)} was trained with another recipe or other manifests"
                f"{f' ({said})' if said else ''}; give another --run, or --task {task} --retrain to train it again."
            )

    def _check_epochs(self, task: TaskName, before: Stage, installed: bool) -> None:
        """Refuse fewer epochs than a finished model had, and going on where its training's state is not there."""
        then, now, state = before.all_epochs, self.recipe.stages[task].all_epochs, self.run.model(task) / STATE
        again = f"give another --run, or --task {task} --retrain to train it again."
        if now < then:
            raise PbvsError(f"The model {state.parent} has {then} epochs and the recipe asks for {now}; {again}")
        if then and (now > then or not installed) and not state.is_file():
            raise PbvsError(f"There is no {state}, from which the training of {task} would go on; {again}")

    def _check_folders(self) -> None:
        """Refuse links inside the run: what they lead to is not ours to write."""
        inner = [self.run.folder / name for name in ("models", "predictions", "scores", "calibration")]
        splits = matching(self.run.folder / "predictions", "*")
        tasks = [path for folder in (self.run.folder / "models", *splits) for path in matching(folder, "*")]
        if link := next((path for path in (*inner, *splits, *tasks) if path.is_symlink()), None):
            raise PbvsError(f"{link} is a link, and a run keeps its files itself; move what it leads to there.")

    def _check_weights(self) -> None:
        """Raise PbvsError naming every frozen network that training needs and that is not here."""
        needed: dict[str, list[str]] = {}
        for task in self.to_train():
            for net in self.recipe.stages[task].trunks:
                if look(net, self.weights) is None:
                    needed.setdefault(net, []).append(task)
        if needed:
            said = ", ".join(f"{net} (for {', '.join(tasks)})" for net, tasks in needed.items())
            vgg16 = ' (the perceptual loss takes VGG-16 instead with vgg_net = "vgg16")' if "vgg19" in needed else ""
            raise PbvsError(
                f"Training needs weights that are not here: {said}. Get them with `pbvs weights fetch "
                f"{' '.join(needed)}`, name their folder with --weights, or take --lpips-net random to try it out"
                f"{vgg16}."
            )

    def _after(self, task: str) -> list[TaskName]:
        """Return the tasks whose models are trained after this one."""
        order = self.wanted()
        return [later for later in self.to_train() if order.index(later) > order.index(task)]


def tasks_with_parts(recipe: Recipe, asked: Iterable[str]) -> list[TaskName]:
    """Return the tasks asked for and those they require, in the order of the graph."""
    wanted: set[str] = set(asked)
    for task in reversed(recipe.order()):
        if task in wanted:
            wanted.update(recipe.stages[task].requires)
    return [task for task in recipe.order() if task in wanted]


def check_inputs(pairs: Iterable[Pair], root: Path) -> None:
    """Raise PbvsError when files that manifests name are not below the data root, saying how many and the first."""
    missing, seen = [], set[str]()
    for pair in pairs:
        for relative in pair.paths:
            if relative not in seen:
                seen.add(relative)
                if not inside(root, relative).is_file():
                    missing.append(f"{relative} ({pair.task} {pair.split})")
    if missing:
        raise PbvsError(
            f"{len(missing)} of {len(seen)} files that the manifests name are not in {root}, the first {missing[0]}; "
            "give the right --data, or run `pbvs build-pairs` again."
        )


def with_settings(recipe: Recipe, settings: Mapping[str, Any], tasks: Iterable[str] | None = None) -> Recipe:
    """Return the recipe with these settings in every stage that has them, or in those of `tasks`."""
    chosen = set(recipe.stages if tasks is None else tasks)
    stages = {task: stage.replace(dict(settings)) if task in chosen else stage for task, stage in recipe.stages.items()}
    return recipe.model_copy(update={"stages": stages})


def _told(recipe: Recipe) -> dict[str, Any]:
    """Return what a recipe says beside the defaults, without what may change while a run goes on."""
    tables = recipe.model_dump(mode="json", exclude={"name", "description", "challenge"}, exclude_defaults=True)
    if recipe.challenge != DEFAULT:
        tables["challenge"] = load_challenge(recipe.challenge).digest()
    for task, stage in recipe.stages.items():
        tables["stages"][task] = {
            key: value for key, value in tables["stages"][task].items() if key not in free_settings(stage)
        }
    return tables


def free_space(*folders: Path) -> dict[Path, int]:
    """Return the bytes that the folders' disks have left, one folder for each disk; they need not be there yet."""
    found: dict[int, tuple[Path, int]] = {}
    for folder in folders:
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
        found.setdefault(there.stat().st_dev, (folder, shutil.disk_usage(there).free))
    return dict(found.values())


# --- The plan: what a call is about to do.


@dataclass(frozen=True)
class StagePlan:
    """What happens to one task; sizes are bytes still to be written, about."""

    task: TaskName
    method: str
    parts: tuple[TaskName, ...]  # whose models it starts from
    learns: bool
    trains: bool  # now
    images: Mapping[str, tuple[int, int]]  # split -> how many are still to predict, how many are there
    pairs: tuple[int, int] = (0, 0)  # that it trains on, and that choose the epoch
    epochs: int = 0
    steps: int | None = 0  # of an epoch; None: known when the windows are cut
    chips_size: int = 0
    model_size: int = 0
    images_size: int = 0
    made: int = 0  # epochs of the finished model that training goes on from

    @property
    def all_steps(self) -> int | None:
        """The steps that training takes now."""
        return None if self.steps is None else (self.epochs - self.made) * self.steps

    def __str__(self) -> str:
        """Return it in words."""
        start = f" from {' and '.join(self.parts)}" if self.parts else ""
        return f"{self.method}{start}: {self._training()}; {self._predicting()}"

    def _training(self) -> str:
        if not self.trains:
            return "trained already" if self.learns else "nothing to train"
        epochs = f"{self.epochs - self.made} epochs"
        steps = epochs if self.steps is None else f"{self.all_steps:,} steps"
        each = f" ({epochs} of {self.steps:,})" if self.steps else ""
        what = f"go on from epoch {self.made} to {self.epochs}," if self.made else "train"
        return f"{what} {steps}{each} on {self.pairs[0]:,} pairs, validate on {self.pairs[1]:,}"

    def _predicting(self) -> str:
        missing = {split: count for split, (count, _) in self.images.items() if count}
        there = sum(done for _, done in self.images.values())
        if not self.images:
            return "predict nothing"
        if not missing:
            return f"all {there:,} images are there"
        said = ", ".join(f"{count:,} {split}" for split, count in missing.items())
        return f"predict {said}" + (f" ({there:,} are there)" if there else "")


CLEAR = "Nothing stands in the way."


@dataclass(frozen=True, repr=False)
class Plan:
    """What a call of `predict` will do, and what that takes."""

    title: str
    stages: tuple[StagePlan, ...]
    weights: Mapping[str, Path | None]  # that training needs -> where they are
    seconds: Mapping[TaskName, float] = field(default_factory=dict)  # of a step, where that was measured
    free: Mapping[Path, int] = field(default_factory=dict)  # folder -> bytes that its disk has left
    problem: str = ""  # what stands in the way, in a sentence: weights that training needs

    def __repr__(self) -> str:
        """Return the plan in lines of 80 columns, and what stands in the way."""
        return "\n".join([*self.lines(80), *folded(self.problem or CLEAR, 80, 2)])

    def lines(self, width: int = 0) -> list[str]:
        """Return the plan in lines of at most `width` columns, without it those of the terminal."""
        width = width or terminal_width()
        longest = max(len(stage.task) for stage in self.stages)
        rows = [(f"  {stage.task:<{longest}}  ", str(stage)) for stage in self.stages]
        rows = [("Plan:    ", self.title), *rows, ("Weights: ", self._weights()), ("Disk:    ", self._disk())]
        if any(stage.trains for stage in self.stages):
            rows.append(("Time:    ", self._time()))
        return [line for head, said in rows for line in folded(head + said, width, len(head))]

    def _weights(self) -> str:
        said = [f"{net} in {path.parent}" if path else f"{net} is missing" for net, path in self.weights.items()]
        return ", ".join(said) or "training needs none"

    def _disk(self) -> str:
        each = [(stage.chips_size, stage.model_size, stage.images_size) for stage in self.stages]
        sizes = dict(zip(("chips", "models", "images"), map(sum, zip(*each, strict=True)), strict=True))
        said = [f"{size_text(size)} of {what}" for what, size in sizes.items() if size]
        left = ", ".join(f"{size_text(free)} free in {folder}" for folder, free in self.free.items())
        short = sum(sizes.values()) > min(self.free.values(), default=sum(sizes.values()))
        warning = "; that may not be enough" if short else ""
        return (f"about {' + '.join(said)}; " if said else "nothing to add; ") + left + warning

    def _time(self) -> str:
        if None in self.weights.values():
            return "not measured while weights are missing"
        if not self.seconds:
            return "each epoch says what is left; --dry-run measures a few steps"
        known = [(stage.all_steps, self.seconds[stage.task]) for stage in self.stages if stage.trains]
        each = ", ".join(f"{task} {second:.2g} s" for task, second in self.seconds.items())
        total = sum(steps * second for steps, second in known if steps is not None)
        return f"about {duration(total)} of training, without validation (a step: {each})"
