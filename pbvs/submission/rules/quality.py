"""What is allowed and scores badly: constant images, copies, the wrong brightness, enlargements."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np

from pbvs.lookup import hashes_of
from pbvs.submission.findings import Finding, printable
from pbvs.submission.images import Facts
from pbvs.submission.inspection import Examined, Seen

COPY = 0.5  # grey levels of mean difference below which a prediction is its input
# Power of the finest structure, in squared grey levels. Of 189 real images half have 25 and more, 19 of 20 more than
# 4; enlarged twofold (bicubic) half of them have 0.6 to 1.3, fourfold 0.1.
SMOOTH = 1.5
MANY = 0.5  # share of a task's images that makes it the task's fault


def constant(archive: Examined) -> Iterator[Finding]:
    """An image of one level holds nothing."""
    for seen, facts in _known(archive):
        if facts.low == facts.high:
            what = {0: "all black", 255: "all white"}.get(facts.low, f"one grey level ({facts.low}) everywhere")
            yield _warning("constant", seen.item.name, f"it is {what}", "Predict it again; look at its input.")


def repeated(archive: Examined) -> Iterator[Finding]:
    """Different inputs do not have equal predictions."""
    for task, all_seen in archive.seen.items():
        known = (seen.facts for seen in all_seen if seen.facts and seen.facts.low != seen.facts.high)
        _, counts = np.unique(hashes_of(facts.digest for facts in known), return_counts=True)
        if equal := int(counts[counts > 1].sum()):
            message = f"{equal} of its images are equal to another one"
            yield _warning("repeated", f"{task}/", message, "Check that each input got its own prediction.")


def copies(archive: Examined) -> Iterator[Finding]:
    """A prediction that is its input translates nothing."""
    for task, all_seen in archive.seen.items():
        compared = [seen for seen in all_seen if seen.input_difference is not None]
        equal = [seen for seen in compared if seen.input_difference is not None and seen.input_difference < COPY]
        if compared and len(equal) > MANY * len(compared):
            message = f"{len(equal)} of {len(compared)} images compared are copies of their inputs"
            yield _warning("copy-of-input", f"{task}/", message, "Pack the predictions, not the inputs.")


def brightness(archive: Examined) -> Iterator[Finding]:
    """A task whose images are darker or brighter than nearly all training targets loses pixel score throughout."""
    for task, all_seen in archive.seen.items():
        levels = array("d", (float(np.mean(seen.facts.mean)) for seen in all_seen if seen.facts is not None))
        targets = None if archive.inputs is None or not levels else archive.inputs.brightness(task)
        if targets is None or len(targets) < 3:
            continue
        low, high = np.percentile(targets, [2, 98])
        level = float(np.median(levels))
        if not low - 2 <= level <= high + 2:
            word = "darker" if level < low else "brighter"
            message = (
                f"its images are {word} than training targets: median level {level:.0f}, "
                f"targets {low:.0f} to {high:.0f}"
            )
            yield _warning("brightness", f"{task}/", message, "Check the scaling to 0..255 and the intensity factor.")


def enlarged(archive: Examined) -> Iterator[Finding]:
    """An image without the finest structure was computed at a lower resolution, or is blurred."""
    for task, all_seen in archive.seen.items():
        known = (seen.facts for seen in all_seen if seen.facts is not None and seen.facts.low != seen.facts.high)
        detail = np.array(array("d", (facts.detail for facts in known)))
        smooth = int((detail < SMOOTH).sum())
        if smooth > MANY * len(detail):
            message = (
                f"{smooth} of its {len(detail)} images have no structure finer than two pixels: "
                "enlarged from a lower resolution, or blurred"
            )
            hint = "Predict at the evaluation size; blur costs LPIPS and FID."
            yield _warning("enlarged", f"{task}/", message, hint)


def _known(archive: Examined) -> Iterator[tuple[Seen, Facts]]:
    for all_seen in archive.seen.values():
        for seen in all_seen:
            if seen.facts is not None:
                yield seen, seen.facts


def _warning(rule: str, name: str, message: str, hint: str) -> Finding:
    return Finding("warning", rule, printable(name), message, hint)


RULES = (constant, repeated, copies, brightness, enlarged)
