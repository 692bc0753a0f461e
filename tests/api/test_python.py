"""The public functions: their examples are run, their types are known, and mistakes are sentences."""

from __future__ import annotations

import csv
import doctest
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

import pbvs
from pbvs import api
from pbvs.data.synthetic import write_demo

DATA = ("data", "manifests")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with synthetic data, manifests and the runs that the examples speak of."""
    folder = tmp_path_factory.mktemp("world")
    before = Path.cwd()
    os.chdir(folder)
    try:
        write_demo(folder / "data")
        pbvs.build_pairs("data", "manifests", pairs_per_location=2)
        recipe = pbvs.load_recipe("demo")
        for name, factor in (("demo", 1.3), ("gray", 1.3), ("bright", 1.6)):
            changed = recipe.replace("stages.rgb2ir.intensity", factor).replace("evaluation_size", "native")
            pbvs.predict(changed, run=name, tasks=["rgb2ir"], data="data", manifests="manifests")
            pbvs.score(name, data="data", manifests="manifests", lpips_net="random")
        yield folder
    finally:
        os.chdir(before)


EXAMPLES = [
    test
    for module in (
        api,
        sys.modules["pbvs.recipe"],
        sys.modules["pbvs.text"],
        __import__("pbvs.translators.scenes", fromlist=["x"]),
    )
    for test in doctest.DocTestFinder().find(module)
    if test.examples
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda test: test.name)
def test_the_examples_hold(example: doctest.DocTest, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PBVS_DATA", str(world / "data"))
    example.globs.update(pbvs=pbvs, np=np)
    said: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example, out=said.append)
    assert result.failed == 0, "".join(said)


def test_a_model_knows_how_its_inputs_were_read(world: Path) -> None:
    with (world / "manifests" / "rgb2ir_train.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    rules = {}
    for row in rows:
        with rasterio.open(world / "data" / row["source"]) as image:
            rules[image.dtypes[0]] = row["source_rule"]
    assert pbvs.load_model("demo", "rgb2ir").trained == rules
    assert pbvs.load_model("demo", "rgb2ir", rule="auto").trained is None


def test_every_public_function_has_an_example() -> None:
    for name in set(pbvs.__all__) - {"PbvsError", "UsageError", "__version__"}:
        found = getattr(pbvs, name)
        parts = [found] if inspect.isfunction(found) else [found, *vars(found).values()]
        assert any(">>>" in (inspect.getdoc(part) or "") for part in parts), name


def test_the_package_costs_nothing_until_it_is_used() -> None:
    script = (
        "import sys, pbvs; assert not {'torch', 'pandas', 'numpy', 'pydantic'} & set(sys.modules); print(pbvs.score)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_name_that_does_not_exist_gets_the_list() -> None:
    with pytest.raises(AttributeError, match="load_model"):
        pbvs.load_modell  # noqa: B018


def test_mypy_sees_the_types(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    path = tmp_path / "user.py"
    path.write_text(
        "import pbvs\n"
        "reveal_type(pbvs.predict)\nreveal_type(pbvs.load_model('a', 'b'))\nreveal_type(pbvs.Run('a').report())\n"
        "pbvs.predict(root='x')\n"
    )
    repository = Path(pbvs.__file__).parents[1]
    command = [sys.executable, "-m", "mypy", "--config-file=", "--ignore-missing-imports", "--follow-imports=silent"]
    done = subprocess.run(
        [*command, f"--cache-dir={tmp_path}", str(path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MYPYPATH": str(repository)},
    )
    assert "pbvs.api.Run" in done.stdout
    assert '"pbvs.translators.scenes.Model"' in done.stdout
    assert 'Revealed type is "pathlib.Path"' in done.stdout
    assert 'Unexpected keyword argument "root"' in done.stdout


def test_a_run_is_a_name_a_folder_or_a_run(world: Path) -> None:
    image = np.full((8, 8, 3), 0.5, np.float32)
    values = [
        pbvs.load_model(run, "rgb2ir")(image)
        for run in (
            "gray",
            "submissions/gray",
            Path("submissions") / "gray",
            pbvs.Run("gray"),
            world / "submissions/gray",
        )
    ]
    assert all(np.array_equal(value, values[0]) for value in values)
    assert values[0] == pytest.approx(np.full((8, 8, 1), 0.65), abs=1e-6)


def test_the_model_gives_what_predict_wrote(world: Path) -> None:
    from pbvs.data.align import open_source
    from pbvs.data.manifest import manifest_path, read_manifest

    predictions = pbvs.Run("gray").predictions("rgb2ir")
    model = pbvs.load_model("gray", "rgb2ir")
    for pair in read_manifest(manifest_path(Path("manifests"), "rgb2ir", "val")):
        made = model(open_source(pair, world / "data"))
        assert np.abs(made - predictions[pair.name]).max() <= 0.5 / 255 + 1e-6
    assert len(predictions) > 0
    assert predictions.path(next(iter(predictions))).is_file()


def test_arrays_and_files_of_the_same_image_are_the_same(world: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    model = pbvs.load_model("gray", "rgb2ir")
    expected = np.clip(pixels.astype(np.float32).mean(axis=2, keepdims=True) / 255 * 1.3, 0, 1)
    for image in (pixels, pixels.astype(np.uint16) * 257, pixels / 255, tmp_path / "a.png", str(tmp_path / "a.png")):
        assert model(image) == pytest.approx(expected, abs=1e-5)
    assert len(model([pixels, tmp_path / "a.png"])) == 2


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (lambda: pbvs.predict("nowhere"), "no recipe 'nowhere'"),
        (lambda: pbvs.score("absent"), "no run 'absent'"),
        (lambda: pbvs.load_model("absent", "sar2eo"), "no run 'absent'"),
        (lambda: pbvs.load_model("gray", "sar2xx"), "no task 'sar2xx'"),
        (lambda: pbvs.load_model("gray", "sar2rgb"), "no model of sar2rgb yet"),
        (lambda: pbvs.load_model("gray", "rgb2ir", rule="bright"), "no rule 'bright'"),
        (lambda: pbvs.load_model("gray", "rgb2ir")(np.zeros((4, 4))), "3 channels"),
        (lambda: pbvs.load_model("gray", "rgb2ir")(np.zeros(4)), "height, width"),
        (lambda: pbvs.load_model("gray", "rgb2ir")("none.png"), "none.png"),
        (lambda: pbvs.build_pairs("absent"), "absent"),
        (lambda: pbvs.compare("gray", "absent"), "absent"),
        (lambda: pbvs.load_recipe("demo").replace("stages.sar2eo.epoch", 5), "stages.sar2eo.*epoch"),
        (lambda: pbvs.load_recipe("demo").replace("seed.x", 5), "seed"),
        (lambda: pbvs.load_recipe("gray").replace("stages.*.intensty", 2), "intensty.*did you mean intensity"),
        (lambda: pbvs.load_recipe("grya"), "did you mean gray"),
        (lambda: pbvs.build_pairs("absent"), "pbvs demo-data"),
    ],
)
def test_mistakes_are_sentences(work: object, words: str, world: Path) -> None:
    assert callable(work)
    with pytest.raises(pbvs.PbvsError, match=words) as stopped:
        work()
    assert "\n" not in str(stopped.value)


def test_a_recipe_is_changed_and_saved(tmp_path: Path) -> None:
    recipe = pbvs.load_recipe("demo").replace("stages.sar2eo.epochs", 5).replace("name", "mine")
    again = pbvs.load_recipe(recipe.save(tmp_path / "mine.toml"))
    assert again == recipe
    assert again.stages["sar2eo"].model_dump()["epochs"] == 5


def test_a_key_of_every_stage_is_changed_in_every_stage() -> None:
    changed = pbvs.load_recipe("gray").replace("stages.*.intensity", 2)
    assert {task: stage.model_dump()["intensity"] for task, stage in changed.stages.items()} == dict.fromkeys(
        ("sar2eo", "sar2rgb", "sar2ir", "rgb2ir"), 2.0
    )


def test_scores_are_frames_and_a_notebook_shows_them(world: Path) -> None:
    scores = pbvs.score("gray", data="data", manifests="manifests", lpips_net="random", baselines=False)
    rows = scores.images[scores.images["task"] == "rgb2ir"]
    assert 0 < len(rows) == sum(name in set(rows["name"]) for name in pbvs.Run("gray").predictions("rgb2ir"))
    assert float(rows["rmse"].mean()) == pytest.approx(float(scores.tasks.loc["rgb2ir", "rmse"]), rel=1e-6)
    shown = scores._repr_html_()
    assert shown.count("<table") == 1
    assert f"{scores.combined:.4f}" in shown
