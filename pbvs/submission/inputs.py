"""What predictions are compared with: the test inputs' names and sizes, and how bright training targets are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pbvs.challenge import Challenge, load_challenge
from pbvs.data.align import pair_size
from pbvs.data.catalog import Catalog, walk
from pbvs.data.headers import read_header
from pbvs.data.images import read_image
from pbvs.data.layout import PathInfo, PathReader, natural_key
from pbvs.data.manifest import Pair, manifest_path, read_manifest
from pbvs.errors import PbvsError, UsageError
from pbvs.files import inside
from pbvs.seeds import evenly_spaced
from pbvs.submission.outputs import OutputNames
from pbvs.text import printable

JUNK_NAMES = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db", ".directory"})
SAMPLE = 48  # training targets that are read for a task's brightness


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
        try:
            return None if path is None else read_image(path)
        except PbvsError:
            return None

    def brightness(self, task: str) -> NDArray[np.float64] | None:
        """Return the mean level, 0..255, of a sample of 8-bit training targets, or None when there are none."""
        if self.root is None:
            return None
        means = [
            _mean(inside(self.root, name)) for name in evenly_spaced(self.targets.get(task, []), SAMPLE, ends=True)
        ]
        known = np.array([mean for mean in means if mean is not None], dtype=np.float64)
        return known if len(known) else None


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
    for relative, info in _images(root, inputs.challenge):
        served = _given_by(info, inputs.challenge) if info.role == "input" or split == "test" else []
        if info.split == split and served:
            id = info.id or Path(relative).stem
            name = "_".join(filter(None, (info.location, id)))
            for task in served:
                names.setdefault(task, {})[out.key(task, id, name, info.location)] = relative
        elif info.split == "train" and info.role in ("image", "mosaic"):
            targets.setdefault(info.modality, []).append(relative)
    if not names:
        raise UsageError(
            f"{root} holds no folder {split}/<task> with inputs; give the folder of the archives to --data."
        )
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
    """Return the tasks of which an image of the test split is an input: where no pattern says so, its sources are.

    An input of several sources is known by the first.
    """
    if info.role == "input":
        return [] if info.modality in challenge.tasks[info.task].further else [info.task]
    return [
        name
        for name, task in challenge.tasks.items()
        if info.role == "image" and info.modality == task.source and task.serves(*info.served)
    ]


def _images(root: Path, challenge: Challenge) -> Iterator[tuple[str, PathInfo]]:
    """Yield the images whose paths say what they are; no folder is entered twice, whatever links lead to it."""
    if not root.is_dir():
        raise UsageError(f"There is no data folder {root}; give the folder of the unpacked archives with --data.")
    reader = PathReader(challenge)
    for file in sorted(walk(Catalog(root, challenge, strict=False))):
        info = reader.read(file.path)
        if isinstance(info, PathInfo) and not is_junk(file.path):
            yield file.path, info


def _mean(path: Path) -> float | None:
    try:
        image = read_image(path)
    except PbvsError:
        return None
    return float(image.mean()) if image.dtype == np.uint8 else None
