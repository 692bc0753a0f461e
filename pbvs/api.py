"""The public functions, in one vocabulary: `data=`, `run=` a name or a Run, paths as text or Path, device "auto".

Each does what the command of its name does, writes the same files, and returns what it made. Errors are `PbvsError`
and, for a wrong name or value, `UsageError`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from pbvs.challenge import DEFAULT
from pbvs.files import matching
from pbvs.recipe import Recipe, load_recipe
from pbvs.run import MANIFESTS, SUBMISSIONS, read_metadata
from pbvs.run import Run as RunFolder
from pbvs.run import choose_run as choose_folder

if TYPE_CHECKING:
    from pbvs.data.build import Summary
    from pbvs.evaluation.compare import Comparison
    from pbvs.evaluation.results import Scores
    from pbvs.experiments.calibrate import Calibration
    from pbvs.metrics.protocol import Protocol
    from pbvs.pipeline import Request
    from pbvs.preflight import Plan
    from pbvs.translators.scenes import Model

StrPath = str | PathLike[str]
Image = NDArray[np.float32]  # (H, W, C) in [0, 1]


class Run(RunFolder):
    """A run: what `predict` made, wherever it lies.

    >>> run = pbvs.Run("demo", "submissions")
    >>> run.folder.name, run.exists()
    ('demo', True)
    """

    def __init__(self, name: str, submissions: StrPath = SUBMISSIONS) -> None:
        super().__init__(name, Path(submissions))

    def predictions(self, task: str, split: str = "val") -> Predictions:
        """Return a task's predicted images by their names; each is read when it is asked for.

        >>> predictions = pbvs.Run("demo").predictions("rgb2ir")
        >>> name = next(iter(predictions))
        >>> predictions[name].shape[2], str(predictions[name].dtype)
        (1, 'float32')
        """
        return Predictions(self.existing().prediction_folder(split, task))

    def report(
        self, *, data: StrPath | None = None, manifests: StrPath = MANIFESTS, one_file: bool = False, jobs: int = 1
    ) -> Path:
        """Write the run's page, scored or not, and return its path; `one_file` puts the images into it.

        >>> pbvs.Run("demo").report().name
        'report.html'
        """
        from pbvs.report.run_page import write_report

        root, folder = _data(data, manifests), Path(manifests)
        return write_report(self.existing(), root=root, manifests=folder, one_file=one_file, jobs=jobs)


class Predictions(Mapping[str, Image]):
    """Predicted images by name, (H, W, C) float32 in [0, 1]; `path` says where one lies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names = [path.stem for path in matching(folder, "[!.]*.png")]

    def path(self, name: str) -> Path:
        """Return the file of an image."""
        return self.folder / f"{name}.png"

    def __getitem__(self, name: str) -> Image:
        """Read an image; raises KeyError when there is none of that name."""
        from pbvs.data.images import read_samples
        from pbvs.data.intensity import to_unit

        if not self.path(name).is_file():
            raise KeyError(name)
        return to_unit(read_samples(self.path(name)).values, "full")

    def __iter__(self) -> Iterator[str]:
        """Yield the names in order."""
        return iter(self._names)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._names)


def build_pairs(
    data: StrPath | None = None,
    manifests: StrPath = MANIFESTS,
    *,
    sampling: Literal["random", "nearest-date", "all"] = "random",
    pairs_per_location: int = 16,
    draw: Literal["each-epoch", "once"] = "each-epoch",
    any_base: bool = False,
    seed: int = 2024,
    min_overlap: float = 0.5,
    validation_share: float | None = None,
    challenge: str | StrPath = DEFAULT,
    correct_shift: bool = False,
    recipe: str | StrPath | Recipe | None = None,
    jobs: int = 1,
) -> Summary:
    """Pair the images below `data` (else $PBVS_DATA) into the CSV files of `manifests`, and return the counts.

    `pairs_per_location` is the most of a location and task (0: no limit) that an epoch draws from all candidates, or
    that are drawn once; with `any_base` also images of different bases are paired. `min_overlap` is the share of a
    target that its source must cover, `validation_share` that of the locations held out (else the challenge's);
    `challenge` is a name or a TOML file, `recipe` sets the rules of intensity.
    Raises UsageError when there is no such folder, PbvsError when nothing in it can be used.

    >>> summary = pbvs.build_pairs("data", "manifests")
    >>> summary.pairs["sar2rgb"]["train"] > 0
    True
    """
    from pbvs.data import build
    from pbvs.data.pairing import Rules

    chosen = recipe if recipe is None or isinstance(recipe, Recipe) else load_recipe(Path(recipe))
    return build.build_pairs(
        _data(data, manifests),
        Path(manifests),
        rules=Rules(sampling, pairs_per_location, seed, min_overlap, draw=draw, any_base=any_base),
        radiometry=chosen.radiometry if chosen else None,
        challenge=Path(challenge) if isinstance(challenge, PathLike) else challenge,
        share=validation_share,
        correct_shift=correct_shift,
        jobs=jobs,
    )


def predict(
    recipe: str | StrPath | Recipe | None = None,
    *,
    run: str | StrPath | RunFolder | None = None,
    tasks: Sequence[str] | None = None,
    splits: Sequence[str] = ("test", "val"),
    data: StrPath | None = None,
    manifests: StrPath = MANIFESTS,
    submissions: StrPath = SUBMISSIONS,
    weights: StrPath | None = None,
    device: str = "auto",
    jobs: int = 1,
    retrain: bool = False,
    lpips_net: str | None = None,
    deterministic: bool = False,
    challenge: str | StrPath | None = None,
) -> Run:
    """Make a run: train or load the model of every stage, and write the predictions; what is done is kept.

    `recipe` is a built-in name, a path or a Recipe, by default the run's own; `tasks` limits the work to those and
    what they require; `challenge` is a name or a TOML file, without it the recipe's or the manifests' own.
    Raises PbvsError when data, manifests or weights are missing or some inputs could not be read
    (the rest is written then), UsageError for an unknown recipe, task or device.

    >>> run = pbvs.predict("demo", tasks=["rgb2ir"], run="gray", data="data", manifests="manifests")
    >>> len(run.predictions("rgb2ir")) > 0
    True
    """
    asked = _request(**locals())
    from pbvs import pipeline

    made = pipeline.predict(asked)
    return Run(made.name, made.submissions)


def plan(
    recipe: str | StrPath | Recipe | None = None,
    *,
    run: str | StrPath | RunFolder | None = None,
    tasks: Sequence[str] | None = None,
    splits: Sequence[str] = ("test", "val"),
    data: StrPath | None = None,
    manifests: StrPath = MANIFESTS,
    submissions: StrPath = SUBMISSIONS,
    weights: StrPath | None = None,
    device: str = "auto",
    jobs: int = 1,
    retrain: bool = False,
    lpips_net: str | None = None,
    deterministic: bool = False,
    challenge: str | StrPath | None = None,
    measure: bool = True,
) -> Plan:
    """Return what `predict`, called the same way, would do, and make nothing; printed, it is what `--dry-run` says.

    `plan.stages` has a row per task with its steps and images, `plan.weights` the file of each net that training needs
    (None: missing), `plan.free` the bytes that disks have left, `plan.problem` what stands in the way, or "". `measure`
    takes a few steps of each training to tell its time, `plan.seconds` of a step. Raises what `predict` raises before
    it begins.

    >>> plan = pbvs.plan("demo", tasks=["rgb2ir"], run="new", data="data", manifests="manifests")
    >>> [(stage.task, stage.trains) for stage in plan.stages], plan.problem
    ([('rgb2ir', False)], '')
    >>> print(plan)  # doctest: +ELLIPSIS
    Plan:    run new, recipe demo, challenge mavic-t-2026, on cpu
      rgb2ir  grayscale: nothing to train; predict ...
    Nothing stands in the way.
    """
    asked = _request(**{name: value for name, value in locals().items() if name != "measure"})
    from pbvs import pipeline

    return pipeline.plan(asked, measure)


def score(
    run: str | StrPath | RunFolder | None = None,
    split: str = "val",
    *,
    data: StrPath | None = None,
    manifests: StrPath = MANIFESTS,
    submissions: StrPath = SUBMISSIONS,
    protocol: str | StrPath | Protocol | None = None,
    weights: StrPath | None = None,
    lpips_net: str | None = None,
    device: str = "auto",
    jobs: int = 1,
    fid: bool = False,
    baselines: bool = True,
) -> Scores:
    """Score a run (without one, that worked on last) against the held-out targets of `split`.

    `lpips_net` takes the place of the protocol's network; "random" is no LPIPS. `baselines` scores the inputs as they
    are, too. `Run.report` makes the page. Raises PbvsError when there is no run, data, manifest or weights.

    >>> scores = pbvs.score("gray", data="data", manifests="manifests", lpips_net="random", baselines=False)
    >>> bool(0 < scores.tasks.loc["rgb2ir", "rmse"] < 1)
    True
    >>> {"name", "location", "score", "rmse", "psnr", "ssim"} <= set(scores.images.columns)
    True
    """
    from pbvs.evaluation import evaluate

    return evaluate.score(
        _run(run, submissions).existing(),
        split,
        root=_data(data, manifests),
        manifests=Path(manifests),
        protocol=_named(protocol),
        weights=_path(weights),
        lpips_net=lpips_net,
        device=device,
        jobs=jobs,
        fid=fid,
        baselines=baselines,
    )


def compare(
    before: str | StrPath | RunFolder,
    after: str | StrPath | RunFolder,
    *,
    submissions: StrPath = SUBMISSIONS,
    anyway: bool = False,
) -> Comparison:
    """Compare two scored runs image by image; `anyway` compares what they share though rules or images differ.

    Raises PbvsError when a run has no scores, or their numbers do not mean the same.

    >>> pbvs.compare("gray", "bright").combined.verdict in ("better", "worse", "open")
    True
    """
    from pbvs.evaluation.compare import compare as compare_runs

    return compare_runs(_run(before, submissions), _run(after, submissions), anyway=anyway)


def calibrate(
    run: str | StrPath | RunFolder | None = None,
    tasks: Sequence[str] | None = None,
    *,
    data: StrPath | None = None,
    manifests: StrPath = MANIFESTS,
    submissions: StrPath = SUBMISSIONS,
    protocol: str | StrPath | Protocol | None = None,
    weights: StrPath | None = None,
    lpips_net: str | None = None,
    device: str = "auto",
    pairs: int = 24,
    write: bool = True,
) -> list[Calibration]:
    """Fit the factors of a run's grayscale stages on `pairs` training pairs and, with `write`, set them in its recipe.

    >>> how = {"data": "data", "manifests": "manifests", "lpips_net": "random"}
    >>> found = pbvs.calibrate("gray", ["rgb2ir"], pairs=4, write=False, **how)
    >>> found[0].task, found[0].after.intensity > 0
    ('rgb2ir', True)
    """
    from pbvs.devices import resolve_device
    from pbvs.experiments import calibrate as calibration

    return calibration.calibrate(
        _run(run, submissions),
        tasks,
        root=_data(data, manifests),
        manifests=Path(manifests),
        protocol=_named(protocol),
        weights=_path(weights),
        lpips_net=lpips_net,
        device=resolve_device(device),
        pairs=pairs,
        write=write,
    )


def package(
    run: str | StrPath | RunFolder | None = None,
    *,
    data: StrPath | None = None,
    manifests: StrPath = MANIFESTS,
    submissions: StrPath = SUBMISSIONS,
    split: str = "test",
    tasks: Sequence[str] = (),
    sources: Mapping[str, str | StrPath | RunFolder] | None = None,
    modes: Mapping[str, str] | None = None,
    form: Literal["png", "tiff"] | None = None,
    extra_data: bool | None = None,
    description: str | None = None,
    allow_stale: bool = False,
) -> Path:
    """Zip a run's predictions as the challenge asks, check the zip, and return its path.

    `sources` takes a task from another run, `modes` writes one in one band or three ("L", "RGB"), `form` is the
    challenge's where none is named. Stale predictions are refused unless `allow_stale`. An archive that would be
    rejected is not kept: PbvsError says why, and the earlier one stays.

    >>> pbvs.package("gray", manifests="manifests", data="data", tasks=["rgb2ir"]).name
    'gray.zip'
    """
    from pbvs.submission import package as packaging

    chosen, known = _run(run, submissions), Path(manifests)
    inputs = packaging.inputs_of(known, _path(data), split, chosen.challenge())
    plan = packaging.make_plan(
        chosen,
        inputs,
        split=split,
        tasks=tasks,
        others={task: _run(other, submissions) for task, other in (sources or {}).items()},
        modes=modes,
        form=form,
        extra_data=extra_data,
        description=description,
        manifests=None if allow_stale else known,
    )
    return packaging.write_package(plan, inputs)[0]


def load_model(
    run: str | StrPath | RunFolder,
    task: str,
    *,
    submissions: StrPath = SUBMISSIONS,
    device: str = "auto",
    rule: str | None = None,
) -> Model:
    """Load a run's trained model of a task, ready to be called with arrays, paths, or lists of them.

    `rule` says how numbers become [0, 1] ("full:4095", "window:-25:0", ...). Without it files are read as the training
    images of their sample type were; where there were none, or by "auto", a rule is found from the files. Raises
    PbvsError when there is no such model.

    >>> model = pbvs.load_model("gray", "rgb2ir")
    >>> model(np.full((40, 60, 3), 128, np.uint8)).shape
    (40, 60, 1)
    >>> [image.shape for image in model([np.zeros((8, 8, 3)), np.ones((9, 7, 3))])]
    [(8, 8, 1), (9, 7, 1)]
    """
    from pbvs.devices import resolve_device
    from pbvs.translators import load_translator
    from pbvs.translators.scenes import Model, told_rules

    folder = _run(run, submissions).existing()
    chosen = folder.recipe()
    translator = load_translator(folder, chosen, task, resolve_device(device))
    trained = None if rule == "auto" else read_metadata(folder.model_metadata_file(task)).get("rules", {})
    return Model(translator, chosen, told_rules(rule), trained)


# --- What the functions above are called with, brought to what those below them take.


def _run(run: str | StrPath | RunFolder | None, submissions: StrPath) -> RunFolder:
    """Return a run by its name, by its folder, or the one worked on last."""
    if isinstance(run, RunFolder):
        return run
    if run is None:
        return choose_folder(None, Path(submissions))
    path = Path(run)
    return RunFolder(path.name, path.parent) if len(path.parts) > 1 else RunFolder(str(run), Path(submissions))


def _request(
    recipe: str | StrPath | Recipe | None,
    run: str | StrPath | RunFolder | None = None,
    data: StrPath | None = None,
    manifests: StrPath = MANIFESTS,
    submissions: StrPath = SUBMISSIONS,
    weights: StrPath | None = None,
    challenge: str | StrPath | None = None,
    **rest: Any,
) -> Request:
    """Return what the pipeline is asked for; the recipe is for the challenge asked for, or the manifests' own."""
    from pbvs.data.build import challenge_of
    from pbvs.pipeline import Request

    asked = None if challenge is None else str(challenge)
    if recipe is not None and not isinstance(recipe, Recipe):
        recipe = load_recipe(Path(recipe), asked, asked or challenge_of(Path(manifests)))
    folder = None if run is None else _run(run, submissions)
    return Request(
        recipe,
        run=folder.name if folder else None,
        root=_data(data, manifests),
        manifests=Path(manifests),
        submissions=folder.submissions if folder else Path(submissions),
        weights=_path(weights),
        challenge=asked,
        **rest,
    )


def _path(path: StrPath | None) -> Path | None:
    return None if path is None else Path(path)


def _named(protocol: str | StrPath | Protocol | None) -> str | Path | Protocol | None:
    return Path(protocol) if isinstance(protocol, PathLike) else protocol


def _data(data: StrPath | None, manifests: StrPath) -> Path:
    from pbvs.data.build import find_root

    return find_root(_path(data), Path(manifests))
