"""Ordinary mistakes, each made as a command: what was finished stays as it was, and the next right command goes on."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
from PIL import Image

from pbvs import files
from pbvs.cli import main
from pbvs.run import locked

KEPT = Path(__file__).parents[1] / "kept_run"
RUN = Path("submissions/kept")
WITHOUT = (".lock", "log.txt", "provenance.json", "report.html", ".images.csv")  # appended to, said again, or a cache
DATA = "--data data --jobs 1 --device cpu"
PREDICT = f"predict --all --run kept {DATA}"
SCORE = f"score --run kept --lpips-net random {DATA}"
PACKAGE = "package --run kept --data data"
Tree = dict[str, str]


@dataclass(frozen=True)
class Mistake:
    """What is wrong, the command typed, and how it ends; `around` surrounds the command."""

    name: str
    line: str
    status: int
    words: str = ""
    prepare: Callable[[], object] = lambda: None
    around: Callable[[], AbstractContextManager[object]] = nullcontext


def _remove(*paths: str) -> Callable[[], None]:
    def act() -> None:
        for path in map(Path, paths):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return act


def _write(path: str, text: str | bytes) -> Callable[[], None]:
    def act() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(text.encode() if isinstance(text, str) else text)

    return act


def _edit(path: str, old: str, new: str) -> Callable[[], None]:
    def act() -> None:
        text = Path(path).read_text(encoding="utf-8")
        assert old in text
        Path(path).write_text(text.replace(old, new), encoding="utf-8")

    return act


def _both(*acts: Callable[[], None]) -> Callable[[], None]:
    def act() -> None:
        for each in acts:
            each()

    return act


def _cut(path: str) -> Callable[[], None]:
    return lambda: Path(path).write_bytes(Path(path).read_bytes()[:40])


def _link(path: str) -> Callable[[], None]:
    def act() -> None:
        away = Path("away") / Path(path).name
        away.parent.mkdir(exist_ok=True)
        Path(path).rename(away)
        Path(path).symlink_to(away.absolute())

    return act


def _link_lock() -> None:
    Path("thesis").write_text("mine")
    (RUN / ".lock").unlink()
    (RUN / ".lock").symlink_to(Path("thesis").absolute())


def _bundle() -> None:
    shutil.copytree(RUN, "submissions/other")
    _pbvs("export other --out b.zip")
    shutil.rmtree("submissions/other")


def _full() -> AbstractContextManager[object]:
    """Let the disk be full for every file that is written whole."""
    return mock.patch.object(files, "sync_file", side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


def _read_only() -> AbstractContextManager[object]:
    real = os.open

    def refuse(path: str, flags: int, mode: int = 0o777, **how: int) -> int:
        if flags & os.O_EXCL:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, mode, **how)

    return mock.patch.object(files.os, "open", refuse)


GRAY = 'name = "gray"\nevaluation_size = "native"\n[stages.rgb2ir]\nmethod = "grayscale"\nintensity = {}\n'
VGG = (KEPT / "kept.toml").read_text(encoding="utf-8").replace('"random"', '"vgg"').replace('"kept"', '"vgg"')
SHORT = (KEPT / "kept.toml").read_text(encoding="utf-8")
PROTOCOL = 'name = "l1"\n[[terms]]\nmetric = "l1"\n'
TEST = "data/test/sar2eo/176.png"
SPENT = RUN / "predictions/test/rgb2ir"

MISTAKES = [
    # The wrong data.
    Mistake("a root that is not there", PREDICT.replace("data --jobs", "nowhere --jobs"), 2, "does not exist"),
    Mistake("a root that is a file", PREDICT.replace("data --jobs", "kept.toml --jobs"), 2),
    Mistake("an empty mount", PREDICT.replace("data --jobs", "empty --jobs"), 1, "are not in", Path("empty").mkdir),
    Mistake("half a mount", PREDICT, 1, "give the right --data", _remove("data/test")),
    Mistake("one test input gone", PREDICT, 1, "176.png", _remove(TEST)),
    Mistake(
        "retraining, a training image gone",
        f"{PREDICT} --retrain",
        1,
        "are not in",
        _remove("data/Train_Data_and_Validation_EO_SAR/EO"),
    ),
    Mistake(
        "the data of another challenge",
        PREDICT.replace("data --jobs", "other --jobs"),
        1,
        "are not in",
        _write("other/a/b.png", "x"),
    ),
    # The wrong manifests.
    Mistake("manifests not there", f"{PREDICT} --manifests nowhere", 1, "There is no manifest"),
    Mistake("a manifest removed", PREDICT, 1, "There is no manifest", _remove("data_manifests/sar2eo_test.csv")),
    Mistake("a training manifest removed", PREDICT, 1, "no manifest", _remove("data_manifests/sar2eo_train.csv")),
    Mistake("an empty manifest", PREDICT, 1, "sar2eo_test.csv", _write("data_manifests/sar2eo_test.csv", "")),
    Mistake(
        "a manifest of another table", PREDICT, 1, "no column", _write("data_manifests/rgb2ir_test.csv", "a,b\n1,2\n")
    ),
    Mistake("manifests half written", PREDICT, 1, "build-pairs", _write("data_manifests/.unfinished", "x")),
    Mistake(
        "a training row taken out by hand",
        PREDICT,
        1,
        "--retrain",
        _edit("data_manifests/sar2eo_train.csv", "EO_SAR/EO/train/1.png", "EO_SAR/EO/train/2.png"),
    ),
    # The wrong recipe.
    Mistake("a recipe's name mistyped", f"{PREDICT} --recipe papr", 2, "There is no recipe"),
    Mistake("another built-in recipe", f"{PREDICT} --recipe demo", 1, "another recipe"),
    Mistake(
        "a recipe for one task",
        f"predict --task rgb2ir --recipe g.toml --run kept {DATA}",
        1,
        "another recipe",
        _write("g.toml", GRAY.format(1.1)),
    ),
    Mistake(
        "a factor changed in a copy",
        f"{PREDICT} --recipe c.toml",
        1,
        "intensity: 1.3 then, 1.4 now",
        _write("c.toml", SHORT.replace("intensity = 1.3", "intensity = 1.4")),
    ),
    Mistake(
        "a network changed in a copy",
        f"{PREDICT} --recipe c.toml --change-recipe",
        1,
        "--retrain",
        _write("c.toml", SHORT.replace("width = 4", "width = 8")),
    ),
    Mistake(
        "fewer epochs than were made",
        f"{PREDICT} --recipe c.toml",
        1,
        "sar2eo has 2 epochs and the recipe asks for 1",
        _write("c.toml", SHORT.replace("epochs = 2", "epochs = 1")),
    ),
    Mistake(
        "more epochs, the state removed",
        f"{PREDICT} --recipe c.toml",
        1,
        "from which the training of sar2eo would go on",
        _both(
            _remove(f"{RUN}/models/sar2eo/state.safetensors"),
            _write("c.toml", SHORT.replace("epochs = 2", "epochs = 4")),
        ),
    ),
    Mistake(
        "more epochs, a second terminal",
        f"{PREDICT} --recipe c.toml",
        1,
        "is in use by",
        _write("c.toml", SHORT.replace("epochs = 2", "epochs = 4")),
        around=lambda: locked(RUN),
    ),
    Mistake(
        "more epochs on a full disk",
        f"{PREDICT} --recipe c.toml",
        1,
        "disk is full",
        _write("c.toml", SHORT.replace("epochs = 2", "epochs = 4")),
        around=_full,
    ),
    Mistake(
        "a key mistyped", f"{PREDICT} --recipe c.toml", 1, "epoch", _write("c.toml", SHORT.replace("epochs", "epoch"))
    ),
    Mistake(
        "a recipe that is not TOML", f"{PREDICT} --recipe c.toml", 1, "not valid TOML", _write("c.toml", "name = \n")
    ),
    Mistake("an empty recipe", f"{PREDICT} --recipe c.toml", 1, "c.toml", _write("c.toml", "")),
    Mistake(
        "an infinite learning rate",
        f"{PREDICT} --recipe c.toml",
        1,
        "no number",
        _write("c.toml", SHORT.replace("size = 32", "size = 32\nlearning_rate = inf", 1)),
    ),
    Mistake("a folder as recipe", f"{PREDICT} --recipe data", 2, "There is no recipe"),
    Mistake(
        "the run's recipe edited",
        PREDICT,
        1,
        "trained with another recipe",
        _edit(f"{RUN}/recipe.toml", "width = 4", "width = 8"),
    ),
    Mistake("the run's recipe damaged", PREDICT, 1, "not valid TOML", _write(f"{RUN}/recipe.toml", "[[[")),
    Mistake("the run's recipe emptied", PREDICT, 1, "recipe.toml", _write(f"{RUN}/recipe.toml", "")),
    Mistake("a net for a task that trains nothing", f"predict --task rgb2ir --run kept --lpips-net alex {DATA}", 0),
    Mistake(
        "deterministic for a task that trains nothing", f"predict --task rgb2ir --run kept --deterministic {DATA}", 0
    ),
    Mistake("another net for trained models", f"{PREDICT} --lpips-net alex", 1, "--retrain"),
    Mistake("a setting without a value", f"{PREDICT} --set stages.sar2eo.width", 2, "KEY=VALUE"),
    Mistake("a setting mistyped", f"{PREDICT} --set stages.sar2eo.widht=8", 1, "widht"),
    Mistake("a setting of a finished run", f"{PREDICT} --set stages.rgb2ir.intensity=1.4", 1, "1.3 then, 1.4 now"),
    # The wrong words.
    Mistake("no task said", f"predict --run kept {DATA}", 2, "--all"),
    Mistake("all and one task", f"{PREDICT} --task rgb2ir", 2, "--all"),
    Mistake("a task mistyped", f"predict --task rgb2it --run kept {DATA}", 2, "rgb2it"),
    Mistake("a split mistyped", f"{PREDICT} --split vall", 2, "vall"),
    Mistake("no GPU here", f"{PREDICT} --device cuda:7", 2, "There is no device"),
    Mistake("a device that is none", f"{PREDICT} --device tpu", 2, "There is no device"),
    Mistake("no processes", f"{PREDICT} --jobs 0", 2, "--jobs"),
    Mistake("a run's name with a path", PREDICT.replace("kept", "../kept"), 2, "cannot be used"),
    Mistake("a command mistyped", PREDICT.replace("predict", "predit"), 2, "did you mean predict"),
    Mistake("an option mistyped", f"{PREDICT} --retrian", 2, "retrian"),
    # Before the work can begin.
    Mistake("retraining without weights", f"{PREDICT} --retrain --lpips-net vgg", 1, "weights fetch"),
    Mistake(
        "a new run with an empty mount",
        "predict --all --recipe kept.toml --run n --data empty",
        1,
        "are not in",
        Path("empty").mkdir,
    ),
    Mistake(
        "a new run without manifests", f"predict --all --recipe kept.toml --run n {DATA} --manifests m", 1, "manifest"
    ),
    Mistake(
        "a new run without weights",
        f"predict --all --recipe v.toml --run n {DATA}",
        1,
        "vgg (for sar2eo, sar2rgb)",
        _write("v.toml", VGG),
    ),
    Mistake(
        "a new run without a GPU", "predict --all --recipe kept.toml --run n --data data --device cuda", 2, "device"
    ),
    # A run that was touched.
    Mistake("a model's record damaged", PREDICT, 1, "done.json", _cut(f"{RUN}/models/sar2eo/done.json")),
    Mistake("a model's record is a list", PREDICT, 1, "done.json", _write(f"{RUN}/models/sar2eo/done.json", "[]")),
    Mistake("a model cut short", PREDICT, 1, "model.safetensors", _cut(f"{RUN}/models/sar2eo/model.safetensors")),
    Mistake("a model removed", PREDICT, 1, "model.safetensors", _remove(f"{RUN}/models/sar2eo/model.safetensors")),
    Mistake("predictions are a link", PREDICT, 1, "is a link", _link(str(SPENT))),
    Mistake("a model is a link", PREDICT, 1, "is a link", _link(f"{RUN}/models/sar2eo")),
    Mistake("the lock is a link", PREDICT, 1, "is a link", _link_lock),
    Mistake("a second terminal", PREDICT, 1, "is in use by", around=lambda: locked(RUN)),
    Mistake("a second terminal scores", SCORE, 1, "is in use by", around=lambda: locked(RUN)),
    Mistake("a second terminal packages", PACKAGE, 1, "is in use by", around=lambda: locked(RUN)),
    Mistake(
        "a full disk while retraining",
        f"predict --task rgb2ir --run kept --retrain {DATA}",
        1,
        "disk is full",
        around=_full,
    ),
    Mistake("a full disk while packaging", PACKAGE, 1, "disk is full", around=_full),
    Mistake(
        "a read-only disk", f"predict --task rgb2ir --run kept --retrain {DATA}", 1, "read-only", around=_read_only
    ),
    # Scoring.
    Mistake("scoring a run that is not there", SCORE.replace("kept", "kept2"), 1, "There is no run"),
    Mistake("scoring with an empty mount", SCORE.replace("data --jobs", "empty --jobs"), 1, "", Path("empty").mkdir),
    Mistake("scoring what has no targets", f"{SCORE} --split test", 1),
    Mistake("a protocol mistyped", f"{SCORE} --protocol l2", 2, "protocol"),
    Mistake("scoring without weights", SCORE.replace("random", "alex"), 1, "weights"),
    Mistake("scoring nothing", SCORE, 1, "", _remove(f"{RUN}/predictions/val")),
    Mistake("another protocol", f"{SCORE} --protocol mavic-t-2024", 1, "FID"),
    Mistake("another protocol, as a file", f"{SCORE} --protocol p.toml", 0, "", _write("p.toml", PROTOCOL)),
    Mistake("scoring what is no zip", f"score kept.toml --lpips-net random {DATA}", 1, "kept.toml"),
    Mistake("targets without an archive", f"{SCORE} --targets data", 2, "--targets"),
    # Packaging.
    Mistake("packaging a run that is not there", PACKAGE.replace("kept", "kept2"), 1, "There is no run"),
    Mistake("a prediction removed", PACKAGE, 1, "predict", _remove(f"{SPENT}/0.png")),
    Mistake("an image too many", PACKAGE, 1, "notes", lambda: shutil.copy(SPENT / "0.png", SPENT / "notes.png")),
    Mistake("a prediction damaged", f"{PACKAGE} --mode all=RGB", 1, "0.png", _cut(f"{SPENT}/0.png")),
    Mistake("a record of predictions damaged", PACKAGE, 1, "rgb2ir.json", _cut(f"{SPENT}.json")),
    Mistake(
        "packaging before predicting again",
        PACKAGE,
        1,
        "pbvs predict --run kept --task rgb2ir",
        _edit(f"{RUN}/recipe.toml", "intensity = 1.3", "intensity = 1.4"),
    ),
    Mistake("a task to package mistyped", f"{PACKAGE} --tasks sar2e0", 2, "sar2e0"),
    Mistake("a mode that is none", f"{PACKAGE} --mode rgb2ir=CMYK", 2, "CMYK"),
    Mistake("a source without a task", f"{PACKAGE} --from kept", 2, "RUN:TASK"),
    Mistake("a form that is none", f"{PACKAGE} --format gif", 2, "gif"),
    # Everything else.
    Mistake("pairs of a root that is not there", "build-pairs --data nowhere", 2, "nowhere"),
    Mistake("pairs of half a mount", "build-pairs --data data", 1, "is all of the data there", _remove("data/test")),
    Mistake("pairs of an empty mount", "build-pairs --data empty", 1, "empty", Path("empty").mkdir),
    Mistake(
        "calibrating a network", "calibrate --run kept --task sar2eo --lpips-net random --data data", 2, "calibrated"
    ),
    Mistake(
        "calibrating with an empty mount",
        "calibrate --run kept --lpips-net random --data empty",
        1,
        "",
        Path("empty").mkdir,
    ),
    Mistake(
        "calibrating before training",
        "calibrate --run n --recipe kept.toml --task sar2ir --lpips-net random --data data",
        1,
        "predict --run n --task sar2rgb",
    ),
    Mistake("removing a run mistyped", "runs rm kept2 --yes", 2, "There is no run"),
    Mistake("removing without a yes", "runs rm kept", 130, around=lambda: mock.patch("sys.stdin", io.StringIO("n\n"))),
    Mistake("installing what is no bundle", "install kept.toml", 1, "kept.toml"),
    Mistake("installing over a run", "install b.zip --run kept", 2, "another run", _bundle),
    Mistake("exporting a run that is not there", "export kept2", 1, "There is no run"),
    Mistake("comparing a run with itself only", "compare kept", 2),
    Mistake("rows of an ablation mistyped", "ablate --rows papr --recipe kept.toml --data data", 2, "papr"),
    Mistake("reproducing a run that is not there", "reproduce kept2 --data data", 1, "kept2"),
    Mistake("logging a zip that is not there", "submissions log submissions/kept2.zip", 1, "no archive"),
    Mistake("checking a zip that is not there", "check submissions/kept2.zip", 1),
    Mistake("a report of a run that is not there", "report --run kept2 --data data", 1, "There is no run"),
    Mistake(
        "listing runs with a damaged one",
        "runs",
        0,
        "Damaged: run kept",
        _write(f"{RUN}/models/rgb2ir/done.json", "null"),
    ),
]


def _pbvs(line: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(line.split())
    return int(stop.value.code or 0)


def _tree() -> Tree:
    """Return the digest of every file that a command finished or was given, by path."""
    found = {}
    for folder in ("submissions", "data_manifests", "data"):
        for path in Path(folder).rglob("*"):
            if path.is_file() and path.name not in WITHOUT and "report_files" not in path.parts:
                found[path.as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the kept run as today's version leaves it: its recipe and records in today's words."""
    folder = tmp_path_factory.mktemp("settled")
    shutil.copytree(KEPT, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("PBVS_DATA", raising=False)
        assert _pbvs(PREDICT) == _pbvs(PACKAGE) == 0
    return folder


@pytest.fixture
def place(settled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(settled, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PBVS_DATA", raising=False)
    monkeypatch.setenv("PBVS_WEIGHTS", str(tmp_path))  # where no weights are
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path


def _restore(settled: Path, kept: Tree, changed: set[str]) -> None:
    """Take back what the mistake itself was, and nothing that a command did."""
    for name in changed:
        path = Path(name)
        for above in (*path.parents, path):
            if above.is_symlink():
                above.unlink()
        path.parent.mkdir(parents=True, exist_ok=True)
        if name in kept:
            shutil.copy2(settled / name, path)
        else:
            path.unlink(missing_ok=True)
    for link in (RUN / ".lock",):
        if link.is_symlink():
            link.unlink()


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name.replace(" ", "-"))
def test_what_is_finished_stays_and_the_next_command_goes_on(
    settled: Path, place: Path, mistake: Mistake, capfd: pytest.CaptureFixture[str]
) -> None:
    kept = _tree()
    mistake.prepare()
    before = _tree()
    changed = {name for name in kept.keys() | before.keys() if kept.get(name) != before.get(name)}
    changed |= {name for name in kept if any(parent.is_symlink() for parent in Path(name).parents)}
    capfd.readouterr()
    with mistake.around():
        status = _pbvs(mistake.line)
    out, said = capfd.readouterr()
    assert status == mistake.status, said
    assert mistake.words in said + out and "Traceback" not in said, said
    after = _tree()
    assert {name: after.get(name) for name in before} == before
    if status:
        assert after == before
        assert not Path("submissions/n").exists()
    _restore(settled, kept, changed)
    assert _pbvs(PREDICT) == 0, capfd.readouterr().err
    finished = _tree()
    assert {name: finished.get(name) for name in kept} == kept
    assert not Path("thesis").exists() or Path("thesis").read_text() == "mine"


def test_there_are_many() -> None:
    assert len({mistake.name for mistake in MISTAKES}) == len(MISTAKES) >= 60


@pytest.mark.parametrize("split", ["test", "train"])
def test_data_changed_under_the_same_size_and_time_stamp(
    place: Path, split: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The manifests know their images by digest; manifests of version 0.1 did not, so they are made again here."""
    assert _pbvs("build-pairs --data data --jobs 1") == 0
    predict = f"predict --task sar2eo --run fresh --recipe kept.toml {DATA}"
    assert _pbvs(predict) == 0
    with Path(f"data_manifests/sar2eo_{split}.csv").open(encoding="utf-8") as file:
        image = Path("data") / next(csv.DictReader(file))["source"]
    original, times = image.read_bytes(), image.stat()
    image.write_bytes(original[:-20] + bytes(byte ^ 1 for byte in original[-20:]))
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (image.stat().st_size, image.stat().st_mtime_ns) == (times.st_size, times.st_mtime_ns)
    before = _tree()
    line = predict if split == "test" else f"{predict} --retrain"
    capfd.readouterr()
    assert _pbvs(line) == 1
    assert f"{image.relative_to('data')} has changed since the manifests were made" in capfd.readouterr().err
    assert _unlike(before, _tree()) <= {"data_manifests/.images.csv"}
    image.write_bytes(original)
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    finished = {name: known for name, known in _tree().items() if name.startswith("submissions/")}
    assert _pbvs(predict) == 0
    assert not {name for name in _unlike(finished, _tree()) if name in finished}


def _unlike(one: Tree, other: Tree) -> set[str]:
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


@pytest.mark.parametrize("stages", ["all", "one"])
def test_more_epochs_go_on_with_a_run_of_an_earlier_version(
    place: Path, stages: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The U-Net's epochs keep their curve and those added have another; what did not go on is not made again."""
    longer = SHORT.replace("epochs = 2", "epochs = 4")
    longer = longer.replace("epochs = 1\n", "epochs = 3\n") if stages == "all" else longer
    _write("c.toml", longer)()
    before = _tree()
    assert _pbvs(f"{PREDICT} --recipe c.toml") == 0
    said = capfd.readouterr().err
    assert "unet: go on from epoch 2 to 4," in said and "sar2eo: goes on from epoch 2 to 4" in said
    assert ("sar2rgb: goes on from epoch 1 to 3" in said) == (stages == "all")
    with (RUN / "models/sar2eo/log.csv").open(encoding="utf-8") as file:
        rates = [float(row["learning_rate"]) for row in csv.DictReader(file)]
    assert len(rates) == 4 and rates[:2] == rates[2:]
    after = _tree()
    kept = "models/rgb2ir/" if stages == "all" else ("models/sar2rgb/", "models/rgb2ir/")
    unlike = {name for name in _unlike(before, after) if name.startswith(f"{RUN}/models")}
    assert not [name for name in unlike if name.removeprefix(f"{RUN}/").startswith(kept)]
    assert _pbvs(f"{PREDICT} --recipe c.toml") == 0
    assert _tree() == after
    assert _pbvs(f"{PREDICT} --recipe kept.toml") == 1
    assert "sar2eo has 4 epochs and the recipe asks for 2" in capfd.readouterr().err
    assert _tree() == after


# --- What is stale is named wherever it is met, with the command that renews it.

RESCORE = "`pbvs score --run kept --split val --protocol l2-lpips --lpips-net random`"
REMAKE = "`pbvs predict --run kept --task rgb2ir --split val`"


def _said(line: str, capfd: pytest.CaptureFixture[str]) -> str:
    """Run a command that ends well and return all that it printed."""
    capfd.readouterr()
    assert _pbvs(line) == 0, capfd.readouterr().err
    return "".join(capfd.readouterr())


def test_scores_of_stale_predictions_are_marked_until_all_is_renewed(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert "Stale" not in _said(SCORE, capfd) + _said("leaderboard", capfd) + _said("runs", capfd)
    _edit(f"{RUN}/recipe.toml", "intensity = 1.3", "intensity = 1.4")()
    for line in (SCORE, "leaderboard", "runs", "report --run kept --data data"):
        assert REMAKE in _said(line, capfd), line
    board = _said("leaderboard", capfd)
    assert "kept !" in board and "! stale" in board
    page = (RUN / "report.html").read_text(encoding="utf-8")
    assert "The predictions of rgb2ir (val): made from another model" in page
    assert ",stale," in _said("leaderboard --csv", capfd)
    _said(PREDICT, capfd)
    board = _said("leaderboard", capfd)
    assert REMAKE not in board and RESCORE in board and "kept !" in board
    assert "Stale" not in _said(SCORE, capfd)
    board = _said("leaderboard", capfd)
    assert "Stale" not in board and "kept !" not in board


def test_a_zip_that_predictions_have_left_behind_is_named_by_check(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert "Stale" not in _said("check submissions/kept.zip --evaluation-size native", capfd)
    _edit(f"{RUN}/recipe.toml", "intensity = 1.3", "intensity = 1.4")()
    _said(PREDICT, capfd)
    said = _said("check submissions/kept.zip --evaluation-size native", capfd)
    assert "kept.zip: the predictions of rgb2ir were made again since; renew with `pbvs package --run kept`" in said
    assert '"stale": [' in _said("check submissions/kept.zip --json", capfd)
    shutil.copy("submissions/kept.zip", "away.zip")  # anybody's: nothing is known of where it came from
    assert "Stale" not in _said("check away.zip --evaluation-size native", capfd)
    _said(PACKAGE, capfd)
    assert "Stale" not in _said("check submissions/kept.zip", capfd)


def test_a_zip_of_a_run_whose_recipe_was_edited_since_is_named(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    check, renew = "check submissions/kept.zip --evaluation-size native", "renew with `pbvs predict --run kept --task"
    _said(f"{PACKAGE} --split val", capfd)
    score = f"score {RUN}/val.zip --split val {DATA} --lpips-net random"
    for line in (check, f"check {RUN}/val.zip --split val", score):
        assert "Stale" not in _said(line, capfd), line
    _edit(f"{RUN}/recipe.toml", "intensity = 1.3", "intensity = 1.4")()
    for line in (check, f"{check} --json", f"check {RUN}/val.zip --split val", score, f"{PACKAGE} --allow-stale"):
        said = _said(line, capfd)
        assert "The predictions of rgb2ir (" in said and renew in said, line
    _said(PREDICT, capfd)
    _edit(f"{RUN}/recipe.toml", "intensity = 1.4", "intensity = 1.5")()
    _said(f"{PACKAGE} --allow-stale", capfd)
    with zipfile.ZipFile("submissions/kept.zip") as archive:  # the readme says what made these images
        assert "rgb2ir: grayscale x 1.4" in archive.read("readme.txt").decode()
    _write(f"{RUN}/recipe.toml", "[[[")()  # of a damaged run nothing is known, and its zip is checked like anybody's
    capfd.readouterr()
    assert _pbvs(f"{check} --challenge mavic-t-2026") == 0


def test_a_val_archive_of_a_native_run_passes_its_own_check_at_the_targets_sizes(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert "0 errors" in _said(f"{PACKAGE} --split val", capfd)
    assert "0 errors" in _said(f"check {RUN}/val.zip --split val --data data", capfd)
    found = {}
    with zipfile.ZipFile(RUN / "val.zip") as archive:
        for name in archive.namelist():
            if name.endswith(".png"):
                with Image.open(archive.open(name)) as image:
                    found[name] = image.size
    wanted, unlike = {}, 0
    for task in ("sar2eo", "sar2rgb", "sar2ir", "rgb2ir"):
        with Path(f"data_manifests/{task}_val.csv").open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                sizes = [Image.open(Path("data") / row[side]).size for side in ("source", "target")]
                wanted[f"{task}/{row['name']}.png"] = sizes[1]
                unlike += sizes[0] != sizes[1]
    assert found == wanted
    assert unlike


def test_a_report_older_than_what_it_shows_is_named(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _said(SCORE, capfd)
    page = (RUN / "report.html").read_bytes()
    _write("p.toml", PROTOCOL)()
    _said(f"{SCORE} --protocol p.toml", capfd)
    assert (RUN / "report.html").read_bytes() != page
    (RUN / "report.html").write_bytes(page)
    said = _said("runs", capfd)
    assert "The report: the scores (val, l1-random) were made after it; renew with `pbvs report --run kept`" in said
    _said("report --run kept --data data", capfd)
    assert "The report" not in _said("runs", capfd)


def test_images_changed_since_are_named_by_score_and_package(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Manifests of version 0.1 do not know their images' bytes, so they and a run are made again here."""
    assert _pbvs("build-pairs --data data --jobs 1") == 0
    _said(f"predict --task rgb2ir --run fresh --recipe kept.toml {DATA}", capfd)
    score, package = SCORE.replace("kept", "fresh"), "package --run fresh --tasks rgb2ir --data data"
    changed = "has changed since the manifests were made"
    assert changed not in _said(score, capfd) + _said(package, capfd)
    rows = {}
    for split in ("val", "test"):
        with Path(f"data_manifests/rgb2ir_{split}.csv").open(encoding="utf-8") as file:
            rows[split] = next(csv.DictReader(file))
    for image in (Path("data") / rows["val"]["target"], Path("data") / rows["test"]["source"]):
        image.write_bytes(image.read_bytes() + b"\0")
    earlier = (Path("submissions/fresh/scores/val/l2-lpips-random/summary.json")).read_bytes()
    assert _pbvs(score) == 1
    assert f"{rows['val']['target']} {changed}; run `pbvs build-pairs` again" in capfd.readouterr().err
    assert (Path("submissions/fresh/scores/val/l2-lpips-random/summary.json")).read_bytes() == earlier
    assert _pbvs(package) == 1
    assert f"{rows['test']['source']} {changed}" in capfd.readouterr().err
    assert _pbvs(f"{package} --allow-stale") == 0


def test_scores_by_a_protocol_that_is_another_now_are_named_and_stand_apart(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _said(SCORE, capfd)
    summary = RUN / "scores/val/l2-lpips-random/summary.json"
    then = json.loads(summary.read_text(encoding="utf-8"))
    assert "is another one now" not in _said("runs", capfd) + _said("leaderboard", capfd)
    then["protocol"]["missing_counts"] = 0.5
    summary.write_text(json.dumps(then), encoding="utf-8")
    for line in ("runs", "leaderboard"):
        said = _said(line, capfd)
        assert "the protocol l2-lpips is another one now; renew with `pbvs score --run kept --split val" in said, line
    shutil.copytree(RUN, "submissions/second")
    _said(SCORE, capfd)
    board = " ".join(_said("leaderboard", capfd).split())
    assert board.count("Your runs: split val, l2-lpips") == board.count("rule ") == 2
