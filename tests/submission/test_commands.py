"""The commands around a submission as a user calls them: what they print and with which status they end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pbvs.cli import main
from pbvs.run import Run
from pbvs.submission.zips import write_zip
from tests.submission.workspace import Workspace, noise, png_bytes


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of which no sentence is broken."""
    monkeypatch.setenv("COLUMNS", "250")


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def pack(capsys: pytest.CaptureFixture[str], workspace: Workspace, *more: object) -> tuple[int, str, str]:
    folders = ("--manifests", workspace.manifests, "--submissions", workspace.submissions)
    return call(capsys, "package", *folders, *more)


def test_package_says_where_and_how_big(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    workspace.run()
    status, out, _ = pack(capsys, workspace)
    assert status == 0
    assert "11 images from hand" in out
    assert "as RGB" in out
    assert f"Archive: {workspace.submissions / 'hand.zip'}" in out


def test_dry_run_writes_nothing(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    run = workspace.run()
    status, out, _ = pack(capsys, workspace, "--dry-run", "--tasks", "sar2eo, rgb2ir", "--mode", "all=RGB")
    assert status == 0
    assert "CPU[1] / GPU[0] : 1" in out
    assert "sar2ir" not in out.split("runtime")[0]
    assert not run.archive.exists()


def test_refusal_lists_what_is_wrong(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    run = workspace.run()
    run.prediction("test", "sar2eo", "3").write_bytes(png_bytes(noise(1, 1, side=20)))
    status, _, error = pack(capsys, workspace)
    assert status == 1
    assert "sar2eo/3.png: it is 20 x 20 pixels, not 48 x 48" in error
    assert not run.archive.exists()


def test_from_takes_a_task_of_another_run(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    workspace.run("other", seed=300)
    workspace.run()
    status, out, _ = pack(capsys, workspace, "--run", "hand", "--from", "other:sar2rgb")
    assert status == 0
    assert "3 images from other" in out
    assert pack(capsys, workspace, "--run", "hand", "--from", "sar2rgb")[0] == 2


def test_check_of_anybodys_zip(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    workspace.run()
    pack(capsys, workspace)
    path = workspace.submissions / "hand.zip"
    options = ("--data", workspace.root, "--evaluation-size", "native")
    status, out, _ = call(capsys, "check", path, *options)
    assert status == 0
    assert "No rule is broken: 0 errors" in out
    status, out, _ = call(capsys, "check", path, "--data", workspace.root)  # as the run that wrote it
    assert status == 0
    assert "own sizes are taken as meant, where the rules ask for 256 x 256" in out
    foreign = workspace.submissions.parent / "foreign.zip"
    foreign.write_bytes(path.read_bytes())
    status, out, _ = call(capsys, "check", foreign, "--data", workspace.root)
    assert status == 1
    assert "would be rejected" in out
    assert "... and 15 more of this kind" in out
    status, out, _ = call(capsys, "check", path, "--json", *options)
    value = json.loads(out)
    assert not value["rejected"]
    assert {"level", "rule", "file", "message", "hint"} == set(value["findings"][0])


def test_strict_counts_warnings(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    workspace.run()
    pack(capsys, workspace, "--tasks", "sar2eo")
    options = ("--data", workspace.root, "--evaluation-size", "native")
    assert call(capsys, "check", workspace.submissions / "hand.zip", *options)[0] == 0
    assert call(capsys, "check", workspace.submissions / "hand.zip", "--strict", *options)[0] == 1


def test_mistakes_are_one_sentence(workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, status, words in (
        (("check", tmp_path / "none.zip"), 1, "There is no archive"),
        (("check", workspace.manifests / "summary.json", "--data", tmp_path / "nowhere"), 2, "no data folder"),
        (("package", "--submissions", tmp_path / "empty"), 1, "There is no run"),
        (("install", workspace.manifests / "summary.json"), 1, "not a zip"),
        (("export", "nothing", "--submissions", workspace.submissions), 1, "There is no run"),
        (("submissions", "--submissions", tmp_path, "log", tmp_path / "none.zip"), 1, "There is no archive"),
        (("runs", "--submissions", tmp_path, "rm", "--yes", "none"), 2, "There is no run"),
        (("runs", "--submissions", tmp_path, "rm", "none"), 2, "There is no run"),  # without a question first
        (("reproduce", "none", "--submissions", tmp_path), 1, "There is no"),
    ):
        code, _, error = call(capsys, *arguments)
        assert (code, words in error) == (status, True), (arguments, error)
        assert "Traceback" not in error


def test_a_day_with_the_log(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    workspace.run()
    pack(capsys, workspace)
    here = ("submissions", "--submissions", workspace.submissions)
    assert "Upload 1: hand.zip" in call(capsys, *here, "log", workspace.submissions / "hand.zip", "--note", "try")[1]
    assert "0.41" in call(capsys, *here, "board", 1, 0.41)[1]
    assert "Left: 9 of 10 today (UTC), 59 of 60 in all." in call(capsys, *here)[1]
    assert "Left: 10 of 10" in call(capsys, *here, "failed", 1)[1]
    status, out, _ = call(capsys, "runs", "--submissions", workspace.submissions)
    assert status == 0
    assert "hand" in out


def test_runs_can_be_removed(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    run = workspace.run()
    status, out, _ = call(capsys, "runs", "--submissions", workspace.submissions, "rm", "--yes", "hand")
    assert status == 0
    assert str(run.folder) in out
    assert "no run" in call(capsys, "runs", "--submissions", workspace.submissions)[1]
    assert not Run("hand", workspace.submissions).exists()


def test_none_of_it_imports_torch() -> None:
    script = (
        "import sys; import pbvs.cli.submission, pbvs.cli.runs, pbvs.submission.package, pbvs.submission.check,"
        " pbvs.experiments.bundle, pbvs.submission.uploads, pbvs.experiments.runs, pbvs.experiments.runs;"
        " print([name for name in ('torch', 'pandas', 'rasterio', 'scipy') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_every_line_fits_the_terminal(
    columns: int, workspace: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.run()
    monkeypatch.chdir(workspace.submissions.parent)
    monkeypatch.setenv("COLUMNS", str(columns))
    folders = ("--manifests", "manifests", "--submissions", "submissions")
    said = call(capsys, "package", *folders)[1] + call(capsys, "check", "submissions/hand.zip")[1]
    said += call(capsys, "submissions", "--submissions", "submissions", "log", "submissions/hand.zip")[1]
    assert "names were not checked" in said and "Left: 9 of 10" in said
    assert [line for line in said.splitlines() if len(line) > columns] == []


def test_the_log_as_json(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    workspace.run()
    pack(capsys, workspace)
    here = ("submissions", "--submissions", workspace.submissions)
    call(capsys, *here, "log", workspace.submissions / "hand.zip")
    value = json.loads(call(capsys, *here, "--json")[1])
    assert value["left"] == {"today": 9, "in_all": 59}
    assert value["uploads"][0]["archive"] == "hand.zip"


def test_mistakes_with_the_log_name_the_next_command(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    workspace.run()
    pack(capsys, workspace)
    here = ("submissions", "--submissions", workspace.submissions)
    archive = workspace.submissions / "hand.zip"
    call(capsys, *here, "log", archive)
    status, _, error = call(capsys, *here, "log", archive)
    assert (status, "pbvs submissions failed 1" in error) == (2, True)
    status, _, error = call(capsys, *here, "board", 1, 41)
    assert (status, "--anyway" in error) == (2, True)
    assert call(capsys, *here, "board", 1, 41, "--anyway")[0] == 0


def test_escape_sequences_reach_no_terminal(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, evil = workspace.run(), "\x1b]0;owned\x07\x1b[2J"
    path = tmp_path / f"{evil}.zip"
    write_zip(path, {f"sar2eo/{evil}.png": b"x", f"{evil}/1.png": b"x", "readme.txt": evil.encode()}.items())
    for command in (
        ("check", path),
        ("check", tmp_path / f"{evil}-none.zip"),
        ("package", "--run", evil),
        ("package", "--tasks", evil, "--run", run.name, "--submissions", workspace.submissions),
        ("package", "--describe", evil, "--dry-run", "--run", run.name, "--submissions", workspace.submissions,
         "--manifests", workspace.manifests),
        ("submissions", "--submissions", workspace.submissions, "log", path, "--note", evil),
        ("score", path, "--targets", tmp_path, "--lpips-net", "random"),
        ("install", path),
    ):  # fmt: skip
        _, out, error = call(capsys, *command)
        assert out + error
        assert "\x1b" not in out + error and "\x07" not in out + error, command
