"""Writing the submission's zip beside `zip -0` of the same files."""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Row, compare
from tests.benchmarks.trees import finished_run

PART = "package"


def zip_stored(folder: Path, target: Path) -> None:
    """Zip a folder without compression, by the tool of that name or, where there is none, by Python's zipfile."""
    target.unlink(missing_ok=True)
    if shutil.which("zip"):
        subprocess.run(["zip", "-0", "-q", "-r", str(target), "."], cwd=folder, check=True)
        return
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(folder.rglob("*.png")):
            archive.write(path, path.relative_to(folder))


def zip_and_look(folder: Path, target: Path) -> None:
    """Do by hand what `package` promises: zip, then open every image of the archive to its last byte."""
    from PIL import Image

    zip_stored(folder, target)
    with zipfile.ZipFile(target) as archive:
        for info in archive.infolist():
            if info.filename.endswith(".png"):
                with Image.open(io.BytesIO(archive.read(info)), formats=["PNG"]) as image:
                    image.load()


def prepared(folder: Path, scale: float) -> tuple[Any, Any, Path]:
    """Return a plan, its inputs, and the folder of the predictions."""
    from pbvs.submission.package import inputs_of, make_plan

    run, manifests = finished_run(folder, scale)
    inputs = inputs_of(manifests, None)
    return make_plan(run, inputs), inputs, run.folder / "predictions" / "test"


def run(quick: bool) -> list[Row]:
    from pbvs.files import atomic_path
    from pbvs.submission.package import entries, write_package, write_zip

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan, inputs, predictions = prepared(folder, 0.03 if quick else 0.1)
        target = folder / "plain.zip"

        def write() -> None:
            with atomic_path(folder / "ours.zip") as part:
                write_zip(part, entries(plan))

        count = sum(len(part.paths) for part in plan.parts)
        return [
            compare(PART, f"archive of {count} written / zip -0", write, lambda: zip_stored(predictions, target),
                    repeats=5 if quick else 9, bound="<= 1.3"),
            compare(PART, "written and checked / zip -0 and opened", lambda: write_package(plan, inputs),
                    lambda: zip_and_look(predictions, target), repeats=2 if quick else 4,
                    note="the check reads every image to its last byte, which zip does not: the fair baseline does"),
        ]  # fmt: skip
