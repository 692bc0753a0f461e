"""What was uploaded when: each zip by its digest, the local score beside the board's, and what is left of the day.

The limits are those of the 2026 challenge (ten a day, sixty a person); its platform counts calendar days and every
submission that did not fail, so an upload that failed can be marked and is not counted.
"""

from __future__ import annotations

import contextlib
import csv
import datetime
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from pbvs.errors import PbvsError, UsageError
from pbvs.files import read_json, read_text, sha256, sweep, write_text
from pbvs.locks import locked
from pbvs.run import Run, all_runs
from pbvs.submission.zips import regular_file

NAME = "log.csv"
A_DAY = 10
IN_ALL = 60


@dataclass(frozen=True)
class Upload:
    """One upload; `number` counts from 1. Empty texts are not known."""

    number: int
    when: str  # UTC, ISO 8601
    archive: str
    sha256: str
    run: str = ""
    local: str = ""  # the run's combined score, with its split and metric
    board: str = ""  # the combined score on the board
    status: str = "uploaded"  # or failed, which does not count
    note: str = ""

    @property
    def day(self) -> str:
        """The calendar day, YYYY-MM-DD in UTC."""
        return self.when[:10]


COLUMNS = tuple(field.name for field in fields(Upload))


def read_log(submissions: Path) -> list[Upload]:
    """Return the uploads in their order; none when nothing was logged. Raises PbvsError naming a bad row."""
    path = submissions / NAME
    if not path.is_file():
        return []
    rows = csv.DictReader(io.StringIO(read_text(path)))
    if rows.fieldnames is None or not set(COLUMNS) <= set(rows.fieldnames):
        raise PbvsError(f"{path} has not the columns {', '.join(COLUMNS)}; mend its first line.")
    return [_upload(path, line, row) for line, row in enumerate(rows, 2)]


def _upload(path: Path, line: int, row: dict[str, str | None]) -> Upload:
    values = {column: row.get(column) or "" for column in COLUMNS}
    if not values["number"].isdecimal() or len(values["when"]) < 10:
        raise PbvsError(f"{path}, line {line}: number and when are needed; mend or remove the line.")
    number = int(values.pop("number"))
    return Upload(number, **values)


def add(
    archive: Path,
    submissions: Path,
    *,
    note: str = "",
    board: float | None = None,
    when: datetime.datetime | None = None,
) -> Upload:
    """Log the upload of an archive; the run and its local score are found by the archive's digest.

    Raises PbvsError when there is no archive, UsageError when the board's score is no number of 0 or more.
    """
    digest = sha256(regular_file(archive))
    origin = _origin(digest, submissions)
    run, local = (origin[0].name, local_score(origin[0])) if origin else ("", "")
    moment = (when or datetime.datetime.now(datetime.timezone.utc)).astimezone(datetime.timezone.utc)
    with locked(submissions):
        uploads = read_log(submissions)
        upload = Upload(
            number=max((old.number for old in uploads), default=0) + 1,
            when=moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
            archive=archive.name,
            sha256=digest,
            run=run,
            local=local,
            board=_score(board),
            note=" ".join(note.split()),
        )
        _write(submissions, [*uploads, upload])
    return upload


def amend(number: int, submissions: Path, **changes: Any) -> Upload:
    """Set `board`, `status` or `note` of a logged upload; raise UsageError when there is no such number."""
    if "board" in changes:
        changes["board"] = _score(changes["board"])
    with locked(submissions):
        uploads = read_log(submissions)
        found = [upload for upload in uploads if upload.number == number]
        if not found:
            raise UsageError(f"There is no upload {number} in {submissions / NAME}; `pbvs submissions` lists them.")
        upload = replace(found[0], **changes)
        _write(submissions, [upload if old.number == number else old for old in uploads])
    return upload


def left(uploads: Sequence[Upload], today: datetime.date | None = None) -> tuple[int, int]:
    """Return how many of the day's and of all submissions are left; failed ones do not count."""
    day = (today or datetime.datetime.now(datetime.timezone.utc).date()).isoformat()
    counted = [upload for upload in uploads if upload.status != "failed"]
    return max(0, A_DAY - sum(upload.day == day for upload in counted)), max(0, IN_ALL - len(counted))


def _score(board: float | None) -> str:
    if board is None:
        return ""
    if not math.isfinite(board) or board < 0:
        raise UsageError(f"The board's score {board} is no number of 0 or more.")
    return f"{board:g}"


def run_of(archive: Path, submissions: Path) -> str:
    """Return the name of the run that wrote an archive, found by its digest; '' when none of them did."""
    found = _origin(sha256(regular_file(archive)), submissions)
    return found[0].name if found else ""


def size_of(archive: Path) -> str:
    """Return the evaluation size that an archive was written at, where a run in its folder wrote it, else ''."""
    digest = sha256(regular_file(archive))
    with contextlib.suppress(PbvsError):  # a damaged record of some run says nothing about the archive
        if found := _origin(digest, archive.parent):
            return str(found[1].get("evaluation_size", ""))
    return ""


def _origin(digest: str, submissions: Path) -> tuple[Run, dict[str, Any]] | None:
    """Return the run of which an archive has this digest, and what it wrote down of it."""
    for run in all_runs(submissions):
        for path in run.folder.glob("package*.json"):
            record = read_json(path)
            if isinstance(record, dict) and record.get("sha256") == digest:
                return run, record
    return None


def local_score(run: Run) -> str:
    """Return a run's combined score with its split and LPIPS net, such as `0.3125 (val, alex)`, or ''."""
    folders = run.score_folders()
    if not folders:
        return ""
    said = read_json(folders[0] / "summary.json")
    combined = said.get("combined")
    if not isinstance(combined, (int, float)):
        return ""
    lpips = said.get("lpips") or {}
    net = lpips.get("net", "?") if lpips.get("is_lpips", True) else "not LPIPS"
    return f"{combined:.4f} ({said.get('split', '?')}, {net}{', partial' if said.get('partial') else ''})"


def _write(submissions: Path, uploads: Sequence[Upload]) -> None:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(upload) for upload in uploads)
    sweep(submissions, deep=False)
    write_text(submissions / NAME, buffer.getvalue())
