"""The shell around the functions: help without torch, sentences instead of traces, exit statuses."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pbvs import logs
from pbvs.cli import COMMANDS, cli, main, options
from pbvs.data.synthetic import Amounts, write_demo
from pbvs.text import aligned
from tests.report.world import World

HEAVY = ("torch", "pandas", "rasterio", "skimage", "joblib", "scipy", "jinja2")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_answers_without_heavy_imports(command: str) -> None:
    script = (
        "import sys\nfrom pbvs.cli import main\n"
        f"try: main({[*command.split(), '--help']!r})\n"
        "except SystemExit as e: assert e.code in (0, None), e.code\n"
        f"heavy = [m for m in {HEAVY!r} if m in sys.modules]\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["nothing"], 2, "nothing"),
        (["predict"], 2, "--all"),
        (["predict", "--all", "--task", "sar2eo"], 2, "--all"),
        (["predict", "--all", "--recipe", "nowhere"], 2, "nowhere"),
        (["predict", "--all", "--recipe", "demo", "--run", "../evil"], 2, "run name"),
        (["score", "--run", "a/b"], 2, "run name"),
        (["score", "--run", "absent"], 1, "no run"),
        (["package", "--run", "absent"], 1, "no run"),
        (["build-pairs"], 2, "PBVS_DATA"),
        (["build-pairs", "--data", "absent"], 2, "absent"),
    ],
)
def test_a_mistake_is_one_sentence_and_a_status(
    arguments: list[str],
    status: int,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PBVS_DATA", raising=False)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    captured = capsys.readouterr()
    assert stop.value.code == status
    assert sentence in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("typed", "meant"), [("scor", "score"), ("bild-pairs", "build-pairs"), ("sumbissions", "submissions")]
)
def test_a_misspelt_command_gets_the_nearest_one(typed: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([typed])
    assert stop.value.code == 2
    assert f"did you mean {meant}?" in capsys.readouterr().err


def test_help_lists_every_command_once_under_its_group() -> None:
    text = CliRunner().invoke(cli, ["--help"], terminal_width=80).stdout
    assert text.index("The main job") < text.index("Look at results") < text.index("Submissions and help")
    for name in COMMANDS:
        assert len(re.findall(rf"^  {name} ", text, re.MULTILINE)) == 1, name
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_tables_fit_the_terminal(columns: int, capsys: pytest.CaptureFixture[str]) -> None:
    head = ("run", "recipe", "score", "note")
    options.echo_table(
        head, [("demo", "paper", "0.3315 (val, alex)", "much to say " * 9), ("two", "-", "-", "-")], columns
    )
    options.echo_table(head, [("demo", "paper", "0.33", "short")], columns)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    assert "demo  paper   0.33   short" in lines


def test_json_has_no_numbers_that_json_has_not(capsys: pytest.CaptureFixture[str]) -> None:
    options.echo_json({"a": float("nan"), "b": (1, Path("x")), 3: [float("inf"), True, None]})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [1, "x"], "3": [None, True, None]}


def test_quiet_stands_anywhere_and_hides_progress_but_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (["--quiet", "demo-data", "one"], ["demo-data", "two", "--quiet"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        captured = capsys.readouterr()
        assert (stop.value.code, captured.err) == (0, "")
        assert "synthetic images" in captured.out
    logs.set_quiet(False)


def completions(words: str, incomplete: str) -> list[str]:
    from click.shell_completion import ShellComplete

    found = ShellComplete(cli, {}, "pbvs", "_PBVS_COMPLETE").get_completions(words.split(), incomplete)
    return [item.value for item in found]


def test_shells_complete_commands_runs_and_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("alpha", "alps", "beta"):
        (tmp_path / "submissions" / name).mkdir(parents=True)
        (tmp_path / "submissions" / name / "recipe.toml").write_text("")
    assert completions("", "sco") == ["score"]
    assert completions("score --run", "al") == ["alpha", "alps"]
    assert completions("compare", "b") == ["beta"]
    assert completions("predict --recipe", "pa")[0] == "paper"


def test_commands_print_json_that_a_program_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path / "world", images=2, location="33.5_-118")
    world.run(tmp_path / "submissions")
    monkeypatch.chdir(tmp_path)

    def told(*arguments: str) -> Any:
        with pytest.raises(SystemExit) as stop:
            main([*arguments, "--json"])
        captured = capsys.readouterr()
        assert stop.value.code == 0, captured.err
        return json.loads(captured.out)

    places = ["--data", str(world.root), "--manifests", str(world.manifests)]
    summary = told("score", *places, "--run", "one", "--lpips-net", "random", "--no-baselines")
    assert set(summary["tasks"]) == {"sar2eo", "sar2rgb", "sar2ir", "rgb2ir"}
    assert told("runs")["runs"][0]["run"] == "one"
    assert {finding["what"] for finding in told("doctor", *places)} >= {"pbvs", "python"}
    assert isinstance(told("leaderboard"), (dict, list))


BLOCKED = ("fcntl", "resource", "pwd", "grp", "termios")


def test_no_module_needs_what_other_systems_lack() -> None:
    """Every module is imported as where there is no POSIX: none of its modules, no fork, no O_CLOEXEC."""
    script = (
        "import importlib, os, pathlib, pkgutil, sys\n"
        "import torch, lpips, pandas, rasterio, skimage, joblib, tqdm, pydantic, jinja2, filelock, scipy.ndimage\n"
        f"sys.modules.update(dict.fromkeys({BLOCKED!r}))\n"
        "del os.register_at_fork, os.O_CLOEXEC, os.O_NOFOLLOW, os.O_NONBLOCK\n"
        "os.name = 'nt'\n"
        "import pbvs.files\n"
        "os.name = 'posix'\n"  # pathlib makes no paths of another system
        "names = [m.name for m in pkgutil.walk_packages(pbvs.__path__, 'pbvs.') if m.name != 'pbvs.__main__']\n"
        "[importlib.import_module(name) for name in names]\n"
        "print(len(names))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 60


def test_a_thread_that_fails_while_everything_stops_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise KeyError("pending work")

    for received, silent in ((signal.SIGINT, True), (None, False)):
        with logs.stoppable():
            monkeypatch.setattr(logs, "received", received)
            thread = threading.Thread(target=fail)
            thread.start()
            thread.join()
            monkeypatch.setattr(logs, "received", None)
        assert ("pending work" not in capsys.readouterr().err) is silent


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_long_lines_go_on_below_their_last_column(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "note  disk      " + "plenty of room for everything that is to come, " * 5
    monkeypatch.setenv("COLUMNS", str(columns))
    options.echo(f"short\n{line}")
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "short"
    assert max(map(len, printed)) <= columns
    assert all(text.startswith(" " * 16) and text[16] != " " for text in printed[2:])
    assert " ".join(" ".join(printed[1:]).split()) == " ".join(line.split())
    monkeypatch.delenv("COLUMNS")
    options.echo(line)
    assert capsys.readouterr().out.splitlines() == [line]


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_table_of_archives_fits_the_terminal(
    columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_demo(tmp_path / "data", seed=3, amounts=Amounts(2, 1, 1, 2, 1))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit):
        main(["check-data", "data", "--jobs", "1", "--no-shift"])
    lines = capsys.readouterr().out.splitlines()
    table = lines[: next(n for n, line in enumerate(lines) if line.startswith("type "))]
    assert max(map(len, table)) <= columns
    assert [line.split() for line in table if line.startswith("pairs")] == [["pairs", "train", "val", "test"]]
    names = [path.name for path in (tmp_path / "data").iterdir() if path.name.startswith("Train")]
    assert len(names) >= 2
    for name in names:  # its middle may be left out where that leaves it apart from others
        start, end = (name, name) if columns > 60 else (name[:9], name[-9:])
        assert sum(line.startswith(start) and line.split()[0].endswith(end) for line in table) == 1


def test_names_that_would_be_the_same_without_their_middles_stay_whole() -> None:
    head, names = ["archive", *"abcdefgh"], ["Train_Data_NAIP_SAR_IR_RGB", "Train_Data_Sentinel_SAR_IR_RGB"]
    lines = aligned([head, *([name, *map(str, range(8))] for name in names)], 44)
    assert max(map(len, lines)) <= 44
    assert [line.split() for line in lines if line.startswith(names[0])] == [[names[0], *"0123456"], [names[0], "7"]]
    assert lines[3] == "" and lines[4].split() == ["archive", "h"]
