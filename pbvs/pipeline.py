"""Run a recipe's stages in order: load each model or train it, then write the predictions."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pbvs import devices
from pbvs.challenge.model import DEFAULT, load_challenge
from pbvs.data.align import open_input, source_rules
from pbvs.data.build import challenge_of, find_root
from pbvs.data.manifest import Pair, manifest_path
from pbvs.errors import PbvsError, UsageError
from pbvs.files import (
    copy_files,
    digest,
    remove_all,
    remove_folder,
    replace_folder,
    restore_folder,
    sha256,
    sweep,
    visible_names,
    write_json,
)
from pbvs.lineage import EARLIER, free_settings, learns
from pbvs.logs import duration, say
from pbvs.preflight import Plan, Work, tasks_with_parts, with_settings
from pbvs.recipe import Recipe, Stage, TaskName, load_recipe, with_changes
from pbvs.run import CACHE, DONE, MANIFESTS, SUBMISSIONS, Run, locked, mark_done, read_metadata
from pbvs.translators import make_translator
from pbvs.translators.base import FitContext, Outcome, Translator, predict_pairs

MODEL_FILE = "model.safetensors"


@dataclass(frozen=True)
class Request:
    """What a call of `predict` asks for, as it was given.

    `tasks` limits the work to those tasks and the stages that they require; `retrain` makes the models of `tasks`
    again; `lpips_net` replaces the trunk of the stages that are trained for `tasks`, `deterministic` asks for the same
    bits on a GPU too, `challenge` replaces the recipe's. A run keeps its recipe: another one is taken only with
    `change_recipe`, but more epochs go on from where training ended.
    """

    recipe: str | Path | Recipe | None = None
    run: str | None = None
    tasks: Sequence[str] | None = None
    splits: Sequence[str] = ("test", "val")
    root: Path | None = None
    manifests: Path = MANIFESTS
    submissions: Path = SUBMISSIONS
    weights: Path | None = None
    device: str = "auto"
    jobs: int = 1
    retrain: bool = False
    lpips_net: str | None = None
    deterministic: bool = False
    challenge: str | None = None
    changes: Sequence[str] = ()  # of the recipe, as `--set` has them
    change_recipe: bool = False

    @cached_property
    def chosen(self) -> tuple[Recipe, Run]:
        """The recipe, the run's own where none is named and the run exists, and the run.

        Raises UsageError where the recipe has no stage for a task asked for.
        """
        given = Run(self.run, self.submissions) if self.run is not None else None
        if self.recipe is None and given and given.exists():
            recipe = given.recipe()
        else:
            asked = self.challenge or challenge_of(self.manifests)
            named = self.recipe or default_recipe(asked)
            recipe = named if isinstance(named, Recipe) else load_recipe(named, self.challenge, asked)
        recipe, run = with_changes(recipe, self.changes), given or Run(recipe.name, self.submissions)
        for task in self.tasks or ():
            if task not in recipe.stages:
                has = ", ".join(recipe.stages)
                raise UsageError(
                    f"The recipe {recipe.name!r} has no stage for {task}; name one that it has with --task ({has}), "
                    f"or write [stages.{task}] into it."
                )
        return recipe, run

    def job(self) -> Job:
        """Return the work; asked again under the lock, as another command may have written the run's recipe."""
        instead = {"lpips_net": self.lpips_net, "deterministic": self.deterministic}
        instead = {key: value for key, value in instead.items() if value}
        recipe, run = self.chosen
        recipe = run.recipe() if self.recipe is None and not self.changes and run.exists() else recipe
        asked = frozenset(self.tasks or recipe.stages)
        recipe = with_settings(recipe, instead, tasks_with_parts(recipe, asked))
        root = find_root(self.root, self.manifests)
        return Job(
            recipe, run, root, self.manifests, self.weights, self.device, self.jobs, asked, self.retrain, instead
        )


def predict(request: Request) -> Run:
    """Make a run: every stage's model is loaded or trained, and its predictions are written.

    What is already done from the same recipe and manifests is left alone, and nothing finished is removed before its
    successor is there. First the plan is said: stages, steps, images, weights, disk.

    Returns the run. Raises PbvsError when data, manifests or weights are missing, when the run has another recipe, or
    when some inputs could not be read (the rest is written then); UsageError for an unknown recipe, task or device.
    All of these but unreadable inputs are found before anything is written.
    """
    folder = request.chosen[1]
    if not folder.exists():
        request.job().check(request.splits, request.change_recipe)  # nothing of a run is made when it cannot be
    # The first process holds the run's lock; the others of a torchrun group work under it.
    with locked(folder.folder) if devices.rank() == 0 else contextlib.nullcontext():
        failures = _work(request.job(), request)
    if failures:
        raise PbvsError(f"{len(failures)} inputs could not be predicted, the rest is written: {' '.join(failures[:5])}")
    return folder


def _work(job: Job, request: Request) -> list[str]:
    """Do the work of a call under the run's lock; return what could not be predicted."""
    job.restore()
    job.check(request.splits, request.change_recipe)
    if devices.rank() == 0:
        for line in job.plan(request.splits).lines():
            say(line)
    job.start()
    return [failure for task in job.wanted() for failure in job.do(task, request.splits)]


def plan(request: Request, measure: bool = True) -> Plan:
    """Return what `predict` would do; nothing is made.

    With `measure`, how long training takes is found by a few steps of each stage. Raises what `predict` raises before
    it begins, but for weights that are missing: the plan names them (`problem`).
    """
    job = request.job()
    job.check_data(request.splits, request.change_recipe)
    found = job.plan(request.splits, measure=measure and devices.world_size() == 1)
    try:
        job.check_machine()
    except UsageError:
        raise
    except PbvsError as error:
        return replace(found, problem=str(error))
    return found


@dataclass
class Job(Work):
    """The work of one call of `predict`, with the models that it has loaded so far."""

    loaded: dict[str, Translator] = field(default_factory=dict)

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
            from pbvs.provenance import update

            sweep(self.run.folder)
            for task in self.to_train():
                path = self.run.model_metadata_file(task)
                if metadata := read_metadata(path):  # one of 0.1 leaves these settings to the run's recipe
                    write_json(path, {**metadata, "free": free_settings(self.lineage.as_trained(task))})
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

    def _model(self, task: TaskName) -> Translator:
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
        folder = self._begin_training(task)
        if translator.learns:
            say(f"{task}: training {translator.method} on {device}")
        made_from, parts = self.lineage.model(task), self.lineage.model_parts(task)
        older = [] if self._remakes(task) else self.lineage.older_start(task)
        taught = self._pairs(task, "train") if manifest_path(self.manifests, task, "train").is_file() else []
        rules = source_rules(taught, self.root, self.recipe.radiometry)  # one's own images are read by these, too
        translator.fit(self._material(task, stage, translator, folder, device))
        if devices.rank() == 0:
            translator.save(folder)
            # The run's recipe is written before training ends, so it cannot say what an earlier model was made with.
            known: dict[str, Any] = {"seconds": round(time.perf_counter() - start, 3), "device": device}
            known |= {"free": free_settings(stage), "parts": parts, "rules": rules}
            known |= {"training": translator.training} if translator.training else {}
            known |= {"older_start": older} if older else {}
            if (folder / MODEL_FILE).is_file():
                known["model"] = sha256(folder / MODEL_FILE)
            mark_done(folder / self.run.model_metadata_file(task).name, made_from, **known)
            if folder != final:
                replace_folder(folder, final)
            if translator.learns:
                after = f"; still to train: {', '.join(self._after(task))}" if self._after(task) else ""
                say(f"{task}: trained in {duration(time.perf_counter() - start)}{after}")
        barrier()

    def _begin_training(self, task: TaskName) -> Path:
        """Return the folder to train in, with the state that training goes on from.

        What is finished stays in its place meanwhile; what training of another kind left beside it is removed.
        """
        final, metadata = self.run.model(task), read_metadata(self.run.model_metadata_file(task))
        if not metadata or not (self._remakes(task) or learns(self.recipe.stages[task])):
            return final
        folder = final.with_name(f".{task}.next")
        before = [] if self._remakes(task) else [*self.lineage.earlier(task), metadata.get("made_from", "")]
        begun = read_metadata(folder / EARLIER).get("models", [])
        barrier()  # every process looks before the first one writes
        if devices.rank() == 0:
            part = final.with_name(f".{task}.begun.next")
            remove_folder(part)
            if begun != before and before:
                copy_files(final, part, {DONE, EARLIER})
                write_json(part / EARLIER, {"models": before})
                replace_folder(part, folder)
            elif begun != before:
                folder.rename(part)
                remove_folder(part)
        barrier()
        return folder

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
            trained=self.lineage.as_trained(task).all_epochs if self.made(task) else 0,
            ahead=sum(self.recipe.stages[later].work(len(self._pairs(later, "train"))) for later in self._after(task)),
        )

    def _predictions(self, task: TaskName, split: str) -> list[str]:
        pairs = self._pairs(task, split)
        folder, path = self._begin(task, split, len(pairs))
        counts = {"images": 0, "seconds": 0.0}
        known = read_metadata(path) | counts if devices.rank() else counts | read_metadata(path)
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
        write_json(path.with_name(f".{path.stem}.{devices.rank()}.json"), known)
        barrier()
        if devices.rank() == 0:
            written = sum(name.endswith(".png") for name in visible_names(folder))
            merge_parts(path, devices.world_size(), known, written)
            if written >= len(pairs):
                self._publish(task, split, folder, path)
        barrier()
        return outcome.failures

    def _begin(self, task: TaskName, split: str, expected: int) -> tuple[Path, Path]:
        """Return the folder and the metadata file to go on with.

        Predictions of another model, recipe or manifest stay until all of the new ones are there, which are written
        beside them till then.
        """
        final, path = self.run.prediction_folder(split, task), self.run.prediction_metadata_file(split, task)
        done = self.lineage.has_predicted(task, split, self.root) and not self.retrain
        beside = not done and any(name.endswith(".png") for name in visible_names(final))
        barrier()  # every process looks before the first one writes, or they would take different ways
        if done:
            return final, path
        parts = self.lineage.prediction_parts(task, split)
        folder = final.with_name(f".{task}.next") if beside else final
        path = path.with_name(f".{task}.next.json") if beside else path
        begun = read_metadata(path).get("made_from") == digest(parts) and (folder.is_dir() or not beside)
        if devices.rank() == 0 and (self.retrain or not begun):
            if beside:
                remove_folder(folder)
            known = {"images": 0, "seconds": 0.0, "device": self.loaded[task].device}
            known |= {"evaluation_size": self.recipe.evaluation_size, "expected": expected, "parts": parts}
            known |= {"input_grid": self.loaded[task].input_grid}
            known |= {"stage": self.recipe.stages[task].model_dump(mode="json")}  # for the readme of an archive
            mark_done(path, digest(parts), **known)
        barrier()
        return folder, path

    def _publish(self, task: str, split: str, folder: Path, path: Path) -> None:
        final = self.run.prediction_folder(split, task)
        if folder != final:
            replace_folder(folder, final)
            write_json(self.run.prediction_metadata_file(split, task), read_metadata(path))
            remove_all([path])

    def _stream(self, task: TaskName, split: str, pairs: Sequence[Pair], folder: Path) -> Outcome:
        native = self.recipe.evaluation_size == "native"
        return predict_pairs(
            self.loaded[task],
            pairs,
            lambda pair: open_input(pair, self.root, self.recipe.radiometry, self.loaded[task].input_size),
            lambda pair: folder / f"{pair.name}.png",
            size=None if native else self.challenge.tasks[task].challenge_size,
            what=f"{task} {split}",
            jobs=self.jobs,
            dtype=self.challenge.outputs.stored,
            scale=self.challenge.tasks[task].scale,
        )


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


def barrier() -> None:
    """Wait for the other processes of a torchrun group; one process waits for nobody."""
    if devices.world_size() > 1:
        from pbvs.training.distributed import barrier as wait

        wait()


def merge_parts(path: Path, world: int, metadata: dict[str, Any], written: int) -> None:
    """Add up what the processes predicted, and write the metadata.

    A run killed in the middle leaves more images `written` than were timed; theirs is taken to be the same time.
    """
    parts = [path.with_name(f".{path.stem}.{rank}.json") for rank in range(world)]
    counts = [read_metadata(part) for part in parts]
    for key in ("images", "failed"):
        metadata[key] = sum(count[key] for count in counts)
    metadata["seconds"] = max(count["seconds"] for count in counts)
    if 0 < metadata["images"] < written:
        metadata |= {"images": written, "seconds": round(metadata["seconds"] * written / metadata["images"], 6)}
    write_json(path, metadata)
    remove_all(parts)
