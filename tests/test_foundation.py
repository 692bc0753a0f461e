"""The foundation: files appear whole or not at all, recipes are checked, paths cannot leave their folder."""

from __future__ import annotations

import configparser
import os
import re
from pathlib import Path

import pytest

from pbvs import files, seeds
from pbvs.errors import PbvsError, UsageError
from pbvs.files import dump_toml, read_toml
from pbvs.recipe import dump_recipe, load_recipe, parse_recipe, with_changes
from pbvs.run import locked


def test_atomic_path_keeps_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(RuntimeError), files.atomic_path(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../b", "a\\b"])
def test_paths_cannot_leave_their_root(tmp_path: Path, name: str) -> None:
    with pytest.raises(PbvsError, match="leaves"):
        files.inside(tmp_path, name)


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a b", "x" * 101])
def test_unsafe_run_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        files.check_name(name)


def test_sweep_removes_what_no_living_writer_holds(tmp_path: Path) -> None:
    (tmp_path / ".a.png.0123abcd.part").write_text("")
    (tmp_path / ".somebody.part").write_text("")
    with files.atomic_path(tmp_path / "b.png") as part:
        assert files.sweep(tmp_path) == 1
        assert part.exists()
        part.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".somebody.part", "b.png"]


def test_a_forked_worker_that_outlives_its_parent_does_not_hold_the_lock(tmp_path: Path) -> None:
    ready, stay = os.pipe(), os.pipe()
    with locked(tmp_path):
        child = os.fork()
        if child == 0:
            os.close(stay[1])
            os.write(ready[1], b"x")
            os.read(stay[0], 1)
            os._exit(0)
        os.read(ready[0], 1)
    try:
        with locked(tmp_path):
            pass
    finally:
        os.close(stay[1])
        os.waitpid(child, 0)


@pytest.mark.parametrize("name", ["paper", "demo"])
def test_a_written_recipe_reads_back_equal(tmp_path: Path, name: str) -> None:
    recipe = load_recipe(name)
    path = tmp_path / "recipe.toml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(path) == recipe


def test_the_papers_graph_and_numbers() -> None:
    recipe = load_recipe("paper")
    order = recipe.order()
    assert order.index("sar2eo") < order.index("sar2rgb") < order.index("sar2ir")
    assert recipe.stages["rgb2ir"].model_dump()["intensity"] == 1.3
    assert recipe.stages["sar2ir"].model_dump()["intensity"] == 1.15


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"stages": {"sar2eo": {"method": "grayscale", "gain": 1}}}, "gain"),
        ({"stages": {"sar2eo": {"method": "grayscale", "intensity": "much"}}}, "intensity"),
        ({"stages": {"sar2xx": {"method": "grayscale"}}}, "sar2xx"),
        ({"stages": {"sar2ir": {"method": "cascade", "first": "sar2rgb"}}}, "needs a stage sar2rgb"),
        ({"stages": {}}, "at least one"),
    ],
)
def test_a_wrong_recipe_is_refused_by_its_key(tables: dict[str, object], message: str) -> None:
    with pytest.raises(PbvsError, match=message):
        parse_recipe({"name": "x", **tables}, "x.toml")


def test_toml_survives_control_characters_and_quotes(tmp_path: Path) -> None:
    tables = {"a": 'quote " and \\ and \n and \x7f', "b": {"c": [1, 2.5, True], "with space": "é"}}
    path = tmp_path / "x.toml"
    path.write_bytes(dump_toml(tables).encode())
    assert read_toml(path) == tables


def test_seeds_depend_on_what_they_are_for() -> None:
    assert seeds.derive(1, "augment", 2, 3) == seeds.derive(1, "augment", 2, 3)
    assert len({seeds.derive(1, "a", 1), seeds.derive(1, "a", 2), seeds.derive(2, "a", 1), seeds.derive(1, "a1")}) == 4


def test_the_oldest_versions_that_were_tested_are_those_allowed() -> None:
    """Every lower bound of setup.cfg stands in tests/oldest.txt, to its last digit, and nothing else does."""
    here = Path(__file__).resolve().parent
    config = configparser.ConfigParser()
    config.read(here.parent / "setup.cfg")
    listed = config["options"]["install_requires"] + config["options.extras_require"]["test"]
    bounds = dict(re.findall(r"^([\w.-]+) >= ([\d.]+)", listed, re.MULTILINE))
    oldest = dict(re.findall(r"^([\w.-]+)==([\d.]+)$", (here / "oldest.txt").read_text(), re.MULTILINE))
    tools = {"ruff", "mypy"}  # they look at the code and do not run it
    assert len(bounds) > 15 and oldest.keys() == bounds.keys() - tools
    assert all(f"{oldest[name]}.".startswith(f"{bounds[name]}.") for name in oldest)


def test_settings_as_they_are_typed() -> None:
    changed = with_changes(load_recipe("demo"), ["stages.sar2eo.epochs=5", "evaluation_size=native", "seed=7"])
    assert (changed.stages["sar2eo"].model_dump()["epochs"], changed.evaluation_size, changed.seed) == (5, "native", 7)
    with pytest.raises(UsageError, match="KEY=VALUE"):
        with_changes(changed, ["seed"])
    with pytest.raises(PbvsError, match="sead"):
        with_changes(changed, ["sead=7"])
