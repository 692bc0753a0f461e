"""The submission's zip: written whole or not at all, the same bytes for the same content, checked before it counts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pbvs.data.build import find_root
from pbvs.errors import PbvsError, UsageError
from pbvs.files import atomic_path, inside, read_json, sha256, sweep, write_json
from pbvs.locks import locked
from pbvs.progress import track
from pbvs.runs import MANIFESTS, Run
from pbvs.submission.check import check
from pbvs.submission.findings import Finding, as_text, rejected
from pbvs.submission.inputs import Inputs, from_manifests
from pbvs.submission.plan import Form, Part, Plan, make_plan, predictions_record
from pbvs.submission.readme import NAME, write_readme
from pbvs.submission.safezip import LIMITS, Limits, SafeZip
from pbvs.submission.storedzip import write_zip


class PackageRefused(PbvsError):
    """The archive that was written broke a rule; it was thrown away and the earlier one kept."""

    def __init__(self, findings: Sequence[Finding]):
        self.findings = list(findings)
        super().__init__("The archive would be rejected and was not kept; mend what is listed.\n" + as_text(findings))


def package(
    run: Run,
    *,
    manifests: Path = MANIFESTS,
    root: Path | None = None,
    split: str = "test",
    tasks: Sequence[str] = (),
    others: Mapping[str, Run] | None = None,
    modes: Mapping[str, str] | None = None,
    form: Form = "png",
    extra_data: bool | None = None,
    description: str | None = None,
) -> Path:
    """Write, check and record `submissions/<run>.zip`; return its path.

    Killed at any moment it leaves the archive that was there before, or the new one. Raises PbvsError when
    predictions are missing, PackageRefused with the findings when the archive would be rejected.
    """
    inputs = inputs_of(manifests, root, split)
    plan = make_plan(
        run,
        inputs,
        split=split,
        tasks=tasks,
        others=others,
        modes=modes,
        form=form,
        extra_data=extra_data,
        description=description,
    )
    return write_package(plan, inputs)[0]


def inputs_of(manifests: Path, root: Path | None, split: str = "test") -> Inputs:
    """Return the inputs that the manifests name; sizes and brightness are known where the data root is."""
    try:
        place: Path | None = find_root(root, manifests)
    except UsageError:
        if root is not None:
            raise
        place = None
    return from_manifests(manifests, place, split)


def write_package(plan: Plan, inputs: Inputs) -> tuple[Path, list[Finding]]:
    """Write the plan's archive and its record; return its path and what the check had to say.

    Raises PbvsError when another command works on one of the runs, or has predicted anew since the plan was made.
    """
    path = package_path(plan)
    with contextlib.ExitStack() as stack:
        for run in sorted({part.run.folder for part in plan.parts} | {plan.run.folder}):
            stack.enter_context(locked(run))
        _check_unchanged(plan)
        sweep(plan.run.folder)
        sweep(path.parent, deep=False)
        with atomic_path(path) as part:
            write_zip(part, entries(plan))
            findings = check(part, inputs=inputs, evaluation_size=plan.evaluation_size, name=path.name)
            if rejected(findings):
                raise PackageRefused([finding for finding in findings if finding.level == "error"])
        write_json(record_path(plan), record(plan, path))
    return path, findings


def _check_unchanged(plan: Plan) -> None:
    for part in plan.parts:
        if predictions_record(part.run, plan.split, part.task) != part.record:
            raise PbvsError(
                f"The predictions of {part.task} in the run {part.run.name!r} were made anew meanwhile; start again."
            )


def package_path(plan: Plan) -> Path:
    """Return where the archive lies; a rehearsal on another split bears the split's name."""
    archive = plan.run.archive
    return archive if plan.split == "test" else archive.with_name(f"{plan.run.name}-{plan.split}.zip")


def record_path(plan: Plan) -> Path:
    """Return where it is written what the archive was made of."""
    return plan.run.folder / ("package.json" if plan.split == "test" else f"package-{plan.split}.json")


def record(plan: Plan, path: Path) -> dict[str, Any]:
    """Return what the archive was made of: its digest, each task's source, and the sources' provenance."""
    provenance = {
        part.run.name: read_json(part.run.provenance_file) if part.run.provenance_file.is_file() else None
        for part in plan.parts
    }
    return {
        "archive": path.name,
        "sha256": sha256(path),
        "bytes": path.stat().st_size,
        "split": plan.split,
        "evaluation_size": plan.evaluation_size,
        "readme": asdict(plan.readme),
        "tasks": {part.task: _part_record(part) for part in plan.parts},
        "provenance": provenance,
    }


def _part_record(part: Part) -> dict[str, Any]:
    return {
        "run": part.run.name,
        "recipe": part.run.recipe().digest(),
        "made_from": part.record.get("made_from"),
        "pictures": len(part.names),
        "mode": part.mode or "as predicted",
        "format": part.form,
    }


def entries(plan: Plan) -> Iterator[tuple[str, bytes]]:
    """Yield the archive's entries in their fixed order: the readme, then task by task, names in natural order."""
    yield NAME, write_readme(plan.readme).encode("ascii")
    total = sum(len(part.names) for part in plan.parts)
    pictures = ((part, name) for part in plan.parts for name in part.names)
    for part, name in track(pictures, "packing", total, unit="picture"):
        path = part.folder / name
        try:
            data = part.data(path)
        except (OSError, ValueError) as error:
            raise PbvsError(f"The prediction {path} cannot be packed: it {error}; predict it again.") from None
        yield f"{part.task}/{path.stem}{part.suffix}", data


def extract(path: Path, folder: Path, limits: Limits = LIMITS) -> list[Path]:
    """Unpack an archive into `folder` after making sure that it is harmless; return the files written.

    Raises PbvsError when the archive is made to harm or damaged; nothing is written outside `folder`, and nothing
    at all when the directory shows a fault.
    """
    written = []
    with SafeZip(path, limits) as archive:
        if not archive.safe:
            raise PbvsError(f"The archive {path} is not unpacked:\n{as_text(archive.faults)}")
        for entry in archive.files:
            target = inside(folder, entry.name)
            if not target.parent.resolve().is_relative_to(folder.resolve()):
                raise PbvsError(
                    f"{entry.name} is not unpacked: a link in {folder} leads elsewhere; take an empty folder."
                )
            with atomic_path(target) as part, part.open("wb") as file:
                for block in archive.stream(entry):
                    file.write(block)
            written.append(target)
    return written
