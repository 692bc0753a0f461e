"""What check-data says of a tree, and the page it writes."""

from __future__ import annotations

import re
import shutil
import zlib
from pathlib import Path

import pytest
from click.testing import CliRunner

from pbvs.cli import cli
from pbvs.data.build import build_pairs
from pbvs.data.images import write_png
from pbvs.data.inspection import group_reasons, inspect_data
from pbvs.data.statistics import Brightness, warnings_of
from pbvs.files import read_json
from pbvs.report.pages import clusters, map_of, render_data
from tests.data.conftest import Tree


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cli, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_table_and_the_page(demo: Path, tmp_path: Path) -> None:
    text = run("check-data", str(demo), "--manifests", str(tmp_path), "--jobs", "1")
    assert "Train_Data_Demo_City_SAR_IR_RGB" in text
    assert re.search(r"sar2eo +16 +4 +4\n", text)
    page = (tmp_path / "check-data.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") > 10
    assert page.count("<circle") > 3
    assert "http" not in page.replace("http-equiv", "")
    assert not (tmp_path / "catalog.csv").exists()


def test_what_is_missing_is_said(tree: Tree) -> None:
    tree.location("A", "one")
    tree.tiff("A/two/x_rgb.tiff", 3)
    found = inspect_data(tree.root, shifts=False)
    text = " ".join(found.missing)
    assert "sar2eo: nothing for train, val, test." in text
    assert "A: 1 of 2 locations have no SAR." in text
    assert "no georeference" in text
    assert ("A/two/x_rgb.tiff", "nothing in its location can be paired with it") in found.wrong


def test_a_page_escapes_names(tree: Tree) -> None:
    name = "<script>& 'x'"
    tree.location("A & <b>B<b>", name)
    page = render_data(inspect_data(tree.root, shifts=False))
    assert "<script" not in page
    assert "<b>B" not in page
    assert "&lt;script&gt;&amp; &#39;x&#39;" in page


def test_official_inputs_among_the_training_images_are_named(tree: Tree, tmp_path: Path) -> None:
    for number in range(8):
        for modality in ("SAR", "EO"):
            tree.png(f"design_data/{modality}/train/{number}.png")
    (tree.root / "test/sar2eo").mkdir(parents=True)
    shutil.copy(tree.root / "design_data/SAR/train/3.png", tree.root / "test/sar2eo/900.png")
    tree.png("test/sar2eo/901.png")
    found = inspect_data(tree.root, shifts=False)
    assert found.wrong == [("test/sar2eo/900.png", "byte for byte the training image design_data/SAR/train/3.png")]
    assert any("among the training images" in warning for warning in found.warnings)


def test_inputs_that_only_end_like_a_training_image_are_none(tree: Tree, tmp_path: Path) -> None:
    for number in range(8):
        for modality in ("SAR", "EO"):
            tree.png(f"design_data/{modality}/train/{number}.png")
    data = (tree.root / "design_data/SAR/train/3.png").read_bytes()
    for name, other in (("design_data/SAR/train/3.png", 0), ("test/sar2eo/900.png", 0), ("test/sar2eo/901.png", 1)):
        # a chunk that Pillow does not know, longer than the end that is compared first
        body = b"teSt" + bytes([other]) + bytes(9000)
        chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
        chunk += (0).to_bytes(4, "big") + b"teSt" + zlib.crc32(b"teSt").to_bytes(4, "big")
        (tree.root / name).parent.mkdir(parents=True, exist_ok=True)
        (tree.root / name).write_bytes(data[:33] + chunk + data[33:])
    found = inspect_data(tree.root, tmp_path / "manifests", shifts=False)
    assert found.wrong == [("test/sar2eo/900.png", "byte for byte the training image design_data/SAR/train/3.png")]


def test_a_darker_test_set_is_warned_of(tree: Tree, tmp_path: Path) -> None:
    for number in range(8):
        for modality in ("SAR", "EO"):
            tree.png(f"design_data/{modality}/train/{number}.png")
        write_png(tree.root / f"test/sar2eo/{number}.png", tree.pixels(16, 16, 1) // 2)
    summary = build_pairs(tree.root, tmp_path)
    (warning,) = [line for line in summary.warnings if "bright" in line]
    assert re.search(r"sar2eo: the test inputs are 0\.\d+ times as bright", warning)
    written = read_json(tmp_path / "summary.json")
    inputs = written["brightness"]["inputs"]["sar2eo"]
    assert inputs["test"]["mean"] < 0.6 * inputs["train"]["mean"]
    assert sum(inputs["train"]["histogram"]) == pytest.approx(1, abs=1e-3)
    assert written["warnings"] == summary.warnings


def test_like_brightness_is_no_warning() -> None:
    import numpy as np

    counts = np.ones(64)
    assert warnings_of({"sar2eo": {"train": Brightness(counts, 1), "test": Brightness(counts, 1)}}) == []
    assert warnings_of({"sar2eo": {"train": Brightness(counts, 1)}}) == []


def test_places_far_apart_get_maps_of_their_own() -> None:
    near = [(f"a{i}", 10 + i / 100, 50.0, i == 0) for i in range(5)]
    far = [(f"b{i}", -100 + i / 100, 30.0, False) for i in range(3)]
    assert sorted(len(group) for group in clusters([*near, *far, ("alone", 0.0, 0.0, False)])) == [3, 5]
    drawn = map_of("A", near)
    assert all(0 < point["x"] < 320 and 0 < point["y"] < 200 for point in drawn["points"])
    assert drawn["points"][-1]["held"]
    assert drawn["length"] == "500 m"


def test_reasons_are_grouped_by_kind() -> None:
    rows = [("a", "The image a cannot be read (x)"), ("b", "The image b cannot be read (y)"), ("c", "it is odd")]
    assert [(group["kind"], group["count"]) for group in group_reasons(rows)] == [
        ("cannot be read", 2),
        ("it is odd", 1),
    ]


def test_every_kind_of_trouble_still_makes_a_page(tree: Tree, tmp_path: Path) -> None:
    tree.location("A", "one")
    (tree.root / "A/one/empty_GEC.tiff").write_bytes(b"")
    text = run(
        "check-data", str(tree.root), "--manifests", str(tmp_path), "--no-shift", "--output", str(tmp_path / "x.html")
    )
    assert "empty_GEC.tiff" in text
    assert "1 × cannot be read" in (tmp_path / "x.html").read_text(encoding="utf-8")
