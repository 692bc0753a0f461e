"""A protocol with its metrics loaded, measuring images: what of them counts, then every metric of each of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Protocol as Interface

import numpy as np
from numpy.typing import NDArray

from pbvs.errors import PbvsError, of_data
from pbvs.metrics.base import (
    LEVELS,
    Array,
    FeatureMetric,
    Features,
    ImageMetric,
    ImagePair,
    Metric,
    Network,
    SetMetric,
    Setting,
    create,
)
from pbvs.metrics.perceptual import Lpips, LpipsNetwork
from pbvs.metrics.protocol import Protocol

if TYPE_CHECKING:
    from pandas import DataFrame

FIDS = ("64", "192", "768", "2048")


class Cache(Interface):
    """Where the features of targets may be kept, by the network's digest and a target's key."""

    def get(self, network: str, key: str) -> Features | None:
        """Return what was kept, or None."""

    def put(self, network: str, key: str, features: Features) -> None:
        """Keep an image's features."""


@dataclass(slots=True)
class Measured:
    """One image's numbers by metric, and its features by network where a metric of sets needs them."""

    numbers: dict[str, float]
    features: dict[str, tuple[Features, Features]] = field(default_factory=dict)  # prediction's and target's


class Judge:
    """A protocol ready to measure; `extra` are further metrics than its own, `fid` asks for FID and KID.

    Raises PbvsError when weights cannot be had that a term needs; a metric that is only shown is left out instead.
    """

    def __init__(
        self,
        protocol: Protocol,
        weights: Path | None = None,
        device: str = "cpu",
        *,
        extra: Iterable[str] = (),
        fid: bool = False,
        cache: Cache | None = None,
    ):
        self.protocol = protocol
        self.cache, self.device = cache, device
        names = {metric: protocol.resolve(metric) for metric in (*protocol.metrics, *extra)}
        if fid or "fid" in names:  # the layers share the network, and which one the rule means is not always settled
            names |= {"fid": protocol.resolve("fid"), "kid": protocol.resolve("kid")}
            names |= {f"fid-{layer}": f"fid-{layer}" for layer in FIDS}
        setting = Setting(weights, device)
        needed = {term.metric for term in protocol.terms} | set(extra) | (set(names) - set(protocol.shown))
        made = {metric: _made(name, setting, metric in needed) for metric, name in names.items()}
        self.metrics = {metric: found for metric, found in made.items() if isinstance(found, Metric)}
        # Metrics that are only shown and whose weights are missing, and why.
        self.left_out = {metric: why for metric, why in made.items() if isinstance(why, str)}
        self.image_metrics = {name: m for name, m in self.metrics.items() if isinstance(m, ImageMetric)}
        self.feature_metrics = {name: m for name, m in self.metrics.items() if isinstance(m, FeatureMetric)}
        self.set_metrics = {name: m for name, m in self.metrics.items() if isinstance(m, SetMetric)}

    @property
    def networks(self) -> list[Network]:
        """The networks that the metrics need, each once."""
        found = [metric.network for metric in self.feature_metrics.values()]
        found += [metric.network for metric in self.set_metrics.values()]
        return list(dict.fromkeys(found))

    @property
    def lpips(self) -> Lpips | None:
        """What the metric `lpips` is measured with; None where the rule has no such metric."""
        network = self.feature_metrics["lpips"].network if "lpips" in self.feature_metrics else None
        return network.lpips if isinstance(network, LpipsNetwork) else None

    @property
    def lpips_net(self) -> str:
        """The net of the metric `lpips`, "" for none."""
        return self.lpips.net if self.lpips else ""

    @property
    def columns(self) -> tuple[str, ...]:
        """The metrics that each image has."""
        return tuple(name for name in self.metrics if name not in self.set_metrics)

    def measure(self, pairs: Sequence[ImagePair], keys: Sequence[str] = ()) -> list[Measured]:
        """Return every metric of images of one size; `keys` name the targets in the cache, "" for none.

        A number does not depend on the other images. Raises PbvsError when an image cannot be measured.
        """
        found = [Measured({name: self._best(m, pair) for name, m in self.image_metrics.items()}) for pair in pairs]
        views = [_filled(pair) for pair in pairs]
        keys = keys or [""] * len(pairs)
        for network in dict.fromkeys(metric.network for metric in self.feature_metrics.values()):
            for result, features in zip(found, self._features(network, views, keys), strict=True):
                for name, metric in self.feature_metrics.items():
                    if metric.network is network:
                        result.numbers[name] = metric.compare(*features)
        for network in dict.fromkeys(metric.network for metric in self.set_metrics.values()):
            for result, features in zip(found, self._features(network, views, keys), strict=True):
                result.features[network.digest] = features
        return found

    def _features(
        self, network: Network, pairs: Sequence[ImagePair], keys: Sequence[str]
    ) -> list[tuple[Features, Features]]:
        """Return both images' features, in one pass of the network; an equal image has its target's, to the bit."""
        known = [self.cache.get(network.digest, key) if self.cache is not None and key else None for key in keys]
        new = [n for n, features in enumerate(known) if features is None]
        unlike = [n for n, pair in enumerate(pairs) if not pair.equal]
        images = [pairs[n].prediction for n in unlike] + [pairs[n].target for n in new]
        made = network.features(images) if images else []
        for n, features in zip(new, made[len(unlike) :], strict=True):
            known[n] = features
            if self.cache is not None and keys[n]:
                self.cache.put(network.digest, keys[n], features)
        predicted = dict(zip(unlike, made, strict=False))
        targets = [features if features is not None else [] for features in known]
        return [(predicted.get(n, target), target) for n, target in enumerate(targets)]

    def _best(self, metric: ImageMetric, pair: ImagePair) -> float:
        """Return the metric's best value over the shifts that the protocol allows, without the bias if it says so."""
        values = [metric.measure(view) for view in shifted(pair, self.protocol.shifts, self.protocol.bias)]
        return max(values) if metric.higher_is_better else min(values)

    def pair(self, prediction: Array, target: Array, valid: NDArray[np.bool_] | None = None) -> ImagePair:
        """Return what of two images (H, W, C) counts: without the border, as luma, and where `valid` (H, W).

        Raises PbvsError when their shapes differ or nothing is left.
        """
        rule = self.protocol
        mask = valid if rule.pixels == "valid" and valid is not None and not valid.all() else None
        if rule.border:
            inner = slice(rule.border, -rule.border)
            prediction, target = prediction[inner, inner], target[inner, inner]
            mask = None if mask is None else mask[inner, inner]
        made = ImagePair(prediction, target, mask)
        if rule.channels == "luma" and target.shape[2] == 3:
            made = replace(made, prediction=luma(prediction), target=luma(target))
        if rule.value_range == "image":
            counted = made.target if mask is None else made.target[mask]
            made = replace(made, data_range=max(float(counted.max() - counted.min()) / made.levels, 1e-6))
        return made

    def set_numbers(self, measured: Sequence[Measured]) -> dict[str, float]:
        """Return the metrics of sets, for the images that were measured; nothing for fewer than two of them."""
        if len(measured) < 2:
            return {}
        found = {}
        for name, metric in self.set_metrics.items():
            predictions, targets = zip(*(image.features[metric.network.digest] for image in measured), strict=True)
            found[name] = metric.distance(predictions, targets)
            if metric.has_floor and len(targets) >= 4:
                found[f"{name}-floor"] = metric.distance(targets[::2], targets[1::2])
        return found

    def score_images(
        self, predictions: Sequence[Array], targets: Sequence[Array], keys: Sequence[str] = ()
    ) -> DataFrame:
        """Return a row for each image, with a column for each metric and its `score` by the terms that images have.

        Images are (H, W, C) of any sizes: 8 bits as they are submitted, or floating point in [0, 1]; `keys` name the
        targets in the cache. This is what chooses an epoch: `judge.score_images(made, targets)["score"].mean()`.
        Raises PbvsError as `measure` does.
        """
        from pandas import DataFrame

        rule = self.protocol.of_images()
        rows = []
        for prediction, target, key in zip(predictions, targets, keys or [""] * len(targets), strict=True):
            numbers = self.measure([self.pair(prediction, target)], [key])[0].numbers
            rows.append({**numbers, "score": rule.task_score(numbers)})
        return DataFrame(rows, columns=[*self.columns, "score"])


def _made(name: str, setting: Setting, needed: bool) -> Metric | str:
    """Return a metric; or, where it is not needed and its weights are not on this machine, why there is none."""
    try:
        return create([name], setting)[name]
    except PbvsError as error:
        if needed:
            raise
        return of_data(error)


def shifted(pair: ImagePair, reach: int, bias: bool) -> list[ImagePair]:
    """Return the pair with its target moved by every whole shift up to `reach` pixels, over the pixels of all of them.

    With `bias` the mean difference over the pixels that count is added to each prediction (Kelvins PROBA-V, cPSNR).
    """
    if not reach and not bias:
        return [pair]
    height, width = (side - 2 * reach for side in pair.target.shape[:2])
    prediction = pair.prediction[reach : reach + height, reach : reach + width] / pair.levels
    found = []
    for down in range(2 * reach + 1):
        for across in range(2 * reach + 1):
            window = slice(down, down + height), slice(across, across + width)
            target, mask = pair.target[window] / pair.levels, None if pair.mask is None else pair.mask[window]
            difference = target - prediction if mask is None else (target - prediction)[mask]
            moved = prediction + difference.mean() if bias else prediction
            found.append(ImagePair(moved, target, mask, pair.data_range))
    return found


def luma(image: Array) -> NDArray[np.float64]:
    """Return the Y of YCbCr (H, W, 1), 16/255 to 235/255 as ITU-R BT.601 has it, of RGB (H, W, 3)."""
    from skimage.color import rgb2ycbcr

    units = image / LEVELS.get(str(image.dtype), 1.0)
    y: NDArray[np.float64] = rgb2ycbcr(units)[:, :, :1] / 255.0
    return y


def _filled(pair: ImagePair) -> ImagePair:
    """Return the pair with the target's values where no pixel counts: a network sees no mask."""
    if pair.mask is None:
        return pair
    return replace(pair, prediction=np.where(pair.mask[:, :, None], pair.prediction, pair.target), mask=None)
