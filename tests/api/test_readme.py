"""The README's map is the code, CONTRIBUTING's recipes work as they stand, and the notebook runs."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "pbvs"
HIDDEN = {"__init__.py", "__main__.py", "__pycache__", "py.typed", "recipes", "challenges"}


def named_in_the_map() -> set[str]:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    block = text.split("## A map of the code")[1].split("```")[1]
    heads = [line.strip() for line in block.splitlines() if line.startswith("  ")]
    return {name.rstrip("/") for line in heads for name in re.findall(r"^\w+/|\b\w+\.py\b", line)}


def test_the_map_names_what_is_there_and_nothing_else() -> None:
    there = {path.name for path in PACKAGE.iterdir() if path.name not in HIDDEN and not path.name.startswith(".")}
    assert named_in_the_map() - {"__init__.py"} == there


def blocks(document: str, language: str) -> list[str]:
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the package, as a newcomer has it."""
    shutil.copytree(PACKAGE, tmp_path / "pbvs", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def run(folder: Path, script: str) -> str:
    """Run a script with the copied package."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_metric_is_the_one_file_that_contributing_shows(copied: Path) -> None:
    metric, protocol = blocks("CONTRIBUTING.md", "python")[0], blocks("CONTRIBUTING.md", "toml")[0]
    (copied / "pbvs" / "metrics" / "brightness.py").write_text(metric, encoding="utf-8")
    (copied / "mine.toml").write_text(protocol, encoding="utf-8")
    script = (
        "import json, pbvs\n"
        "from pathlib import Path\n"
        "from pbvs.data.synthetic import write_demo\n"
        "write_demo(Path('data')); pbvs.build_pairs('data', 'manifests', pairs_per_location=2)\n"
        "how = dict(data='data', manifests='manifests')\n"
        "run = pbvs.predict('demo', run='gray', tasks=['rgb2ir'], splits=['val'], **how)\n"
        "scores = pbvs.score(run, protocol=Path('mine.toml'), baselines=False, **how)\n"
        "rows = scores.images[scores.images['task'] == 'rgb2ir']\n"
        "print(json.dumps([rows['score'].tolist(), rows['rmse'].tolist(), rows['brightness'].tolist()]))"
    )
    scores, rmse, brightness = json.loads(run(copied, script).splitlines()[-1])
    assert len(scores) > 0
    for score, error, off in zip(scores, rmse, brightness, strict=True):
        assert off >= 0
        assert score == pytest.approx((error + off) / 2, abs=1e-5)


def test_a_method_is_the_folder_and_the_line_that_contributing_shows(copied: Path) -> None:
    _, settings, translator, line = blocks("CONTRIBUTING.md", "python")[:4]
    folder = copied / "pbvs" / "translators" / "channel"
    folder.mkdir()
    (folder / "__init__.py").write_text(settings, encoding="utf-8")
    (folder / "translator.py").write_text(translator, encoding="utf-8")
    table = folder.parent / "__init__.py"
    text = table.read_text(encoding="utf-8")
    table.write_text(re.sub(r"(METHODS: dict\[str, Method\] = \{\n)", rf"\g<1>{line}", text), encoding="utf-8")
    script = (
        "import numpy as np, pbvs\n"
        "from pbvs.recipe import parse_recipe\n"
        "from pbvs.challenge import load_challenge\n"
        "from pbvs.translators import make_translator\n"
        "stage = {'method': 'channel', 'number': 2}\n"
        "recipe = parse_recipe({'name': 'r', 'stages': {'rgb2ir': stage}}, 'r')\n"
        "made = make_translator(load_challenge().task('rgb2ir'), recipe.stages['rgb2ir'])\n"
        "image = np.arange(12, dtype=np.float32).reshape(2, 2, 3) / 12\n"
        "print(made.translate([image])[0][:, :, 0].ravel().tolist() == image[:, :, 2].ravel().tolist())"
    )
    assert run(copied, script).strip() == "True"


def test_the_notebook_runs(tmp_path: Path) -> None:
    cells = json.loads((REPOSITORY / "docs" / "python.ipynb").read_text(encoding="utf-8"))["cells"]
    assert all(not cell.get("outputs") for cell in cells)
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 5
    before, space = Path.cwd(), {"__name__": "__main__"}
    os.chdir(tmp_path)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            for cell in code:
                exec(compile(cell, "cell", "exec"), space)
    finally:
        os.chdir(before)
    assert (tmp_path / "submissions" / "first" / "report.html").is_file()


def test_the_examples_of_the_python_page_name_what_is_there() -> None:
    import pbvs

    text = "\n".join(blocks("docs/python.md", "python"))
    for name in set(re.findall(r"\bpbvs\.(\w+)", text)):
        assert hasattr(pbvs, name), name
    for block in blocks("docs/python.md", "python"):
        compile(block, "docs/python.md", "exec")


def test_nothing_of_the_readme_is_a_placeholder() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert not re.search(r"^(MAP|RESULTS)$|TODO|FIXME", text, re.MULTILINE)
