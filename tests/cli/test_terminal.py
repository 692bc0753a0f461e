"""Tables of runs with long names, and messages: no line is wider than the terminal, and nothing is lost."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pbvs.cli import main
from pbvs.data.synthetic import Amounts, write_demo
from pbvs.recipe import load_recipe
from tests.tasks import TASKS

LONG = "first-run-of-a-family-with-quite-a-long-name-for-a-terminal-a"  # 60 characters and one that tells it apart
OTHER = f"{LONG[:-1]}b"
TASK_COLUMNS = ("combined", *TASKS)
SCORES = ("images", "L1", "L2", "PSNR", "SSIM", "score", "95 % interval", *TASKS, "combined", "input as it is")
CHANGES = ("images", "before", "after", "change", "95 % interval", "better/worse", *TASKS, "combined")
RUNS = ("recipe", "begun", "models", "test images", "score", "MB", "packaged", "uploads")

# What is typed, and what of its table must be there at any width.
TABLES: list[tuple[str, tuple[str, ...]]] = [
    (f"score --run {LONG} --lpips-net random --jobs 1", SCORES),
    (f"compare {LONG} {OTHER} --no-page", (*CHANGES, "seed")),
    (f"compare {LONG} {LONG}2 --seeds --no-page", ("mean", "deviation", "low", "high", *TASK_COLUMNS)),
    ("leaderboard", TASK_COLUMNS),
    ("runs", (*RUNS, "seed")),
    (f"package --run {LONG}", ("size", "images from", *TASKS, "No rule is broken")),
    (f"check submissions/{LONG}.zip --data data", ("No rule is broken",)),
    (f"submissions log submissions/{LONG}.zip", ("when (UTC)", "sha256", "local", "board", "status", "Left: 9")),
    (
        "check-data data --jobs 1 --no-shift",
        ("locations", "SAR", "RGB", "mosaics", "pairs", "clipped", "empty", "brightness", "rule", "CRS", "Not used"),
    ),
    ("build-pairs data --jobs 1", ("train", "val", "test", *TASKS)),
    (f"predict --all --run {LONG} --dry-run", ("Plan:", "Weights:", "Disk:", *TASKS)),
    ("challenge list", ("mavic-t-2026", *TASKS)),
    ("challenge show", ("source", "target", "size", "pairs by", "official inputs", *TASKS)),
    ("challenge check mavic-t-2026 --data data", ("pattern", "files")),
    ("recipe keys", ("learning_rate", "[chips]", "[radiometry]")),
    ("recipe list", ("paper", "demo", "best", "gray")),
    ("weights list", ("alex", "squeeze", "vgg19", "inception", "Searched:")),
    ("cache show", ("files", "size", "chips", "features", "baselines", "targets")),
    ("doctor", ("pbvs", "python", "torch", "data", "manifests")),
    ("ablate --rows rows.toml --recipe quick.toml --lpips-net random --jobs 1", (*TASK_COLUMNS, "Change against")),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with synthetic data, manifests and three scored runs with long names."""
    folder = tmp_path_factory.mktemp("terminal")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for variable in ("PBVS_DATA", "PBVS_CACHE"):
            patch.delenv(variable, raising=False)
        write_demo(folder / "data", seed=3, amounts=Amounts(6, 2, 1, 2, 1))
        call("build-pairs data --jobs 1")
        quick = load_recipe("gray").replace("evaluation_size", "native")
        for name, changed in ((LONG, quick), (f"{LONG}2", quick), (OTHER, quick.replace("seed", 7))):
            changed.save(f"{name}.toml")
            call(f"predict --all --recipe {name}.toml --run {name} --jobs 1")
            call(f"score --run {name} --lpips-net random --jobs 1")
            call(f"package --run {name}")  # some tables are of archives, in whatever order tests run
        quick.save("quick.toml")
        rows = "".join(f'[[rows]]\nname = "{"a-long-" * 4}name-{end}"\n' for end in "ab")
        (folder / "rows.toml").write_text(f'title = "Parts"\n{rows}every = {{ intensity = 1.6 }}\n')
        yield folder


def call(words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    assert stop.value.code in (0, 1), words
    return int(stop.value.code)


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize(("words", "wanted"), TABLES, ids=[words.split(" --")[0][:40] for words, _ in TABLES])
def test_a_table_fits_the_terminal_and_loses_nothing(
    words: str,
    wanted: tuple[str, ...],
    columns: int,
    world: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(world)
    monkeypatch.setenv("COLUMNS", str(columns))
    log = world / "submissions" / "log.csv"
    log.unlink(missing_ok=True)
    call(words)
    printed = capsys.readouterr()
    wide = [line for line in (printed.out + printed.err).splitlines() if len(line) > columns]
    # A path, or a command that comes next, stays whole on its own line, to be copied.
    assert [line for line in wide if not re.fullmatch(r"\s*(\S*/\S*|pbvs .*)", line)] == []
    said = " ".join(printed.out.split())
    assert [word for word in wanted if word not in said] == []
    sys.stdout.write(printed.out)


# What is typed, and what it says on standard error in one line of more than 60 columns.
MESSAGES = [
    (
        "predict --task sar2eo --run demo --dry-run",
        "No GPU here: the recipe is demo, which shows that everything ",
    ),
    (
        "build-pairs --data nowhere/at/all",
        "Usage error: The data folder nowhere/at/all, given by --data or ",
    ),
    (
        "predict --all --recipe nothing.toml",
        "Usage error: There is no recipe 'nothing.toml'; give the path of a .toml file",
    ),
    ("check-data data --format html --nothing", "Error: No such option"),
    ("scoers --run a-run", "Error: There is no command 'scoers'; did you mean score?"),
]


@pytest.mark.parametrize(("words", "said"), MESSAGES, ids=[words.split(" --")[0] for words, _ in MESSAGES])
def test_messages_fold_on_a_terminal_and_are_one_line_in_a_pipe(
    words: str, said: str, world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(world)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    piped = run(words, capsys)
    assert [line for line in piped.splitlines() if line.startswith(said)] != []
    shown = on_terminal(words, 60)
    assert [line for line in shown.splitlines() if len(line) > 60] == []
    assert shown.split() == piped.split()


def run(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        main(words.split())
    return capsys.readouterr().err


def on_terminal(words: str, columns: int) -> str:
    """Return what a command says on standard error where that, and nothing else, is a terminal."""
    reader, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    with os.fdopen(reader, "rb", buffering=0) as read, pytest.MonkeyPatch.context() as patch:
        with os.fdopen(terminal, "w", encoding="utf-8") as stream, pytest.raises(SystemExit):
            patch.setattr(sys, "stderr", stream)
            main(words.split())
        said = b""
        with contextlib.suppress(OSError):  # how Linux says that a terminal is at its end
            while part := read.read(4096):
                said += part
    return re.sub(r"[^\n]*\r", "", said.decode().replace("\r\n", "\n"))  # a bar that was written over is gone
