"""Aligned pairs prepared once as 8-bit arrays in a cache, so that training reads at memory speed.

A cached file is `<key>.npy`, (C_source + C_target + 1, H, W) uint8: source, target, validity (0 or 255). Its key is
the digest of both files' bytes, the rules and the settings, so a changed picture or rule is prepared anew and an
interrupted preparation goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pbvs.data.images import resize, to_uint8
from pbvs.data.manifest import Pair
from pbvs.data.pairs import Opened, open_pair
from pbvs.data.settings import Chips, Radiometry
from pbvs.errors import PbvsError, WriteError
from pbvs.files import atomic_path, digest, inside, read_json, sha256, sweep, write_json
from pbvs.progress import track
from pbvs.tasks import get_task

VERSION = 1  # of what this module and those below it make of a pair; raise it when the pixels change

Array = NDArray[np.uint8]


@dataclass(frozen=True)
class Prepared:
    """A pair in the cache, or the reason why it is not used."""

    pair: Pair
    file: Path
    height: int = 0
    width: int = 0
    windows: tuple[tuple[int, int], ...] = ()  # top, left of the usable windows; empty in the other modes
    reason: str = ""


def prepare(
    pairs: Sequence[Pair],
    root: Path,
    radiometry: Radiometry,
    chips: Chips,
    size: int,
    cache: Path,
    jobs: int = 1,
    backend: str = "loky",
) -> list[Prepared]:
    """Prepare every pair that is not in the cache yet, `jobs` at a time; return them in the pairs' order.

    Pairs that cannot be opened or are bad come back with their reason. Raises PbvsError when the cache cannot be
    written.
    """
    from joblib import Parallel, delayed

    sweep(cache)
    work = (delayed(prepare_one)(pair, root, radiometry, chips, size, cache) for pair in pairs)
    if jobs == 1 or len(pairs) < 32:
        results = (prepare_one(pair, root, radiometry, chips, size, cache) for pair in pairs)
    else:
        results = Parallel(n_jobs=jobs, backend=backend, return_as="generator", batch_size="auto")(work)
    return list(track(results, "preparing chips", len(pairs), unit="pair"))


def prepare_one(pair: Pair, root: Path, radiometry: Radiometry, chips: Chips, size: int, cache: Path) -> Prepared:
    """Return a pair from the cache, preparing it first when it is not there."""
    try:
        key = _key(pair, root, radiometry, chips, size, cache)
        record = cache / key[:2] / f"{key}.json"
        if not record.is_file():
            _make(pair, root, radiometry, chips, size, record)
        facts = read_json(record)
    except WriteError:  # a full disk must not look like a bad picture
        raise
    except PbvsError as error:
        return Prepared(pair, cache, reason=str(error))
    windows = tuple((int(top), int(left)) for top, left in facts["windows"])
    return Prepared(pair, record.with_suffix(".npy"), facts["height"], facts["width"], windows, facts["reason"])


def _key(pair: Pair, root: Path, radiometry: Radiometry, chips: Chips, size: int, cache: Path) -> str:
    task = get_task(pair.task)
    sized = size if chips.mode != "crop" else 0
    return digest(
        [
            VERSION,
            content_digest(inside(root, pair.source), cache),
            content_digest(inside(root, pair.target), cache),
            task.name,
            pair.alignment,
            pair.shift,
            radiometry.rule(task.source, pair.source_rule),
            radiometry.rule(task.target, pair.target_rule),
            chips.model_dump(),
            sized,
        ]
    )


def content_digest(path: Path, cache: Path) -> str:
    """Return the SHA-256 of a file, remembered in the cache as long as its size and time stay what they were."""
    try:
        status = path.stat()
    except OSError:
        raise PbvsError(f"There is no picture {path}; run `pbvs build-pairs` again if the data have moved.") from None
    name = digest([str(path.resolve()), status.st_size, status.st_mtime_ns])
    record = cache / "digests" / name[:2] / name
    if record.is_file():
        return record.read_text()
    value = sha256(path)
    with atomic_path(record) as part:
        part.write_text(value)
    return value


def _make(pair: Pair, root: Path, radiometry: Radiometry, chips: Chips, size: int, record: Path) -> None:
    opened = _reduced(open_pair(pair, root, radiometry), chips, size)
    array = _stack(opened)
    windows, reason = _judge(array, get_task(pair.task).source_channels, chips, size)
    if not reason:
        with atomic_path(record.with_suffix(".npy")) as part, part.open("wb") as file:
            np.save(file, array)
    facts: dict[str, Any] = {"height": array.shape[1], "width": array.shape[2], "windows": windows, "reason": reason}
    write_json(record, facts)


def _reduced(opened: Opened, chips: Chips, size: int) -> Opened:
    height, width = opened.source.shape[:2]
    if chips.mode == "whole":
        new = (size, size)
    elif max(height, width) > chips.max_side:
        scale = chips.max_side / max(height, width)
        new = (max(1, round(height * scale)), max(1, round(width * scale)))
    else:
        return opened
    assert opened.target is not None
    valid = resize(opened.valid[:, :, None].astype(np.float32), *new)[:, :, 0] > 0.99
    return Opened(resize(opened.source, *new), resize(opened.target, *new), valid)


def _stack(opened: Opened) -> Array:
    assert opened.target is not None
    valid = opened.valid[:, :, None].astype(np.uint8) * 255
    joined = np.concatenate([to_uint8(opened.source), to_uint8(opened.target), valid], axis=2)
    return np.ascontiguousarray(np.moveaxis(joined, 2, 0))


def _judge(array: Array, source_channels: int, chips: Chips, size: int) -> tuple[list[tuple[int, int]], str]:
    """Return the usable windows (in that mode) and the reason why the whole is not usable, if so."""
    if chips.mode != "windows":
        return [], bad_chip(array, source_channels, chips)
    stride = chips.stride or max(1, size // 2)
    reasons = []
    good = []
    for top in _starts(array.shape[1], size, stride):
        for left in _starts(array.shape[2], size, stride):
            reason = bad_chip(array[:, top : top + size, left : left + size], source_channels, chips)
            if reason:
                reasons.append(reason)
            else:
                good.append((top, left))
    return good, "" if good else reasons[0]


def _starts(length: int, size: int, stride: int) -> list[int]:
    """Return where windows begin so that they cover the whole length, the last one flush with the end."""
    last = max(0, length - size)
    return sorted({*range(0, last + 1, stride), last})


def bad_chip(array: Array, source_channels: int, chips: Chips) -> str:
    """Return why a chip (C, H, W) teaches nothing, or an empty text: no data, black, clipped or flat."""
    valid = array[-1] > 0
    if 1 - valid.mean() > chips.max_invalid:
        return f"{1 - valid.mean():.0%} of it has no data"
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


def write_bad_chips(path: Path, prepared: Sequence[Prepared]) -> int:
    """Write the pairs that are not used and why, one JSON object a line; return how many."""
    bad = [{"pair": item.pair.name, "task": item.pair.task, "reason": item.reason} for item in prepared if item.reason]
    with atomic_path(path) as part:
        part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in bad), encoding="utf-8")
    return len(bad)
