"""Is this archive a submission? Every rule of the challenge, and what scores badly, on anybody's zip."""

from __future__ import annotations

from pathlib import Path

from pbvs.challenge import Challenge, load_challenge
from pbvs.submission.findings import Finding
from pbvs.submission.inputs import Inputs
from pbvs.submission.inspection import EvaluationSize, inspect_archive
from pbvs.submission.rules import RULES
from pbvs.submission.zips import SafeZip, room_for


def check(
    path: Path,
    *,
    inputs: Inputs | None = None,
    evaluation_size: EvaluationSize = "challenge",
    name: str | None = None,
    challenge: Challenge | None = None,
) -> list[Finding]:
    """Return all that was found in the archive, in the rules' order; an empty list is a perfect submission.

    `inputs` are the split's inputs, which know their challenge: without them names, counts and native sizes are not
    checked, and `challenge` says whose rules count. `name` is the name it will be uploaded under, when that is another.
    An archive made to harm is not read any further than its directory. Raises PbvsError when there is no file.
    """
    expected = sum(map(len, inputs.names.values())) if inputs else 0
    with SafeZip(path, room_for(expected)) as archive:
        if not archive.safe:
            return archive.faults
        known = inputs or Inputs(challenge=challenge or load_challenge())
        inspection = inspect_archive(archive, name or path.name, known, evaluation_size)
        return [*archive.faults, *(finding for rule in RULES for finding in rule(inspection))]
