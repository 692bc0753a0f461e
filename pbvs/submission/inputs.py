"""What a submission is compared with: how its files are called, the inputs' names and sizes, and training targets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pbvs.challenge import Challenge, load_challenge
from pbvs.challenge.model import Container
from pbvs.data.align import pair_size
from pbvs.data.catalog import Catalog, Entry, PathInfo, PathReader, natural_key, walk
from pbvs.data.headers import read_header
from pbvs.data.images import read_image
from pbvs.data.manifest import Pair, manifest_path, read_manifest
from pbvs.errors import PbvsError, UsageError, damage_ignored
from pbvs.files import inside
from pbvs.seeds import evenly_spaced
from pbvs.text import printable

SUFFIXES: dict[Container, tuple[str, ...]] = {"png": (".png",), "tiff": (".tiff", ".tif"), "npy": (".npy",)}
FORMATS = {".png": "PNG", ".tiff": "TIFF", ".tif": "TIFF", ".npy": "NPY"}
_FIELD = re.compile(r"\{(task|id|name|location)\}")

JUNK_NAMES = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db", ".directory"})
SAMPLE = 48  # training targets that are read for a task's brightness


class OutputName(NamedTuple):
    """What the name of an image in an archive says."""

    task: str
    key: str  # the path below the task's folder without suffix; a flat archive has all of the path
    suffix: str  # as written, with the dot


class OutputNames:
    """Where the predictions of a challenge lie in an archive.

    >>> from pbvs.challenge import load_challenge
    >>> names = OutputNames(load_challenge("mavic-t-2026"))
    >>> names.path("rgb2ir", names.key("rgb2ir", "7"), ".png"), names.read("rgb2ir/7.png").key
    ('rgb2ir/7.png', '7')
    """

    def __init__(self, challenge: Challenge):
        self.challenge, path = challenge, challenge.outputs.path
        self.folders = {name: task.folder or name for name, task in challenge.tasks.items()}
        self.by_folder = path.startswith("{task}/")  # whether each task has a folder of its own at the root
        self.inner = path.removeprefix("{task}/")  # the path below that folder
        self._expression = self._compiled()

    @property
    def depth(self) -> int:
        """How many parts the path of an image has."""
        return self.challenge.outputs.path.count("/") + 1

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The suffixes, in lower case, of the containers that are taken."""
        outputs = self.challenge.outputs
        return tuple(suffix for kind in (outputs.container, *outputs.accepts) for suffix in SUFFIXES[kind])

    def key(self, task: str, id: str, name: str = "", location: str = "") -> str:
        """Return what tells a prediction from the others of its task: its path without the task's folder and suffix."""
        return self.inner.format(task=self.folders[task], id=id, name=name or id, location=location)

    def path(self, task: str, key: str, suffix: str = "") -> str:
        """Return where a prediction lies in the archive."""
        return f"{self.folders[task]}/{key}{suffix}" if self.by_folder else f"{key}{suffix}"

    def label(self, task: str) -> str:
        """Return what findings about all of a task's images name: its folder, or the task itself."""
        return f"{self.folders[task]}/" if self.by_folder else task

    def channels(self, task: str) -> int:
        """Return how many channels the images of a task have."""
        asked = self.challenge.outputs.channels
        return self.challenge.tasks[task].target_channels if asked == "target" else {"gray": 1, "rgb": 3}[asked]

    def read(self, path: str, known: Mapping[str, Mapping[str, str]] | None = None) -> OutputName | None:
        """Return what a path in the archive says, None when it is no image's.

        Where the path does not say the task, it is the one of which `known` has the key, else the first.
        """
        stem, dot, suffix = path.rpartition(".")
        if not stem or f"{dot}{suffix}".lower() not in self.suffixes:
            return None
        match = self._expression.fullmatch(stem)
        if match is None:
            return None
        key, said = match["key"], match.groupdict()
        folder, tasks = said.get("folder") or said.get("task0"), list(self.folders)
        fits = (t for t in tasks if (self.folders[t] == folder if folder else key in (known or {}).get(t, {})))
        return OutputName(next(fits, tasks[0]), key, f"{dot}{suffix}")

    def _compiled(self) -> re.Pattern[str]:
        names = "|".join(re.escape(folder) for folder in sorted(self.folders.values(), key=len, reverse=True))
        parts = [re.escape(part) for part in _FIELD.split(self.inner)]
        fields = range(1, len(parts), 2)  # what stands between the fields is literal
        tasks = [number for number in fields if parts[number] == "task"]
        for number in fields:
            parts[number] = f"(?P<task{tasks.index(number)}>{names})" if number in tasks else "[^/]+"
        text = "".join(parts)
        head = f"(?P<folder>{names})/" if self.by_folder else ""
        return re.compile(f"{head}(?P<key>{text})")


@dataclass
class Inputs:
    """The inputs of a split by task and key, and the training targets by task; paths are relative to `root`.

    A key is what tells a prediction from the others of its task in an archive (`OutputNames.key`).
    """

    root: Path | None = None
    challenge: Challenge = field(default_factory=load_challenge)
    names: dict[str, Mapping[str, str]] = field(default_factory=dict)
    targets: dict[str, list[str]] = field(default_factory=dict)
    pairs: dict[str, Mapping[str, Pair]] = field(default_factory=dict)  # by key, where they come from a manifest

    def size(self, task: str, key: str) -> tuple[int, int] | None:
        """Return width and height of a prediction at its own size, or None when its input is not known."""
        path, pair = self.path(task, key), self.pairs.get(task, {}).get(key)
        if path is None or self.root is None:
            return None
        if pair is not None and pair.target:  # predicted on the target's grid
            return pair_size(pair, self.root)
        header, scale = read_header(path), self.challenge.tasks[task].scale
        return header.width * scale, header.height * scale

    def path(self, task: str, stem: str) -> Path | None:
        """Return where an input lies, or None when it is not known."""
        relative = self.names.get(task, {}).get(stem, "")
        return inside(self.root, relative) if relative and self.root is not None else None

    def image(self, task: str, stem: str) -> NDArray[np.generic] | None:
        """Return an input's pixels (H, W, C), or None when they cannot be had."""
        path = self.path(task, stem)
        with damage_ignored():
            return None if path is None else read_image(path)
        return None

    def brightness(self, task: str) -> NDArray[np.float64] | None:
        """Return the mean level, 0..255, of a sample of 8-bit training targets, or None when there are none."""
        chosen = evenly_spaced(self.targets.get(task, []), SAMPLE, ends=True) if self.root else []
        means = [mean for name in chosen if self.root and (mean := _mean(inside(self.root, name))) is not None]
        return np.array(means, dtype=np.float64) if means else None


def is_junk(name: str) -> bool:
    """Return whether a path is what macOS, Windows or an editor leaves behind."""
    parts = name.rstrip("/").split("/")
    if "__MACOSX" in parts:
        return True
    return parts[-1].startswith(".") or parts[-1].lower() in JUNK_NAMES or parts[-1].endswith("~")


def from_manifests(
    manifests: Path, root: Path | None, split: str = "test", challenge: Challenge | None = None
) -> Inputs:
    """Return what the manifests know; a task without a manifest has no names.

    In the split val only the pairs that predictions are scored on (all rows) are meant.
    """
    inputs = Inputs(root, challenge or load_challenge())
    out = OutputNames(inputs.challenge)
    for task in inputs.challenge.tasks:
        if manifest_path(manifests, task, split).is_file():
            pairs = read_manifest(manifest_path(manifests, task, split))
            inputs.pairs[task] = {out.key(task, id_of(pair), pair.name, pair.location): pair for pair in pairs}
            inputs.names[task] = {key: pair.source for key, pair in inputs.pairs[task].items()}
            if len(inputs.pairs[task]) < len(pairs):
                raise PbvsError(
                    f"The path {inputs.challenge.outputs.path!r} gives several {task} predictions one name; "
                    "add {name} or {location} to outputs.path in the challenge's file."
                )
        if root is not None and manifest_path(manifests, task, "train").is_file():
            pairs = read_manifest(manifest_path(manifests, task, "train"))
            inputs.targets[task] = sorted({pair.target for pair in pairs if pair.target})
    return inputs


def id_of(pair: Pair) -> str:
    """Return what a prediction is called after: an official input's id, a held-out pair's name, which is unique."""
    return pair.name.removeprefix(f"{pair.location}_") if pair.origin == "official" and pair.location else pair.name


def from_data(root: Path, split: str = "test", challenge: Challenge | None = None) -> Inputs:
    """Return what lies below a data root; raise UsageError when it holds no inputs of the split."""
    inputs = Inputs(root, challenge or load_challenge())
    out = OutputNames(inputs.challenge)
    names: dict[str, dict[str, str]] = {}
    targets: dict[str, list[str]] = {}
    for image in _images(root, inputs.challenge):
        info = image.info
        served = _given_by(info, inputs.challenge) if info.role == "input" or split == "test" else []
        if info.split == split and served:
            for task in served:
                names.setdefault(task, {})[out.key(task, image.id, image.input_name, info.location)] = image.path
        elif info.split == "train" and info.role in ("image", "mosaic"):
            targets.setdefault(info.modality, []).append(image.path)
    if not names:
        raise UsageError(f"{root} holds no folder {split}/<task> with inputs; give the folder of the images to --data.")
    inputs.names = {**names}
    inputs.targets = {name: targets.get(task.target, []) for name, task in inputs.challenge.tasks.items()}
    return inputs


def check_inputs(inputs: Inputs, split: str, tasks: Iterable[str]) -> None:
    """Raise PbvsError naming the first official input that lies below the root and no manifest has, or the reverse.

    An input that could not be read when the manifests were made is in none, and its prediction would be missing.
    """
    if inputs.root is None or split != "test":
        return
    try:
        there = from_data(inputs.root, split, inputs.challenge)
    except UsageError:
        return
    for task in tasks:
        listed, found = inputs.names.get(task, {}), there.names.get(task, {})
        for key in sorted(found.keys() - listed.keys(), key=natural_key) if listed else ():
            raise PbvsError(
                f"The {split} input {printable(found[key])} of {task} is in no manifest, so it has no prediction; see "
                "why in unused.csv beside the manifests, then run `pbvs build-pairs` and `pbvs predict` again."
            )
        further = [image.path for pair in inputs.pairs.get(task, {}).values() for image in pair.more]
        for source in (*listed.values(), *further):
            if not inside(inputs.root, source).is_file():
                raise PbvsError(
                    f"The {split} input {printable(source)} of {task} is not in {inputs.root} any more; put it back, "
                    "or run `pbvs build-pairs` and `pbvs predict` again."
                )


def _given_by(info: PathInfo, challenge: Challenge) -> list[str]:
    """Return the tasks that a test image is an input of: as patterns say, else those whose first source it is."""
    if info.role == "input":
        return [] if info.modality in challenge.tasks[info.task].further else [info.task]
    return [
        name
        for name, task in challenge.tasks.items()
        if info.role == "image" and info.modality == task.source and task.serves(*info.served)
    ]


def _images(root: Path, challenge: Challenge) -> Iterator[Entry]:
    """Yield the images whose paths say what they are; no folder is entered twice, whatever links lead to it."""
    reader = PathReader(challenge)
    for file in sorted(walk(Catalog(root, challenge, strict=False))):
        info = reader.read(file.path)
        if isinstance(info, PathInfo) and not is_junk(file.path):
            yield Entry(file.path, info)


def _mean(path: Path) -> float | None:
    with damage_ignored():
        image = read_image(path)
        return float(image.mean()) if image.dtype == np.uint8 else None
    return None
