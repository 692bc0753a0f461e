"""readme.txt: what is written is read back by the scorers' rule."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbvs.challenge import load_challenge
from pbvs.challenge.model import ReadmeLine
from pbvs.submission.readme import Readme, ReadmeError, order_faults, parse_readme, write_readme

LINES = load_challenge("mavic-t-2026").submission.readme


def scorer(text: str) -> tuple[float, int, int, str]:
    """The rule of the scorers of this family, as facts about them say it: by line order, after the first colon."""
    lines = [line for line in text.splitlines() if ":" in line]
    values = [":".join(line.split(":")[1:]) for line in lines]
    return float(values[0]), int(values[1]), int(values[2]), values[3].strip()


@given(st.floats(0, 1e6), st.booleans(), st.booleans(), st.text(max_size=300))
def test_round_trip_by_the_scorers_rule(runtime: float, cpu: bool, extra: bool, description: str) -> None:
    text = write_readme(Readme(runtime, cpu, extra, description), LINES)
    assert text.isascii()
    assert len(text.splitlines()) == 4
    assert not order_faults(text, LINES)
    seconds, device, data, said = scorer(text)
    assert math.isclose(seconds, runtime, abs_tol=1e-4)
    assert (device, data) == (int(cpu), int(extra))
    assert parse_readme(text, LINES) == Readme(seconds, cpu, extra, said)


def test_the_lines_of_the_challenge() -> None:
    lines = write_readme(Readme(10.43, False, True, "pix2pixHD"), LINES).splitlines()
    assert lines == [
        "runtime per image [s] : 10.4300",
        "CPU[1] / GPU[0] : 0",
        "Extra Data [1] / No Extra Data [0] : 1",
        "Other description : pix2pixHD",
    ]


def test_a_short_runtime_is_not_nought() -> None:
    assert parse_readme(write_readme(Readme(1e-9, True, False, ""), LINES), LINES).runtime == 1e-4
    assert parse_readme(write_readme(Readme(0.0, True, False, ""), LINES), LINES).runtime == 0.0


@pytest.mark.parametrize("runtime", [float("nan"), float("inf"), -1.0])
def test_no_runtime_no_readme(runtime: float) -> None:
    with pytest.raises(ReadmeError):
        write_readme(Readme(runtime, True, False, ""), LINES)


def test_other_lines_in_another_order() -> None:
    lines = (
        ReadmeLine(label="Team", value="night owls"),
        ReadmeLine(label="Method", kind="description"),
        ReadmeLine(label="Seconds per frame", kind="runtime", keyword="seconds"),
    )
    text = write_readme(Readme(0.25, description="U-Net"), lines)
    assert text == "Team : night owls\nMethod : U-Net\nSeconds per frame : 0.2500\n"
    assert parse_readme(text, lines) == Readme(0.25, description="U-Net")
    assert order_faults("\n".join(reversed(text.splitlines())), lines)[0].startswith("line 1 is 'Seconds per frame'")


def test_escape_sequences_of_a_description_are_written_out() -> None:
    assert "\x1b" not in write_readme(Readme(1.0, description="\x1b]0;owned\x07 net"), LINES)
