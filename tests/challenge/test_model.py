"""A challenge's file: read, written back, and every mistake in it named by its key."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from pbvs.challenge import CHALLENGES, Challenge, Modality, Task, dump_challenge, load_challenge
from pbvs.challenge.model import GROUPS, FilePattern, HoldOut, Layout, Outputs, Submission
from pbvs.errors import PbvsError, UsageError
from pbvs.metrics.protocol import choose_protocol
from pbvs.recipe import load_recipe, read_recipe

SMALL = """
name = "small"
[modalities.depth]
[modalities.thermal]
kind = "thermal"
[tasks.depth2thermal]
source = "depth"
target = "thermal"
[layout.files.all]
regex = '(?P<split>train|val)/(?P<modality>{modalities})/(?P<id>[^/]+)[.]png'
"""


@pytest.mark.parametrize("name", CHALLENGES.names)
def test_what_ships_is_read_and_written_back(name: str, tmp_path: Path) -> None:
    challenge = load_challenge(name)
    assert challenge.name == name
    path = tmp_path / "again.toml"
    path.write_text(dump_challenge(challenge))
    assert load_challenge(path) == challenge
    assert load_challenge(path).digest() == challenge.digest()


def test_the_default_is_the_challenge_of_2026() -> None:
    tasks = load_challenge().tasks
    assert list(tasks) == ["sar2eo", "sar2rgb", "sar2ir", "rgb2ir"]
    assert [task.challenge_size for task in tasks.values()] == [256, 1024, 1024, 1024]
    assert [task.source_channels for task in tasks.values()] == [1, 1, 1, 3]
    assert [task.target_channels for task in tasks.values()] == [1, 3, 1, 1]
    assert [task.name for task in tasks.values()] == list(tasks)
    assert [task.inputs["test"] for task in tasks.values()] == [3586, 60, 60, 60]


def test_a_file_may_say_only_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "next.toml"
    path.write_text('base = "mavic-t-2026"\nname = "next"\n[submission]\na_day = 3\n[tasks.sar2eo]\nsize = 512\n')
    found, before = load_challenge(path), load_challenge()
    assert (found.submission.a_day, found.submission.in_all) == (3, before.submission.in_all)
    assert found.task("sar2eo").size == 512
    assert found.task("sar2eo").target == "eo"
    assert found.tasks["sar2ir"] == before.tasks["sar2ir"]


WRONG = [
    ('target = "thermal"\n', "", "tasks.depth2thermal.target: this key is missing"),
    ('target = "thermal"', 'target = "heat"', "tasks.depth2thermal.target: there is no modality 'heat'"),
    ('name = "small"', 'name = "small"\nnmae = 1', "nmae: there is no such key"),
    ('kind = "thermal"', 'kind = "warm"', "modalities.thermal.kind: "),
    ('source = "depth"', 'source = "depth"\nsize = 0', "tasks.depth2thermal.size"),
    ('"depth"\n', '["depth", "heat"]\n', "tasks.depth2thermal.source: there is no modality 'heat'"),
    ('"depth"\n', '["depth", "depth"]\n', "tasks.depth2thermal: source: a modality is named twice"),
    ('"depth"\n', "[]\n", "tasks.depth2thermal.source: there is no modality ''"),
    ('"depth"\n', '["depth"]\nfurther = 1\n', "tasks.depth2thermal.further: "),
    ("?P<id>", "?P<ident>", "layout.files.all.regex: there is no group 'ident'"),
    ("[^/]+)[.]png", "[^/]+[.]png", "cannot be understood (missing ), unterminated subpattern"),
    ("?P<modality>", "?:", "layout.files.all: role 'image' needs a group 'modality'"),
    ("[layout.files.all]", "[layout.files.all]\nrole = 'input'", "layout.files.all: role 'input' needs a group 'task'"),
    ("[layout.files.all]", "[layout.files.all]\ntask = 'x'", "layout.files.all.task: there is no task 'x'"),
    ("[tasks.", "[outputs]\npath = '{task}/{nam}'\n[tasks.", "outputs.path: {nam} is none of"),
    ("[tasks.", "[outputs]\npath = '{task}'\n[tasks.", "outputs.path: it must hold {id} or {name}"),
    ("[tasks.", "[outputs]\npath = '../{id}'\n[tasks.", "outputs.path: it must stay inside the archive"),
    ('kind = "thermal"', "range = [3, 1]", "modalities.thermal.range: the first number must be below"),
]


@pytest.mark.parametrize(("old", "new", "sentence"), WRONG, ids=[case[2][:40] for case in WRONG])
def test_a_mistake_is_named_by_its_key(old: str, new: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    assert old in SMALL
    path.write_text(SMALL.replace(old, new, 1))
    with pytest.raises(PbvsError, match=re.escape(sentence)) as raised:
        load_challenge(path)
    assert str(raised.value).startswith(f"The challenge {path} cannot be used: ")
    assert "\n" not in str(raised.value)


def test_a_challenge_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"There is no challenge 'mavic'; .* mavic-t-2026"):
        load_challenge("mavic")
    path = tmp_path / "x.toml"
    path.write_text('base = "mavic"\n')
    with pytest.raises(PbvsError, match="base: there is no challenge 'mavic'"):
        load_challenge(path)


def test_a_recipe_names_its_challenge_and_serves_its_tasks(tmp_path: Path) -> None:
    assert load_recipe("demo").challenge == "mavic-t-2026"
    (tmp_path / "small.toml").write_text(SMALL)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('name = "r"\nchallenge = "small.toml"\n[stages.depth2thermal]\nmethod = "grayscale"\n')
    assert load_challenge(read_recipe(recipe).challenge).name == "small"
    recipe.write_text(recipe.read_text().replace("depth2thermal", "depth2heat"))
    with pytest.raises(PbvsError, match=r"stages\.depth2heat: the challenge .* has no such task; it has depth2thermal"):
        read_recipe(recipe)


def test_what_the_documents_show_is_read(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "challenges.md").read_text()
    blocks = re.findall(r"```toml\n(.*?)```", text, flags=re.DOTALL)
    path = tmp_path / "night.toml"
    path.write_text(blocks[0])
    night = load_challenge(path)
    assert choose_protocol(night).higher_is_better
    path.write_text(blocks[0] + blocks[-1].replace("# ", "#"))
    found = load_challenge(path)
    assert [choose_protocol(found, name).higher_is_better for name in ("hdr", "cpsnr")] == [True, False]
    several = next(block for block in blocks if "source = [" in block)
    path.write_text('name = "n"\n[modalities.sar]\n[modalities.rgb]\n[modalities.thermal]\n' + several)
    assert load_challenge(path).tasks["fused2thermal"].sources == ("sar", "rgb")
    for key in re.findall(r"`([a-z_]+)`", text.partition("## The keys")[2].partition("**Scoring.**")[0]):
        assert key in KEYS or key in VALUES, key
    for key in KEYS:
        assert f"`{key}`" in text or f"[{key}" in text, key


VALUES = {
    *GROUPS,
    "image",
    "mosaic",
    "input",
    "mask",
    "unused",
    "val",
    "test",
    "label",
    "kind",
    "value",
    "small",
    "gray",
}
KEYS = {
    name
    for model in (Challenge, Modality, Task, Layout, FilePattern, HoldOut, Outputs, Submission)
    for name in model.model_fields
} - {"ignore_case"}


def test_no_task_is_named_in_code() -> None:
    """Only a challenge's file and recipes name tasks; docstrings may, in examples."""
    names = [name for challenge in CHALLENGES.names for name in load_challenge(challenge).tasks]
    word = re.compile("|".join(rf"\b{name}\b" for name in names))
    for path in sorted((Path(__file__).parents[2] / "pbvs").rglob("*.py")):
        tree = ast.parse(path.read_text())
        documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        named = [node.value for node in texts if id(node) not in documents and word.search(node.value)]
        assert not named, (path, named)
