"""Records that somebody damaged: each file that says something of a run, in every way, before each command reading it.

`python -m tests.faults.records --limit N --minutes M --seed S` draws N of all the points there are, tries them for at
most M minutes and prints the counts.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import json
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.faults.points import Bench, Scenario
from tests.faults.scenarios import CALIBRATE, GRADED, GRAY, PACKAGE, PREDICT, SCORE, TINY, _pairs, pbvs

GOOD = "good"  # the run beside, which nobody touches
DEEP = "[" * 900 + "]" * 900
DIGITS = "9" * 5000
WHOLE = (
    "", "[]", "null", "5", '"x"', "NaN", "-Infinity", "{}", '{"combined": 1e400}', '{"run": "\\ud800"}', DEEP,
    '{"a":' * 900 + "1" + "}" * 900, '{"combined": ' + DIGITS + "}", "a = ", "a." * 999, "\0", "\x1b[2J,=1\n",
)  # fmt: skip
PARTS = (
    "null", "[]", "{}", "[[]]", '[{"a": 1}]', "true", "-1", "0.5", str(10**39), '"x"', '"\\u001b[2J"', '"../../x"',
    '""', "NaN", "Infinity", "1e400", DIGITS, '"\\ud800"', DEEP,
)  # fmt: skip
TOML_PARTS = ("[]", "{}", "[[]]", "true", "-1", "0.5", '"x"', '"\\u001b[2J"', "nan", "-inf", "1e400", DIGITS, DEEP, "")
CELLS = ("", "x", "-1", "nan", "inf", "1e400", DIGITS, "=1+1", "\x1b[2J", '"', "{}", "../../x")
COMMANDS = {
    "runs": "runs",
    "runs --json": "runs --json",
    "leaderboard": "leaderboard",
    "check": "check submissions/r.zip --data data",
    "report": "report --run r --data data",
    "package": PACKAGE,
    "export": "export r",
    "reproduce": "reproduce r --check-only --data data",
    "compare": f"compare r {GOOD} --no-page",
    "submissions": "submissions",
    "submissions log": "submissions log submissions/r/val.zip --anyway",
    "calibrate": f"{CALIBRATE} --task rgb2ir --dry-run",
    "predict": "predict --all --run r --data data --jobs 1 --device cpu",
    "plan": "predict --all --run r --data data --jobs 1 --device cpu --dry-run",
    "score": SCORE,
    "score an archive": GRADED,
    "doctor": "doctor --data data",
    "runs rm": "runs rm r --yes",
}
VERDICTS = ("check", "reproduce", "doctor")  # which end with 1 as their answer, without an error


class Point(NamedTuple):
    """A file of a run, what is done to it, and the command that reads it; not its text, as there are 200,000 points."""

    file: str
    damage: str
    number: int  # of the damage among those of the file
    command: str


def prepare() -> None:
    """Make a run with every kind of record in the working folder, and a good one beside it."""
    _pairs()
    Path("r.toml").write_text(TINY + GRAY.format(1.3).split("\n", 2)[2])
    tasks = PACKAGE.replace("--tasks rgb2ir", "--tasks sar2eo,rgb2ir")
    score = f"{SCORE} --no-baselines"
    for line in (
        PREDICT, f"{CALIBRATE} --task rgb2ir", PREDICT.replace("--recipe r.toml ", "--run r "), SCORE, tasks,
        f"{tasks} --split val", "submissions log submissions/r.zip --note first", "export r",
        f"install submissions/r/r.pbvs.zip --run {GOOD}", f"predict --all --run {GOOD} --data data --jobs 1",
        score.replace("--run r", f"--run {GOOD}"), GRADED, "report --run r --data data",
    ):  # fmt: skip
        pbvs(line)


def damages(name: str, text: str) -> Iterator[tuple[str, str]]:
    """Yield what a file may say in the place of `text`, each with a name."""
    yield from ((f"whole {number}", whole) for number, whole in enumerate(WHOLE))
    yield "cut", text[: len(text) // 2]
    yield "binary", text[:20] + "\x00\ufffd" * 50
    kind = Path(name).suffix
    parts = {".json": _json_parts, ".toml": _toml_parts, ".csv": _csv_parts}[kind](text)
    yield from parts


def _json_parts(text: str) -> Iterator[tuple[str, str]]:
    value = json.loads(text)
    for path in _paths(value):
        marked = json.dumps(_with(value, path, "@@"))
        for number, part in enumerate(PARTS):
            yield f"{'.'.join(map(str, path))} = {number}", marked.replace('"@@"', part, 1)
        yield f"without {'.'.join(map(str, path))}", json.dumps(_without(value, path))


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to each value; of a list only to the first item, and of many keys to the first ones."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, item in itertools.islice(items, 40):
        yield (*path, key)
        yield from _paths(item, (*path, key))


def _with(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    inner = _with(value[path[0]], path[1:], new)
    return {**value, path[0]: inner} if isinstance(value, dict) else [inner, *value[1:]]


def _without(value: Any, path: tuple[Any, ...]) -> Any:
    if len(path) > 1:
        return _with(value, path[:1], _without(value[path[0]], path[1:]))
    return {key: item for key, item in value.items() if key != path[0]} if isinstance(value, dict) else value[1:]


def _toml_parts(text: str) -> Iterator[tuple[str, str]]:
    for found in re.finditer(r"^([\w-]+) = (.+)$", text, re.MULTILINE):
        for number, part in enumerate(TOML_PARTS):
            yield f"{found[1]} at {found.start()} = {number}", text[: found.start(2)] + part + text[found.end(2) :]
        yield f"without {found[1]} at {found.start()}", text[: found.start()] + text[found.end() :]


def _csv_parts(text: str) -> Iterator[tuple[str, str]]:
    rows = list(csv.reader(io.StringIO(text)))
    for row, column in itertools.product(range(min(2, len(rows))), range(len(rows[0]))):
        for number, cell in enumerate(CELLS):
            changed = [[*line] for line in rows]
            changed[row][column] = cell
            out = io.StringIO()
            csv.writer(out, lineterminator="\n").writerows(changed)
            yield f"cell {row}, {column} = {number}", out.getvalue()
    yield "a row twice", text + text.splitlines()[-1] + "\n"
    yield "a long row", text + "x," * 99 + "\n"


def is_record(path: str) -> bool:
    """Return whether a file, by its path below the working folder, says something of the run `r` or its data."""
    ours = path.startswith(("submissions/r/", "submissions/r-", "submissions/log", "data_manifests/", "cache/"))
    return ours and path.endswith((".json", ".toml", ".csv"))


class World(Bench):
    """A finished run in a folder of its own, of which one file is damaged at a time."""

    def __init__(self, scratch: Path):
        os.environ["PBVS_CACHE"] = "cache"
        super().__init__(Scenario("records", lambda: None, prepare), scratch)

    def _undisturbed(self) -> tuple[list[str], dict[str, set[str]]]:
        """Run each command once in this process, so that forks import nothing, and note which records it reads."""
        self.reads: dict[str, list[str]] = {}
        self.lines: dict[str, str] = {}
        opened: set[str] = set()
        watching = [True]

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "open" and watching[0] and isinstance(arguments[0], (str, Path)):
                opened.add(os.path.relpath(str(arguments[0]), str(self.work)))

        sys.addaudithook(watch)
        for name, line in COMMANDS.items():
            self.scenario = Scenario(name, lambda line=line: pbvs(line))  # type: ignore[misc]
            opened.clear()
            status = self._here()
            if status and name not in VERDICTS:
                raise AssertionError(f"{name}: undisturbed it ended with {status}: {self.said()}")
            self.reads[name] = sorted(filter(is_record, {os.path.normpath(path) for path in opened}))
            self.lines[name] = self._good_line()
            self._reset()
        watching[0] = False
        return [], {}

    def _good_line(self) -> str:
        """Return what the last command said of the run that nobody touches."""
        found = (line for line in self.out.read_text(errors="replace").splitlines() if line.startswith(f"{GOOD} "))
        return next(found, "")

    def points(self) -> Iterator[Point]:
        """Yield every damage to every record that a command reads."""
        for command, names in self.reads.items():
            for name in names:
                text = (self.start / name).read_text(encoding="utf-8") if (self.start / name).is_file() else ""
                for number, (damage, _) in enumerate(damages(name, text) if text else ()):
                    yield Point(name, damage, number, command)

    def try_damage(self, point: Point) -> str:
        """Damage a file and run the command; return what is wrong with how it ended, or nothing."""
        self._reset()
        text = (self.start / point.file).read_text(encoding="utf-8")
        _, new = next(itertools.islice(damages(point.file, text), point.number, None))
        (self.work / point.file).write_text(new, encoding="utf-8", errors="surrogatepass")
        status = self._fork(lambda: pbvs(COMMANDS[point.command]))
        said = self.out.read_text(errors="replace")
        where = f"{point.command}: {point.file}, {point.damage}: status {status}: "
        if status not in (0, 1) or "Traceback" in said or "fault of pbvs" in said or "\x1b" in said:
            return where + said[-700:]
        if status == 1 and point.command not in VERDICTS and len(re.findall(r"^Error: ", said, re.MULTILINE)) != 1:
            return f"{where}no sentence: {said[-700:]}"
        if point.command in ("runs", "leaderboard") and self._good_line() != self.lines[point.command]:
            return f"{where}the other run is shown otherwise: {said[-700:]}"
        return ""


def draw(points: Iterable[Point], limit: int, seed: int) -> list[Point]:
    """Return points drawn at random, as many of each file and command as there is room for."""
    groups: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        groups.setdefault((point.file, point.command), []).append(point)
    order = random.Random(seed)
    each = list(groups.values())
    order.shuffle(each)
    for group in each:
        order.shuffle(group)
    rounds = itertools.zip_longest(*each)
    return [point for some in rounds for point in some if point is not None][:limit]


def main() -> None:
    """Try points and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="a part of a file's name or of a command's")
    options = parser.parse_args()
    folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="pbvs-records-", dir=folder) as scratch:
        world = World(Path(scratch) / "bench")
        every = list(world.points())
        tried: Counter[str] = Counter()
        bad, end = 0, time.monotonic() + 60 * options.minutes
        for point in draw(every, options.limit, options.seed):
            if options.only and options.only not in f"{point.command}: {point.file}":
                continue
            if time.monotonic() > end:
                break
            tried[point.command] += 1
            if wrong := world.try_damage(point):
                bad += 1
                print(wrong, flush=True)
        known = Counter(point.command for point in every)
        for command in known:
            files = len({point.file for point in every if point.command == command})
            print(f"| `{command}` | {files} | {known[command]:,} | {tried[command]:,} |")
        print(f"{len(every):,} points, {tried.total():,} tried, {bad} bad")


if __name__ == "__main__":
    main()
