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
from tests.submission.place import Place, noise, png_bytes


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of which no sentence is broken."""
    monkeypatch.setenv("COLUMNS", "250")


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def pack(capsys: pytest.CaptureFixture[str], place: Place, *more: object) -> tuple[int, str, str]:
    folders = ("--manifests", place.manifests, "--submissions", place.submissions)
    return call(capsys, "package", *folders, *more)


def test_package_says_where_and_how_big(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.run()
    status, out, _ = pack(capsys, place)
    assert status == 0
    assert "11 images from hand" in out
    assert "as RGB" in out
    assert f"Archive: {place.submissions / 'hand.zip'}" in out


def test_dry_run_writes_nothing(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    run = place.run()
    status, out, _ = pack(capsys, place, "--dry-run", "--tasks", "sar2eo, rgb2ir", "--mode", "all=RGB")
    assert status == 0
    assert "CPU[1] / GPU[0] : 1" in out
    assert "sar2ir" not in out.split("runtime")[0]
    assert not run.archive.exists()


def test_refusal_lists_what_is_wrong(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    run = place.run()
    run.prediction("test", "sar2eo", "3").write_bytes(png_bytes(noise(1, 1, side=20)))
    status, _, error = pack(capsys, place)
    assert status == 1
    assert "sar2eo/3.png: it is 20 x 20 pixels, not 48 x 48" in error
    assert not run.archive.exists()


def test_from_takes_a_task_of_another_run(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.run("other", seed=300)
    place.run()
    status, out, _ = pack(capsys, place, "--run", "hand", "--from", "other:sar2rgb")
    assert status == 0
    assert "3 images from other" in out
    assert pack(capsys, place, "--run", "hand", "--from", "sar2rgb")[0] == 2


def test_check_of_anybodys_zip(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.run()
    pack(capsys, place)
    path = place.submissions / "hand.zip"
    options = ("--data", place.root, "--evaluation-size", "native")
    status, out, _ = call(capsys, "check", path, *options)
    assert status == 0
    assert "No rule is broken: 0 errors" in out
    status, out, _ = call(capsys, "check", path, "--data", place.root)  # as the run that wrote it
    assert status == 0
    assert "own sizes are taken as meant, where the rules ask for 256 x 256" in out
    foreign = place.submissions.parent / "foreign.zip"
    foreign.write_bytes(path.read_bytes())
    status, out, _ = call(capsys, "check", foreign, "--data", place.root)
    assert status == 1
    assert "would be rejected" in out
    assert "... and 15 more of this kind" in out
    status, out, _ = call(capsys, "check", path, "--json", *options)
    value = json.loads(out)
    assert not value["rejected"]
    assert {"level", "rule", "file", "message", "hint"} == set(value["findings"][0])


def test_strict_counts_warnings(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.run()
    pack(capsys, place, "--tasks", "sar2eo")
    options = ("--data", place.root, "--evaluation-size", "native")
    assert call(capsys, "check", place.submissions / "hand.zip", *options)[0] == 0
    assert call(capsys, "check", place.submissions / "hand.zip", "--strict", *options)[0] == 1


def test_mistakes_are_one_sentence(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, status, words in (
        (("check", tmp_path / "none.zip"), 1, "There is no archive"),
        (("check", place.manifests / "summary.json", "--data", tmp_path / "nowhere"), 2, "no data folder"),
        (("package", "--submissions", tmp_path / "empty"), 1, "There is no run"),
        (("install", place.manifests / "summary.json"), 1, "not a zip"),
        (("export", "nothing", "--submissions", place.submissions), 1, "There is no run"),
        (("submissions", "--submissions", tmp_path, "log", tmp_path / "none.zip"), 1, "There is no archive"),
        (("runs", "--submissions", tmp_path, "rm", "--yes", "none"), 2, "There is no run"),
        (("reproduce", "none", "--submissions", tmp_path), 1, "There is no"),
    ):
        code, _, error = call(capsys, *arguments)
        assert (code, words in error) == (status, True), (arguments, error)
        assert "Traceback" not in error


def test_a_day_with_the_log(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.run()
    pack(capsys, place)
    here = ("submissions", "--submissions", place.submissions)
    assert "Upload 1: hand.zip" in call(capsys, *here, "log", place.submissions / "hand.zip", "--note", "try")[1]
    assert "0.41" in call(capsys, *here, "board", 1, 0.41)[1]
    assert "Left: 9 of 10 today (UTC), 59 of 60 in all." in call(capsys, *here)[1]
    assert "Left: 10 of 10" in call(capsys, *here, "failed", 1)[1]
    status, out, _ = call(capsys, "runs", "--submissions", place.submissions)
    assert status == 0
    assert "hand" in out


def test_runs_can_be_removed(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    run = place.run()
    status, out, _ = call(capsys, "runs", "--submissions", place.submissions, "rm", "--yes", "hand")
    assert status == 0
    assert str(run.folder) in out
    assert "no run" in call(capsys, "runs", "--submissions", place.submissions)[1]
    assert not Run("hand", place.submissions).exists()


def test_none_of_it_imports_torch() -> None:
    script = (
        "import sys; import pbvs.cli.submission, pbvs.cli.runs, pbvs.submission.package, pbvs.submission.check,"
        " pbvs.experiments.bundle, pbvs.submission.uploads, pbvs.experiments.runs, pbvs.experiments.reproduce;"
        " print([name for name in ('torch', 'pandas', 'rasterio', 'scipy') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_every_line_fits_the_terminal(
    columns: int, place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place.run()
    monkeypatch.chdir(place.submissions.parent)
    monkeypatch.setenv("COLUMNS", str(columns))
    folders = ("--manifests", "manifests", "--submissions", "submissions")
    said = call(capsys, "package", *folders)[1] + call(capsys, "check", "submissions/hand.zip")[1]
    said += call(capsys, "submissions", "--submissions", "submissions", "log", "submissions/hand.zip")[1]
    assert "names were not checked" in said and "Left: 9 of 10" in said
    assert [line for line in said.splitlines() if len(line) > columns] == []


def test_the_log_as_json(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.run()
    pack(capsys, place)
    here = ("submissions", "--submissions", place.submissions)
    call(capsys, *here, "log", place.submissions / "hand.zip")
    value = json.loads(call(capsys, *here, "--json")[1])
    assert value["left"] == {"today": 9, "in_all": 59}
    assert value["uploads"][0]["archive"] == "hand.zip"


def test_mistakes_with_the_log_name_the_next_command(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.run()
    pack(capsys, place)
    here = ("submissions", "--submissions", place.submissions)
    archive = place.submissions / "hand.zip"
    call(capsys, *here, "log", archive)
    status, _, error = call(capsys, *here, "log", archive)
    assert (status, "pbvs submissions failed 1" in error) == (2, True)
    status, _, error = call(capsys, *here, "board", 1, 41)
    assert (status, "--anyway" in error) == (2, True)
    assert call(capsys, *here, "board", 1, 41, "--anyway")[0] == 0


def test_escape_sequences_reach_no_terminal(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, evil = place.run(), "\x1b]0;owned\x07\x1b[2J"
    path = tmp_path / f"{evil}.zip"
    write_zip(path, {f"sar2eo/{evil}.png": b"x", f"{evil}/1.png": b"x", "readme.txt": evil.encode()}.items())
    for command in (
        ("check", path),
        ("check", tmp_path / f"{evil}-none.zip"),
        ("package", "--run", evil),
        ("package", "--tasks", evil, "--run", run.name, "--submissions", place.submissions),
        ("package", "--describe", evil, "--dry-run", "--run", run.name, "--submissions", place.submissions,
         "--manifests", place.manifests),
        ("submissions", "--submissions", place.submissions, "log", path, "--note", evil),
        ("score", path, "--targets", tmp_path, "--lpips-net", "random"),
        ("install", path),
    ):  # fmt: skip
        _, out, error = call(capsys, *command)
        assert out + error
        assert "\x1b" not in out + error and "\x07" not in out + error, command
