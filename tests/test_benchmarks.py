"""The benchmarks' own arithmetic: ratios, bounds, exponents, and that ours and the textbook's step agree."""

from __future__ import annotations

import pytest
import torch

from tests.benchmarks import table, training_step
from tests.benchmarks.__main__ import PARTS
from tests.benchmarks.harness import Cost, Row, exponent, growth, quartiles, row_of


def test_a_ratio_says_how_much_slower_or_faster() -> None:
    ours, plain = [Cost(2.0, 1.0)] * 4, [Cost(1.0, 2.0)] * 4
    slower = row_of("part", "what", ours, plain, bound="<= 1.5")
    assert (slower.ratio, slower.cpu, slower.verdict) == (2.0, 0.5, "NO")
    faster = row_of("part", "what", plain, ours, bound=">= 1.5")
    assert (faster.ratio, faster.cpu, faster.verdict) == (2.0, 0.5, "yes")
    assert row_of("part", "what", ours, plain, bound="").verdict == ""


def test_quartiles_of_few_are_the_extremes() -> None:
    assert quartiles([3.0, 1.0, 2.0]) == (1.0, 2.0, 3.0)
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_is_found(power: float) -> None:
    sizes = (3, 12, 48)
    assert exponent(sizes, [0.1 * size**power for size in sizes]) == pytest.approx(power)
    row = growth("x", lambda size: Cost(0.1 * size**power, 0.1), sizes, "things")
    assert row.ratio == pytest.approx(power)
    assert row.verdict == ("yes" if power <= 1.15 else "NO")


def test_the_table_is_100_columns_wide_and_parts_measured_before_are_kept() -> None:
    rows = [Row("startup", "pbvs --help / import click", 1.234, 1.1, 1.3, "<= 2", 0.1, 0.08, 1.2, 9, "a word " * 40)]
    old = {"rows": [{**rows[0].as_json(), "ratio": 1.5}, {"part": "input", "what": "x", "ratio": 1.0}]}
    text = table.as_table(rows, old)
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "1.23" in text
    assert "1.50" in text
    kept = table.merged(old, {"rows": [row.as_json() for row in rows]})
    assert [row["part"] for row in kept["rows"]] == ["input", "startup"]


def test_the_page_shows_the_figures_that_are_kept() -> None:
    page, kept = table.PAGE.read_text(), table.read_last()
    assert kept is not None
    assert table.as_page(kept, PARTS) in page
    assert table.put_figures(page, table.as_page(kept, PARTS)) == page
    with pytest.raises(ValueError, match="marks"):
        table.put_figures("a page without them", "")


def test_our_step_and_the_textbooks_have_equal_losses() -> None:
    torch.set_num_threads(1)
    ours, plain = training_step.ours(4, 64), training_step.plain(4, 64)
    assert training_step.apart(ours(), plain()) < 1e-5
    assert training_step.apart(ours(), plain()) < 1e-2  # after one step of Adam, which turns rounding into steps
