"""What a metric is, and the registry that knows every metric by its name.

A metric is one class in a module of this folder. Importing the module registers it, and the registry imports all of
them, so that a new file is all that a new metric needs; a protocol can then name it in its terms.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from pbvs import metrics
from pbvs.errors import PbvsError, UsageError

Array = NDArray[Any]
Features = list[Any]  # a network's tensors of one image
LEVELS = {"uint8": 255.0, "uint16": 65535.0}


@dataclass(frozen=True)
class ImagePair:
    """A prediction and its target, (H, W, C) both: 8 or 16 bits, or floating point in [0, 1].

    `mask` (H, W) says which pixels count; None is all of them. `data_range` is the span of values that PSNR and SSIM
    refer to, 1 for [0, 1]. Raises PbvsError when the shapes or types differ, or no pixel counts.
    """

    prediction: Array
    target: Array
    mask: NDArray[np.bool_] | None = None
    data_range: float = 1.0

    def __post_init__(self) -> None:
        if self.prediction.shape != self.target.shape or self.prediction.dtype != self.target.dtype:
            raise PbvsError(
                f"Images of shapes {self.prediction.shape} and {self.target.shape}, types {self.prediction.dtype} and "
                f"{self.target.dtype}, cannot be compared."
            )
        if not self.target.size or (self.mask is not None and not self.mask.any()):
            raise PbvsError(f"No pixel of an image of shape {self.target.shape} counts, so there is no score.")

    @property
    def levels(self) -> float:
        """The value that stands for 1: 255, 65535, or 1 for floating point."""
        return LEVELS.get(str(self.target.dtype), 1.0)

    @property
    def equal(self) -> bool:
        """Whether the prediction is the target, pixel for pixel."""
        return np.array_equal(self.prediction, self.target)

    def units(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return prediction and target as float64 in [0, 1]."""
        return self.prediction / self.levels, self.target / self.levels


class Network(ABC):
    """A frozen network whose features several metrics may share; `digest` names its weights."""

    digest: str

    @abstractmethod
    def features(self, images: Sequence[Array]) -> list[Features]:
        """Return the features of one image or more, (H, W, 1 or 3) of one size, each by itself."""


@dataclass
class Setting:
    """Where metrics find weights and on which device their networks run; networks are loaded once."""

    weights: Path | None = None
    device: str = "cpu"
    _networks: dict[str, Network] = field(default_factory=dict)

    def network(self, name: str, load: Callable[[], Network]) -> Network:
        """Return the network called `name`, loaded by `load` the first time."""
        if name not in self._networks:
            self._networks[name] = load()
        return self._networks[name]

    def find(self, net: str) -> Path:
        """Return the file of a network's weights; raises PbvsError with the command that fetches it."""
        from pbvs.metrics import weights

        return weights.find(net, self.weights)


class Metric(ABC):
    """A number for an image (`ImageMetric`), for features of an image, or for a set of images (`SetMetric`).

    `names` are those that protocols use; most metrics have one. `bounds` are the least and the largest value.
    """

    names: ClassVar[tuple[str, ...]]
    higher_is_better: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float]] = (0.0, math.inf)

    def __init__(self, name: str, setting: Setting):
        self.name = name


class ImageMetric(Metric):
    """A metric of one image's pixels."""

    @abstractmethod
    def measure(self, pair: ImagePair) -> float:
        """Return the number of one prediction and its target."""


class FeatureMetric(Metric):
    """A metric of one image that compares a network's features, so that a target's can be kept."""

    network: Network

    @abstractmethod
    def compare(self, prediction: Features, target: Features) -> float:
        """Return the number of two images from their features, without regard to any other image."""


class SetMetric(Metric):
    """A metric of a set of predictions and a set of targets, from a network's features of each image.

    With `has_floor` the distance of two halves of the targets is told beside it, as `<name>-floor`: what no method
    can be expected to go below.
    """

    network: Network
    has_floor: ClassVar[bool] = False

    @abstractmethod
    def distance(self, predictions: Sequence[Features], targets: Sequence[Features]) -> float:
        """Return the number of two sets of images; raises PbvsError when there are too few."""


_REGISTRY: dict[str, type[Metric]] = {}
M = TypeVar("M", bound=type[Metric])


def register(metric: M) -> M:
    """Add a metric's class to the registry under all of its names (a decorator)."""
    for name in metric.names:
        _REGISTRY[name] = metric
    return metric


def registry() -> Mapping[str, type[Metric]]:
    """Return every metric's class by name, after importing all modules of this folder."""
    for module in pkgutil.iter_modules(metrics.__path__):
        importlib.import_module(f"{metrics.__name__}.{module.name}")
    return _REGISTRY


def get_metric(name: str) -> type[Metric]:
    """Return a metric's class; raise UsageError naming those there are.

    >>> get_metric("psnr").higher_is_better
    True
    """
    known = registry()
    if name not in known:
        raise UsageError(f"There is no metric {name!r}; the metrics are {', '.join(sorted(known))}.")
    return known[name]


def create(names: Iterable[str], setting: Setting | None = None) -> dict[str, Metric]:
    """Return metrics ready to measure, by name; raises PbvsError when weights are missing, UsageError for no metric."""
    setting = setting or Setting()
    return {name: get_metric(name)(name, setting) for name in names}
