"""The ablation: rows as data, a run each, done once, compared with the reference row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

from pbvs.cli import cli
from pbvs.errors import PbvsError, UsageError
from pbvs.experiments import ablation as tables
from pbvs.experiments.ablation import (
    ABLATIONS,
    AblationPlan,
    Made,
    Row,
    ablate,
    copy_model,
    row_recipe,
    row_recipes,
)
from pbvs.pipeline import Request, predict
from pbvs.recipe import Recipe, load_recipe, parse_recipe
from pbvs.report.pages import render_ablation
from pbvs.settings import merged
from tests.report.world import HOSTILE, World

ROWS = """
title = "Gains <b>"
reference = "as it is"
[[rows]]
name = "as it is"
tasks = ["sar2eo", "rgb2ir"]
[[rows]]
name = "brighter"
about = "RGB to IR times 1.3"
tasks = ["rgb2ir"]
[rows.stages.rgb2ir]
intensity = 1.3
[[rows]]
name = "Two <script>"
tasks = ["sar2eo", "rgb2ir"]
[rows.every]
intensity = 0.5
"""


def gray() -> Recipe:
    stages = {task: {"method": "grayscale"} for task in ("sar2eo", "sar2ir", "rgb2ir")}
    return parse_recipe({"name": "gray", "evaluation_size": "native", "stages": stages}, "test")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, images=4)


@pytest.fixture
def plan(tmp_path: Path) -> AblationPlan:
    path = tmp_path / "rows.toml"
    path.write_text(ROWS)
    return ABLATIONS.load(path)


def make(world: World, plan: AblationPlan, folder: Path, recipe: Recipe | None = None, **how: Any) -> list[Made]:
    place = {"root": world.root, "manifests": world.manifests, "submissions": folder}
    return ablate(plan, recipe or gray(), prefix="t", lpips_net="random", device="cpu", **place, **how)


def stage(recipe: Recipe, task: str) -> dict[str, Any]:
    found: dict[str, Any] = recipe.model_dump()["stages"][task]
    return found


@pytest.mark.parametrize("base", ["paper", "demo"])
def test_the_papers_rows(base: str) -> None:
    plan = ABLATIONS.load("paper")
    rows = {row.name: row_recipe(row, load_recipe(base)) for row in plan.rows}
    assert list(rows) == ["Pix2PixHD-c", "Grayscale", "Pretrained", "All combined"]
    alone = rows["Pix2PixHD-c"]
    assert {task: stage(alone, task)["method"] for task in alone.stages} == dict.fromkeys(alone.stages, "pix2pixhd")
    assert [stage(alone, task)["init_from"] for task in alone.stages] == [None] * 4
    assert stage(alone, "rgb2ir")["size"] == stage(alone, "sar2rgb")["size"]
    assert [stage(rows["Grayscale"], task)["intensity"] for task in ("rgb2ir", "sar2ir")] == [1.3, 1.15]
    assert set(rows["Grayscale"].stages) == {"rgb2ir", "sar2ir"}
    assert set(rows["Pretrained"].stages) == {"sar2eo", "sar2rgb", "sar2ir"}
    assert stage(rows["Pretrained"], "sar2ir")["init_from"] == "sar2eo"
    assert rows["All combined"].stages == load_recipe(base).stages


def test_the_networks_of_the_best_recipes_rows_can_start_from_each_other() -> None:
    base, started = load_recipe("best"), 0
    for recipe in (base, load_recipe("best-gpu"), *(row_recipe(row, base) for row in ABLATIONS.load("best").rows)):
        for task, own in recipe.stages.items():
            if first := stage(recipe, task).get("init_from"):
                assert {key: stage(recipe, first)[key] for key in own.ALIKE} == own.model_dump(include=set(own.ALIKE))
                started += 1
    assert started > 5


def test_a_row_changes_what_it_says_and_nothing_else() -> None:
    base = load_recipe("demo")
    row = Row(name="x", every={"lpips_weight": 0.0}, recipe={"seed": 7}, stages={"sar2rgb": {"size": 96}})
    changed = row_recipe(row, base)
    assert changed.seed == 7
    assert stage(changed, "sar2rgb") == stage(base, "sar2rgb") | {"size": 96, "lpips_weight": 0.0}
    assert stage(changed, "rgb2ir") == stage(base, "rgb2ir")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"stages": {"sar2eo": {"sizes": 1}}}, "row 'x'.*sizes"),
        ({"stages": {"sar2ir": {"like": "sar2xx"}}}, "like sar2xx"),
        ({"base": "nowhere"}, "nowhere"),
        ({"tasks": ["sar2ir"], "stages": {"sar2ir": {"method": "cascade", "first": "sar2rgb"}}}, "needs a stage"),
        ({"tasks": ["sar2rgb"]}, "no stage"),
    ],
)
def test_a_row_that_cannot_be_is_named(row: dict[str, Any], words: str) -> None:
    with pytest.raises(PbvsError, match=words):
        row_recipe(Row.model_validate({"name": "x", **row}), gray())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('title = "t"\nrows = []', "rows"),
        ('title = "t"\n[[rows]]\nname = "A b"\n[[rows]]\nname = "a-B"', "two rows are called 'a-b'"),
        ('title = "t"\nreference = "c"\n[[rows]]\nname = "a"', "reference 'c' is none"),
        ('title = "t"\n[[rows]]\nname = "a"\nstage = 1', "no such key"),
    ],
)
def test_rows_that_cannot_be_are_sentences(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "rows.toml"
    path.write_text(text)
    with pytest.raises(PbvsError, match=words):
        row_recipe(ABLATIONS.load(path).rows[0], load_recipe("demo"))


def test_the_parts_of_the_best_recipe_are_rows_that_can_be() -> None:
    base = load_recipe("best")
    rows = {row.name: row_recipe(row, base) for row in ABLATIONS.load("best").rows}
    assert set(rows["As it is"].stages) == {"sar2eo", "sar2rgb", "sar2ir", "rgb2ir"}
    changed = [name for name, recipe in rows.items() if any(recipe.stages[t] != base.stages[t] for t in recipe.stages)]
    assert changed == list(rows)[1:]


def test_unknown_rows_name_the_known() -> None:
    with pytest.raises(UsageError, match=", ".join(ABLATIONS.names)):
        ABLATIONS.load("other")


def test_tables_merge_deeply() -> None:
    assert merged({"a": {"b": 1, "c": 2}, "d": 1}, {"a": {"b": 3}, "d": {"e": 1}}) == {
        "a": {"b": 3, "c": 2},
        "d": {"e": 1},
    }


def test_rows_are_made_once_and_compared(world: World, plan: AblationPlan, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    rows = make(world, plan, folder)
    table = tables.tabulate(plan, "gray", rows)
    assert [line.name for line in table.lines] == ["as it is", "brighter", "Two <script>"]
    assert set(table.lines[1].scores) == {"rgb2ir"}
    assert set(table.lines[1].changes) == {"rgb2ir"}
    difference = table.lines[1].scores["rgb2ir"] - table.lines[0].scores["rgb2ir"]
    assert table.lines[1].changes["rgb2ir"].difference == pytest.approx(difference)
    assert table.lines[0].changes == {}

    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert make(world, plan, folder) == rows
    assert stamps == {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}

    text = tables.ablation_text(table)
    assert "NOT LPIPS (random)" in text
    assert " / " in text
    assert max(map(len, text.splitlines())) <= 80
    page = render_ablation(table, rows, world.root, world.manifests)
    assert "<script" not in page
    assert HOSTILE.split("-")[0] not in page
    assert page.count("<img") == 3 * (2 + 3) + 3 * (2 + 2)


def test_an_interrupted_table_goes_on(world: World, plan: AblationPlan, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    first = make(world, plan, folder, only=["brighter"])
    assert [made.row.name for made in first] == ["brighter"]
    stamp = first[0].metadata_file.stat().st_mtime_ns
    rows = make(world, plan, folder)
    assert len(rows) == 3
    assert first[0].metadata_file.stat().st_mtime_ns == stamp


def test_without_its_reference_a_table_has_no_changes(world: World, plan: AblationPlan, tmp_path: Path) -> None:
    rows = make(world, plan, tmp_path / "runs", only=["brighter"])
    table = tables.tabulate(plan, "gray", rows)
    assert table.reference == ""
    assert "Change" not in tables.ablation_text(table)
    with pytest.raises(PbvsError, match="No row"):
        tables.tabulate(plan, "gray", [])


def test_another_protocol_scores_again(world: World, plan: AblationPlan, tmp_path: Path) -> None:
    protocol = tmp_path / "mse.toml"
    protocol.write_text('name = "mse"\npixel = "mse"\n')
    folder = tmp_path / "runs"
    before = tables.tabulate(plan, "gray", make(world, plan, folder, only=["brighter"]))
    after = tables.tabulate(plan, "gray", make(world, plan, folder, only=["brighter"], protocol=protocol))
    assert before.rule != after.rule
    assert before.lines[0].scores != after.lines[0].scores


def test_an_equal_stage_is_copied_from_the_row_that_has_it(world: World, plan: AblationPlan, tmp_path: Path) -> None:
    rows = make(world, plan, tmp_path / "runs")
    copied = {made.row.name: json.loads(made.metadata_file.read_text())["copied"] for made in rows}
    assert copied == {"as it is": [], "brighter": [], "Two <script>": []}
    twice = AblationPlan(title="t", rows=(plan.rows[0], plan.rows[0].model_copy(update={"name": "again"})))
    rows = make(world, twice, tmp_path / "other")
    assert json.loads(rows[1].metadata_file.read_text())["copied"] == ["sar2eo", "rgb2ir"]
    for path in rows[1].run.score_folders()[0].glob("*.csv"):
        scores = pd.read_csv(path)
        scores.assign(rmse=scores["rmse"] + 3e-8).to_csv(path, index=False)
    table = tables.tabulate(twice, "gray", rows)
    assert {change.verdict for change in table.lines[1].changes.values()} == {"identical"}
    assert "0.0000*" not in tables.ablation_text(table) and "+0.0000" in tables.ablation_text(table)


def test_an_equal_model_is_copied_from_a_run_that_is_shared(world: World, plan: AblationPlan, tmp_path: Path) -> None:
    predict(
        Request(gray(), run="finished", root=world.root, manifests=world.manifests, submissions=tmp_path, device="cpu")
    )
    rows = make(world, plan, tmp_path, only=["as it is"], share=("finished",))
    assert json.loads(rows[0].metadata_file.read_text())["copied"] == ["sar2eo", "rgb2ir"]


def test_a_copied_model_appears_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "a" / "sar2eo", tmp_path / "b" / "sar2eo"
    source.mkdir(parents=True)
    (source / "model").write_text("new")
    target.mkdir(parents=True)
    (target / "half").write_text("old")
    copy_model(source, target)
    assert [path.name for path in target.iterdir()] == ["model"]
    assert [path.name for path in target.parent.iterdir()] == ["sar2eo"]


def test_the_command_writes_table_and_page(world: World, tmp_path: Path) -> None:
    rows, recipe, folder = tmp_path / "rows.toml", tmp_path / "gray.toml", tmp_path / "runs"
    rows.write_text(ROWS.replace('"as it is"', '"=as it is"'))
    recipe.write_text(
        'name = "gray"\nevaluation_size = "native"\n'
        + "".join(f'[stages.{task}]\nmethod = "grayscale"\n' for task in ("sar2eo", "rgb2ir"))
    )
    common = ["ablate", "--rows", str(rows), "--recipe", str(recipe), "--submissions", str(folder), "--device", "cpu"]
    common += ["--manifests", str(world.manifests), "--data", str(world.root), "--lpips-net", "random", "--jobs", "1"]
    told = CliRunner().invoke(cli, [*common, "--dry-run"], catch_exceptions=False).stdout
    assert "brighter: rgb2ir grayscale" in told
    told = CliRunner().invoke(cli, [*common, "--only", "=as it is"], catch_exceptions=False).stdout
    assert "as it is" in told
    assert (folder / "ablation-rows-gray.html").is_file()
    assert json.loads((folder / "ablation-rows-gray.json").read_text())["rows"][0]["row"] == "=as it is"
    assert "\n'=as it is," in (folder / "ablation-rows-gray.csv").read_text()
    with pytest.raises(UsageError, match="no row 'other'"):
        CliRunner().invoke(cli, [*common, "--only", "other"], catch_exceptions=False)


def test_rows_of_one_recipe_say_so_beside_another() -> None:
    plan = ABLATIONS.load("best")
    assert len(row_recipes(plan, load_recipe(plan.recipe))) == len(plan.rows)
    with pytest.raises(PbvsError, match=r"no such key.*The rows are for `--recipe best`\.$"):
        row_recipes(plan, load_recipe("demo"))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('tasks = ["sar2x"]', "is about sar2x, for which the recipe has no stage"),
        ('stages.sar2x = { method = "grayscale" }', r"stages\.sar2x: the challenge mavic-t-2026 has no such task"),
    ],
)
def test_a_row_about_a_task_that_there_is_not_is_a_sentence(tmp_path: Path, row: str, words: str) -> None:
    path = tmp_path / "rows.toml"
    path.write_text(f'title = "t"\n[[rows]]\nname = "a"\n{row}')
    with pytest.raises(PbvsError, match=words):
        row_recipe(ABLATIONS.load(path).rows[0], load_recipe("demo"))
