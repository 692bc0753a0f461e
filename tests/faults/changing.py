"""Data that change before and during a command: each image replaced, cut or removed, and what came of it.

A command may end with what it makes of the old data or of the new, or with a sentence; never with a mixture. After
that the commands from `build-pairs` on must end as in a folder that never held anything but the new data.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import random
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from tests.faults.normal import alike, without_clock
from tests.faults.points import REMEMBERED, TARGETS, Tree, differences, tree
from tests.faults.reading import SENTENCE, ReadBench, _library, _now
from tests.faults.scenarios import PACKAGE, PREDICT, SCORE, pbvs

CHAIN = {  # a command, and what leads to its result from the data on
    "build-pairs": ("build-pairs --data data",),
    "predict": ("build-pairs --data data", PREDICT),
    "score": ("build-pairs --data data", PREDICT, SCORE),
    "package": ("build-pairs --data data", PREDICT, PACKAGE),
    "train": ("build-pairs --data data", PREDICT + " --retrain"),
}
OTHERWISE = "validates on other images"  # what a training says that went on, whose log then holds both
CHANGED = "has changed since the manifests were made"  # what `score` says, which scores images as they are now
KINDS = ("same size and time", "other", "cut", "gone")
MOMENTS = 3  # of each image and kind during the command, besides the one before it


@dataclass(frozen=True)
class Change:
    """What happens to which image, and just before which opening of which file; None is before the command."""

    image: str
    kind: str
    when: tuple[str, int] | None


class ChangeBench(ReadBench):
    """Runs one command while data change."""

    def points(self) -> Iterator[tuple[int, str]]:
        """Yield each change by its number and kind."""
        list(super().points())
        opens = [(path, at) for kind, path, at in self.calls if kind == "o"]
        images = sorted({path for path, _ in opens if path.endswith((".png", ".tiff")) and "/data/" in path})
        chance = random.Random(7)
        self.changes: list[Change] = []
        self.fresh: dict[tuple[str, str], tuple[int, Tree, dict[str, bytes]]] = {}
        for image in images:
            for kind in KINDS:
                for when in (None, *chance.sample(opens, min(MOMENTS, len(opens)))):
                    yield len(self.changes), kind
                    self.changes.append(Change(image.removeprefix(f"{self.work}/"), kind, when))

    def try_point(self, number: int, mode: str) -> str:
        """Change one image; return what was wrong with what came of it, or nothing."""
        change = self.changes[number]
        where = (
            f"{change.image} {change.kind}, {'at opening {1} of {0}'.format(*change.when) if change.when else 'before'}"
        )
        wanted = self._from_scratch(change)
        self._reset()
        status, told = self._fork(lambda: self._while_it_changes(change)), self.said()
        if "Traceback" in told or status not in (0, 1) or (status and not SENTENCE.search(told)):
            return f"{where} ended with {status}: {told}"
        made = tree(self.work)
        old = _made(self.after) | {name: made[name] for name in made if name.endswith("provenance.json")}  # of all data
        expected = CHANGED in told or self._is(old, self.tables) or self._is(wanted[1], wanted[2])
        if not status and not expected:
            return f"{where} went unsaid: {differences(_made(self.after), _made(made))} {told}"
        again = self._fork(lambda: _chain(self.scenario.name)), self.said()
        logs = ("log.csv", "curves.png") if OTHERWISE in again[1] else ()
        if again[0] != wanted[0] or not self._is(wanted[1], wanted[2], bool(again[0]), logs):
            found = differences(_made(wanted[1]), _made(tree(self.work)))
            return f"after {where} ({status}: {told[-300:]}) the commands ended with {again[0]}, {found}: {again[1]}"
        return ""

    def _while_it_changes(self, change: Change) -> None:
        path = self.work / change.image
        new = self.out.with_name("new" + path.suffix)
        size = _write_change(path, new, change.kind)
        if change.when is None:
            _apply(path, new, size)
        else:
            source = b"" if size is not None else os.fsencode(new)
            _library().reads_change(
                os.fsencode(self.work), os.fsencode(change.when[0]), ord("o"), change.when[1],
                source, os.fsencode(path), ctypes.c_long(-1 if size is None else size),
            )  # fmt: skip
        try:
            self.scenario.act()
        finally:
            _library().reads_watch(b"", -1)
            if change.when and not _library().reads_done():  # the command ended before it came to that
                _apply(path, new, size)

    def _reset(self) -> None:
        """Make the work folder what it was at the start, also where an image has the old size and time."""
        for image in {change.image for change in getattr(self, "changes", ())}:
            (self.work / image).unlink(missing_ok=True)
        super()._reset()

    def _from_scratch(self, change: Change) -> tuple[int, Tree, dict[str, bytes]]:
        """Return status, tree and tables of the commands in a folder that never held the old image."""
        key = change.image, change.kind
        if key not in self.fresh:
            self._reset()
            for name in sorted(tree(self.work), reverse=True):
                if (not name.startswith("data/") and not name.endswith(".toml")) or name.startswith("submissions/"):
                    (self.work / name).unlink()
            path = self.work / change.image
            new = self.out.with_name("new" + path.suffix)
            _apply(path, new, _write_change(path, new, change.kind))
            status = self._fork(lambda: _chain(self.scenario.name))
            found = tree(self.work)
            self.fresh[key] = status, found, {name: (self.work / name).read_bytes() for name in found}
        return self.fresh[key]

    def _is(self, wanted: Tree, tables: dict[str, bytes], refused: bool = False, logs: tuple[str, ...] = ()) -> bool:
        """Return whether what was made is what is wanted, but for `logs`; who is `refused` keeps what was there."""
        found = {name: digest for name, digest in _made(tree(self.work)).items() if not name.endswith(logs or "/")}
        wanted = {name: digest for name, digest in wanted.items() if not name.endswith(logs or "/")}
        if refused:
            found = {name: digest for name, digest in found.items() if name in wanted}
        names = [name for name in found.keys() | _made(wanted).keys() if found.get(name) != wanted.get(name)]
        return all(name in found and name in tables and self._alike(name, tables[name]) for name in names)

    def _alike(self, name: str, wanted: bytes) -> bool:
        found = (self.work / name).read_bytes()
        if name.endswith("provenance.json"):
            return bool(without_clock(_now(found)) == without_clock(_now(wanted)))
        if name.endswith((".zip", "package.json")):
            return _without_runtime(name, wanted) == _without_runtime(name, found)
        return alike(Path(name).name, wanted, found)


def _without_runtime(name: str, data: bytes) -> Any:
    """Return what an archive or its metadata hold, but for the seconds an image took and the digest they change."""
    if name.endswith(".json"):
        told = json.loads(data)
        told["provenance"] = {
            run: {key: value for key, value in facts.items() if key != "earlier"}
            for run, facts in told["provenance"].items()
        }
        return without_clock({**told, "sha256": "", "bytes": 0, "readme": {**told["readme"], "runtime": 0}})
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name != "readme.txt"}


def _made(found: Tree) -> Tree:
    """Return what commands made, without what is only remembered, and pages, which tell how long it took."""
    left_out = ("data/", TARGETS, ".cache/")
    return {
        name: digest
        for name, digest in found.items()
        if not name.startswith(left_out) and Path(name).name not in REMEMBERED and "/report" not in name
    }


def _chain(name: str) -> None:
    for line in CHAIN[name]:
        pbvs(line)


def _write_change(path: Path, new: Path, kind: str) -> int | None:
    """Write what takes an image's place at `new`; or return the size it is cut to, -1 where it is removed."""
    if kind == "gone":
        return -1
    data, status = path.read_bytes(), path.stat()
    if kind == "cut":
        return len(data) // 2
    with rasterio.open(path) as image:
        pixels = np.full_like(image.read(), 77)
        with rasterio.open(new, "w", **{**image.profile, "compress": "deflate"}) as file:
            file.write(pixels)
    if kind == "same size and time":
        new.write_bytes(new.read_bytes().ljust(len(data), b"\0"))
        os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
    return None


def _apply(path: Path, new: Path, size: int | None) -> None:
    if size is None:
        new.replace(path)
    elif size < 0:
        path.unlink()
    else:
        os.truncate(path, size)
