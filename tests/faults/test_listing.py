"""A folder that cannot be listed is not an empty one: what asks for its files says so."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pbvs import api
from pbvs.cli import cli
from pbvs.cli.options import stale_of
from pbvs.data.align import source_rules
from pbvs.errors import ReadError
from pbvs.experiments import ablation
from pbvs.experiments.runs import compare_predictions, overview
from pbvs.files import copy_files, matching
from pbvs.lineage import report_sources, stale_archives, stale_scores
from pbvs.run import Run
from pbvs.translators.scenes import find_inputs
from tests.evaluation.hand_made import Place
from tests.test_structure import modules

# What swallows errors of the system, and who may use it: where nothing follows from what is not found.
SWALLOWING = {"glob", "rglob", "iglob", "lexists", "isfile", "isdir", "islink", "walk"}
ALLOWED = {
    "settings": "the package's own files", "cli.options": "the package's own files", "files": "sweeping",
    "evaluation.reading": "room in the cache", "data.chips": "room in the cache", "experiments.bundle": "sweeping",
    "submission.score": "sweeping", "logs": "processes",
}  # fmt: skip


def test_matching_names_what_a_glob_does(tmp_path: Path) -> None:
    for name in ("a/x.json", "a/.h/y.json", "b/c/d/x.json", "package.json", "b/package-val.json", ".hidden/x.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to(tmp_path / "b")
    rules = ("*", "**/*", "**/x.json", "*/*.json", "package*.json", "[!.]*/[!.]*", "b/c/d/x.json", "no/*", "*.png")
    for rule in rules:
        assert sorted(matching(tmp_path, rule)) == sorted(tmp_path.glob(rule)), rule
    assert matching(tmp_path / "nowhere", "*") == matching(tmp_path / "package.json", "*") == []


def test_globs_of_inputs_are_read_as_they_were(tmp_path: Path) -> None:
    image = tmp_path / "b/c/e.png"
    image.parent.mkdir(parents=True)
    image.touch()
    for given in ("b/**/*.png", "b/**", "*/c/e.png", "[a-c]/*/?.png", "**/e.png"):
        assert [path for path, _ in find_inputs([tmp_path / given])] == [image], given


def test_what_cannot_be_read_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by which rule a model's inputs are read, nor that nothing is stale."""
    place = Place(tmp_path, count=1).make()
    run, data = place.run, tmp_path / "data"
    source = data / "in/rgb2ir/0.png"
    askers: list[tuple[Path, Callable[[], Any]]] = [
        (source, lambda: source_rules(place.pairs("rgb2ir"), data, run.recipe().radiometry)),
        (run.recipe_file, lambda: stale_of(run, place.manifests)),
    ]
    plain = os.open, Path.read_text
    for path, ask in askers:
        assert ask()
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", partial(_failing, plain[0], path))
            patch.setattr(Path, "read_text", lambda *given, p=path, **more: _failing(plain[1], p, *given, **more))
            with pytest.raises(ReadError, match="cannot be read"):
                ask()


def _failing(plain: Callable[..., Any], failing: Path, path: Any, *more: Any, **options: Any) -> Any:
    if Path(path) == failing:
        raise OSError(5, "Input/output error")
    return plain(path, *more, **options)


def made(run: Run, name: str) -> ablation.Made:
    return ablation.Made(ablation.Row(name=name, tasks=("sar2eo",)), run, run.recipe())


ASKERS: list[tuple[str, Callable[[Run, Path], Any]]] = [
    ("scores", lambda run, _: run.score_folders()),
    ("scores", lambda run, _: list(stale_scores(run, ["sar2eo"]))),
    ("scores", lambda run, _: report_sources(run)),
    ("predictions", lambda run, _: report_sources(run)),
    ("", lambda run, _: list(stale_archives(run))),
    ("scores", lambda run, _: ablation._changes(made(run, "One"), made(run, "Two"))),
    ("predictions/val/sar2eo", lambda _, folder: api.Predictions(folder)),
    ("predictions/val/sar2eo", lambda run, _: compare_predictions(run, run, "val", "sar2eo")),
    ("predictions/val", lambda _, folder: find_inputs([folder])),
    ("predictions/val", lambda _, folder: find_inputs([f"{folder.parent}/*/*/*.png"])),
    ("predictions/val", lambda _, folder: copy_files(folder, folder.with_name("copy"))),
]


ERRORS = [PermissionError(13, "Permission denied"), OSError(5, "Input/output error"), FileNotFoundError(2, "No such")]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize(("name", "asker"), ASKERS)
def test_a_folder_that_cannot_be_listed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, asker: Callable[[Run, Path], Any], error: OSError
) -> None:
    run = Place(tmp_path, count=1).make().run
    (run.folder / name).mkdir(parents=True, exist_ok=True)
    fail_listing(monkeypatch, run.folder / name, error)
    with pytest.raises(ReadError, match=r"cannot be read|There is no"):
        asker(run, run.folder / name)


def test_a_run_that_cannot_be_listed_has_a_problem_in_the_overview(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Place(tmp_path, count=1).make().run
    assert overview(run.submissions)[0].megabytes > 0
    fail_listing(monkeypatch, run.folder / "predictions", PermissionError(13, "Permission denied"))
    assert "cannot be read" in overview(run.submissions)[0].problem


def test_a_recipe_that_cannot_be_read_once_is_a_problem_of_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, plain, failed = Place(tmp_path, count=1).make().run, Path.read_text, list[Path]()

    def read_text(path: Path, *options: Any, **more: Any) -> str:
        if path == run.recipe_file and not failed:
            failed.append(path)
            raise PermissionError(13, "Permission denied")
        return plain(path, *options, **more)

    monkeypatch.setattr(Path, "read_text", read_text)
    done = CliRunner().invoke(cli, ["runs", "--submissions", str(run.submissions)])
    assert done.exit_code == 0
    assert "Damaged: run hand: " in done.output and "cannot be read: Permission denied" in done.output


def fail_listing(monkeypatch: pytest.MonkeyPatch, folder: Path, error: OSError) -> None:
    plain = os.scandir

    def scandir(path: Any = ".") -> Any:
        if Path(path) == folder:
            raise error
        return plain(path)

    monkeypatch.setattr(os, "scandir", scandir)


def test_nothing_that_swallows_errors_is_used_where_a_fact_would_follow() -> None:
    used = {
        name
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SWALLOWING
    }
    asked = {
        f"{name}: {ast.unparse(node)}"
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("os.path.exists", "os.access", "os.path.samefile")
    }
    assert not used - ALLOWED.keys(), "take pbvs.files.matching, or say here why nothing follows from it"
    assert not {call for call in asked if not call.startswith("experiments.machine: os.access")}


def test_asking_whether_a_file_is_there_raises_what_is_no_answer() -> None:
    """pathlib does so up to Python 3.13; 3.14 calls any error a no, and pbvs relies on this in many places."""
    for ask in (Path.exists, Path.is_file, Path.is_dir):
        with pytest.raises(OSError, match="too long"):
            ask(Path("a" * 300))
