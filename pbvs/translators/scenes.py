"""One's own images through a trained model: files of any size, read and written by windows, with their georeference."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pbvs.challenge import Modality, load_challenge
from pbvs.data.align import affine
from pbvs.data.geometry import Window, control_points
from pbvs.data.headers import Header
from pbvs.data.images import SUFFIXES, Samples, Windows, open_windows, read_samples, to_uint8, write_png
from pbvs.data.intensity import Rule, bands_of, rule_for, sample_type, to_unit
from pbvs.errors import UsageError, damage_ignored
from pbvs.files import atomic_path, matching
from pbvs.recipe import RULE_PATTERN, Recipe
from pbvs.seeds import evenly_spaced
from pbvs.translators.base import ImageArray, Translator

TILE = 1024  # largest side of a tile in pixels; a tile is as large as training images were, so as not to be resized
LEAST_TILE = 256
OVERLAP = 4  # neighbours share one part in so many of a tile, where they are blended
SEEN = 16  # files whose numbers are looked at for a rule of intensity
BEYOND = 0.05  # how far floats that are in [0, 1] may reach beyond, as resampling makes them
OVERVIEW = 512  # pixels each way of a file that are looked at
Form = Literal["same", "tiff", "png"]


@dataclass
class Model:
    """A trained task of a run, ready to translate: arrays, files, and lists of either.

    >>> model = pbvs.load_model("demo", "sar2rgb")                                        # doctest: +SKIP
    >>> model(np.zeros((64, 96), np.uint8)).shape                                         # doctest: +SKIP
    (64, 96, 3)
    """

    translator: Translator
    recipe: Recipe
    rules: dict[str, str] = field(default_factory=dict)  # sample type -> rule, as found; "" is told for all
    trained: Mapping[str, str] | None = field(default_factory=dict)  # sample type -> rule in training; None: find all

    def __call__(self, images: Any) -> Any:
        """Translate one image or a list of them; returns (H, W, C) float32 in [0, 1], or a list of such.

        An image is a path, or an array (H, W) or (H, W, C). Files and arrays of whole numbers are brought to [0, 1] by
        the rule that was told or, else, that such training images had; without either, arrays are divided by the
        largest number of their type. Arrays of floats are in [0, 1] already where no rule was told. Raises PbvsError
        for a file that cannot be read, UsageError for another shape or floats that are not in [0, 1].
        """
        if isinstance(images, (list, tuple)):
            return self.translator.translate([self.open(image) for image in images])
        return self.translator.translate([self.open(images)])[0]

    def open(self, image: Any) -> ImageArray:
        """Return an image as the model wants it: (H, W, C_source) float32 in [0, 1]."""
        if isinstance(image, (str, Path)):
            samples = read_samples(Path(image), self._bands)
            return to_unit(samples.values, self._rule(samples), samples.valid)
        return self._from_array(np.asarray(image))

    def _from_array(self, array: NDArray[Any]) -> ImageArray:
        channels = self.translator.task.source_channels
        array = array[:, :, None] if array.ndim == 2 else array
        if array.ndim != 3 or 0 in array.shape:
            raise UsageError(f"An image is an array (height, width) or (height, width, channels), not {array.shape}.")
        if array.shape[2] < channels or (array.shape[2] > 1 and channels == 1):
            raise UsageError(
                f"{self.translator.task.name} translates images of {channels} channel{'s' if channels > 1 else ''}; "
                f"this one has {array.shape[2]}."
            )
        return to_unit(array[:, :, :channels], self._array_rule(array))

    def _array_rule(self, array: NDArray[Any]) -> str:
        known = {kind.partition(":")[0]: rule for kind, rule in (self.trained or {}).items()}.get(array.dtype.name)
        if "" in self.rules or np.issubdtype(array.dtype, np.integer):
            return self.rules.get("") or known or "full"
        low, high = np.nanmin(array), np.nanmax(array)
        if low < -BEYOND or high > 1 + BEYOND:
            rule = known or "window:LOW:HIGH"
            raise UsageError(
                f"An array of floats is in [0, 1], and this one has {low:g} to {high:g}; say how they become that with "
                f'load_model(..., rule="{rule}").'
            )
        return "full"

    def said_rules(self) -> list[str]:
        """Return which rule files of each sample type were read by, and where it is from; 8 bits in full need none.

        >>> Model(translator, recipe, {"": "full:4095"}).said_rules()                     # doctest: +SKIP
        ['full:4095, as told']
        """
        said = []
        for kind, rule in self.rules.items():
            origin = "as in training" if kind in (self.trained or {}) else "found from these files"
            if (kind, rule) != ("uint8", "full"):
                said.append(f"{kind} by {rule}, {origin}" if kind else f"{rule}, as told")
        return said

    @property
    def modality(self) -> Modality:
        """What the run's challenge says of the model's inputs; raise UsageError where they are of several files."""
        task = self.translator.task
        if task.further:
            raise UsageError(
                f"{task.name} translates {len(task.sources)} files together ({', '.join(task.sources)}), and not one "
                "alone; give arrays of their channels in Python, or use `pbvs predict`."
            )
        return load_challenge(self.recipe.challenge).modalities[task.source]

    def _bands(self, header: Header) -> list[int]:
        return bands_of(header, self.modality)

    def _rule(self, samples: Samples) -> str:
        """Return the rule for a file's sample type: told, or training's, or the recipe's, or found from this file."""
        kind = sample_type(samples.header)
        if "" not in self.rules and kind not in self.rules:
            self.learn_rule([samples], kind)
        return self.rules.get("") or self.rules[kind]

    def learn_rule(self, seen: Sequence[Samples], kind: str) -> None:
        """Find the rule for files of one sample type from some of them; training's and the recipe's own go first."""
        step = max(1, sum(each.values.size for each in seen) // (1 << 18))
        numbers = np.concatenate([each.values[each.valid].ravel()[::step] for each in seen])
        own = "auto"
        if self.trained is not None:
            own = self.trained.get(kind) or self.recipe.radiometry.rule(self.translator.task.source, "auto")
        found = "full" if kind == "uint8" else rule_for(numbers, self.modality, kind)
        rule = own if own != "auto" else found
        if rule.startswith("percentile:"):  # tiles of one image must not each have their own
            low, high = np.percentile(numbers, Rule.parse(rule).limits)
            rule = f"window:{low:.9e}:{high:.9e}"
        self.rules[kind] = rule

    def look_at(self, paths: Sequence[Path]) -> None:
        """Find the rules of intensity from files spread evenly over `paths`, so that all are treated alike."""
        by_kind: dict[str, list[Samples]] = defaultdict(list)
        for path in evenly_spaced(paths, SEEN):
            with damage_ignored(), open_windows(path, self._bands) as windows:
                by_kind[sample_type(windows.header)].append(windows.overview(OVERVIEW))
        for kind, seen in by_kind.items():
            if kind not in self.rules:
                self.learn_rule(seen, kind)

    @property
    def tile(self) -> int:
        """The side of a tile: that of training images, within limits."""
        grid = self.translator.input_grid
        return min(TILE, max(LEAST_TILE, round(grid["most"]))) if grid else TILE

    def translate_file(self, source: Path, target: Path) -> None:
        """Translate a file into another, .tif or .png, 8 bits a channel; a TIFF keeps its georeference and mask.

        An image with a side of more than twice the tile's is translated in overlapping tiles of its own resolution;
        rows are read and written as they come, so memory grows with its width and not with its area. Raises PbvsError
        when it cannot be read or written; what is written appears whole or not at all.
        """
        with open_windows(source, self._bands) as windows:
            header = windows.header
            strips = self._tiles(windows) if max(header.height, header.width) > 2 * self.tile else self._whole(windows)
            if target.suffix.lower() == ".png":
                write_png(target, np.concatenate([pixels for _, pixels, _ in strips]))
            else:
                write_scene(target, header, self.translator.task.target_channels, strips)

    def _whole(self, windows: Windows) -> Iterator[Strip]:
        samples = windows.read()
        image = to_unit(samples.values, self._rule(samples), samples.valid)
        yield 0, to_uint8(self.translator.translate([image])[0]), samples.valid

    def _tiles(self, windows: Windows) -> Iterator[Strip]:
        """Yield finished rows from the top down; neighbouring tiles fade into each other."""
        height, width = windows.header.height, windows.header.width
        tops, lefts = places(height, self.tile), places(width, self.tile)
        side_y, side_x = min(height, self.tile), min(width, self.tile)
        fade = fades(side_y)[:, None, None] * fades(side_x)[None, :, None]
        channels = self.translator.task.target_channels
        total = np.zeros((side_y, width, channels), np.float32)
        weight = np.zeros((side_y, width, 1), np.float32)
        rule = self._rule(windows.overview(OVERVIEW))
        for top, after in zip(tops, [*tops[1:], height], strict=True):
            samples = windows.read(Window(top, 0, side_y, width))
            for left in lefts:
                columns = slice(left, left + side_x)
                image = to_unit(samples.values[:, columns], rule, samples.valid[:, columns])
                total[:, columns] += self.translator.translate([image])[0] * fade
                weight[:, columns] += fade
            done = after - top
            yield top, to_uint8(total[:done] / weight[:done]), samples.valid[:done]
            for rows in (total, weight):
                rows[: side_y - done] = rows[done:].copy()
                rows[side_y - done :] = 0


Strip = tuple[int, NDArray[np.uint8], NDArray[np.bool_]]  # first row, (rows, W, C), which pixels hold data


def told_rules(rule: str | None) -> dict[str, str]:
    """Return a rule that a user gave, for files of every type; raise UsageError when it is none."""
    if rule is None:
        return {}
    if not re.match(RULE_PATTERN, rule):
        raise UsageError(f"There is no rule {rule!r}; full:MAX, window:LOW:HIGH and power-db:LOW:HIGH are some.")
    return {} if rule == "auto" else {"": rule}


def places(length: int, tile: int) -> list[int]:
    """Return where tiles begin along one side: evenly spaced, overlapping by a quarter of a tile or more.

    >>> places(1000, 400), places(300, 400)
    ([0, 300, 600], [0])
    """
    if length <= tile:
        return [0]
    count = 1 + -(-(length - tile) // (tile - tile // OVERLAP))
    return [round(number * (length - tile) / (count - 1)) for number in range(count)]


def fades(tile: int) -> NDArray[np.float32]:
    """Return (tile,) weights: 1 in the middle, falling towards both ends over the overlap, nowhere 0."""
    ramp = np.minimum(np.arange(1, tile + 1), np.arange(tile, 0, -1)) / max(1, tile // OVERLAP)
    return np.clip(ramp, 1e-3, 1.0).astype(np.float32)


def write_scene(path: Path, header: Header, channels: int, strips: Iterator[Strip]) -> None:
    """Write rows as they come into a tiled, compressed GeoTIFF on the grid of `header`, whole or not at all."""
    import rasterio

    profile: dict[str, Any] = {"driver": "GTiff", "dtype": "uint8", "count": channels, "compress": "deflate"}
    profile |= {"height": header.height, "width": header.width, "BIGTIFF": "IF_SAFER", "tiled": True}
    profile |= {"blockxsize": 256, "blockysize": 256, "photometric": "RGB" if channels == 3 else "MINISBLACK"}
    if header.gcps:
        profile |= {"crs": header.crs, "gcps": control_points(header)}
    elif header.georeferenced:
        profile |= {"crs": header.crs, "transform": affine(header)}
    masked = header.nodata is not None or bool(header.alpha)
    how = rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True)
    with atomic_path(path) as part, how, rasterio.open(part, "w", **profile) as file:
        for top, pixels, valid in strips:
            window = ((top, top + len(pixels)), (0, header.width))
            file.write(np.moveaxis(pixels, 2, 0), window=window)
            if masked:
                file.write_mask(valid, window=window)


def find_inputs(inputs: Sequence[str | Path]) -> list[tuple[Path, Path]]:
    """Return (file, name relative to its folder) of every image that files, folders and globs name, each once.

    A `**` does not follow links. Raises UsageError for an input that names no image, ReadError for a folder that
    cannot be read.
    """
    found: dict[Path, Path] = {}
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            named = {file: file.relative_to(path) for file in _images(path, "**/*")}
        elif path.is_file():
            named = {path: Path(path.name)}
        else:
            plain = tuple(itertools.takewhile(lambda part: not set("*?[") & set(part), path.parts))
            pattern = "/".join(path.parts[len(plain) :]) + ("/*" if path.name == "**" else "")
            named = {file: Path(file.name) for file in _images(Path(*plain), pattern)}
        if not named:
            raise UsageError(f"{given} names no image; give files, folders or globs of {', '.join(sorted(SUFFIXES))}.")
        found |= {file: name for file, name in named.items() if file not in found}
    return list(found.items())


def _images(folder: Path, pattern: str) -> list[Path]:
    """Return the images of a folder that match and are not hidden, in order."""
    named = (path for path in matching(folder, pattern) if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path for path in named if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def plan_targets(found: Sequence[tuple[Path, Path]], out: Path, form: Form) -> list[tuple[Path, Path]]:
    """Return (input, output) of each; raise UsageError when two inputs would be one output, or one its own."""
    planned: dict[Path, Path] = {}
    for source, name in found:
        kept = ".tif" if name.suffix.lower() in (".tif", ".tiff") else ".png"
        target = out / name.with_suffix({"same": kept, "tiff": ".tif", "png": ".png"}[form])
        if target in planned:
            raise UsageError(f"{planned[target]} and {source} would both become {target}; translate them one by one.")
        if target.absolute() == source.absolute():
            raise UsageError(f"{source} would be replaced by its translation; give another folder as --out.")
        planned[target] = source
    return [(source, target) for target, source in planned.items()]
