"""The archive that `package` writes: whole, always the same, of the right content, from one run or several."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from pbvs.api import package
from pbvs.challenge import load_challenge
from pbvs.errors import PbvsError, UsageError
from pbvs.files import read_json, sha256, write_json
from pbvs.run import Run
from pbvs.submission.package import PackageRefused, parse_modes
from pbvs.submission.readme import parse_readme
from tests.submission.workspace import COUNT, Workspace, noise, png_bytes
from tests.tasks import TASKS


def pack(workspace: Workspace, run: Run, **options: object) -> Path:
    return package(run, manifests=workspace.manifests, data=workspace.root, **options)


def names(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def image(path: Path, name: str) -> Image.Image:
    with zipfile.ZipFile(path) as archive:
        return Image.open(io.BytesIO(archive.read(name)))


def test_holds_the_four_folders_and_the_readme_at_its_root(workspace: Workspace) -> None:
    path = pack(workspace, workspace.run())
    expected = ["readme.txt"] + [f"{task}/{index}.png" for task in TASKS for index in range(COUNT[task])]
    assert path == workspace.submissions / "hand.zip"
    assert names(path) == expected
    with zipfile.ZipFile(path) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.testzip() is None


def test_predictions_go_in_byte_for_byte(workspace: Workspace) -> None:
    run = workspace.run()
    with zipfile.ZipFile(pack(workspace, run)) as archive:
        assert archive.read("sar2rgb/2.png") == run.prediction("test", "sar2rgb", "2").read_bytes()


def test_readme_says_what_was_measured(workspace: Workspace) -> None:
    run = workspace.run(extra_data=True)
    record = run.prediction_folder("test", "sar2eo").with_name("sar2eo.json")
    write_json(record, {**read_json(record), "seconds": 8.5, "device": "cuda"})
    with zipfile.ZipFile(pack(workspace, run)) as archive:
        readme = parse_readme(archive.read("readme.txt").decode(), load_challenge().submission.readme)
    assert readme.runtime == pytest.approx((8.5 + 3 * 0.5) / 20)
    assert not readme.cpu
    assert readme.extra_data
    assert "recipe hand" in readme.description
    assert "rgb2ir: grayscale x 1.3" in readme.description


def test_readme_can_be_overruled(workspace: Workspace) -> None:
    path = pack(workspace, workspace.run(extra_data=True), extra_data=False, description="ours: the best")
    with zipfile.ZipFile(path) as archive:
        readme = parse_readme(archive.read("readme.txt").decode(), load_challenge().submission.readme)
    assert (readme.extra_data, readme.description) == (False, "ours: the best")


def test_same_content_makes_the_same_bytes(workspace: Workspace) -> None:
    run = workspace.run()
    first = pack(workspace, run).read_bytes()
    for file in run.folder.rglob("*.png"):
        os.utime(file, (1, 1))
        file.chmod(0o600)
    assert pack(workspace, run).read_bytes() == first


def test_memory_does_not_grow_with_the_images(workspace: Workspace) -> None:
    import gc
    import tracemalloc

    run = workspace.run()
    pack(workspace, run)
    gc.collect()  # what earlier tests left to be collected is not counted
    tracemalloc.start()
    pack(workspace, run)
    small = tracemalloc.get_traced_memory()[1]
    folder, inputs = run.prediction_folder("test", "sar2eo"), workspace.manifests / "sar2eo_test.csv"
    row = inputs.read_text().splitlines()[1]
    with inputs.open("a") as file:
        for index in range(1000, 1400):
            (folder / f"{index}.png").write_bytes(png_bytes(noise(index, 1)))
            file.write(f"{index},{row.split(',', 1)[1]}\n")
    tracemalloc.reset_peak()
    pack(workspace, run, allow_stale=True)
    assert tracemalloc.get_traced_memory()[1] < small + 400 * 8_000  # the directory, not the images
    tracemalloc.stop()


def test_missing_predictions_are_named(workspace: Workspace) -> None:
    run = workspace.run()
    run.prediction("test", "sar2ir", "1").unlink()
    with pytest.raises(PbvsError, match=r"lacks 1 of 3 predictions \(1\)"):
        pack(workspace, run)
    assert not run.archive.exists()


def test_images_without_an_input_are_named(workspace: Workspace) -> None:
    run = workspace.run()
    run.prediction("test", "rgb2ir", "77").write_bytes(png_bytes(noise(1, 1)))
    with pytest.raises(PbvsError, match=r"1 images that no input .* is called \(77\)"):
        pack(workspace, run)


def test_unfinished_task_says_what_to_run(workspace: Workspace) -> None:
    run = workspace.run()
    run.prediction_folder("test", "rgb2ir").with_name("rgb2ir.json").unlink()
    with pytest.raises(PbvsError, match="pbvs predict --run hand --task rgb2ir --split test"):
        pack(workspace, run)


def test_refuses_with_the_list_and_keeps_the_earlier_archive(workspace: Workspace) -> None:
    run = workspace.run()
    before = pack(workspace, run).read_bytes()
    run.prediction("test", "sar2eo", "3").write_bytes(png_bytes(noise(1, 1, side=20)))
    run.prediction("test", "sar2rgb", "1").write_bytes(b"\x89PNG\r\n\x1a\nrest")
    with pytest.raises(PackageRefused) as refused:
        pack(workspace, run)
    assert {finding.rule for finding in refused.value.findings} == {"wrong-size", "truncated"}
    assert "sar2eo/3.png" in str(refused.value)
    assert run.archive.read_bytes() == before
    assert not list(workspace.submissions.glob(".*.part"))


def test_only_some_tasks(workspace: Workspace) -> None:
    path = pack(workspace, workspace.run(), tasks=["rgb2ir", "sar2eo"])
    assert {name.split("/")[0] for name in names(path)} == {"readme.txt", "sar2eo", "rgb2ir"}
    with pytest.raises(UsageError, match="no task 'rgb2eo'"):
        pack(workspace, workspace.run(), tasks=["rgb2eo"])


def test_mode_and_format(workspace: Workspace) -> None:
    run = workspace.run()
    path = pack(workspace, run, modes=parse_modes(["all=RGB"]))
    assert image(path, "sar2eo/0.png").mode == "RGB"
    assert (
        image(path, "rgb2ir/0.png").getpixel((3, 4))
        == (image(pack(workspace, run), "rgb2ir/0.png").getpixel((3, 4)),) * 3
    )
    path = pack(workspace, run, form="tiff")
    assert "rgb2ir/0.tiff" in names(path)
    assert "sar2eo/0.png" in names(path)
    assert image(path, "sar2rgb/0.tiff").tobytes() == Image.open(run.prediction("test", "sar2rgb", "0")).tobytes()
    assert pack(workspace, run, form="tiff").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("option", ["sar2rgb=L", "all", "sar2eo=RGBA", "eo=L"])
def test_impossible_modes_are_refused(option: str) -> None:
    with pytest.raises(UsageError):
        parse_modes([option])


def test_assembles_tasks_of_several_runs(workspace: Workspace) -> None:
    run, other = workspace.run(), workspace.run("night2", seed=500)
    path = pack(workspace, run, sources={"sar2rgb": other})
    with zipfile.ZipFile(path) as archive:
        assert archive.read("sar2rgb/0.png") == other.prediction("test", "sar2rgb", "0").read_bytes()
        assert archive.read("sar2eo/0.png") == run.prediction("test", "sar2eo", "0").read_bytes()
        assert "sar2rgb from run night2" in archive.read("readme.txt").decode()
    record = read_json(run.folder / "package.json")
    assert record["tasks"]["sar2rgb"]["run"] == "night2"
    assert record["provenance"]["night2"]["seed"] == 500
    assert record["sha256"] == sha256(path)


def test_different_evaluation_sizes_do_not_mix(workspace: Workspace) -> None:
    run, other = workspace.run(), workspace.run("night2")
    record = other.prediction_folder("test", "sar2rgb").with_name("sar2rgb.json")
    write_json(record, {**read_json(record), "evaluation_size": "challenge"})
    with pytest.raises(UsageError, match="different evaluation sizes"):
        pack(workspace, run, sources={"sar2rgb": other})


KILLED = """
    import json, os, signal, sys
    from pathlib import Path
    import pbvs.api
    from pbvs.run import Run
    from pbvs.submission import package as archive
    workspace = Path(sys.argv[1])
    zipped, old = workspace / "submissions" / "hand.zip", (workspace / "old.zip").read_bytes()
    state = {"left": 0}
    def die(kind):
        def wrapped(*arguments, **options):
            state["left"] -= 1
            if state["left"] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return kind(*arguments, **options)
        return wrapped
    for module, name in ((os, "fsync"), (os, "open"), (os, "replace"), (Path, "replace"), (Path, "unlink"),
                         (archive.Part, "data"), (archive, "check"), (archive, "sha256")):
        setattr(module, name, die(getattr(module, name)))
    found, moment, status = [], 0, 9
    while status:
        moment += 1
        zipped.write_bytes(old)
        child = os.fork()
        if not child:
            state["left"] = moment
            run = Run("hand", workspace / "submissions")
            pbvs.package(run, manifests=workspace / "manifests", data=workspace / "data")
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        state["left"] = 0
        found.append([status, "old" if zipped.read_bytes() == old else archive.sha256(zipped)])
    print(json.dumps(found))
"""


def test_killed_at_any_moment_leaves_the_old_archive_or_the_new_one(workspace: Workspace) -> None:
    run = workspace.run()
    (workspace.root.parent / "old.zip").write_bytes(pack(workspace, run, description="old").read_bytes())
    new = sha256(pack(workspace, run))
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(workspace.root.parent)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    statuses, contents = zip(*found, strict=True)
    assert set(statuses[:-1]) == {signal.SIGKILL}
    assert statuses[-1] == 0
    assert len(statuses) > 30
    assert set(contents) == {"old", new}
    assert contents[-1] == new


def test_stale_predictions_are_refused_unless_told(workspace: Workspace) -> None:
    run = workspace.run()
    manifest = workspace.manifests / "rgb2ir_test.csv"
    manifest.write_text(manifest.read_text().replace("rgb2ir,test,", "rgb2ir,test,town", 1))
    with pytest.raises(PbvsError, match=r"rgb2ir .*manifest changed.*--allow-stale"):
        pack(workspace, run)
    assert not run.archive.exists()
    assert pack(workspace, run, allow_stale=True) == run.archive


def test_links_in_a_run_are_not_followed(workspace: Workspace, tmp_path: Path) -> None:
    run = workspace.run()
    other = run.prediction("test", "rgb2ir", "1").rename(tmp_path / "elsewhere.png")
    run.prediction("test", "rgb2ir", "1").symlink_to(other)
    with pytest.raises(PbvsError, match="cannot be packed"):
        pack(workspace, run)
    run.prediction("test", "rgb2ir", "1").unlink()
    other.rename(run.prediction("test", "rgb2ir", "1"))
    folder = run.prediction_folder("test", "rgb2ir")
    folder.symlink_to(folder.rename(tmp_path / "folder"))
    with pytest.raises(PbvsError, match="is a link"):
        pack(workspace, run)


def test_an_input_without_a_row_is_named(workspace: Workspace) -> None:
    """One that could not be read when the manifests were made."""
    run = workspace.run()
    manifest = workspace.manifests / "sar2eo_test.csv"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(line for line in lines if not line.startswith("7,")))
    with pytest.raises(PbvsError, match=r"test input test/sar2eo/7\.png of sar2eo is in no manifest"):
        pack(workspace, run, allow_stale=True)
    with pytest.raises(PbvsError, match=r"7\.png"):
        pack(workspace, run, allow_stale=True, tasks=["sar2eo"])
    assert pack(workspace, run, tasks=["rgb2ir"]).is_file()


def test_an_input_that_is_gone_is_named(workspace: Workspace) -> None:
    run = workspace.run()
    (workspace.root / "test" / "rgb2ir" / "2.tiff").unlink()
    with pytest.raises(PbvsError, match=r"test/rgb2ir/2\.tiff of rgb2ir is not in"):
        pack(workspace, run)
