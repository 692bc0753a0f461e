"""Names of pairs that are safe as file names on every system, and unique."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

from pbvs.data.manifest import Pair

SAFE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
LONGEST = 150


def pair_name(location: str, source_stem: str, target_stem: str) -> str:
    """Return location, source and target in one name; the target is left out where its stem is the source's."""
    return "_".join([location, source_stem] if source_stem == target_stem else [location, source_stem, target_stem])


def unique_names(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs with names that are safe as file names and differ in more than case.

    An official input keeps its stem; a name that had to be changed ends in a digest of its pictures' paths.
    """
    taken = {pair.name.lower() for pair in pairs if pair.origin == "official"}
    return [pair if pair.origin == "official" else _named(pair, taken) for pair in pairs]


def _named(pair: Pair, taken: set[str]) -> Pair:
    name = pair.name
    if not SAFE.issuperset(name) or name[0] in ".-" or len(name) > LONGEST or name.lower() in taken:
        mark = sha256(f"{pair.source}\n{pair.target}".encode()).hexdigest()[:10]
        safe = "".join(letter if letter in SAFE else "-" for letter in name).lstrip(".-") or "pair"
        name = f"{safe[: LONGEST - 11]}_{mark}"
        pair = replace(pair, name=name)
    taken.add(name.lower())
    return pair
