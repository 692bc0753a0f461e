"""Which locations and scenes are kept from training: by a hash of their name, so that no other one changes it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

from pbvs.data.layout import natural_key, number_of
from pbvs.seeds import derive


def hold_out(locations: Iterable[tuple[str, str]], share: float, seed: int) -> set[str]:
    """Return the names held out of (archive, location): about `share` of each archive that has several.

    An archive with at least two locations gives at least one and keeps at least one.
    """
    by_archive: dict[str, list[str]] = defaultdict(list)
    for archive, name in locations:
        by_archive[archive].append(name)
    held: set[str] = set()
    if share <= 0:
        return held
    for archive, names in by_archive.items():
        ranked = sorted(names, key=lambda name: derive(seed, "hold out", archive, name))
        count = min(len(names) - 1, max(1, math.floor(share * len(names) + 0.5)))
        held.update(ranked[:count])
    return held


def scene_of(stem: str, crops_per_scene: int) -> str:
    """Return the scene that a chip was cut from: blocks of consecutive ids; chips without a number stand alone."""
    number = number_of(stem)
    return f"scene_{stem}" if number is None else f"scene_{number // crops_per_scene}"


def hold_out_scenes(scenes: Iterable[str], share: float, seed: int) -> set[str]:
    """Return the scenes held out of those given, which may repeat."""
    return hold_out((("chips", scene) for scene in sorted(set(scenes), key=natural_key)), share, seed)
