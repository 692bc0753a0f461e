"""What was uploaded when: each zip by its digest, the local score beside the board's, and what is left of the day.

A platform counts calendar days and every submission that did not fail, so an upload that failed can be marked and is
not counted. How many are allowed the challenge says.
"""

from __future__ import annotations

import datetime
import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pbvs.errors import PbvsError, UsageError, damage_ignored
from pbvs.files import sha256, sweep, visible_names
from pbvs.lineage import Stale, stale_archives
from pbvs.metrics.protocol import PROTOCOLS, choose_protocol
from pbvs.run import Run, all_runs, locked, read_metadata
from pbvs.submission.zips import regular_file
from pbvs.text import for_people, from_csv_cell, read_table, table_of, write_table

if TYPE_CHECKING:
    from pbvs.challenge import Challenge

NAME = "log.csv"
INSIST = "say --anyway if it is right"


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


COLUMNS = tuple(field.name for field in fields(Upload))


class Origin(NamedTuple):
    """The run that wrote an archive, and what it recorded of it."""

    run: Run
    metadata: dict[str, Any]


def read_log(submissions: Path) -> list[Upload]:
    """Return the uploads in their order; none when nothing was logged. Raises PbvsError naming a bad row."""
    path = submissions / NAME
    if not path.is_file():
        return []
    table = read_table(path, "correct it by hand or move it away")
    if not set(COLUMNS) <= set(table):
        raise PbvsError(f"{path} has not the columns {', '.join(COLUMNS)}; correct its first line.")
    right = table["number"].str.fullmatch("[0-9]{1,9}") & (table["when"].str.len() >= 10)
    for row in table.index[~right]:
        raise PbvsError(f"{path}, line {row + 2}: number and when are needed; correct or remove the line.")
    rows = table[list(COLUMNS)].map(from_csv_cell).itertuples(index=False, name=None)
    return [Upload(int(number), *texts) for number, *texts in rows]


def add(
    archive: Path,
    submissions: Path,
    *,
    note: str = "",
    board: float | None = None,
    when: datetime.datetime | None = None,
    anyway: bool = False,
) -> Upload:
    """Log the upload of an archive; the run and its local score are found by the archive's digest.

    Raises PbvsError when there is no archive, UsageError when the board's score is no number, and, unless
    told to do so `anyway`, when the archive is a rehearsal's, was logged already and did not fail, or the score is out
    of range.
    """
    digest = sha256(regular_file(archive))
    origin = origin_of(archive, submissions)
    score = _score(board, challenge_of(submissions, origin), anyway)
    split = str(origin.metadata.get("split", "test")) if origin else "test"
    if split != "test" and not anyway:
        again = f"pbvs package --run {origin.run.name}" if origin else "pbvs package"
        raise UsageError(f"{archive} holds the split {split}, a rehearsal; upload what `{again}` writes, or {INSIST}.")
    moment = (when or datetime.datetime.now(datetime.timezone.utc)).astimezone(datetime.timezone.utc)
    with locked(submissions):
        uploads = read_log(submissions)
        twice = [old for old in uploads if old.sha256 == digest and old.status != "failed"]
        if twice and not anyway:
            raise UsageError(
                f"{archive} was logged already, as upload {twice[0].number}; {INSIST}, or mark the first one with "
                f"`pbvs submissions failed {twice[0].number}`."
            )
        upload = Upload(
            number=max((old.number for old in uploads), default=0) + 1,
            when=moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
            archive=archive.name,
            sha256=digest,
            run=origin.run.name if origin else "",
            local=local_score(origin.run) if origin else "",
            board=score,
            note=" ".join(note.split()),
        )
        _write(submissions, [*uploads, upload])
    return upload


def amend(number: int, submissions: Path, changes: Mapping[str, Any], *, anyway: bool = False) -> Upload:
    """Set `board`, `status` or `note` of a logged upload; raise UsageError when there is no such number.

    A score out of range is refused, unless told to set it `anyway`.
    """
    changes = dict(changes)
    if "board" in changes:
        changes["board"] = _score(changes["board"], challenge_of(submissions), anyway)
    with locked(submissions):
        uploads = read_log(submissions)
        found = [upload for upload in uploads if upload.number == number]
        if not found:
            raise UsageError(f"There is no upload {number} in {submissions / NAME}; `pbvs submissions` lists them.")
        upload = replace(found[0], **changes)
        _write(submissions, [upload if old.number == number else old for old in uploads])
    return upload


class Left(NamedTuple):
    """How many submissions are left, of the day and in all; None where the challenge sets no limit."""

    today: int | None
    in_all: int | None


def left(uploads: Sequence[Upload], challenge: Challenge, today: datetime.date | None = None) -> Left:
    """Return how many of the day's and of all submissions are left; failed ones do not count."""
    day = (today or datetime.datetime.now(datetime.timezone.utc).date()).isoformat()
    counted = [upload for upload in uploads if upload.status != "failed"]
    rules = challenge.submission
    return Left(
        max(0, rules.a_day - sum(upload.when.startswith(day) for upload in counted)) if rules.a_day else None,
        max(0, rules.in_all - len(counted)) if rules.in_all else None,
    )


def say_left(uploads: Sequence[Upload], challenge: Challenge) -> str:
    """Return what is left as a sentence."""
    rules, there = challenge.submission, left(uploads, challenge)
    said = [f"{there.today} of {rules.a_day} today (UTC)"] if there.today is not None else []
    said += [f"{there.in_all} of {rules.in_all} in all"] if there.in_all is not None else []
    return f"Left: {', '.join(said)}." if said else f"The challenge {challenge.name} sets no limit of uploads."


def _score(board: float | None, challenge: Challenge, anyway: bool) -> str:
    """Return a score as it is written; what the challenge's rule of scoring, or its board's, cannot give is refused."""
    if board is None:
        return ""
    if not math.isfinite(board):
        raise UsageError(f"The board's score {board} is no number.")
    rules = {challenge.protocol, challenge.name} & {challenge.protocol, *PROTOCOLS.names}
    ranges = [choose_protocol(challenge, rule).combined_range(len(challenge.tasks)) for rule in rules]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    if not low <= board <= high and not anyway:
        raise UsageError(f"The board's score {board:g} is not between {low:g} and {high:g}; {INSIST}.")
    return f"{board:g}"


# --- Where an archive is from.


def origin_of(archive: Path, submissions: Path) -> Origin | None:
    """Return the run below `submissions` that wrote an archive, found by its length and digest; None without one."""
    length, digest = regular_file(archive).stat().st_size, ""
    for run in all_runs(submissions):
        for name in fnmatch.filter(visible_names(run.folder), "package*.json"):
            metadata = {}
            with damage_ignored():  # a damaged run is no concern of this archive's
                metadata = read_metadata(run.folder / name)
            if not metadata or metadata.get("bytes", length) != length:
                continue
            digest = digest or sha256(archive)
            if metadata.get("sha256") == digest:
                return Origin(run, metadata)
    return None


def home_of(archive: Path) -> Origin | None:
    """Return the run that wrote an archive which still lies where it was written; None for anybody's."""
    with damage_ignored():  # damaged metadata of some run say nothing about the archive
        folder = regular_file(archive).absolute().parent
        return origin_of(archive, folder) or origin_of(archive, folder.parent)
    return None


def doubts_of_archive(archive: Path, manifests: Path) -> dict[str, list[Stale]]:
    """Return by run why an archive beside its run is stale; nothing for anybody's, or beside a damaged run."""
    if home := home_of(archive):
        with damage_ignored():
            return {home.run.name: [it for it in stale_archives(home.run, manifests) if it.what == archive.name]}
    return {}


def challenge_of(submissions: Path, origin: Origin | None = None) -> Challenge:
    """Return the challenge of an archive's run, else of the run begun last, else the default."""
    from pbvs.challenge import load_challenge

    if origin:
        return origin.run.challenge()
    for run in sorted(all_runs(submissions), key=lambda run: run.recipe_file.stat().st_mtime_ns, reverse=True):
        with damage_ignored():  # a damaged run says nothing
            return run.challenge()
    return load_challenge()


def local_score(run: Run) -> str:
    """Return a run's combined score with its split and LPIPS net, such as `0.3125 (val, alex)`, or ''."""
    folders = run.score_folders()
    if not folders:
        return ""
    said = read_metadata(folders[0] / "summary.json")
    combined = said.get("combined")
    if not isinstance(combined, (int, float)):
        return ""
    lpips = said.get("lpips") or {}
    net = lpips.get("net", "?") if lpips.get("is_lpips", True) else "not LPIPS"
    return f"{combined:.4f} ({said.get('split', '?')}, {net}{', partial' if said.get('partial') else ''})"


def _write(submissions: Path, uploads: Sequence[Upload]) -> None:
    sweep(submissions, deep=False)
    write_table(submissions / NAME, for_people(table_of(COLUMNS, map(astuple, uploads))))
