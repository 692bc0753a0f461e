"""What helps when something went wrong: the log in each run, `--debug`, exit statuses, `pbvs doctor`."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from pathlib import Path

import click
import numpy as np
import pytest
import torch

from pbvs import cli, logs
from pbvs.cli import main
from pbvs.data.manifest import manifest_path
from pbvs.errors import PbvsError, UsageError
from pbvs.experiments.machine import examine, is_bad, text
from pbvs.files import UNFINISHED, make_folder
from pbvs.run import locked
from pbvs.translators import inference
from tests.manifests import write_manifest

REPOSITORY = Path(__file__).parents[2]


def _command(monkeypatch: pytest.MonkeyPatch, work: object) -> None:
    command = click.Command("doctor", callback=work)  # type: ignore[arg-type]
    monkeypatch.setattr(cli.LazyGroup, "get_command", lambda *_: command)


ERRORS = [
    (PbvsError("It is so."), 1, "Error: It is so."),
    (UsageError("Not so."), 2, "Usage error: Not so."),
    (OSError(28, "No space left on device", "x"), 1, "x: No space left"),
    (MemoryError(), 1, "not enough memory"),
    (KeyError("k"), 3, "fault of pbvs (KeyError"),
    (KeyboardInterrupt(), 130, "goes on from there"),
]


@pytest.mark.parametrize(("error", "status", "sentence"), ERRORS)
def test_every_error_is_a_sentence_and_a_status(
    error: BaseException,
    status: int,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def work() -> None:
        raise error

    _command(monkeypatch, work)
    with pytest.raises(SystemExit) as stop:
        main(["doctor"])
    said = capsys.readouterr().err
    assert stop.value.code == status
    assert sentence in said and "Traceback" not in said


@pytest.mark.parametrize("said", ["[tcp/pair.cc:553] Connection closed by peer", "NCCL communicator was aborted"])
def test_a_lost_group_of_processes_is_no_fault_of_ours(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.explain(RuntimeError(said))[1] == 3  # one process alone has no group to lose
    monkeypatch.setenv("WORLD_SIZE", "2")
    sentence, status = cli.explain(RuntimeError(said))
    assert status == 1 and "Another process of the group ended" in sentence and "goes on from there" in sentence
    assert cli.explain(RuntimeError("shapes differ"))[1] == 3


def test_torchrun_takes_the_documented_commands() -> None:
    """Without `--` it takes our --run for its own --run-path, and ends before anything began."""
    from torch.distributed.run import get_args_parser

    texts = [(REPOSITORY / "README.md").read_text(), *(p.read_text() for p in (REPOSITORY / "docs").glob("*.md"))]
    found = [line.split("torchrun ")[1] for text in texts for line in text.splitlines() if "torchrun --n" in line]
    assert len(found) >= 3
    for line in found:
        words = re.split("[`#]", line)[0].replace(" N ", " 2 ").replace("...", "--run x").split()
        chosen = get_args_parser().parse_args(words)
        assert (chosen.module, chosen.training_script) == (True, "pbvs")
        assert chosen.training_script_args == words[words.index("pbvs") + 1 :]


def test_debug_shows_the_trace(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise PbvsError("It is so.")

    _command(monkeypatch, work)
    with pytest.raises(SystemExit):
        main(["--debug", "doctor"])
    assert "Traceback" in capsys.readouterr().err


def test_the_log_keeps_command_warnings_error_and_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        with locked(tmp_path / "run"):
            warnings.warn("brittle", stacklevel=1)
            raise PbvsError("It is so.")

    _command(monkeypatch, work)
    for _ in range(2):
        with pytest.raises(SystemExit):
            main(["doctor"])
    log = (tmp_path / "run/log.txt").read_text()
    assert len(re.findall(r"^\S+ process \d+ in \S+: pbvs doctor$", log, re.MULTILINE)) == 2
    assert log.count("Warning: brittle") == 2
    assert log.count("pbvs.errors.PbvsError: It is so.") == 2 and "Traceback" in log
    assert len(re.findall(r"ended with status 1 after", log)) == 2


def test_a_log_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("mine")
    (tmp_path / "log.txt").symlink_to(tmp_path / "thesis")
    with logs.opened(["work"]) as log:
        log.bind(tmp_path)
    assert (tmp_path / "thesis").read_text() == "mine"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: not enough memory: you tried 1 bytes."),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_memory_that_is_used_up_says_what_to_lower(error: Exception) -> None:
    sentence, status = cli.explain(error)
    assert status == 1 and "not enough memory" in sentence and "batch_size" in sentence
    with pytest.raises(PbvsError, match="not enough memory; lower the stage's inference_memory"):
        inference.translate(_Failing(error), [np.zeros((4, 4, 1), np.float32)], inference.Inference(1, 64))


class _Failing(torch.nn.Module):
    """A network that fails when it is called."""

    def __init__(self, error: Exception):
        super().__init__()
        self.error = error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise self.error


def test_another_error_of_torch_is_not_taken_for_want_of_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"):
        network = _Failing(RuntimeError("shapes differ"))
        inference.translate(network, [np.zeros((4, 4, 1), np.float32)], inference.Inference(1, 64))


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    with logs.opened(["work"]) as log:
        log.bind(tmp_path / "absent")
        logs.LOG.info("said")
        make_folder(tmp_path / "absent")
        log.end(0)
    assert "said" in (tmp_path / "absent/log.txt").read_text()


def test_doctor_is_well_on_a_bare_machine_and_names_what_is_missing(tmp_path: Path) -> None:
    findings = examine(None, tmp_path / "manifests", tmp_path / "submissions", tmp_path)
    said = text(findings)
    assert not is_bad(findings), said
    for word in ("python", "torch", "devices", "weights alex", "writable", "data root", "runs", "GiB free"):
        assert word in said


def test_doctor_finds_what_a_command_would_fail_over(tmp_path: Path) -> None:
    manifests, submissions = tmp_path / "manifests", tmp_path / "file"
    make_folder(manifests)
    (manifests / UNFINISHED).write_text("")
    submissions.write_text("")
    levels = {finding.what: finding.level for finding in examine(tmp_path / "gone", manifests, submissions / "x")}
    assert levels["data root"] == levels["manifests"] == levels[str(submissions / "x")] == "BAD"
    (manifests / UNFINISHED).unlink()
    for split in ("train", "val", "test"):
        write_manifest(manifest_path(manifests, "sar2eo", split), [])
    manifest_path(manifests, "sar2eo", "val").write_text("no,manifest\n")
    levels = {finding.what: finding.level for finding in examine(tmp_path, manifests, tmp_path)}
    assert levels["pairs sar2eo"] == "BAD"


def test_doctors_command_ends_with_its_verdict(tmp_path: Path) -> None:
    options = ["--manifests", str(tmp_path), "--submissions", str(tmp_path)]
    for extra, status in (([], 0), (["--data", str(tmp_path / "gone")], 1)):
        command = [sys.executable, "-m", "pbvs", "doctor", *options, *extra]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stdout + done.stderr
