"""How bright the images are, by task and split, from a sample; and whether the test inputs are another world.

A network that learnt from images twice as bright as the test's makes everything too bright; so it is said early. So is
what a rule clips, and how much of the images holds no data.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from pbvs.challenge import Challenge, Modality
from pbvs.data.cache import FileCache
from pbvs.data.catalog import Catalog, Entry
from pbvs.data.formats import gdal
from pbvs.data.images import read_samples
from pbvs.data.intensity import Group, RuleTable, bands_of, clipped_share, group_of, holds_data, to_unit
from pbvs.data.manifest import Pair, Pairs
from pbvs.devices import in_chunks
from pbvs.errors import PbvsError, of_data
from pbvs.files import inside
from pbvs.logs import track
from pbvs.seeds import evenly_spaced

Figures = NDArray[np.float64]  # (64 + 4,): a histogram of brightness, share clipped, share empty, least, largest number

K = TypeVar("K", bound=Hashable)

BINS = 64
SIDE = 1024  # pixels each way of an image, spread over it
SAMPLED = 24  # images of each task, split and role
OF_A_GROUP = 8  # images of each archive, modality and sample type
CLIPPED, EMPTY = 0.05, 0.5  # shares above which a sentence is said; a window by percentiles clips 0.02
BRIGHTER = 1.25  # ratio of mean brightness from which a warning is given
APART = 0.04  # and difference of the means, of 1
VERSION = "brightness 2"


class Want(NamedTuple):
    """An image to measure, and as what."""

    path: str
    modality: str
    rule: str


@dataclass
class Brightness:
    """The histogram of a group of images' valid pixels; every image counts the same."""

    counts: NDArray[np.float64]  # (64,) share of pixels by brightness, summed over the images
    images: int = 0
    clipped: float = 0.0  # share of the valid numbers outside of what the rule maps to 0..1
    empty: float = 0.0  # share of pixels without data
    low: float = np.inf  # the least and the largest valid number, as the files have them
    high: float = -np.inf

    @property
    def mean(self) -> float:
        """Mean brightness, 0 to 1."""
        return float(self.counts @ _centres() / max(self.counts.sum(), 1e-12))

    @property
    def deviation(self) -> float:
        """Standard deviation of the brightness."""
        spread = (_centres() - self.mean) ** 2
        return float(np.sqrt(self.counts @ spread / max(self.counts.sum(), 1e-12)))

    def as_json(self) -> dict[str, Any]:
        """Return count, mean, deviation and the histogram as shares."""
        shares = self.counts / max(self.counts.sum(), 1e-12)
        figures = {name: round(getattr(self, name), 4) for name in ("mean", "deviation", "clipped", "empty")}
        return {"images": self.images, **figures, "histogram": [round(float(share), 5) for share in shares]}


Table = dict[str, dict[str, Brightness]]  # what -> split -> brightness


def measure(
    root: Path, pairs: Pairs, cache: FileCache | None = None, jobs: int = 1, *, challenge: Challenge
) -> tuple[Table, Table]:
    """Return the brightness by task's inputs and by modality, each by split, from a sample of every manifest.

    `cache` remembers what was measured as long as the images stay what they were.
    """
    tasks = challenge.tasks
    wants = {
        (key, role): _sample(rows, role, getattr(tasks[key[0]], role))
        for key, rows in pairs.items()
        for role in ("source", "target")
    }
    every = sorted({want for group in wants.values() for want in group})
    figures = _figures(root, every, cache, jobs, challenge)
    inputs: Table = {}
    modalities: Table = {}
    for ((task, split), role), group in wants.items():
        for found in (figures[want] for want in group if want in figures):
            modality = getattr(tasks[task], role)
            _add(modalities.setdefault(modality, {}), split, found)
            if role == "source":
                _add(inputs.setdefault(task, {}), split, found)
    return inputs, modalities


def measure_groups(
    catalog: Catalog, intensity: RuleTable, cache: FileCache | None = None, jobs: int = 1
) -> dict[Group, Brightness]:
    """Return the brightness of each archive's modalities by the type of their samples, from a few images of each."""
    members: dict[Group, list[Entry]] = defaultdict(list)
    for entry in catalog.entries:
        members[group_of(entry)].append(entry)
    wants = {
        Want(entry.path, group[1], intensity[group]): group
        for group, entries in sorted(members.items())
        for entry in evenly_spaced(entries, OF_A_GROUP)
    }
    groups: dict[Group, Brightness] = {}
    for want, found in _figures(catalog.root, [*wants], cache, jobs, catalog.challenge).items():
        _add(groups, wants[want], found)
    return groups


def doubts_of(groups: Mapping[Group, Brightness], intensity: RuleTable) -> list[str]:
    """Return a sentence for each archive and modality of which much is clipped or holds no data."""
    sentences = []
    for group, found in groups.items():
        archive, modality, kind = group
        what = f"{archive}: of its {modality} images ({kind})"
        if found.clipped > CLIPPED:
            sentences.append(
                f"{what} {found.clipped:.0%} of the numbers lie outside of {intensity[group]} and are clipped; "
                f'a recipe may set another under [radiometry.archives."{archive}"].'
            )
        if found.empty > EMPTY:
            sentences.append(f"{what} {found.empty:.0%} of the pixels hold no data.")
    return sentences


def warnings_of(inputs: Table) -> list[str]:
    """Return a sentence for each task whose test or official inputs differ in brightness from its training inputs."""
    sentences = []
    for task, splits in inputs.items():
        if "train" not in splits or "test" not in splits:
            continue
        train, test = splits["train"].mean, splits["test"].mean
        ratio = test / max(train, 1e-6)
        if abs(test - train) >= APART and not 1 / BRIGHTER < ratio < BRIGHTER:
            sentences.append(
                f"{task}: the test inputs are {ratio:.2f} times as bright as the training inputs "
                f"({test:.3f} against {train:.3f}); a model may not carry over unchanged."
            )
    return sentences


def _sample(pairs: Sequence[Pair], role: str, modality: str) -> list[Want]:
    usable = pairs if role == "source" else [pair for pair in pairs if pair.target]
    chosen = evenly_spaced(usable, SAMPLED)
    return [Want(getattr(pair, role), modality, getattr(pair, f"{role}_rule")) for pair in chosen]


def _add(table: dict[K, Brightness], key: K, found: Figures) -> None:
    entry = table.setdefault(key, Brightness(np.zeros(BINS)))
    counts, (clipped, empty, low, high) = found[:BINS], found[BINS:]
    entry.counts += counts / max(counts.sum(), 1)
    entry.images += 1
    entry.clipped += (clipped - entry.clipped) / entry.images
    entry.empty += (empty - entry.empty) / entry.images
    entry.low, entry.high = min(entry.low, float(low)), max(entry.high, float(high))


def _figures(
    root: Path, wants: Sequence[Want], cache: FileCache | None, jobs: int, challenge: Challenge
) -> dict[Want, Figures]:
    cache = cache or FileCache(None, root)
    stamps = {want: cache.stamp(want.path) for want in wants}
    known = {want: _counts(cache.get(_kind_of(want), want.path, stamps[want])) for want in wants}
    missing = [want for want, counts in known.items() if counts is None]
    found = in_chunks(partial(_histograms, root, challenge), missing, jobs, few=64, chunk=16)
    for want, counts in zip(missing, track(found, "measuring brightness", len(missing)), strict=True):
        known[want] = counts
        if counts is not None:
            cache.put(_kind_of(want), want.path, stamps[want], " ".join(f"{number:.9g}" for number in counts))
    return {want: counts for want, counts in known.items() if counts is not None}


def _kind_of(want: Want) -> str:
    return f"{VERSION} {want.modality} {want.rule}"


def _histograms(root: Path, challenge: Challenge, wants: Sequence[Want]) -> list[Figures | None]:
    with gdal():
        return [_histogram(root, challenge.modalities[want.modality], want) for want in wants]


def _histogram(root: Path, modality: Modality, want: Want) -> Figures | None:
    """Return an image's figures, the brightness being that of its bands' mean; None where it cannot be read."""
    path = inside(root, want.path)
    try:
        values, valid = read_samples(path, lambda header: bands_of(header, modality), SIDE)[:2]
    except PbvsError as error:
        of_data(error)
        return None
    if (told := holds_data(values, want.rule)) is not None:
        valid = valid & told
    unit = to_unit(values, want.rule, valid).mean(axis=2)[valid]
    counts = np.histogram(unit, BINS, (0.0, 1.0))[0].astype(np.float64)
    seen = values[valid]
    low, high = (float(seen.min()), float(seen.max())) if seen.size else (np.inf, -np.inf)
    return np.array([*counts, clipped_share(values, want.rule, valid), 1 - float(valid.mean()), low, high])


def _counts(text: str | None) -> Figures | None:
    """Return an image's figures as the cache has them; None when it has none that are whole."""
    try:
        counts = np.array((text or "").split(), np.float64)
    except ValueError:
        return None
    return counts if counts.shape == (BINS + 4,) else None


def _centres() -> NDArray[np.float64]:
    return (np.arange(BINS) + 0.5) / BINS


def as_json(table: Iterable[tuple[str, dict[str, Brightness]]]) -> dict[str, dict[str, Any]]:
    """Return a table as a JSON value."""
    return {what: {split: figure.as_json() for split, figure in splits.items()} for what, splits in table}
