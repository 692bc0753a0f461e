"""`pbvs recipe`: every key is explained as the models have it, and a misspelt one gets the nearest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pbvs.challenge.model import load_challenge
from pbvs.cli import cli, main
from pbvs.errors import PbvsError
from pbvs.files import parse_toml
from pbvs.metrics.protocol import load_protocol
from pbvs.recipe import Chips, Recipe, load_recipe, parse_recipe, with_changes
from pbvs.settings import Settings, describe, tables_of
from pbvs.translators import METHODS, stage_class, stage_classes

REPOSITORY = Path(__file__).resolve().parents[2]


def told(*arguments: str) -> str:
    done = CliRunner().invoke(cli, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def tables() -> Iterator[type[Settings]]:
    """Every table that a recipe can hold."""
    waiting, seen = [Recipe, *stage_classes()], set()
    while waiting:
        table = waiting.pop()
        if table not in seen:
            seen.add(table)
            yield table
            waiting += [part for field in table.model_fields.values() for part in tables_of(field.annotation)]


def test_the_page_of_keys_is_what_the_command_prints() -> None:
    page = (REPOSITORY / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert page == told("recipe", "keys", "--markdown"), "run `pbvs recipe keys --markdown > docs/recipes.md`"


@pytest.mark.parametrize("table", list(tables()), ids=lambda table: table.__name__)
def test_every_key_of_a_recipe_is_explained_in_one_line(table: type[Settings]) -> None:
    for key in describe(table):
        assert key.meaning.endswith(".") and len(key.meaning) <= 110 and "\n" not in key.meaning, key


def test_every_key_that_the_recipes_say_is_on_the_page() -> None:
    page = told("recipe", "keys", "--markdown")
    for name in ("paper", "best", "demo", "gray"):
        said = load_recipe(name).model_dump()
        found = {*said, *said["chips"], *said["sampling"], *(key for stage in said["stages"].values() for key in stage)}
        assert all(f"| `{key}` |" in page for key in found)


def test_the_bounds_that_are_said_are_those_that_hold() -> None:
    bounded = [key for key in describe(Chips) if " to " in key.values]
    assert len(bounded) >= 5
    for key in bounded:
        low, high = map(float, key.values.rpartition(", ")[2].split(" to "))
        whole = "whole" in key.values
        for value, fits in ((low, True), (high, True), (low - 1, False), (high + 1, False)):
            change = [f"chips.{key.name}={int(value) if whole else value}"]
            if fits:
                assert with_changes(load_recipe("demo"), change).chips.model_dump()[key.name] == value
            else:
                with pytest.raises(PbvsError, match=key.name):
                    with_changes(load_recipe("demo"), change)


@pytest.mark.parametrize("method", list(METHODS))
def test_the_keys_of_a_method_are_those_of_its_class_with_its_defaults(method: str) -> None:
    sections = json.loads(told("recipe", "keys", method, "--json"))
    stage = stage_class(method)
    defaults = {key["name"]: key["default"] for key in sections[0]["keys"]}
    assert list(defaults) == list(stage.model_fields)
    for name, field in stage.model_fields.items():
        if defaults[name]:
            assert parse_toml(f"x = {defaults[name]}", "x")["x"] == json.loads(json.dumps(field.default))
        else:
            assert field.is_required() == (defaults[name] is None)


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_keys_fit_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = told("recipe", "keys").splitlines()
    assert max(map(len, lines)) <= columns
    assert '  mode = "crop"  # "crop", "whole", "windows"' in lines
    assert max(map(len, told("recipe", "list").splitlines())) <= columns


@pytest.mark.parametrize("name", ["paper", "small"])
def test_a_recipe_is_shown_with_every_default_and_reads_back(name: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(told("recipe", "show", name, "--set", "seed=7"), encoding="utf-8")
    assert load_recipe(path) == load_recipe(name).replace("seed", 7)
    assert "min_deviation = 0.004" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("stages.sar2eo.epoch=5", "stages.sar2eo.epoch: there is no such key (did you mean epochs?)"),
        ("chip.stride=5", "chip: there is no such key (did you mean chips?)"),
        ("chips.max_sid=64", "chips.max_sid: there is no such key (did you mean max_side?)"),
        ('stages.sar2eo.perceptual=[{net = "alex", weigth = 2}]', "perceptual.0.weigth: there is no such key (did you"),
        ("stages.sar2eo.nonsense=1", "stages.sar2eo.nonsense: there is no such key; `pbvs recipe keys` lists them"),
    ],
)
def test_a_misspelt_key_gets_the_nearest_one(change: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["recipe", "show", "paper", "--set", change])
    assert stop.value.code == 1
    assert sentence in capsys.readouterr().err


def test_a_key_of_another_method_is_not_proposed() -> None:
    stage: dict[str, Any] = {"method": "grayscale", "generator_widt": 8}
    with pytest.raises(PbvsError, match="no such key; `pbvs recipe keys` lists them"):
        parse_recipe({"name": "x", "stages": {"rgb2ir": stage}}, "x.toml")


def test_misspelt_keys_of_protocols_and_challenges_get_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(PbvsError, match=r"terms\.0\.wieght: there is no such key \(did you mean weight\?\)"):
        load_protocol({"name": "x", "terms": [{"metric": "rmse", "wieght": 2}]})
    path = tmp_path / "c.toml"
    path.write_text('base = "mavic-t-2026"\ndescriptoin = ""\n')
    with pytest.raises(PbvsError, match=r"descriptoin: there is no such key \(did you mean description\?\)"):
        load_challenge(str(path))


def test_an_unknown_method_names_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["recipe", "keys", "unett"])
    assert stop.value.code == 2
    assert "There is no method 'unett'" in capsys.readouterr().err
