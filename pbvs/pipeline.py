"""Run a recipe's stages in order: load each model or train it, then write the predictions."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pbvs import aliases, devices
from pbvs.challenge.loading import DEFAULT, load_challenge
from pbvs.challenge.model import Challenge
from pbvs.data.align import check_files, open_source
from pbvs.data.build import find_root
from pbvs.data.manifest import Pair, manifest_path, read_manifest
from pbvs.errors import PbvsError, UsageError
from pbvs.files import digest, read_json, remove_all, sha256, sweep, visible_names, write_error, write_json
from pbvs.locks import locked
from pbvs.logs import say
from pbvs.recipe import Recipe, Stage, TaskName, load_recipe
from pbvs.run import CACHE, MANIFESTS, SUBMISSIONS, Run, is_done, mark_done
from pbvs.translators import make_translator, translator_class
from pbvs.translators.base import FitContext, Translator
from pbvs.translators.prediction import Outcome, predict_pairs


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
    lpips_net: str | None = None,
    deterministic: bool = False,
) -> Run:
    """Make a run: every stage's model is loaded or trained, and its predictions are written.

    What is already done from the same recipe and manifests is left alone. `tasks` limits the work to those tasks and
    the stages that they require; `retrain` makes the models of `tasks` again; `lpips_net` replaces the recipe's trunk,
    `deterministic` asks for the same bits on a GPU too.
    A stage whose recipe now has more epochs goes on from where its training ended.

    Returns the run. Raises PbvsError when data, manifests or weights are missing or when some inputs could not be
    read (the rest is written then), UsageError for an unknown recipe, task or device.
    """
    instead = {"lpips_net": lpips_net, "deterministic": deterministic}
    chosen, place = _choose(recipe, run, submissions, instead)
    for task in tasks or ():
        if task not in chosen.stages:
            raise UsageError(f"The recipe {chosen.name!r} has no stage for {task}; it has {', '.join(chosen.stages)}.")
    with _single_writer(place.folder):
        if recipe is None and run is not None:  # again: another command may have written it until the lock was had
            chosen, _ = _choose(None, run, submissions, instead)
        asked = frozenset(tasks or chosen.stages)
        job = Job(chosen, place, find_root(root, manifests), manifests, weights, device, jobs, asked, retrain)
        job.start()
        failures = [failure for task in job.wanted() for failure in job.do(task, splits)]
    if failures:
        raise PbvsError(f"{len(failures)} inputs could not be predicted, the rest is written: {' '.join(failures[:5])}")
    return place


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
    retrain: bool  # make the models of the tasks asked for again
    challenge: Challenge = field(init=False)
    loaded: dict[str, Translator] = field(default_factory=dict)
    made_from: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.challenge = load_challenge(self.recipe.challenge)

    def start(self) -> None:
        """Write down what the run is made of, after making sure that nothing made before would be lost."""
        self._refuse_to_overwrite()
        if devices.rank() == 0:
            sweep(self.run.folder)
            self.run.write_recipe(self.recipe)
            self._write_provenance()

    def wanted(self) -> list[TaskName]:
        """Return the tasks asked for and those they require, in the order of the graph."""
        wanted: set[str] = set(self.asked)
        for task in reversed(self.recipe.order()):
            if task in wanted:
                wanted.update(self.recipe.stages[task].requires)
        return [task for task in self.recipe.order() if task in wanted]

    def do(self, task: TaskName, splits: Iterable[str]) -> list[str]:
        """Make one task's model and, where it was asked for, its predictions; return what could not be predicted."""
        self._model(task)
        if task not in self.asked:
            return []
        return [failure for split in splits for failure in self._predictions(task, split)]

    def stage_digest(self, task: TaskName, stage: Stage | None = None) -> str:
        """Return the digest of all that a stage's model is made from: settings, seed, pairs, earlier models.

        A model that was installed from a bundle keeps the digest that it came with: it is used as it is. `stage`
        stands for the recipe's own when another's digest is wanted.
        """
        stage, record = stage or self.recipe.stages[task], self._record(task)
        if record.is_file() and not self._remakes(task) and (facts := read_json(record)).get("installed"):
            return str(facts["made_from"])
        parts: dict[str, Any] = {
            "stage": aliases.original({"stages": {task: _told(stage)}})["stages"][task],
            "requires": [self.stage_digest(name) for name in stage.requires],
        }
        if self._class(task).learns:
            unrelated = {"name", "description", "challenge", "stages", "extra_data", "evaluation_size"}
            shared = self.recipe.model_dump(mode="json", exclude=unrelated, exclude_defaults=True)
            if self.recipe.challenge != DEFAULT:
                shared["challenge"] = self.challenge.data_digest()
            parts |= {
                "shared": aliases.original(shared),
                "pairs": [self._manifest_digest(task, split) for split in ("train", "val")],
            }
        return digest(parts)

    def _class(self, task: TaskName) -> type[Translator]:
        return translator_class(self.recipe.stages[task].model_dump()["method"])

    def _manifest_digest(self, task: str, split: str) -> str:
        path = manifest_path(self.manifests, task, split)
        if not path.is_file():
            raise PbvsError(f"There is no manifest {path}; make it with `pbvs build-pairs --data ROOT`.")
        return sha256(path)

    def _pairs(self, task: str, split: str) -> list[Pair]:
        return read_manifest(manifest_path(self.manifests, task, split))

    def _record(self, task: str) -> Path:
        return self.run.model(task) / "done.json"

    def _remakes(self, task: str) -> bool:
        return self.retrain and task in self.asked

    def _refuse_to_overwrite(self) -> None:
        for task in self.wanted():
            record = self._record(task)
            if self._remakes(task) or not record.is_file() or not self._class(task).learns:
                continue
            if not is_done(record, self.stage_digest(task)) and not self._goes_on(task):
                raise PbvsError(
                    f"The model {record.parent} was trained with another recipe or other manifests; give another "
                    f"--run, or --task {task} --retrain to train it again."
                )

    def _goes_on(self, task: TaskName) -> bool:
        """Return whether the recipe differs from the model's only in what training can go on with (more epochs)."""
        stage = self.recipe.stages[task]
        free: dict[str, Any] | None = read_json(self._record(task)).get("free")
        if free is None:  # written by a version that kept it in the run's recipe alone
            old = self.run.recipe().stages.get(task) if self.run.exists() else None
            free = _free(old) if old is not None and type(old) is type(stage) else {}
        as_it_was = stage.model_copy(update={key: value for key, value in free.items() if key in _free(stage)})
        return is_done(self._record(task), self.stage_digest(task, as_it_was))

    def _write_provenance(self) -> None:
        from pbvs.experiments.provenance import update

        path = self.run.provenance_file
        update(path, self.recipe, self.manifests, self.weights, self.device, root=self.root)

    def _model(self, task: TaskName) -> Translator:
        """Load a stage's model when it is done, else train and save it."""
        stage, record = self.recipe.stages[task], self._record(task)
        made_from = self.stage_digest(task)
        parts: dict[str, Translator] = {name: self.loaded[name] for name in stage.requires}
        device = devices.resolve_device(self.device if self._class(task).uses_device else "cpu")
        translator = make_translator(self.challenge.tasks[task], stage, parts, device)
        if is_done(record, made_from) and not (self._remakes(task) and self._class(task).learns):
            translator.load(record.parent)
        else:
            self._train(task, stage, translator, made_from, device)
        self.loaded[task], self.made_from[task] = translator, made_from
        return translator

    def _train(self, task: TaskName, stage: Stage, translator: Translator, made_from: str, device: str) -> None:
        folder, start = self.run.model(task), time.perf_counter()
        if self._remakes(task) and devices.rank() == 0:
            _remove_model(folder)
        barrier()
        initial = stage.model_dump().get("init_from")
        if translator.learns:
            check_files([pair for split in ("train", "val") for pair in self._pairs(task, split)], self.root)
            say(f"{task}: training {translator.method} on {device}")
        translator.fit(
            FitContext(
                recipe=self.recipe,
                root=self.root,
                train=self._pairs(task, "train") if translator.learns else (),
                val=[p for p in self._pairs(task, "val") if p.target] if translator.learns else (),
                folder=folder,
                cache=CACHE,
                initial=self.run.model(initial) if initial else None,
                weights=self.weights,
                device=device,
                jobs=self.jobs,
            )
        )
        if devices.rank() == 0:
            translator.save(folder)
            # The run's recipe is written before training ends, so it cannot say what an earlier model was made with.
            seconds = round(time.perf_counter() - start, 3)
            mark_done(self._record(task), made_from, seconds=seconds, device=device, free=_free(stage))
        barrier()

    def _predictions(self, task: TaskName, split: str) -> list[str]:
        """Write the predictions of one task and split that are not there yet."""
        pairs, folder = self._pairs(task, split), self.run.prediction_folder(split, task)
        record = folder.with_name(f"{task}.json")
        facts = self._begin(record, folder, task, split, pairs)
        # Shared out before looking, as the others write meanwhile.
        mine = pairs[devices.rank() :: devices.world_size()]
        missing = [pair for pair in mine if not self.run.prediction(split, task, pair.name).is_file()]
        if not missing and not facts["images"] and devices.rank() == 0:
            missing = pairs[:1]  # all are there, but the run was killed before it wrote how long they took
        outcome = self._stream(task, split, missing) if missing else Outcome()
        facts["images"] += outcome.images
        facts["seconds"] = round(facts["seconds"] + outcome.seconds, 6)
        facts["failed"] = len(outcome.failures)
        write_part(record, facts, devices.rank())
        barrier()
        if devices.rank() == 0:
            written = sum(name.endswith(".png") for name in visible_names(folder))
            merge_parts(record, devices.world_size(), facts, written)
        return outcome.failures

    def _begin(self, record: Path, folder: Path, task: TaskName, split: str, pairs: list[Pair]) -> dict[str, Any]:
        """Return the record to go on with; predictions of another model, recipe or manifest are taken away first."""
        made_from = digest(
            [self.made_from[task], self._manifest_digest(task, split), self.recipe.evaluation_size, str(self.root)]
        )
        done = is_done(record, made_from) and not self.retrain
        barrier()  # every process looks before the first one writes, or they would take different ways
        if done:
            facts: dict[str, Any] = read_json(record)
            return facts if devices.rank() == 0 else {**facts, "images": 0, "seconds": 0.0}
        facts = {
            "made_from": made_from,
            "images": 0,
            "seconds": 0.0,
            "device": self.loaded[task].device,
            "evaluation_size": self.recipe.evaluation_size,
            "input_grid": self.loaded[task].input_grid,
            "expected": len(pairs),
        }
        if devices.rank() == 0:
            remove_all(folder.glob("*.png"))
            write_json(record, facts)
        barrier()
        return facts

    def _stream(self, task: TaskName, split: str, pairs: Sequence[Pair]) -> Outcome:
        native = self.recipe.evaluation_size == "native"
        return predict_pairs(
            self.loaded[task],
            pairs,
            lambda pair: open_source(pair, self.root, self.recipe.radiometry),
            lambda pair: self.run.prediction(split, task, pair.name),
            size=None if native else self.challenge.tasks[task].challenge_size,
            what=f"{task} {split}",
            jobs=self.jobs,
        )


def _choose(
    recipe: str | Path | Recipe | None, run: str | None, submissions: Path, instead: dict[str, Any]
) -> tuple[Recipe, Run]:
    """Return the recipe and the run: the run's own recipe when none is named and the run exists."""
    if recipe is None and run is not None and Run(run, submissions).exists():
        chosen = Run(run, submissions).recipe()
    else:
        chosen = recipe if isinstance(recipe, Recipe) else load_recipe(recipe or default_recipe())
    chosen = with_settings(chosen, {key: value for key, value in instead.items() if value})
    return chosen, Run(run or chosen.name, submissions)


def default_recipe() -> str:
    """Return the recipe used when none is named: the paper's where there is a GPU to train it, else the demo's."""
    import torch

    name = "paper" if torch.cuda.is_available() else "demo"
    if name == "demo":
        say("No GPU here: the recipe is demo, which shows that everything works; --recipe paper trains the real one.")
    return name


def with_lpips_net(recipe: Recipe, net: str) -> Recipe:
    """Return the recipe with `net` as the LPIPS trunk of every stage that trains on LPIPS."""
    return with_settings(recipe, {"lpips_net": net})


def with_settings(recipe: Recipe, settings: dict[str, Any]) -> Recipe:
    """Return the recipe with these settings in every stage that has them."""
    stages = {task: stage.replace(settings) for task, stage in recipe.stages.items()}
    return recipe.model_copy(update={"stages": stages})


@contextlib.contextmanager
def _single_writer(folder: Path) -> Iterator[None]:
    """Hold the run's lock in the first process; the others of a torchrun group work under it."""
    if devices.rank() != 0:
        yield
        return
    with locked(folder):
        yield


def _told(stage: Stage) -> dict[str, Any]:
    """Return what the recipe says of a stage beside the defaults."""
    return stage.model_dump(mode="json", exclude_defaults=True)


def _free(stage: Stage) -> dict[str, Any]:
    """Return the settings that may change between two trainings of one model."""
    return stage.model_dump(mode="json", include=set(getattr(type(stage), "FREE", ())))


def _remove_model(folder: Path) -> None:
    import shutil

    if folder.is_dir():
        remove_all([folder / "done.json"])  # first, so that half a model is never taken for one
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise write_error(folder, error) from error


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
