"""Aligned pairs prepared once as 8-bit arrays in a cache, so that training reads at memory speed.

A cached file is `<key>.npy`, (C_source + C_target + 1, H, W) uint8: source, target, validity (0 or 255). Its key is
the digest of both files' bytes, the rules and the settings, so a changed image or rule is prepared again and an
interrupted preparation goes on where it stopped. Beside it, or in its place, `<key>.json` says which windows are
usable or why nothing of it is. Beyond `CAPACITY` those go that were used longest ago, though none of the last week.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pbvs.data.align import Opened, open_pair
from pbvs.data.cache import FileCache, digests
from pbvs.data.images import resize, to_uint8
from pbvs.data.manifest import Pair, check_unchanged
from pbvs.devices import in_chunks
from pbvs.errors import PbvsError, of_data
from pbvs.files import atomic_path, digest, read_record, sweep, write_json, write_text
from pbvs.logs import track
from pbvs.recipe import Chips, Radiometry

VERSION = 2  # of what this module and those below it make of a pair; raise it when the pixels change

VERDICT = {"reason": str, "windows": [[int, int]], "bad": [[int, int, str]]}
CAPACITY = 64 << 30  # bytes that the cache holds before chips that are not used are removed
KEPT_FOR = 7 * 86400.0  # seconds after their last use in which chips are not removed: another training may read them

Array = NDArray[np.uint8]
Corner = tuple[int, int]  # top and left of a window


@dataclass(frozen=True)
class Prepared:
    """A pair in the cache, or the reason why it is not used."""

    pair: Pair
    file: Path
    height: int = 0
    width: int = 0
    windows: tuple[Corner, ...] = ()  # the usable windows; empty in the other modes
    bad: tuple[tuple[int, int, str], ...] = ()  # windows left out: top, left, reason
    reason: str = ""


def prepare(
    pairs: Sequence[Pair], root: Path, radiometry: Radiometry, chips: Chips, size: int, cache: Path, jobs: int = 1
) -> list[Prepared]:
    """Prepare every pair that is not in the cache yet, `jobs` at a time; return them in the pairs' order.

    Pairs whose images are damaged or bad come back with their reason. Raises WriteError when the cache cannot be
    written, ReadError when an image is gone or cannot be read, and PbvsError when one has changed since the manifests
    were made.
    """
    sweep(cache)
    table = FileCache(cache / "digests.csv", root)
    found = digests({path: None for pair in pairs for path in pair.paths}, table, jobs)
    table.write()
    check_unchanged(pairs, found)
    job = partial(_prepare, root, radiometry, chips, size, cache)
    stream = in_chunks(job, [pair.with_digests(found) for pair in pairs], jobs, few=32, chunk=8)
    prepared = list(track(stream, "preparing chips", len(pairs), unit="pair"))
    make_room(cache, {item.file for item in prepared})
    return prepared


def make_room(cache: Path, keep: Collection[Path] = (), capacity: int = CAPACITY) -> int:
    """Remove the chips used longest ago until the rest has at most `capacity` bytes; return how many were removed.

    Those of `keep`, and any that were used within the last week, stay whatever they take.
    """
    files = [file for file in cache.glob("[0-9a-f][0-9a-f]/*.npy") if not file.is_symlink()]
    found = [(file.stat().st_mtime, file.stat().st_size, file) for file in files if file.is_file()]
    excess, count = sum(size for _, size, _ in found) - capacity, 0
    for used, size, file in sorted(found):
        if excess <= 0 or used > time.time() - KEPT_FOR:
            break
        if file not in keep:
            with contextlib.suppress(OSError):
                file.unlink()
                excess, count = excess - size, count + 1
    return count


def mark_used(file: Path) -> None:
    """Set a chip's time of last use, at most once a day."""
    with contextlib.suppress(OSError):  # a cache that may only be read
        if time.time() - file.stat().st_mtime > KEPT_FOR / 7:
            os.utime(file)


def _prepare(
    root: Path, radiometry: Radiometry, chips: Chips, size: int, cache: Path, pairs: Sequence[Pair]
) -> list[Prepared]:
    """Return pairs from the cache, each prepared first when it is not there."""
    prepared = []
    for pair in pairs:
        file = _place(pair, radiometry, chips, size, cache)
        try:
            prepared.append(_known(pair, file) or _make(pair, root, radiometry, chips, size, file))
        except PbvsError as error:  # a full disk or a failing one must not look like a bad image
            prepared.append(Prepared(pair, cache, reason=of_data(error)))
    return prepared


def look_up(
    pairs: Sequence[Pair], radiometry: Radiometry, chips: Chips, size: int, cache: Path
) -> list[Prepared | None]:
    """Return what the cache has of each pair, by the digests of its manifest; None for what is still to prepare."""
    return [_known(pair, _place(pair, radiometry, chips, size, cache)) for pair in pairs]


def _place(pair: Pair, radiometry: Radiometry, chips: Chips, size: int, cache: Path) -> Path:
    """Return where a pair with digests is kept: by all that decides what becomes of it."""
    task = radiometry.challenge.task(pair.task)
    rules = [
        radiometry.rule(task.source, pair.source_rule, pair.source),
        radiometry.rule(task.target, pair.target_rule, pair.target),
    ]
    sized = size if chips.mode != "crop" else 0
    bytes_of = [pair.source_digest, pair.target_digest]
    parts = [VERSION, *bytes_of, task.name, pair.alignment, pair.shift, rules, chips.model_dump(), sized]
    stacked = [
        [image.digest, image.alignment, radiometry.rule(name, image.rule, image.path)]
        for image, name in zip(pair.more, task.further, strict=True)
    ]
    key = digest([*parts, stacked] if stacked else parts)
    return cache / key[:2] / f"{key}.npy"


def _known(pair: Pair, file: Path) -> Prepared | None:
    """Return what the cache has of a pair; None when it has nothing whole."""
    kept = file.with_suffix(".json")
    try:
        verdict = read_record(kept, shape=VERDICT) if kept.is_file() else {}
    except PbvsError as error:  # damaged: made again
        of_data(error)
        return None
    if verdict.get("reason"):
        return _prepared(pair, file, (0, 0), verdict)
    try:
        shape = np.load(file, mmap_mode="r", allow_pickle=False).shape
    except (OSError, ValueError):
        return None
    mark_used(file)
    return _prepared(pair, file, (shape[1], shape[2]), verdict)


def _prepared(pair: Pair, file: Path, size: tuple[int, int], verdict: dict[str, Any]) -> Prepared:
    windows, bad = (tuple(map(tuple, verdict.get(key, ()))) for key in ("windows", "bad"))
    return Prepared(pair, file, *size, windows, bad, verdict.get("reason", ""))


def _make(pair: Pair, root: Path, radiometry: Radiometry, chips: Chips, size: int, file: Path) -> Prepared:
    array = _joined(open_pair(pair, root, radiometry), chips, size)
    verdict = _judge(array, radiometry.challenge.task(pair.task).source_channels, chips, size)
    if verdict:
        write_json(file.with_suffix(".json"), verdict)
    if not verdict.get("reason"):
        with atomic_path(file) as part, part.open("wb") as out:
            np.save(out, array)
    return _prepared(pair, file, array.shape[1:], verdict)


def _joined(opened: Opened, chips: Chips, size: int) -> Array:
    """Return the array of an opened pair, reduced to what is asked for."""
    height, width = opened.source.shape[:2]
    scale = min(1.0, chips.max_side / max(height, width))
    new = (max(1, round(height * scale)), max(1, round(width * scale))) if chips.mode != "whole" else (size, size)
    assert opened.target is not None
    valid = resize(opened.valid[:, :, None].astype(np.float32), *new) > 0.99
    images = to_uint8(resize(opened.source, *new)), to_uint8(resize(opened.target, *new)), valid.astype(np.uint8) * 255
    return np.ascontiguousarray(np.moveaxis(np.concatenate(images, axis=2), 2, 0))


def _judge(array: Array, source_channels: int, chips: Chips, size: int) -> dict[str, Any]:
    """Return why a pair is not usable, or in the mode of windows which of them are; nothing when all is well."""
    if chips.mode != "windows":
        reason = bad_chip(array, source_channels, chips)
        return {"reason": reason} if reason else {}
    stride = chips.stride or max(1, size // 2)
    good: list[Corner] = []
    bad: list[tuple[int, int, str]] = []
    for top, left in itertools.product(*(_starts(length, size, stride) for length in array.shape[1:])):
        if reason := bad_chip(array[:, top : top + size, left : left + size], source_channels, chips):
            bad.append((top, left, reason))
        else:
            good.append((top, left))
    return {"windows": good, "bad": bad, "reason": "" if good else f"in none of its windows: {bad[0][2]}"}


def _starts(length: int, size: int, stride: int) -> list[int]:
    """Return where windows begin so that they cover the whole length, the last one flush with the end."""
    last = max(0, length - size)
    return sorted({*range(0, last + 1, stride), last})


def bad_chip(array: Array, source_channels: int, chips: Chips) -> str:
    """Return why a chip (C, H, W) teaches nothing, or an empty text: no data, black, clipped or flat."""
    valid = array[-1] > 0
    empty = 1 - float(valid.mean())
    if empty > chips.max_invalid or empty == 1:
        return f"{empty:.0%} of it has no data"
    for what, bands in (("source", array[:source_channels]), ("target", array[source_channels:-1])):
        seen = bands[:, valid]
        black, clipped = float((seen == 0).all(axis=0).mean()), float((seen == 255).all(axis=0).mean())
        if black > chips.max_black:
            return f"{black:.0%} of the {what} is black"
        if clipped > chips.max_clipped:
            return f"{clipped:.0%} of the {what} is at full scale"
        if float(seen.std(axis=1).max()) / 255 < chips.min_deviation:
            return f"the {what} is flat"
    return ""


def write_bad_chips(path: Path, prepared: Sequence[Prepared]) -> None:
    """Write the pairs and windows that are not used and why, one JSON object a line."""
    lines = []
    for item in prepared:
        windows = [{"top": top, "left": left, "reason": reason} for top, left, reason in item.bad]
        for row in [{"reason": item.reason}] if item.reason else windows:
            about = {"pair": item.pair.name, "task": item.pair.task, **row}
            lines.append(json.dumps(about, ensure_ascii=False) + "\n")
    write_text(path, "".join(lines))
