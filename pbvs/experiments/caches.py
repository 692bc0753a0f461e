"""What is kept below the cache folder to save time: where it lies, how large it is, and what clearing it removes.

Everything there can be made again. Only files with names of our own count and are removed; links are never followed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pbvs.files import write_error
from pbvs.run import CACHE

_DIGEST, _FOLDER = "[0-9a-f]{64}", "[0-9a-f]{2}"


class Kind(NamedTuple):
    """One kind of what is kept; `names` match the paths of its files below the cache folder, with '/'."""

    name: str
    folder: str  # below the cache folder; "" is the folder itself
    names: str
    what: str


KINDS = {
    name: Kind(name, folder, names, what)
    for name, folder, names, what in (
        ("chips", "", rf"{_FOLDER}/{_DIGEST}\.(npy|json)|digests\.csv|bad_[^/]+\.jsonl", "aligned training pairs"),
        ("features", "features", rf"features/{_FOLDER}/{_DIGEST}\.safetensors", "what networks made of scored targets"),
        ("baselines", "baselines", rf"baselines/{_DIGEST}\.json", "scores of the inputs as they are"),
        ("targets", "targets", rf"targets/{_FOLDER}/{_DIGEST}\.[\w-]+\.npy", "of earlier versions; nothing reads them"),
    )
}


@dataclass(frozen=True)
class Kept:
    """What there is of one kind."""

    kind: Kind
    folder: Path
    files: tuple[Path, ...]
    size: int  # bytes of the files' contents


def kept(cache: Path = CACHE, kinds: Iterable[str] = KINDS) -> list[Kept]:
    """Return what is kept below `cache` of these kinds; nothing is there of any without the folder."""
    chosen = [KINDS[name] for name in kinds]
    found: dict[str, list[Path]] = {kind.name: [] for kind in chosen}
    for path in _files(cache):
        relative = path.relative_to(cache).as_posix()
        if kind := next((kind for kind in chosen if re.fullmatch(kind.names, relative)), None):
            found[kind.name].append(path)
    sizes = {name: sum(path.stat().st_size for path in files) for name, files in found.items()}
    return [Kept(kind, cache / kind.folder, tuple(found[kind.name]), sizes[kind.name]) for kind in chosen]


def clear(cache: Path = CACHE, kinds: Iterable[str] = KINDS) -> list[Kept]:
    """Remove what is kept of these kinds, and the folders that are empty then; return what was there.

    Raises PbvsError naming the first file that cannot be removed.
    """
    found = kept(cache, kinds)
    path = cache
    try:
        for path in (path for part in found for path in part.files):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(path, error) from None
    emptied = [*{path.parent for part in found for path in part.files}, *(part.folder for part in found)]
    for folder in emptied:
        with contextlib.suppress(OSError):  # something else is in it
            folder.rmdir()
    return found


def _files(folder: Path, depth: int = 3) -> Iterator[Path]:
    """Yield the files below a folder, links and what they lead to left out."""
    if not depth or not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            continue
        if path.is_dir():
            yield from _files(path, depth - 1)
        elif path.is_file():
            yield path
