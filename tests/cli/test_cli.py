"""The shell around the functions: help without torch, sentences instead of traces, exit statuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pbvs.cli import COMMANDS, main

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
