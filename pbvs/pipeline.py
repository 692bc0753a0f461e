"""Run a recipe's stages in order: load each model or train it, then write the predictions."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pbvs import devices
from pbvs.challenge.loading import DEFAULT, load_challenge
from pbvs.challenge.model import Challenge
from pbvs.data.align import open_source
from pbvs.data.build import challenge_of, find_root
from pbvs.data.manifest import Pair, check_content, manifest_path, read_manifest
from pbvs.errors import PbvsError, UsageError
from pbvs.files import (
    digest,
    inside,
    read_json,
    remove_all,
    remove_folder,
    replace_folder,
    restore_folder,
    sha256,
    sweep,
    visible_names,
    write_json,
)
from pbvs.lineage import Lineage, changes, learns
from pbvs.locks import locked
from pbvs.logs import duration, say
from pbvs.metrics.weights import look
from pbvs.recipe import Recipe, Stage, TaskName, load_recipe
from pbvs.run import CACHE, MANIFESTS, SUBMISSIONS, Run, mark_done, read_done
from pbvs.translators import make_translator, translator_class
from pbvs.translators.base import FitContext, Translator
from pbvs.translators.prediction import Outcome, predict_pairs

MODEL_FILE = "model.safetensors"


def predict(
    recipe: str | Path | Recipe | None = None,
    *,
    run: str | None = None,
    tasks: Sequence[str] | None = None,
    splits: Sequence[str] = ("test", "val"),
    root: Path | None = None,
    manifests: Path = MANIFESTS,
    submissions: Path = SUBMISSIONS,
    weights: Path | None = None,
    device: str = "auto",
    jobs: int = 1,
    retrain: bool = False,
    change_recipe: bool = False,
    lpips_net: str | None = None,
    deterministic: bool = False,
    challenge: str | None = None,
) -> Run:
    """Make a run: every stage's model is loaded or trained, and its predictions are written.

    What is already done from the same recipe and manifests is left alone, and nothing finished is removed before its
    successor is there. `tasks` limits the work to those tasks and the stages that they require; `retrain` makes the
    models of `tasks` again; `lpips_net` replaces the trunk of the stages that are trained for `tasks`, `deterministic`
    asks for the same bits on a GPU too, `challenge` replaces the recipe's. A run keeps its recipe: another one is taken
    only with `change_recipe`, but more epochs go on from where training ended.

    Returns the run. Raises PbvsError when data, manifests or weights are missing, when the run has another recipe, or
    when some inputs could not be read (the rest is written then); UsageError for an unknown recipe, task or device.
    All of these but unreadable inputs are found before anything is written.
    """
    instead = {key: value for key, value in (("lpips_net", lpips_net), ("deterministic", deterministic)) if value}
    given, place = _choose(recipe, run, submissions, challenge, manifests)
    for task in tasks or ():
        if task not in given.stages:
            raise UsageError(f"The recipe {given.name!r} has no stage for {task}; it has {', '.join(given.stages)}.")

    def job() -> Job:
        """Return the work; asked again under the lock, as another command may have written the run's recipe."""
        chosen = place.recipe() if recipe is None and place.exists() else given
        asked = frozenset(tasks or chosen.stages)
        chosen = with_settings(chosen, instead, _wanted(chosen, asked))
        where = find_root(root, manifests)
        return Job(chosen, place, where, manifests, weights, device, jobs, asked, retrain, instead)

    if not place.exists():
        job().check(splits, change_recipe)  # nothing of a run is made when it cannot be
    with _single_writer(place.folder):
        work = job()
        work.restore()
        work.check(splits, change_recipe)
        work.start()
        failures = [failure for task in work.wanted() for failure in work.do(task, splits)]
    if failures:
        raise PbvsError(f"{len(failures)} inputs could not be predicted, the rest is written: {' '.join(failures[:5])}")
    return place


def _wanted(recipe: Recipe, asked: Iterable[str]) -> list[TaskName]:
    """Return the tasks asked for and those they require, in the order of the graph."""
    wanted: set[str] = set(asked)
    for task in reversed(recipe.order()):
        if task in wanted:
            wanted.update(recipe.stages[task].requires)
    return [task for task in recipe.order() if task in wanted]


@dataclass
class Job:
    """One call of `predict`: what it works on, and the models it has loaded so far."""

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
    loaded: dict[str, Translator] = field(default_factory=dict)
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
        made_for = read_json(path).get("challenge") if path.is_file() else None
        if isinstance(made_for, dict) and made_for.get("digest") != self.challenge.data_digest():
            raise PbvsError(
                f"The manifests in {self.manifests} were made for the challenge {made_for.get('name')}, or an earlier "
                f"version of it, not for {self.challenge.name} of the recipe {self.recipe.name!r}; run `pbvs "
                f"build-pairs --challenge {self.recipe.challenge}` again."
            )

    def wanted(self) -> list[TaskName]:
        """Return the tasks asked for and those they require, in the order of the graph."""
        return _wanted(self.recipe, self.asked)

    def to_train(self) -> list[TaskName]:
        """Return the tasks whose networks will be trained, in the order of the graph."""
        learning = [task for task in self.wanted() if learns(self.recipe.stages[task])]
        return [task for task in learning if self._remakes(task) or not self.lineage.has_model(task)]

    def check(self, splits: Iterable[str], change_recipe: bool = False) -> None:
        """Raise for all that would stop the work later: recipe, models, data, weights, device. Nothing is written."""
        self._check_manifests()
        self._check_recipe(change_recipe)
        self._check_models()
        self._check_folders()
        check_inputs(self._needed_pairs(splits), self.root)
        check_content(list(self._needed_pairs(splits)), self.root, self.manifests, self.jobs)
        self._check_weights()
        if self.device != "auto" or any(self._class(task).uses_device for task in self.wanted()):
            devices.resolve_device(self.device)  # torch, which grayscale never waits for

    def restore(self) -> None:
        """Put back what an interrupted replacement had set aside."""
        if devices.rank() == 0:
            for task in self.recipe.stages:
                restore_folder(self.run.model(task))
                for split in ("train", "val", "test"):
                    restore_folder(self.run.prediction_folder(split, task))
        barrier()

    def start(self) -> None:
        """Write down what the run is made of."""
        if devices.rank() == 0:
            from pbvs.experiments.provenance import update

            sweep(self.run.folder)
            path = self.run.provenance_file
            update(path, self.recipe, self.manifests, self.weights, self.device, root=self.root)
            self.run.write_recipe(self.recipe)
        barrier()

    def do(self, task: TaskName, splits: Iterable[str]) -> list[str]:
        """Make one task's model and, where it was asked for, its predictions; return what could not be predicted."""
        self._model(task)
        if task not in self.asked:
            return []
        return [failure for split in splits for failure in self._predictions(task, split)]

    def stage_digest(self, task: TaskName) -> str:
        """Return the digest of all that a stage's model is made from: settings, seed, pairs, earlier models."""
        return self.lineage.model(task)

    def _class(self, task: TaskName) -> type[Translator]:
        return translator_class(self.recipe.stages[task].model_dump()["method"])

    def _pairs(self, task: str, split: str) -> list[Pair]:
        return read_manifest(manifest_path(self.manifests, task, split))

    def _record(self, task: str) -> Path:
        return self.run.model_record(task)

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
            record = read_done(self._record(task))
            if self._remakes(task) or not record or not learns(self.recipe.stages[task]):
                continue
            if not self.lineage.has_model(task) and not self._goes_on(task):
                then = record.get("parts")
                said = changes(then, self.lineage.model_parts(task)) if isinstance(then, dict) else ""
                raise PbvsError(
                    f"The model {self.run.model(task)} was trained with another recipe or other manifests"
                    f"{f' ({said})' if said else ''}; give another --run, or --task {task} --retrain to train it again."
                )

    def _check_folders(self) -> None:
        """Refuse links inside the run: what they lead to is not ours to write."""
        inner = [self.run.folder / name for name in ("models", "predictions", "scores", "calibration")]
        splits = sorted((self.run.folder / "predictions").glob("*"))
        tasks = [path for folder in (self.run.folder / "models", *splits) for path in folder.glob("*")]
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

    def _goes_on(self, task: TaskName) -> bool:
        """Return whether the recipe differs from the model's only in what training can go on with (more epochs)."""
        stage = self.recipe.stages[task]
        free: dict[str, Any] | None = read_done(self._record(task)).get("free")
        if free is None:  # written by a version that kept it in the run's recipe alone
            old = self.run.recipe().stages.get(task) if self.run.exists() else None
            free = _free(old) if old is not None and type(old) is type(stage) else {}
        as_it_was = stage.model_copy(update={key: value for key, value in free.items() if key in _free(stage)})
        return read_done(self._record(task)).get("made_from") == self.lineage.model(task, as_it_was)

    def _model(self, task: TaskName) -> Translator:
        """Load a stage's model when it is done, else train and save it."""
        stage = self.recipe.stages[task]
        parts: dict[str, Translator] = {name: self.loaded[name] for name in stage.requires}
        device = devices.resolve_device(self.device if self._class(task).uses_device else "cpu")
        translator = make_translator(self.challenge.tasks[task], stage, parts, device)
        if self.lineage.has_model(task) and not (self._remakes(task) and learns(stage)):
            translator.load(self.run.model(task))
        else:
            self._train(task, stage, translator, device)
        self.trained.add(task)
        self.loaded[task] = translator
        return translator

    def _train(self, task: TaskName, stage: Stage, translator: Translator, device: str) -> None:
        """Train a model, beside an earlier one when there is one, which then stays until the new one is finished."""
        final, start = self.run.model(task), time.perf_counter()
        beside = self._remakes(task) and self._record(task).is_file()
        folder = final.with_name(f".{task}.next") if beside else final
        if translator.learns:
            say(f"{task}: training {translator.method} on {device}")
        made_from, parts = self.lineage.model(task), self.lineage.model_parts(task)
        translator.fit(self._material(task, stage, translator, folder, device))
        if devices.rank() == 0:
            translator.save(folder)
            # The run's recipe is written before training ends, so it cannot say what an earlier model was made with.
            known: dict[str, Any] = {"seconds": round(time.perf_counter() - start, 3), "device": device}
            known |= {"free": _free(stage), "parts": parts}
            if (folder / MODEL_FILE).is_file():
                known["model"] = sha256(folder / MODEL_FILE)
            mark_done(folder / self._record(task).name, made_from, **known)
            if beside:
                replace_folder(folder, final)
            if translator.learns:
                after = f"; still to train: {', '.join(self._after(task))}" if self._after(task) else ""
                say(f"{task}: trained in {duration(time.perf_counter() - start)}{after}")
        barrier()

    def _material(self, task: str, stage: Stage, translator: Translator, folder: Path, device: str) -> FitContext:
        initial = stage.model_dump().get("init_from")
        return FitContext(
            recipe=self.recipe,
            root=self.root,
            train=self._pairs(task, "train") if translator.learns else (),
            val=[pair for pair in self._pairs(task, "val") if pair.target] if translator.learns else (),
            folder=folder,
            cache=CACHE,
            initial=self.run.model(initial) if initial else None,
            weights=self.weights,
            device=device,
            jobs=self.jobs,
            ahead=sum(self.recipe.stages[later].work(len(self._pairs(later, "train"))) for later in self._after(task)),
        )

    def _after(self, task: str) -> list[TaskName]:
        """Return the tasks whose models are trained after this one."""
        order = self.wanted()
        return [later for later in self.to_train() if order.index(later) > order.index(task)]

    def _predictions(self, task: TaskName, split: str) -> list[str]:
        """Write the predictions of one task and split that are not there yet."""
        pairs = self._pairs(task, split)
        folder, record = self._begin(task, split, len(pairs))
        known = read_json(record)
        if devices.rank():
            known |= {"images": 0, "seconds": 0.0}
        # Shared out before looking, as the others write meanwhile.
        mine = pairs[devices.rank() :: devices.world_size()]
        missing = [pair for pair in mine if not (folder / f"{pair.name}.png").is_file()]
        barrier()
        if not missing and not known["images"] and devices.rank() == 0:
            missing = pairs[:1]  # all are there, but the run was killed before it wrote how long they took
        outcome = self._stream(task, split, missing, folder) if missing else Outcome()
        known["images"] += outcome.images
        known["seconds"] = round(known["seconds"] + outcome.seconds, 6)
        known["failed"] = len(outcome.failures)
        write_part(record, known, devices.rank())
        barrier()
        if devices.rank() == 0:
            written = sum(name.endswith(".png") for name in visible_names(folder))
            merge_parts(record, devices.world_size(), known, written)
            if written >= len(pairs):
                self._publish(task, split, folder, record)
        barrier()
        return outcome.failures

    def _begin(self, task: TaskName, split: str, expected: int) -> tuple[Path, Path]:
        """Return the folder and the record to go on with.

        Predictions of another model, recipe or manifest stay until all of the new ones are there, which are written
        beside them till then.
        """
        final, record = self.run.prediction_folder(split, task), self.run.prediction_record(split, task)
        done = self.lineage.has_predicted(task, split, self.root) and not self.retrain
        beside = not done and any(name.endswith(".png") for name in visible_names(final))
        barrier()  # every process looks before the first one writes, or they would take different ways
        if done:
            return final, record
        parts = self.lineage.prediction_parts(task, split)
        folder = final.with_name(f".{task}.next") if beside else final
        record = record.with_name(f".{task}.next.json") if beside else record
        begun = read_done(record).get("made_from") == digest(parts) and (folder.is_dir() or not beside)
        if devices.rank() == 0 and (self.retrain or not begun):
            if beside:
                remove_folder(folder)
            known = {"images": 0, "seconds": 0.0, "device": self.loaded[task].device}
            known |= {"evaluation_size": self.recipe.evaluation_size, "expected": expected, "parts": parts}
            known |= {"input_grid": self.loaded[task].input_grid}
            mark_done(record, digest(parts), **known)
        barrier()
        return folder, record

    def _publish(self, task: str, split: str, folder: Path, record: Path) -> None:
        """Put finished predictions in the place of the earlier ones."""
        final = self.run.prediction_folder(split, task)
        if folder != final:
            replace_folder(folder, final)
            write_json(self.run.prediction_record(split, task), read_json(record))
            remove_all([record])

    def _stream(self, task: TaskName, split: str, pairs: Sequence[Pair], folder: Path) -> Outcome:
        native = self.recipe.evaluation_size == "native"
        return predict_pairs(
            self.loaded[task],
            pairs,
            lambda pair: open_source(pair, self.root, self.recipe.radiometry),
            lambda pair: folder / f"{pair.name}.png",
            size=None if native else self.challenge.tasks[task].challenge_size,
            what=f"{task} {split}",
            jobs=self.jobs,
            dtype=self.challenge.outputs.stored,
            scale=self.challenge.tasks[task].scale,
        )


def check_inputs(pairs: Iterable[Pair], root: Path) -> None:
    """Raise PbvsError when files that manifests name are not below the data root, saying how many and the first."""
    missing, seen = [], set[str]()
    for pair in pairs:
        for relative in (pair.source, pair.target):
            if relative and relative not in seen:
                seen.add(relative)
                if not inside(root, relative).is_file():
                    missing.append(f"{relative} ({pair.task} {pair.split})")
    if missing:
        raise PbvsError(
            f"{len(missing)} of {len(seen)} files that the manifests name are not in {root}, the first {missing[0]}; "
            "give the right --data, or run `pbvs build-pairs` again."
        )


def _choose(
    recipe: str | Path | Recipe | None, run: str | None, submissions: Path, challenge: str | None, manifests: Path
) -> tuple[Recipe, Run]:
    """Return the recipe and the run: the run's own recipe when none is named and the run exists."""
    if recipe is None and run is not None and Run(run, submissions).exists():
        return Run(run, submissions).recipe(), Run(run, submissions)
    asked = challenge or challenge_of(manifests)
    named = recipe or default_recipe(asked)
    chosen = named if isinstance(named, Recipe) else load_recipe(named, challenge, asked)
    return chosen, Run(run or chosen.name, submissions)


def default_recipe(challenge: str = DEFAULT) -> str:
    """Return the recipe used when none is named: the paper's where there is a GPU to train it, else the demo's.

    Where those are for other tasks than the challenge's it is `small`, one light U-Net a task.
    """
    import torch

    if load_challenge(challenge).tasks.keys() != load_challenge().tasks.keys():
        say("The recipe is small, a light U-Net for each task, which shows that everything works.")
        return "small"

    name = "paper" if torch.cuda.is_available() else "demo"
    if name == "demo":
        say("No GPU here: the recipe is demo, which shows that everything works; --recipe paper trains the real one.")
    return name


def with_lpips_net(recipe: Recipe, net: str) -> Recipe:
    """Return the recipe with `net` as the LPIPS trunk of every stage that trains on LPIPS."""
    return with_settings(recipe, {"lpips_net": net})


def with_settings(recipe: Recipe, settings: Mapping[str, Any], tasks: Iterable[str] | None = None) -> Recipe:
    """Return the recipe with these settings in every stage that has them, or in those of `tasks`."""
    chosen = set(recipe.stages if tasks is None else tasks)
    stages = {task: stage.replace(dict(settings)) if task in chosen else stage for task, stage in recipe.stages.items()}
    return recipe.model_copy(update={"stages": stages})


@contextlib.contextmanager
def _single_writer(folder: Path) -> Iterator[None]:
    """Hold the run's lock in the first process; the others of a torchrun group work under it."""
    if devices.rank() != 0:
        yield
        return
    with locked(folder):
        yield


def _told(recipe: Recipe) -> dict[str, Any]:
    """Return what a recipe says beside the defaults, without what may change while a run goes on."""
    tables = recipe.model_dump(mode="json", exclude={"name", "description", "challenge"}, exclude_defaults=True)
    if recipe.challenge != DEFAULT:
        tables["challenge"] = load_challenge(recipe.challenge).digest()
    for task, stage in recipe.stages.items():
        tables["stages"][task] = {
            key: value for key, value in tables["stages"][task].items() if key not in _free(stage)
        }
    return tables


def _free(stage: Stage) -> dict[str, Any]:
    """Return the settings that may change between two trainings of one model."""
    return stage.model_dump(mode="json", include=set(getattr(type(stage), "FREE", ())))


def barrier() -> None:
    """Wait for the other processes of a torchrun group; one process waits for nobody."""
    if devices.world_size() > 1:
        from pbvs.training.distributed import barrier as wait

        wait()


def write_part(record: Path, facts: dict[str, Any], rank: int) -> None:
    """Write what one process predicted beside the record that all share."""
    write_json(record.with_name(f".{record.stem}.{rank}.json"), facts)


def merge_parts(record: Path, world: int, facts: dict[str, Any], written: int) -> None:
    """Add up what the processes predicted, and write the record.

    A run killed in the middle leaves more images `written` than were timed; theirs is taken to be the same time.
    """
    parts = [record.with_name(f".{record.stem}.{rank}.json") for rank in range(world)]
    counts = [read_json(part) for part in parts]
    for key in ("images", "failed"):
        facts[key] = sum(count[key] for count in counts)
    facts["seconds"] = max(count["seconds"] for count in counts)
    if 0 < facts["images"] < written:
        facts |= {"images": written, "seconds": round(facts["seconds"] * written / facts["images"], 6)}
    write_json(record, facts)
    remove_all(parts)
