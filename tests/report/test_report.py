"""The report: complete, self-contained, small, escaped, and there even when parts of the run are not."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pbvs.cli import cli
from pbvs.data.images import write_png
from pbvs.errors import PbvsError
from pbvs.files import write_json, write_text
from pbvs.report import charts, images
from pbvs.report.run_page import read_log, write_report
from pbvs.run import Run
from tests.report.world import HOSTILE, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


class Page(html.parser.HTMLParser):
    """Collects tags, attributes and text, and checks that every element is closed."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def written(world: World, run: Run, *, root: Path | None = None) -> tuple[str, Page]:
    path = write_report(run, root=root or world.root, manifests=world.manifests)
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def test_a_whole_run_shows_every_part(world: World, tmp_path: Path) -> None:
    text, page = written(world, world.run(tmp_path / "runs"))
    for words in (
        "l2-lpips",
        "95 % interval",
        "Best",
        "Median",
        "Worst",
        "val score",
        "L1 instead of RMSE",
        "torch 2.13",
        "Few locations (sar2eo 3",
    ):
        assert words in page.text
    assert page.text.count("Error") >= 4 * 3
    assert page.tags.count("img") == 4 * 3 * 4 + 4 * 2 * 2
    assert len(text) < 6_000_000


def test_what_the_inputs_score_stands_beside_every_score(world: World, tmp_path: Path) -> None:
    run = world.run(tmp_path / "runs")
    tasks = json.loads((run.scores / "summary.json").read_text())["tasks"]
    own = {task: {"score": 0.4321 + 0.1 * number} for number, task in enumerate(tasks)}
    change_summary(
        run, baselines={"input": {"combined": 0.8765, "tasks": own}, "gray": {"combined": None, "tasks": {}}}
    )
    text, _ = written(world, run)
    table = text.split("<caption>Scores by task</caption>")[1].split("</table>")[0]
    head, *rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in table.split("<tr")[1:]]
    at = head.index("input as it is")
    assert head[at : at + 2] == ["input as it is", "its gray"]
    assert [row[at] for row in rows] == [*(f"{own[task]['score']:.3f}" for task in tasks), "0.876"]


def explorer(text: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(text.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    return data


def rows_of(text: str) -> list[dict[str, Any]]:
    return [row for task in explorer(text)["tasks"] for row in task["rows"]]


def test_it_loads_nothing_from_elsewhere_and_runs_its_own_script_only(world: World, tmp_path: Path) -> None:
    text, page = written(world, world.run(tmp_path / "runs"))
    assert not {"link", "iframe", "object"} & set(page.tags)
    assert page.tags.count("script") == 2
    script = text.rsplit("<script>", 1)[1].split("</script>")[0]
    assert script == images.script()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(value for name, value in page.attributes if name == "content" and "default-src" in value)
    assert f"script-src 'sha256-{digest}'" in policy
    assert not re.search("http|unsafe-eval", policy)
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "href"):
            assert value.startswith(("data:image/jpeg;base64,", "#"))


def test_what_build_pairs_says_of_the_data_is_shown(world: World, tmp_path: Path) -> None:
    text, _ = written(world, world.run(tmp_path / "runs"))
    assert "Of the data" not in text
    write_json(world.manifests / "summary.json", {"doubts": ["A: 12% of the sar numbers are clipped <b>"]})
    text, _ = written(world, world.run(tmp_path / "other"))
    assert "Of the data.</strong><br>A: 12% of the sar numbers are clipped &lt;b&gt;" in text


def test_names_from_the_data_are_text(world: World, tmp_path: Path) -> None:
    text, page = written(world, world.run(tmp_path / "runs"))
    assert HOSTILE.split("-")[0] not in text
    assert text.count("<script") == 2
    assert HOSTILE in page.text
    assert {row["location"] for row in rows_of(text)} == {f"{HOSTILE}-{i}" for i in range(3)}


def test_every_scored_image_is_listed_with_its_files_the_worst_first(world: World, tmp_path: Path) -> None:
    run = world.run(tmp_path / "runs")
    text, _ = written(world, run)
    assert explorer(text)["panes"] == ["Input", "Prediction", "Target", "Error"]
    for task in explorer(text)["tasks"]:
        scores = [row["values"][0] for row in task["rows"]]
        assert scores == sorted(scores, reverse=True)
        assert len(scores) == world.images
    for row in rows_of(text):
        assert len(row["full"]) == 4
        for file in (row["thumb"], *row["full"]):
            assert file.startswith("report_files/")
            with Image.open(run.folder / file) as image:
                image.load()
    first = rows_of(text)[0]
    with (
        Image.open(run.folder / first["full"][1]) as kept,
        Image.open(run.prediction("val", "sar2eo", first["name"])) as made,
    ):
        assert kept.tobytes() == made.tobytes()
    with Image.open(run.folder / first["thumb"]) as sheet:
        assert sheet.size == (4 * images.THUMBNAIL, images.THUMBNAIL)


def test_one_file_holds_everything(world: World, tmp_path: Path) -> None:
    run = world.run(tmp_path / "runs")
    written(world, run)
    path = write_report(run, root=world.root, manifests=world.manifests, one_file=True)
    rows = rows_of(path.read_text())
    assert all(file.startswith("data:image/") for row in rows for file in [row["thumb"], *row["full"]])
    assert not (run.folder / "report_files").exists()


def test_only_the_worst_are_kept_whole_unless_all_are_asked_for(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "PIXELS", 5.0 * world.size**2)
    run = world.run(tmp_path / "runs")
    text, page = written(world, run)
    for task in explorer(text)["tasks"]:
        assert [bool(row["full"]) for row in task["rows"]] == [True] * 5 + [False] * 2
    assert "Of 8 images a thumbnail alone is kept" in page.text
    whole = write_report(run, root=world.root, manifests=world.manifests, all_images=True).read_text()
    assert all(row["full"] for row in rows_of(whole))


def test_of_very_many_images_the_worst_are_listed_and_the_page_says_so(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = world.run(tmp_path / "runs")
    whole = {task["name"]: [row["name"] for row in task["rows"]] for task in explorer(written(world, run)[0])["tasks"]}
    monkeypatch.setattr(images, "MOST_ROWS", 3)
    text, page = written(world, run)
    listed = {task["name"]: [row["name"] for row in task["rows"]] for task in explorer(text)["tasks"]}
    assert listed == {name: names[:3] for name, names in whole.items()}
    left = sum(map(len, whole.values())) - 3 * len(whole)
    assert f"The {left} best images are not listed: the run's CSV files name all." in page.text


def test_writing_again_leaves_no_image_of_the_page_before(world: World, tmp_path: Path) -> None:
    run = world.run(tmp_path / "runs")
    written(world, run)
    change_summary(run, combined=0.123)
    text, _ = written(world, run)
    listed = {file for row in rows_of(text) for file in [row["thumb"], *row["full"]]}
    there = {path.relative_to(run.folder).as_posix() for path in (run.folder / "report_files").rglob("*.*")}
    assert there == listed


def test_a_linked_folder_of_images_is_refused_and_left_alone(world: World, tmp_path: Path) -> None:
    run = world.run(tmp_path / "runs")
    other = tmp_path / "other"
    other.mkdir()
    (run.folder / "report_files").symlink_to(other)
    with pytest.raises(PbvsError, match="is a link"):
        written(world, run)
    assert not list(other.iterdir())


def test_charts_say_their_axes_and_name_the_images(tmp_path: Path) -> None:
    world = World(tmp_path, images=9, location="33.5_-118")
    text, page = written(world, world.run(tmp_path / "runs"))
    for words in ("images by score", "mean of the input", "rank correlation", "epoch", "best 0.34"):
        assert words in page.text
    assert text.count('data-image="sar2eo-') == 9


def test_locations_named_by_their_coordinates_are_on_a_map() -> None:
    spots = [charts.Spot(-118.0 + i / 10, 34.0, f"34_{i}", "t", 0.1 * i) for i in range(4)]
    far = charts.Spot(10.0, 50.0, "far", "t", 0.2)
    groups = charts.clusters([*spots, far], lambda spot: (spot.x, spot.y))
    assert [len(group) for group in groups] == [4, 1]
    drawn = charts.location_map("x", groups[0])
    places = {name: float(x) for x, name in re.findall(r'cx="([\d.]+)"[^>]*data-location="(\S+)"', drawn.svg)}
    assert places["34_0"] < places["34_1"] < places["34_3"]
    assert "118" not in drawn.note or "W" in drawn.note
    assert "around 34.00° N, 117.85° W" in drawn.note


def test_the_same_run_gives_the_same_bytes(world: World, tmp_path: Path) -> None:
    run = world.run(tmp_path / "runs")
    assert written(world, run)[0] == written(world, run)[0]


def test_a_run_without_scores_shows_its_images(world: World, tmp_path: Path) -> None:
    _, page = written(world, world.run(tmp_path / "runs", scored=False))
    assert "Not scored yet" in page.text
    assert page.tags.count("img") == 4 * 3 * 4 + 4 * 2 * 2


def test_a_run_without_anything_still_has_a_page(world: World, tmp_path: Path) -> None:
    _, page = written(world, world.run(tmp_path / "runs", scored=False, predicted=False))
    assert "Not scored yet" in page.text
    assert "img" not in page.tags


def test_without_data_the_numbers_remain(world: World, tmp_path: Path) -> None:
    run = world.run(tmp_path / "runs")
    page = Page(write_report(run, root=None, manifests=world.manifests).read_text(encoding="utf-8"))
    assert "no data folder given" in page.text
    assert "0.2" in page.text


def test_no_run_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(PbvsError, match="There is no run"):
        write_report(Run("none", tmp_path), root=None, manifests=tmp_path)


def change_summary(run: Run, **changes: object) -> None:
    path = run.scores / "summary.json"
    write_text(path, json.dumps(json.loads(path.read_text()) | changes))


def test_numbers_that_are_not_lpips_say_so_everywhere(world: World, tmp_path: Path) -> None:
    run = world.run(tmp_path / "runs")
    change_summary(run, lpips={"net": "random", "version": "none", "is_lpips": False})
    _, page = written(world, run)
    assert "Not LPIPS." in page.text
    assert "(not LPIPS)" in page.text
    assert "LPIPS uses the" not in page.text
    assert "and not LPIPS 0.2" in page.text
    titles = [column["title"] for column in explorer(written(world, run)[0])["columns"]]
    assert "not LPIPS" in titles and "LPIPS" not in titles
    heads = re.findall(r"<th[^>]*>([^<]*LPIPS[^<]*)</th>", written(world, run)[0])
    assert heads and set(heads) == {"not LPIPS"}


def test_sets_have_a_distance_that_images_have_not(world: World, tmp_path: Path) -> None:
    run = world.run(tmp_path / "runs")
    tasks = json.loads((run.scores / "summary.json").read_text())["tasks"]
    tasks["sar2eo"] |= {"fid": 123.456, "kid": 0.0321}
    change_summary(
        run, tasks=tasks, protocol={"name": "mavic-t-2026", "terms": ["fid", "lpips", "pixel"], "pixel": "l1"}
    )
    _, page = written(world, run)
    for words in ("FID", "123.5", "0.0321", "which no single image has", "mean of LPIPS and L1"):
        assert words in page.text


def test_missing_and_damaged_numbers_are_dashes(world: World, tmp_path: Path) -> None:
    run = world.run(tmp_path / "runs")
    missing = {"status": "missing", "reason": "nothing was predicted", "images": 0, "expected": 7, "score": None}
    tasks = json.loads((run.scores / "summary.json").read_text())["tasks"] | {"sar2ir": missing}
    change_summary(run, tasks=tasks, interval=None, combined=None, partial=True, sensitivity="?", notes=None)
    table = (run.scores / "sar2eo.csv").read_text().splitlines()
    table[1] = table[1].rsplit(",", 1)[0] + ",nan"
    write_text(run.scores / "sar2eo.csv", "\n".join(table))
    _, page = written(world, run)
    assert "nothing was predicted" in page.text
    assert "Partial: sar2ir" in page.text
    assert not re.search(r"\bnan\b", page.text, re.IGNORECASE)


@pytest.mark.parametrize("part", ["scores/summary.json", "provenance.json", "models/sar2eo/done.json"])
def test_a_damaged_part_is_named_and_the_rest_remains(world: World, tmp_path: Path, part: str) -> None:
    run = world.run(tmp_path / "runs")
    write_text(run.folder / part, "{half")
    _, page = written(world, run)
    assert "could not be read" in page.text
    assert Path(part).name in page.text
    assert "SAR to EO" in page.text


def test_a_image_that_cannot_be_read_leaves_words(world: World, tmp_path: Path) -> None:
    run = world.run(tmp_path / "runs")
    write_text(run.prediction("val", "sar2eo", "sar2eo-0"), "no image")
    (world.root / "sar2rgb/0_out.png").unlink()
    _, page = written(world, run)
    assert "sar2eo-0.png cannot be read" in page.text
    assert "0_out.png" in page.text


def test_large_images_make_a_small_page(tmp_path: Path) -> None:
    world = World(tmp_path, size=400, images=2)
    text, _ = written(world, world.run(tmp_path / "runs"))
    assert len(text) < 6_000_000


def test_training_leaves_its_sheets_on_the_page(world: World, tmp_path: Path) -> None:
    run = world.run(tmp_path / "runs")
    for epoch in (1, 5, 10):
        write_png(run.model("sar2eo") / "samples" / f"{epoch:04d}.png", np.zeros((900, 600, 3), np.uint8))
    write_text(run.model("sar2rgb") / "samples" / "0001.png", "half")
    _, page = written(world, run)
    assert "Epoch 1Epoch 10" in page.text.replace("\n", "")
    assert "0001.png cannot be read" in page.text


def test_the_command_writes_a_page_for_a_run_without_scores(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    world.run(folder, scored=False)
    places = ["--submissions", str(folder), "--manifests", str(world.manifests), "--data", str(world.root)]
    told = CliRunner().invoke(cli, ["report", "--run", "one", *places], catch_exceptions=False).stdout
    assert str(folder / "one" / "report.html") in told
    assert "Not scored yet" in (folder / "one" / "report.html").read_text()


JUNK: tuple[Any, ...] = (None, True, -1, 1e300, "<b>x</b>", [], [None], {}, {"a": [1, {}]}, "nan")


def spoiled(value: Any, chance: random.Random) -> Any:
    """Replace about one part in twelve of a JSON value by one that does not belong there."""
    if chance.randrange(12) == 0:
        return chance.choice(JUNK)
    if isinstance(value, dict):
        return {key: spoiled(item, chance) for key, item in value.items()}
    return [spoiled(item, chance) for item in value] if isinstance(value, list) else value


def test_no_summary_breaks_the_page(world: World, tmp_path: Path) -> None:
    run = world.run(tmp_path / "runs", predicted=False)
    path = run.scores / "summary.json"
    whole = json.loads(path.read_text())
    for seed in range(40):
        write_text(path, json.dumps(spoiled(whole, random.Random(seed))))
        text = write_report(run, root=None, manifests=tmp_path).read_text()
        Page(text)
        assert "<b>x" not in text


@pytest.mark.parametrize("text", ["", "\0\0", "epoch,loss\n" + "1" * 200_000, 'epoch\n"1', "a,a\n1,2\n3"])
def test_no_log_breaks_the_page(world: World, tmp_path: Path, text: str) -> None:
    run = world.run(tmp_path / "runs", predicted=False)
    write_text(run.model("sar2eo") / "log.csv", text)
    write_text(run.scores / "sar2rgb.csv", text)
    assert "Provenance" in written(world, run)[1].text


def test_a_log_with_gaps_keeps_its_numbers(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("epoch,loss,val_score,empty\n1,0.5,,\n2,inf,0.25,\n3,0.25\n")
    assert read_log(path) == {"epoch": [1, 2, 3], "loss": [0.5, None, 0.25], "val_score": [None, 0.25, None]}


def test_the_error_is_measured_on_the_predictions_grid() -> None:
    prediction, target = np.zeros((8, 8, 1), np.float32), np.full((16, 16, 1), 0.25, np.float32)
    assert images.error_of(prediction, target) == pytest.approx(np.full((8, 8), 0.25))
    colours = images.error_map(np.array([[0.0, images.ERROR_END, 9.0]], np.float32))
    assert colours[0, 1] == pytest.approx(colours[0, 2])
    assert colours[0, 0].sum() < colours[0, 1].sum()


def test_noise_survives_as_a_thumbnail() -> None:
    noise = np.random.default_rng(1).random((288, 288, 3)).astype(np.float32)
    made = images.tile("x", noise)
    assert made.uri.startswith("data:image/jpeg")
    assert (made.width, made.height) == (288, 288)


def test_a_thumbnail_keeps_its_proportions() -> None:
    made = images.tile("x", np.zeros((100, 1000, 1), np.float32))
    assert (made.width, made.height) == (images.SIDE, 29)


def test_level_counts_add_up() -> None:
    image = np.array([[[0.0], [0.999]], [[1.0], [float("nan")]]], np.float32)
    counts = images.level_counts(image, bins=2)
    assert counts.tolist() == [[2, 2]]


@pytest.mark.parametrize(("values", "end"), [([], 0.1), ([0.31], 0.4), ([0.55], 0.6), ([1.2], 1.5), ([9.0], 10.0)])
def test_axes_end_at_round_numbers(values: list[float], end: float) -> None:
    assert charts.upper_end(values) == pytest.approx(end)


def test_charts_escape_and_stay_in_their_frame() -> None:
    row = charts.ScoreRow("<b>", 0.5, (0.4, 0.6), [0.1, 0.9])
    drawn, axis = charts.score_rows([row]).values()
    assert "<b>" not in drawn[0][1]
    assert "&lt;b&gt;" in drawn[0][1]
    assert axis[-1] == (100.0, "1")


def test_one_point_or_a_flat_curve_is_drawn() -> None:
    flat = charts.curve("flat", [0, 1, 2], [0.5, 0.5, 0.5])
    assert flat.svg.count(",50.00") == 3


def test_prediction_and_target_reach_a_png_reader(world: World, tmp_path: Path) -> None:
    run = world.run(tmp_path / "runs")
    with Image.open(run.prediction("val", "sar2rgb", "sar2rgb-0")) as image:
        assert image.mode == "RGB"
    assert images.read_prediction(run.prediction("val", "sar2eo", "sar2eo-0")).shape == (64, 64, 1)
