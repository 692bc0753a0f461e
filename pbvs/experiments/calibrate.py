"""Find the numbers of a grayscale stage on training pairs: in closed form for L2, then by search on the protocol.

The paper chose its factors by hand (section 3.5: 1.3 for RGB2IR, 1.15 for SAR2IR). The closed form minimises the
squared error of `factor * gray` before clipping, k = sum(g t) / sum(g g); with weights and offset it is ordinary
least squares. What is searched is the protocol's own score, on 8-bit images, without its FID term.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pbvs.challenge import load_challenge
from pbvs.data.align import open_pair
from pbvs.data.build import find_root
from pbvs.data.images import to_uint8
from pbvs.data.manifest import Pair, manifest_path, read_manifest
from pbvs.devices import resolve_device
from pbvs.errors import PbvsError, UsageError, of_data
from pbvs.files import sweep, write_json
from pbvs.lineage import Lineage, calibration_parts
from pbvs.logs import say, track
from pbvs.metrics.base import Features
from pbvs.metrics.judge import Judge as Measure
from pbvs.metrics.protocol import Protocol, choose_protocol
from pbvs.recipe import Recipe, parse_recipe
from pbvs.run import MANIFESTS, Run, locked
from pbvs.seeds import generator
from pbvs.training.validation import write_curves
from pbvs.translators import make_translator
from pbvs.translators.base import ImageArray, Translator
from pbvs.translators.grayscale import ToneStage
from pbvs.translators.grayscale.translator import grayscale

CROP = 256  # pixels a side of the middle of each image that is looked at
LOW, HIGH = 0.6, 1.6  # of the closed form's factor: where the search looks
GAMMAS = (0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0)
GRID, FINER = 9, 2  # points of the first search, and how often it is narrowed


@dataclass(frozen=True)
class Tone:
    """The numbers of a stage: intensity * (weighed channels)^gamma + offset."""

    intensity: float
    channel_weights: tuple[float, ...] = ()
    offset: float = 0.0
    gamma: float = 1.0

    def apply(self, image: ImageArray) -> NDArray[np.uint8]:
        """Return what the stage would submit, (H, W, 1) in 8 bits."""
        return to_uint8(grayscale(image, **asdict(self)))


@dataclass
class Sample:
    """A pair as the stage sees it: its input, or what the first model made of it; the target; its key in memory."""

    source: ImageArray
    target: NDArray[np.uint8]
    valid: NDArray[np.bool_]
    key: str = ""


@dataclass
class Point:
    """What one tone scores, over a set of samples."""

    intensity: float
    score: float
    rmse: float
    lpips: float


@dataclass
class Calibration:
    """What was found for one task, and what it gains."""

    task: str
    before: Tone
    closed: Tone
    after: Tone
    images: int
    train: dict[str, float]  # score of before, closed, after on training pairs
    held_out: dict[str, float]  # the same on held-out pairs, which had no say
    held_out_images: int
    curve: list[Point] = field(default_factory=list)


class _Memory:
    """Targets' features, while there is room for them."""

    MOST = 512 << 20  # bytes

    def __init__(self) -> None:
        self.kept: dict[str, Features] = {}
        self.used = 0

    def get(self, network: str, key: str) -> Features | None:
        """Return what was kept of a target."""
        return self.kept.get(key)

    def put(self, network: str, key: str, features: Features) -> None:
        """Keep a target's features."""
        self.used += sum(tap.numel() * 4 for tap in features)
        if self.used < self.MOST:
            self.kept[key] = features


class Judge:
    """The protocol's score of a tone over samples."""

    def __init__(self, protocol: Protocol, weights: Path | None, device: str):
        self.protocol = protocol.of_images().model_copy(update={"shown": ("rmse", "lpips")})
        self.measure = Measure(self.protocol, weights, device, cache=_Memory())
        self.numbers = itertools.count(1)

    @property
    def label(self) -> str:
        """What the perceptual number is called."""
        return self.measure.lpips.label if self.measure.lpips else ""

    def sample(self, source: ImageArray, target: ImageArray, valid: NDArray[np.bool_]) -> Sample:
        """Return the middle of a pair with its target's features."""
        starts = [max(0, (length - CROP) // 2) for length in target.shape[:2]]
        rows, columns = (slice(start, start + CROP) for start in starts)
        pixels = to_uint8(target[rows, columns])
        return Sample(source[rows, columns], pixels, valid[rows, columns], str(next(self.numbers)))

    def point(self, tone: Tone, samples: Sequence[Sample]) -> Point:
        """Return the mean score, RMSE and LPIPS of a tone."""
        made = [tone.apply(sample.source) for sample in samples]
        targets, keys = [sample.target for sample in samples], [sample.key for sample in samples]
        means = self.measure.score_images(made, targets, keys=keys).mean()
        return Point(tone.intensity, *(float(means[name]) for name in ("score", "rmse", "lpips")))


def calibrate(
    run: Run,
    tasks: Sequence[str] | None = None,
    *,
    begin: Recipe | None = None,
    root: Path | None = None,
    manifests: Path = MANIFESTS,
    protocol: str | Path | Protocol | None = None,
    weights: Path | None = None,
    lpips_net: str | None = None,
    device: str = "cpu",
    pairs: int = 24,
    extras: Sequence[str] = (),
    write: bool = True,
) -> list[Calibration]:
    """Calibrate the grayscale stages of a run and, unless told not to, write the result into its recipe.

    A run that is not there yet is begun with the recipe `begin`. `extras` are further numbers to fit: channels,
    offset, gamma. `pairs` training pairs are looked at, spread over locations. Beside the recipe,
    `calibration/<task>.json` and `.png` say what was found. Raises UsageError for a stage that has nothing to
    calibrate, PbvsError when a first model, data or trunk is missing.
    """

    def current() -> Recipe:
        """Return the recipe; asked again under the lock, as another command may have written it until then."""
        return begin if begin is not None and not run.exists() else run.recipe()

    for task in _chosen(current(), tasks):  # what cannot be is told before the networks are loaded
        for name in current().stages[task].requires:
            if not run.model_metadata_file(name).is_file():
                again = f"`pbvs predict --run {run.name} --task {name}`"
                raise PbvsError(f"{task} needs the model of {name} first: {again}.")
        Lineage(run, current(), manifests).manifest(task, "train")
    data_root, torch_device = find_root(root, manifests), resolve_device(device)
    usual = choose_protocol(run.challenge(), protocol)
    rule = usual.settle(lpips_net, weights)
    if not lpips_net and (note := usual.other_net(rule)):
        say(note)
    judge = Judge(rule, weights, torch_device)
    with locked(run.folder):
        sweep(run.folder)
        recipe = current()
        found = []
        for task in _chosen(recipe, tasks):
            first = _first_model(run, recipe, task, torch_device)
            train, held_out = (
                _samples(task, split, judge, first, recipe, data_root, manifests, pairs) for split in ("train", "val")
            )
            tone = Tone(**recipe.stages[task].model_dump(include=set(ToneStage.TONE)))
            found.append(fit(task, tone, judge, train, held_out, extras))
        if write:
            _write(run, recipe, found, rule, judge, manifests)
    return found


def _chosen(recipe: Recipe, tasks: Sequence[str] | None) -> list[Any]:
    able = [task for task, stage in recipe.stages.items() if isinstance(stage, ToneStage)]
    wrong = [task for task in tasks or () if load_challenge(recipe.challenge).task(task).name not in able]
    if wrong or not able:
        named = ", ".join(able) or "none"
        raise UsageError(f"Only grayscale and cascade stages can be calibrated; in this recipe: {named}.")
    return [task for task in able if not tasks or task in tasks]


def _first_model(run: Run, recipe: Recipe, task: str, device: str) -> Translator | None:
    """Return the trained model that a cascade begins with, None for a stage that sees the input itself."""
    if not (requires := recipe.stages[task].requires):
        return None
    name = requires[0]
    translator = make_translator(load_challenge(recipe.challenge).task(name), recipe.stages[name], None, device)
    translator.load(run.model(name))
    return translator


def _samples(
    task: str,
    split: str,
    judge: Judge,
    first: Translator | None,
    recipe: Recipe,
    root: Path,
    manifests: Path,
    count: int,
) -> list[Sample]:
    known = [pair for pair in read_manifest(manifest_path(manifests, task, split)) if pair.target]
    samples = []
    for pair in track(_spread(known, count, recipe.seed), f"{task}: reading {split} pairs", unit="pair"):
        try:
            opened = open_pair(pair, root, recipe.radiometry)
        except PbvsError as error:
            say(f"{pair.name} was left out: {of_data(error)}")
            continue
        seen = first.task.source_channels if first else load_challenge(recipe.challenge).task(task).first_channels
        source = opened.source[:, :, :seen]
        source = first.translate([source])[0] if first else source
        if opened.target is not None:
            samples.append(judge.sample(source, opened.target, opened.valid))
    if split == "train" and not samples:
        raise PbvsError(f"There are no training pairs of {task} in {manifests}; make them with `pbvs build-pairs`.")
    return samples


def _spread(pairs: Sequence[Pair], count: int, seed: int) -> list[Pair]:
    """Return `count` pairs, one of each location before a second of any."""
    turns: Counter[str] = Counter()
    ranked: list[tuple[int, Pair]] = []
    for index in generator(seed, "calibrate").permutation(len(pairs)):
        turns[pairs[index].location] += 1
        ranked.append((turns[pairs[index].location], pairs[index]))
    return [pair for _, pair in sorted(ranked, key=lambda item: item[0])[:count]]


def fit(
    task: str, before: Tone, judge: Judge, train: Sequence[Sample], held_out: Sequence[Sample], extras: Sequence[str]
) -> Calibration:
    """Return the best tone for the judge on `train`, starting from the closed form; `held_out` only looks on."""
    closed = closed_form(train, "channels" in extras, "offset" in extras)
    start = closed
    if "gamma" in extras:
        bent = [_with_gamma(train, closed, gamma) for gamma in GAMMAS]
        start = min(bent, key=lambda tone: judge.point(tone, train).score)
    curve, found = search(start, lambda tone: judge.point(tone, train))
    tones = {"before": before, "closed": closed, "after": found}
    scores = {name: judge.point(tone, train).score for name, tone in tones.items()}
    best = min(tones, key=lambda name: (scores[name], name != "before"))
    tones["after"], scores["after"] = tones[best], scores[best]
    seen = {name: judge.point(tone, held_out).score for name, tone in tones.items()} if held_out else {}
    return Calibration(task, before, closed, tones["after"], len(train), scores, seen, len(held_out), curve)


def closed_form(samples: Sequence[Sample], channels: bool = False, offset: bool = False) -> Tone:
    """Return the least squares of the target on gray (or on the channels), with or without a constant."""
    columns = [_columns(sample, channels, offset) for sample in samples]
    size = columns[0].shape[1]
    products, sums = np.zeros((size, size)), np.zeros(size)
    for sample, values in zip(samples, columns, strict=True):
        products += values.T @ values
        sums += values.T @ (sample.target[sample.valid][:, 0] / 255.0)
    solution = np.linalg.lstsq(products, sums, rcond=None)[0]
    constant = float(solution[-1]) if offset else 0.0
    shares = solution[: size - offset]
    total = float(shares.sum())
    weights = tuple(float(share / total) for share in shares) if channels and total > 0 else ()
    return _tidy(Tone(total, weights, constant))


def _columns(sample: Sample, channels: bool, offset: bool) -> NDArray[np.float64]:
    values = sample.source[sample.valid].astype(np.float64)
    values = values if channels else values.mean(1, keepdims=True)
    return np.hstack([values, np.ones((len(values), 1))]) if offset else values


def _with_gamma(samples: Sequence[Sample], tone: Tone, gamma: float) -> Tone:
    """Return the tone with another gamma and the factor that is best for L2 with it."""
    above = below = 0.0
    for sample in samples:
        gray = grayscale(sample.source, 1.0, tone.channel_weights, gamma=gamma)[sample.valid].astype(np.float64)
        above += float((gray * (sample.target[sample.valid] / 255.0 - tone.offset)).sum())
        below += float((gray * gray).sum())
    return _tidy(Tone(above / max(below, 1e-12), tone.channel_weights, tone.offset, gamma))


def _tidy(tone: Tone) -> Tone:
    """Return the tone within what a recipe allows, rounded to what matters in 8 bits."""
    weights = tuple(round(weight, 4) for weight in tone.channel_weights)
    intensity, offset = min(max(tone.intensity, 0.01), 10.0), min(max(tone.offset, -1.0), 1.0)
    return Tone(round(intensity, 4), weights, round(offset, 4), round(tone.gamma, 4))


def search(start: Tone, judge: Callable[[Tone], Point]) -> tuple[list[Point], Tone]:
    """Return every point looked at, by factor, and the tone that scores lowest: a grid, narrowed around its best."""
    found: dict[float, Point] = {}
    low, high, count = start.intensity * LOW, start.intensity * HIGH, GRID
    for _ in range(FINER + 1):
        for intensity in np.linspace(low, high, count):
            tone = _tidy(replace(start, intensity=float(intensity)))
            if tone.intensity not in found:
                found[tone.intensity] = judge(tone)
        best = min(found.values(), key=lambda point: point.score)
        step = (high - low) / (count - 1)
        low, high, count = best.intensity - step, best.intensity + step, 5
    points = sorted(found.values(), key=lambda point: point.intensity)
    return points, _tidy(replace(start, intensity=best.intensity))


def _write(
    run: Run, recipe: Recipe, found: Sequence[Calibration], rule: Protocol, judge: Judge, manifests: Path
) -> None:
    tables = recipe.model_dump(mode="json")
    for result in found:
        tables["stages"][result.task].update(asdict(result.after))
        metadata = {"protocol": rule.name, "lpips": judge.label, **asdict(result)}
        metadata["parts"] = calibration_parts(Lineage(run, recipe, manifests), result.task)
        write_json(run.folder / "calibration" / f"{result.task}.json", metadata)
        curves = {name: [(p.intensity, getattr(p, name)) for p in result.curve] for name in ("score", "rmse", "lpips")}
        write_curves(run.folder / "calibration" / f"{result.task}.png", curves, "factor", "on training pairs")
    run.write_recipe(parse_recipe(tables, str(run.recipe_file)))
