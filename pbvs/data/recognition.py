"""What a folder of images is: by a challenge's patterns, to check them, or by guess, to write a first challenge."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

from pbvs.challenge import CHALLENGES, Challenge
from pbvs.challenge.model import FilePattern
from pbvs.data.catalog import Catalog, Entry, PathReader, natural_key, walk
from pbvs.data.headers import Header, read_header
from pbvs.data.pairing import Partners, serves
from pbvs.errors import PbvsError, damage_ignored
from pbvs.files import dump_toml, read_text
from pbvs.text import printable

SPLIT_WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
SPLIT_WORDS |= {"dev": "val", "test": "test", "testing": "test"}
MOST_MODALITIES = 8
KINDS = {"radar": ("sar", "s1", "radar", "vv", "vh", "sentinel1"), "thermal": ("ir", "nir", "lwir", "thermal")}
OPTICAL = ("rgb", "eo", "s2", "optical", "color", "colour", "gray", "grey", "pan", "sentinel2")
TEMPLATE = CHALLENGES.folder / "first.toml.jinja"
_TOKEN = re.compile(r"(?P<id>.*)(?P<mark>[_.-])(?P<modality>[A-Za-z][A-Za-z0-9]*)")


@dataclass
class Trial:
    """How a challenge's patterns fare on a data root."""

    taken: dict[str, int]  # pattern -> files that it took
    twice: list[tuple[str, list[str]]] = field(default_factory=list)  # path, the patterns that take it
    unused: dict[str, list[str]] = field(default_factory=dict)  # reason -> paths
    incomplete: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # task, which source is missing -> paths
    junk: int = 0
    others: int = 0  # files that are no images


def try_layout(challenge: Challenge, root: Path) -> Trial:
    """Return how many images below `root` each pattern takes, which are taken twice, and which not at all.

    Raises UsageError when there is no such folder.
    """
    catalog, reader = Catalog(root, challenge, strict=False), PathReader(challenge)
    trial = Trial(dict.fromkeys(challenge.layout.files, 0))
    images: list[Entry] = []
    for file in walk(catalog):
        takers = reader.takers(file.path)
        if len(takers) > 1:
            trial.twice.append((file.path, takers))
        if takers:
            trial.taken[takers[0]] += 1
        info = reader.read(file.path)
        if isinstance(info, str):
            trial.unused.setdefault(info, []).append(file.path)
        else:
            images.append(Entry(file.path, info))
    trial.incomplete = missing_sources(challenge, images)
    trial.junk, trial.others = catalog.junk, catalog.others
    return trial


def missing_sources(challenge: Challenge, images: Sequence[Entry]) -> dict[tuple[str, str], list[str]]:
    """Return the images that lack another source of their task, by the task and what is missing."""
    missing: dict[tuple[str, str], list[str]] = {}
    for task in (task for task in challenge.tasks.values() if task.further):
        partners = Partners(images, task, challenge)
        own = [image for image in images if serves(image, task, inputs=True)]
        first = [image for image in own if image.info.modality == task.source]
        known = {partners.key(image) for image in first}
        for image in first:
            if isinstance(reason := partners.of(image), str):
                missing.setdefault((task.name, reason), []).append(image.path)
        for image in own:
            if image.info.modality in task.further and partners.key(image) not in known:
                reason = f"there is no {challenge.title_of(task.source)} image that it goes with"
                missing.setdefault((task.name, reason), []).append(image.path)
    return missing


# --- A first challenge for a folder that nobody has described yet.


@dataclass
class Shape:
    """Files whose paths have as many folders and the same suffix: what each part of the path seems to be."""

    paths: list[str]
    glob: str = ""
    split: str = ""  # of all of them, where their folders say only one
    modality: str = ""  # of all of them, where their paths name none
    splits: set[str] = field(default_factory=set)
    modalities: list[str] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)  # `<source>2<target>`, where folders are called so
    located: bool = False
    in_folders: bool = False  # modalities are folders, and not parts of the names

    @property
    def words(self) -> dict[str, str]:
        """What its folders call splits otherwise than we do -> the split."""
        parts = {part for path in self.paths for part in path.lower().split("/")} if "{split}" in self.glob else set()
        return {word: split for word, split in sorted(SPLIT_WORDS.items()) if word != split and word in parts}


def propose(root: Path, name: str) -> str:
    """Return a challenge's TOML for what lies below `root`, with questions as comments where it had to guess.

    Raises UsageError when there is no such folder, PbvsError when it holds no image.
    """
    paths = sorted((file.path for file in walk(Catalog(root, strict=False))), key=natural_key)
    if not paths:
        raise PbvsError(f"{root} holds no PNG or TIFF, so that there is nothing to describe.")
    groups: dict[tuple[int, str, bool], list[str]] = defaultdict(list)
    for path in paths:
        folders = path.lower().split("/")[:-1]
        groups[len(folders), Path(path).suffix, any(SPLIT_WORDS.get(part) == "test" for part in folders)].append(path)
    shapes: list[Shape] = []
    modalities: list[str] = []
    for (_, suffix, test), group in sorted(groups.items(), key=lambda item: (item[0][2], -len(item[1]))):
        shape = _shape(group, suffix, modalities, test)
        modalities += [modality for modality in shape.modalities if modality not in modalities]
        shapes.append(shape)
    modalities = modalities or ["image"]
    for shape in shapes:
        shape.modality = "" if shape.modalities or shape.tasks else modalities[0]
    tasks, headers = _tasks(shapes, modalities), _headers(root, shapes, modalities)
    shapes = [shape for number, shape in enumerate(shapes) if not _covered(shape, shapes[:number], modalities)]
    return _toml(name, root, shapes, modalities, tasks, headers)


def _shape(paths: list[str], suffix: str, known: Sequence[str], test: bool) -> Shape:
    """Say if folders' levels are of splits, tasks, modalities (`known` elsewhere) or locations, and how names end."""
    shape, parts = Shape(paths), []
    pairs = {f"{source}2{target}" for source in known for target in known}
    rows = [path.split("/") for path in paths]
    for values in zip(*(row[:-1] for row in rows), strict=True):
        different = set(values)
        if {value.lower() for value in different} <= SPLIT_WORDS.keys():
            shape.splits |= {SPLIT_WORDS[value.lower()] for value in different}
            parts.append("{split}" if len(different) > 1 else values[0])
            shape.split = "" if len(different) > 1 else SPLIT_WORDS[values[0].lower()]
        elif different <= pairs:
            shape.tasks = sorted(different, key=natural_key)
            parts.append("{task}")
        elif not shape.modalities and (different <= set(known) or (not test and _are_modalities(rows, values))):
            shape.modalities, shape.in_folders = sorted(different, key=natural_key), True
            parts.append("{modality}")
        elif len(different) == 1:
            parts.append(values[0])
        else:
            parts.append("*" if shape.located else "{location}")
            shape.located = True
    parts.append(_name(shape, [row[-1] for row in rows], suffix))
    shape.glob = "/".join(parts)
    return shape


def _covered(shape: Shape, earlier: Sequence[Shape], modalities: Sequence[str]) -> bool:
    """Return whether an earlier pattern, which names split and modality itself, takes all files of a shape."""
    whole = [other for other in earlier if "{split}" in other.glob and "{modality}" in other.glob]
    patterns = [FilePattern(glob=other.glob, modality="x").compiled((), modalities)[0] for other in whole]
    return any(all(pattern.fullmatch(path) for path in shape.paths) for pattern in patterns)


def _are_modalities(rows: Sequence[Sequence[str]], values: Sequence[str]) -> bool:
    """Return whether folders are few and hold files of the same names, as modalities do."""
    names: dict[str, set[str]] = defaultdict(set)
    for row, value in zip(rows, values, strict=True):
        stem = row[-1].rpartition(".")[0]
        names[value].add(re.sub(rf"[_-]?{re.escape(value)}$", "", stem, flags=re.IGNORECASE))
    if not 2 <= len(names) <= MOST_MODALITIES:
        return False
    first, *others = names.values()
    return all(len(first & other) >= 0.5 * min(len(first), len(other)) for other in others)


def _name(shape: Shape, names: Sequence[str], suffix: str) -> str:
    stems = [name.removesuffix(suffix) for name in names]
    matches = [_TOKEN.fullmatch(stem) for stem in stems]
    tokens = {match["modality"] for match in matches if match}
    marks = {match["mark"] for match in matches if match}
    if not all(matches) or len(marks) != 1 or len(tokens) > MOST_MODALITIES:
        return "{id}" + suffix
    mark = marks.pop()
    if shape.in_folders:  # names end in what their folder is called
        return f"{{id}}{mark}*{suffix}"
    if len(tokens) >= 2:
        shape.modalities = sorted(tokens, key=natural_key)
        return f"{{id}}{mark}{{modality}}{suffix}"
    return "{id}" + suffix


def _tasks(shapes: Sequence[Shape], modalities: Sequence[str]) -> list[tuple[str, str]]:
    """Return (source, target) of each task: as folders are called, else from what the test split or radar gives."""
    if named := [task for shape in shapes for task in shape.tasks]:
        return [(a, b) for task in dict.fromkeys(named) for a in modalities for b in modalities if f"{a}2{b}" == task]
    test = {modality for shape in shapes if shape.split == "test" for modality in shape.modalities}
    source = min(modalities, key=lambda name: (kind_of(name) != "radar", modalities.index(name)))
    source = test.pop() if len(test) == 1 else source
    return [(source, target) for target in modalities if target != source] or [(source, source)]


def kind_of(modality: str) -> str:
    """Return the kind of sensor that a name speaks of.

    >>> kind_of("SAR"), kind_of("nir"), kind_of("depth")
    ('radar', 'thermal', 'other')
    """
    low = modality.lower()
    return next((kind for kind, words in KINDS.items() if low in words), "optical" if low in OPTICAL else "other")


def _headers(root: Path, shapes: Sequence[Shape], modalities: Sequence[str]) -> dict[str, Header]:
    found: dict[str, Header] = {}
    for shape in shapes:
        for path in shape.paths:
            name = next((m for m in modalities if m in re.split(r"[/_.-]", path)), shape.modality or modalities[0])
            if name not in found:
                with damage_ignored():
                    found[name] = read_header(root / path)
    return found


def _toml(
    name: str,
    root: Path,
    shapes: Sequence[Shape],
    modalities: Sequence[str],
    tasks: Sequence[tuple[str, str]],
    headers: dict[str, Header],
) -> str:
    training = next((shape for shape in shapes if shape.split != "test"), shapes[0])
    rules = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    rules.filters |= {"key": _key, "kind": kind_of, "text": _text, "printable": printable}
    return rules.from_string(read_text(TEMPLATE)).render(
        name=name,
        folder=root.resolve().name,
        shapes=shapes,
        modalities=modalities,
        tasks=tasks,
        headers=headers,
        pairing="name" if training.in_folders or not training.located else "base",
    )


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _text(name)


def _text(value: str) -> str:
    """Return a string as TOML has it: folders are called as their owner likes."""
    return dump_toml({"_": value}).removeprefix("_ = ").rstrip("\n")


def common_folders(paths: Iterable[str]) -> str:
    """Return the three folders in which most of the paths lie, each with how many: `train/sar 12, val/sar 3`."""
    folders = Counter(path.rpartition("/")[0] or "." for path in paths)
    return ", ".join(f"{folder} {count}" for folder, count in folders.most_common(3))
