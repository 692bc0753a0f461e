"""What README.md promises and no other test would miss; docs/reliability.md lists the tests of all its promises."""

from __future__ import annotations

import json
import re
import socket
import zipfile
from pathlib import Path
from typing import NoReturn

import pytest

import pbvs as package
from pbvs import pipeline
from tests.faults.points import tree
from tests.faults.scenarios import GRAY, PREDICT, SCORE, TINY, _pairs, pbvs
from tests.tasks import TASKS

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder in which nothing may reach for the network."""

    def refused(*_: object) -> NoReturn:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.chdir(tmp_path)
    _pairs()
    return tmp_path


def test_the_main_job_leaves_what_readme_says_and_asks_no_network(place: Path) -> None:
    Path("r.toml").write_text(TINY + GRAY.format(1.3).split("\n", 2)[2])
    for line in (PREDICT, SCORE, "package --run r --tasks sar2eo,rgb2ir --data data", "report --run r --data data"):
        pbvs(line)
    run = Path("submissions/r")
    (scores,) = (run / "scores" / "val").iterdir()
    wanted = {"recipe.toml", "provenance.json", "report.html", "log.txt"}
    wanted |= {f"scores/val/{scores.name}/{name}" for name in ("summary.json", "sar2eo.csv", "rgb2ir.csv")}
    wanted |= {f"models/sar2eo/{name}" for name in ("model.safetensors", "state.safetensors", "log.csv", "curves.png")}
    assert not {name for name in wanted if not (run / name).is_file()}
    for split in ("test", "val"):
        for task in ("sar2eo", "rgb2ir"):
            assert list((run / "predictions" / split / task).glob("*.png"))
    assert "epochs = 1" in (run / "recipe.toml").read_text()
    assert "feature_matching_weight" in (run / "recipe.toml").read_text()  # a default, written out
    facts = json.loads((run / "provenance.json").read_text())
    assert {"code", "data", "weights", "packages", "device", "seed"} <= facts.keys()
    for command in ("predict", "score", "package"):
        assert f": pbvs {command} " in (run / "log.txt").read_text()
    with zipfile.ZipFile("submissions/r.zip") as archive:
        assert archive.testzip() is None and "readme.txt" in archive.namelist()


def _images_and_models() -> dict[str, str]:
    found = tree(Path("submissions/r"))
    return {
        name: digest
        for name, digest in found.items()
        if name.startswith(("models/", "predictions/")) and not name.endswith(".json")
    }


def test_a_run_needs_nothing_but_its_folder_to_go_on(place: Path) -> None:
    Path("r.toml").write_text(TINY)
    pbvs(PREDICT)
    before = _images_and_models()
    Path("r.toml").unlink()
    model = Path("submissions/r/models/sar2eo/model.safetensors").stat()
    for path in Path("submissions/r/predictions/test/sar2eo").glob("*.png"):
        path.unlink()
    pbvs("predict --all --run r --data data --jobs 1 --device cpu")
    assert _images_and_models() == before
    assert Path("submissions/r/models/sar2eo/model.safetensors").stat().st_mtime_ns == model.st_mtime_ns


def test_the_four_commands_are_functions(place: Path) -> None:
    package.build_pairs("data")
    Path("r.toml").write_text(GRAY.format(1.3))
    run = package.predict("r.toml", data="data", device="cpu")
    summary = package.score(run, data="data", split="val", lpips_net="random")
    assert summary["tasks"]["rgb2ir"]["rmse"] > 0
    assert package.package(run, data="data", tasks=["rgb2ir"]).is_file()


@pytest.mark.parametrize(("gpu", "name"), [(True, "paper"), (False, "demo")])
def test_without_a_recipe_the_machine_decides(
    gpu: bool, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    assert pipeline.default_recipe() == name
    assert ("the recipe is demo" in capsys.readouterr().err) is not gpu


def test_the_map_of_the_code_is_true() -> None:
    drawn = README.split("## A map of the code")[1].split("```")[1]
    lines = [line.strip() for line in drawn.splitlines() if line.startswith("  ")]
    found = [name for line in lines for name in re.findall(r"[a-z_]+(?:\.py|/)", line.split("  ")[0])]
    assert len(found) > 20
    assert not [name for name in found if not (REPOSITORY / "pbvs" / name).exists()]


def test_the_archives_of_your_own_data_are_read_as_drawn() -> None:
    """The layout that README draws has every task's test inputs below test/<task>, as the code expects them."""
    from pbvs.challenge import load_challenge
    from pbvs.data.catalog import PathReader

    for task in TASKS:
        found = PathReader(load_challenge()).read(f"test/{task}/7.tiff")
        assert (found.role, found.task, found.split) == ("input", task, "test")  # type: ignore[union-attr]


def test_the_script_runs_the_four_commands_in_order() -> None:
    said = (REPOSITORY / "run_all.sh").read_text()
    steps = [said.index(f"&& pbvs {name} ") for name in ("build-pairs", "predict", "score", "package")]
    assert steps == sorted(steps)
    assert (REPOSITORY / "docs/demo.png").is_file()


def test_every_promise_names_a_test_that_is_there() -> None:
    page = (REPOSITORY / "docs/reliability.md").read_text()
    tables = page.split("| promise | test |")[1:]
    rows = [row for table in tables for row in table.split("\n\n")[0].splitlines()[2:]]
    assert len(rows) > 30
    for row in rows:
        file = ""
        for name in re.findall(r"`([^`]+)`", row.split("|")[2]):
            file = name.split("::")[0] or file
            assert (REPOSITORY / file).exists(), row
            assert "::" not in name or f"def {name.split('::')[1]}(" in (REPOSITORY / file).read_text(), row
