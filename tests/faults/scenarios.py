"""Every command that writes, on data small enough to run it hundreds of times a minute."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from pbvs import provenance
from pbvs.cli import main
from pbvs.data import synthetic as demo
from pbvs.files import is_unfinished
from tests.faults.points import Scenario

GRAY = 'name = "r"\nevaluation_size = "native"\n[stages.rgb2ir]\nmethod = "grayscale"\nintensity = {}\n'
TINY = """name = "r"
evaluation_size = "native"
[stages.sar2eo]
method = "pix2pixhd"
size = 32
epochs = 1
half_rate_epochs = 1
batch_size = 2
generator_width = 2
discriminator_width = 2
downsamplings = 1
residual_blocks = 1
discriminators = 1
discriminator_layers = 1
vgg_weight = 0.0
lpips_net = "random"
save_minutes = 0.0
validation_images = 2
"""
UNET = """name = "r"
evaluation_size = "native"
[stages.sar2eo]
method = "unet"
size = 32
epochs = 2
batch_size = 4
width = 4
levels = 1
style = 4
lpips_net = "random"
save_minutes = 0.0
validation_images = 2
"""
AMOUNTS = demo.Amounts(scenes=2, validation_scenes=1, test_scenes=1, locations=2, inputs=1)


def pbvs(line: str) -> None:
    """Run one command line in this process; a failure ends it with the command's status.

    What a process looks up once, and never below its working folder, is looked up once for all: git, the digest of the
    sources, and the packages' versions, which are a fifth of a small command's time.
    """
    known = {"git_commit": lambda folder: None, "source_digest": lambda package=None: "sources"}
    try:
        with mock.patch.multiple(provenance, package_versions=_versions, **known):
            main(line.split())
    except SystemExit as stop:
        if stop.code:
            raise


_versions = functools.cache(provenance.package_versions)


def _run(line: str) -> Callable[[], None]:
    return lambda: pbvs(line)


def _told(line: str) -> Callable[[], None]:
    """Keep what a command that writes nothing prints, as its result."""

    def act() -> None:
        with Path("said.txt").open("w") as said, contextlib.redirect_stdout(said):
            pbvs(line)

    return act


READ_ONLY = ("check", "runs", "leaderboard")  # scenarios that write nothing but what the command said


@functools.cache
def _drawn() -> list[demo.Step]:
    """Return the demo's images, drawn once and a fourth as wide: what is under test is how they are written."""
    return [(path, pixels[::4, ::4], _coarser(grid)) for path, pixels, grid in demo._images(2024, AMOUNTS)]


def _coarser(grid: demo.Grid | None) -> demo.Grid | None:
    if grid is None:
        return None
    crs, (width, skew, left, lean, height, top, *rest) = grid
    return crs, (4 * width, skew, left, lean, 4 * height, top, *rest)


def _data() -> None:
    images = _drawn()
    with mock.patch.object(demo, "_images", lambda seed, amounts: iter(images)):
        demo.write_demo(Path("data"))


def _data_once() -> None:
    if is_unfinished(Path("data")) or not Path("data/README.txt").is_file():
        _data()


def _pairs() -> None:
    _data()
    pbvs("build-pairs --data data")


def _gray(intensity: float = 1.3) -> Callable[[], None]:
    def prepare() -> None:
        _pairs()
        Path("r.toml").write_text(GRAY.format(intensity))

    return prepare


def _after(prepare: Callable[[], None], *lines: str) -> Callable[[], None]:
    def act() -> None:
        prepare()
        for line in lines:
            pbvs(line)

    return act


def _changed_recipe() -> None:
    _after(_gray(1.3), PREDICT)()
    Path("r.toml").write_text(GRAY.format(0.7))


def _tiny() -> None:
    _pairs()
    Path("r.toml").write_text(TINY)


PREDICT = "predict --all --recipe r.toml --data data --jobs 1 --device cpu"
CHANGED = PREDICT + " --change-recipe"
SCORE = "score --run r --data data --lpips-net random --jobs 1 --device cpu"
PACKAGE = "package --run r --tasks rgb2ir --data data"


ROWS = """title = "t"
reference = "One"
[[rows]]
name = "One"
tasks = ["rgb2ir"]
[rows.stages.rgb2ir]
method = "grayscale"
intensity = 1.3
[[rows]]
name = "Two"
tasks = ["rgb2ir"]
[rows.stages.rgb2ir]
method = "grayscale"
intensity = 0.7
"""
ABLATE = "ablate --rows rows.toml --recipe r.toml --run a --data data --lpips-net random --jobs 1 --device cpu"
CALIBRATE = "calibrate --run r --data data --lpips-net random --device cpu --pairs 4"
GRADED = "score submissions/r/val.zip --split val --data data --lpips-net random --jobs 1 --device cpu"


def _rows() -> None:
    _gray()()
    Path("rows.toml").write_text(ROWS)


def _calibrate_once() -> None:
    """Calibrate unless it is done: a second calibration begins with the first one's result and says so."""
    if "intensity = 1.3\n" in Path("submissions/r/recipe.toml").read_text():
        pbvs(CALIBRATE)


def _rescored() -> None:
    _after(_gray(1.3), PREDICT, SCORE)()
    Path("r.toml").write_text(GRAY.format(0.7))
    pbvs(CHANGED)


def _two_runs() -> None:
    _after(_gray(1.3), PREDICT, SCORE)()
    Path("r.toml").write_text(GRAY.format(0.7))
    for line in (PREDICT + " --run s", SCORE.replace("--run r", "--run s")):
        pbvs(line)


def _more_epochs() -> None:
    _after(_tiny, PREDICT)()
    Path("r.toml").write_text(TINY.replace("epochs = 1\nhalf", "epochs = 2\nhalf"))


def _unet() -> None:
    _pairs()
    Path("r.toml").write_text(UNET)


def _log_once() -> None:
    if not Path("submissions/log.csv").is_file():
        pbvs("submissions --submissions submissions log submissions/r.zip --note first")


def _published() -> None:
    _checkpoint()
    pbvs("checkpoint import x.pth")


def _remove_once() -> None:
    if any(Path("submissions").iterdir()):
        pbvs("runs --submissions submissions rm r --yes")


def _checkpoint() -> None:
    """Write a checkpoint as the published code does."""
    from pbvs.networks.pix2pixhd import GeneratorConfig, make_generator
    from pbvs.translators.pix2pixhd.published import write_published

    config = GeneratorConfig(source_channels=1, target_channels=1, width=2, downsamplings=1, blocks=1)
    write_published(Path("x.pth"), make_generator(config).state_dict())


def _primitives() -> None:
    """Write through every door of pbvs.files."""
    from pbvs import files

    files.sweep(Path())
    for number in range(4):
        files.write_json(Path(f"a/b{number}/x.json"), {"n": [number] * 50})
        files.write_text(Path("a/same.csv"), f"row {number}\n" * 50)
        files.write_bytes(Path(f"c/{number}.bin"), b"x" * 5000)
    files.remove_all([Path("c/0.bin")])


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("files", _primitives),
        Scenario("demo-data", _data_once),
        Scenario("build-pairs", _run("build-pairs --data data"), _data),
        Scenario("build-pairs again", _run("build-pairs --data data --seed 7"), _pairs),
        Scenario("check-data", _run("check-data data --no-shift --jobs 1 --output x.html"), _data),
        Scenario("predict", _run(PREDICT), _gray()),
        Scenario("predict with another recipe", _run(CHANGED), _changed_recipe),
        Scenario("predict --retrain", _run(PREDICT + " --retrain"), _after(_gray(), PREDICT)),
        Scenario("report", _run("report --run r --data data"), _after(_gray(), PREDICT)),
        Scenario("package", _run(PACKAGE), _after(_gray(), PREDICT)),
        Scenario("package again", _run(PACKAGE + " --describe other"), _after(_gray(), PREDICT, PACKAGE)),
        Scenario("submissions log", _log_once, _after(_gray(), PREDICT, PACKAGE)),
        Scenario("check", _told("check submissions/r.zip --split val"), _after(_gray(), PREDICT, PACKAGE)),
        Scenario("runs", _told("runs"), _after(_gray(), PREDICT, PACKAGE)),
        Scenario("leaderboard", _told("leaderboard"), _after(_gray(), PREDICT, SCORE), torch=True),
        Scenario("export", _run("export r"), _after(_gray(), PREDICT)),
        Scenario("install", _run("install submissions/r/r.pbvs.zip --run s"), _after(_gray(), PREDICT, "export r")),
        Scenario("reproduce", _run("reproduce r --data data --jobs 1"), _after(_gray(), PREDICT)),
        Scenario("runs rm", _remove_once, _after(_gray(), PREDICT, PACKAGE)),
        Scenario("compare", _run("compare r s --data data --page x.html"), _two_runs),
        Scenario("checkpoint import", _run("checkpoint import x.pth"), _checkpoint, torch=True),
        Scenario("checkpoint export", _run("checkpoint export x.safetensors y.pth"), _published, torch=True),
        Scenario("calibrate", _calibrate_once, _after(_gray(), PREDICT), torch=True),
        Scenario("score", _run(SCORE), _after(_gray(), PREDICT), torch=True),
        Scenario("score again", _run(SCORE), _rescored, torch=True),
        Scenario("score an archive", _run(GRADED), _after(_gray(), PREDICT, PACKAGE + " --split val"), torch=True),
        Scenario("ablate", _run(ABLATE), _rows, torch=True),
        Scenario("train", _run(PREDICT), _tiny, torch=True),
        Scenario("train more epochs", _run(PREDICT), _more_epochs, torch=True),
        Scenario("train a U-Net", _run(PREDICT), _unet, torch=True),
    )
}
