"""Comparison: paired, by location, refusing what cannot be compared, escaping what the data are called."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from pbvs.cli import main
from pbvs.errors import PbvsError
from pbvs.evaluation.compare import compare, comparison_table, largest, seeds_table
from pbvs.evaluation.results import read_scores, write_scores
from pbvs.recipe import dump_recipe
from pbvs.report.pages import write_comparisons
from pbvs.run import Run
from tests.evaluation.scored_runs import maker
from tests.report.world import HOSTILE, World

Make = Callable[..., Run]


@pytest.fixture
def scored(tmp_path: Path) -> Make:
    return maker(tmp_path / "runs")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def images(count: int, start: float, step: float = 0.01, places: int = 5) -> dict[str, float | None]:
    return {f"p{i % places}-{i}": start + step * i for i in range(count)}


def test_the_difference_is_paired(scored: Make) -> None:
    # Images differ far more from each other than the runs do, and still the sign is beyond doubt.
    old = scored("old", {"sar2eo": images(20, 0.1, 0.04)})
    new = scored("new", {"sar2eo": {name: value - 0.01 for name, value in images(20, 0.1, 0.04).items() if value}})
    found = compare(old, new)
    assert found.tasks[0].difference == pytest.approx(-0.01)
    assert found.tasks[0].interval == pytest.approx((-0.01, -0.01))
    assert found.tasks[0].verdict == "better"
    assert (found.tasks[0].better, found.tasks[0].worse) == (20, 0)
    assert compare(new, old).tasks[0].verdict == "worse"


def test_a_run_equals_itself(scored: Make) -> None:
    run = scored("run", {"sar2eo": images(6, 0.2), "rgb2ir": images(6, 0.3)})
    found = compare(run, run)
    assert found.combined.difference == 0
    assert found.combined.verdict == "identical"
    assert found.combined.interval == (0.0, 0.0)


def test_what_rounding_leaves_is_no_difference(scored: Make) -> None:
    """Features that are fresh and those kept with 16 bits give scores that differ by some 3e-8."""
    old = {name: value for name, value in images(20, 0.1).items() if value}
    new = {name: value + 3e-8 for name, value in old.items()}
    found = compare(scored("old", {"sar2eo": old}), scored("new", {"sar2eo": new}))
    assert [row.verdict for row in (*found.tasks, found.combined)] == ["identical"] * 2
    assert found.combined.difference == 0
    assert (found.combined.better, found.combined.worse) == (0, 0)


def test_names_like_formulas_are_quoted_in_tables_and_come_back(scored: Make) -> None:
    run = scored("run", {"sar2eo": {"=1+1-a": 0.5, "-4.39_-55.20_7": 0.25, "town-1": 0.5}})
    first = read_scores(run)
    write_scores(run, run.scores, first.summary, {"sar2eo": first.table("sar2eo").drop(columns="score")})
    with (run.scores / "sar2eo.csv").open(newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["'=1+1-a", "'-4.39_-55.20_7", "town-1"]
    assert read_scores(run).scores("sar2eo") == first.scores("sar2eo")
    assert compare(run, run).combined.images == 3


def test_the_combined_difference_weighs_tasks_equally(scored: Make) -> None:
    old = scored("old", {"sar2eo": images(30, 0.2), "rgb2ir": images(5, 0.2)})
    shifted = {name: (value or 0) + 0.1 for name, value in images(5, 0.2).items()}
    found = compare(old, scored("new", {"sar2eo": images(30, 0.2), "rgb2ir": shifted}))
    assert found.combined.difference == pytest.approx(0.05)


def test_one_bad_place_leaves_the_sign_open(scored: Make) -> None:
    old, new = images(20, 0.3), images(20, 0.3)
    for name in new:
        new[name] = (new[name] or 0) + (0.2 if name.startswith("p0") else -0.03)
    found = compare(scored("old", {"sar2eo": old}), scored("new", {"sar2eo": new}))
    assert found.tasks[0].verdict == "open"
    assert (found.tasks[0].better, found.tasks[0].worse) == (16, 4)


def test_one_place_gives_no_interval(scored: Make) -> None:
    found = compare(scored("old", {"sar2eo": {"p-1": 0.2}}), scored("new", {"sar2eo": {"p-1": 0.1}}))
    assert found.tasks[0].interval is None
    assert found.tasks[0].verdict == "open"
    assert "too few locations" in comparison_table(found)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"split": "test"}, "split is val in the one and test"),
        (
            {"protocol": {"name": "mavic-t-2026", "pixel": "l1"}},
            "terms is rmse, lpips in the one and l1, lpips",
        ),
        ({"lpips": {"net": "vgg", "version": "0.1", "is_lpips": True}}, "net is alex in the one and vgg"),
        ({"lpips": {"net": "random", "version": "0.1", "is_lpips": False}}, "is_lpips is True in the one and False"),
    ],
)
def test_other_rules_are_refused_unless_asked_for(scored: Make, changes: dict[str, Any], words: str) -> None:
    old = scored("old", {"sar2eo": images(6, 0.2)})
    new = scored("new", {"sar2eo": images(6, 0.1)}, **changes)
    with pytest.raises(PbvsError, match=words):
        compare(old, new)
    found = compare(old, new, anyway=True)
    assert any(words in warning for warning in found.warnings)
    assert words.split()[0] in comparison_table(found)


def test_targets_of_another_size_are_refused(scored: Make) -> None:
    old, new = scored("old", {"sar2eo": images(6, 0.2)}), scored("new", {"sar2eo": images(6, 0.1)})
    recipe = new.recipe().model_copy(update={"evaluation_size": "challenge"})
    new.recipe_file.write_text(dump_recipe(recipe))
    with pytest.raises(PbvsError, match="evaluation_size is native in the one and challenge"):
        compare(old, new)


def test_other_images_are_refused(scored: Make) -> None:
    old = scored("old", {"sar2eo": images(6, 0.2)})
    new = scored("new", {"sar2eo": images(8, 0.1)})
    with pytest.raises(PbvsError, match="other images"):
        compare(old, new)
    assert compare(old, new, anyway=True).tasks[0].images == 6


def test_images_without_a_score_are_named(scored: Make) -> None:
    missing = images(6, 0.1) | {"p0-0": None}
    found = compare(scored("old", {"sar2eo": images(6, 0.2)}), scored("new", {"sar2eo": missing}))
    assert found.tasks[0].images == 5
    assert found.warnings == ["sar2eo: 1 of 6 images have no score in one of the runs and are left out"]


def test_nothing_in_common_and_nothing_scored_are_sentences(scored: Make, tmp_path: Path) -> None:
    old = scored("old", {"sar2eo": images(6, 0.2)})
    with pytest.raises(PbvsError, match="no scored image in common"):
        compare(old, scored("new", {"rgb2ir": images(6, 0.2)}), anyway=True)
    with pytest.raises(PbvsError, match="has no scores"):
        compare(old, Run("none", tmp_path))


def test_the_largest_changes_come_first(scored: Make) -> None:
    old = {f"p{i}-{i}": 0.5 for i in range(6)}
    new = dict(zip(old, (0.4, 0.1, 0.5, 0.9, 0.6, 0.5), strict=True))
    better, worse = largest(compare(scored("old", {"sar2eo": old}), scored("new", {"sar2eo": new})).changes, False, 3)
    assert better["name"].tolist() == ["p1-1", "p0-0"]
    assert worse["name"].tolist() == ["p3-3", "p4-4"]


def test_the_table_fits_a_terminal(scored: Make) -> None:
    scores = {task: images(12, 0.2) for task in ("sar2eo", "sar2rgb", "sar2ir", "rgb2ir")}
    long = {f"p{i}-{'x' * 120}{i}": 0.1 * i for i in range(5)}
    old = scored("old", scores | {"rgb2ir": long})
    new = scored("new", scores | {"rgb2ir": dict(zip(long, (0.4, 0.3, 0.2, 0.1, 0.0), strict=True))})
    assert max(map(len, comparison_table(compare(old, new)).splitlines())) <= 80


def test_the_page_has_images_of_both_runs_and_escapes_names(world: World, tmp_path: Path) -> None:
    old, new = world.run(tmp_path / "runs", "old"), world.run(tmp_path / "runs", "new", shift=-0.02)
    path = tmp_path / "runs" / "compare-old-new.html"
    write_comparisons(path, [compare(old, new)], world.root, world.manifests)
    page = path.read_text()
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert data["panes"] == ["Input", "old", "new", "Target", "Error of old", "Error of new"]
    rows = [row for task in data["tasks"] for row in task["rows"]]
    assert len(rows) == 4 * world.images
    assert all(row["values"][0] == pytest.approx(-0.02) and len(row["full"]) == 6 for row in rows)
    assert all((path.parent / file).is_file() for row in rows for file in [row["thumb"], *row["full"]])
    assert page.count("<script") == 2
    assert HOSTILE.split(">")[1] not in page
    assert "Both recipes have the same settings." in page
    assert len(page) < 6_000_000


def test_the_page_says_which_settings_differ_and_when_nothing_moved(world: World, tmp_path: Path) -> None:
    old, new = world.run(tmp_path / "runs", "old"), world.run(tmp_path / "runs", "new")
    text = new.recipe_file.read_text()
    new.recipe_file.write_text(re.sub(r"(?m)^seed = .*$", "seed = 99", text))
    path = tmp_path / "runs" / "page.html"
    write_comparisons(path, [compare(old, new)], world.root, world.manifests)
    page = path.read_text()
    assert "no image's score moved" in page
    assert "1 setting differs" in page
    assert "<code>seed</code>" in page


def test_the_command_prints_a_table_json_and_a_page(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    world.run(folder, "old"), world.run(folder, "new", shift=0.02)
    common = ["--submissions", str(folder), "--manifests", str(world.manifests), "--data", str(world.root)]
    told = call("compare", "old", "new", *common)
    assert "new against old" in told
    assert (folder / "compare-old-new.html").is_file()
    values = json.loads(call("compare", "old", "new", *common, "--json", "--no-page"))
    assert values[0]["tasks"]["sar2eo"]["verdict"] == "worse"
    assert values[0]["combined"]["difference"] == pytest.approx(0.02)


def test_one_run_is_bad_usage(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "old", "old", "--submissions", str(tmp_path)])
    assert stopped.value.code == 2
    assert "two different runs" in capsys.readouterr().err


def call(*arguments: str) -> str:
    from pbvs.cli import cli

    result = CliRunner().invoke(cli, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_what_rounding_leaves_is_identical(scored: Make) -> None:
    old = images(12, 0.2)
    new = {name: (value or 0) + (3e-8 if n % 2 else -3e-8) for n, (name, value) in enumerate(old.items())}
    found = compare(scored("old", {"sar2eo": old}), scored("new", {"sar2eo": new}))
    assert found.combined.verdict == found.tasks[0].verdict == "identical"
    assert found.combined.difference == 0 and (found.changes["difference"] == 0).all()
    assert "identical" in comparison_table(found)
    moved = compare(
        scored("old", {"sar2eo": old}), scored("far", {"sar2eo": {k: (v or 0) - 3e-5 for k, v in old.items()}})
    )
    assert moved.combined.verdict == "better"


def test_the_keys_that_differ_between_recipes_are_named(scored: Make) -> None:
    old, new = scored("old", {"sar2eo": images(6, 0.2)}), scored("new", {"sar2eo": images(6, 0.1)})
    recipe = new.recipe()
    stage = recipe.stages["sar2eo"].model_copy(update={"epochs": 77})
    changed = recipe.model_copy(update={"seed": 5, "description": "x", "stages": {**recipe.stages, "sar2eo": stage}})
    new.recipe_file.write_text(dump_recipe(changed))
    found = compare(old, new)
    assert set(found.recipe) == {"seed", "stages.sar2eo.epochs"}
    assert found.recipe["seed"] == (recipe.seed, 5)
    assert f"seed = {recipe.seed} -> 5" in comparison_table(found)
    assert "The recipes are the same." in comparison_table(compare(old, old))


def test_more_is_better_where_the_rule_says_so(scored: Make) -> None:
    rule = {"name": "sharp", "terms": [{"metric": "rmse", "weight": -1.0}], "reduction": "sum"}
    old = scored("old", {"sar2eo": images(12, 0.2)}, protocol=rule)
    new = scored("new", {"sar2eo": images(12, 0.1)}, protocol=rule)
    found = compare(old, new)
    assert found.combined.difference == pytest.approx(0.1)
    assert found.combined.verdict == "better" and (found.combined.better, found.combined.worse) == (12, 0)
    assert "positive is better" in comparison_table(found)


def test_seeds_have_a_mean_and_a_spread(scored: Make) -> None:
    runs = []
    for seed, start in enumerate((0.20, 0.23, 0.26)):
        run = scored(f"seed{seed}", {"sar2eo": images(6, start), "rgb2ir": images(6, 0.4)})
        run.recipe_file.write_text(dump_recipe(run.recipe().model_copy(update={"seed": seed})))
        runs.append(run)
    table = seeds_table(runs)
    means = [start + 0.025 for start in (0.20, 0.23, 0.26)]
    assert table.loc["sar2eo", "mean"] == pytest.approx(np.mean(means))
    assert table.loc["sar2eo", "deviation"] == pytest.approx(np.std(means, ddof=1))
    assert table.loc["rgb2ir", "deviation"] == pytest.approx(0, abs=1e-12)
    folder = str(runs[0].submissions)
    told = call("compare", *(run.name for run in runs), "--seeds", "--submissions", folder)
    assert "deviation" in told and "combined" in told
    stage = runs[1].recipe().stages["sar2eo"].model_copy(update={"epochs": 77})
    recipe = runs[1].recipe()
    runs[1].recipe_file.write_text(
        dump_recipe(recipe.model_copy(update={"stages": {**recipe.stages, "sar2eo": stage}}))
    )
    with pytest.raises(PbvsError, match=r"more than the seed \(stages.sar2eo.epochs\)"):
        seeds_table(runs)
