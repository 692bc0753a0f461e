"""Tables come back cell by cell as they were written, and what is no table is said in one sentence."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbvs.data.manifest import COLUMNS, Pair, manifest_table, pairs_digest, read_manifest
from pbvs.errors import PbvsError
from pbvs.seeds import evenly_spaced
from pbvs.text import csv_cell, for_people, from_csv_cell, quoted, read_table, table_of, table_text, write_table
from tests.manifests import write_manifest

CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=12)


def _rows(path: Path) -> list[tuple[str, ...]]:
    return [tuple(row) for row in read_table(path).to_numpy().tolist()]


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(st.tuples(CELLS, CELLS).filter(any), max_size=8))
def test_any_cells_come_back(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    """Line ends inside quotes, "NA", numbers and Unicode's own line separators among them; csv reads the same."""
    path = tmp_path_factory.mktemp("rows") / "r.csv"
    write_table(path, table_of(["a", "b\nc"], rows))
    assert _rows(path) == rows
    with path.open(encoding="utf-8", newline="") as file:
        assert [tuple(row) for row in csv.reader(file)] == [("a", "b\nc"), *rows]
    assert path.read_bytes().decode() == table_text(table_of(["a", "b\nc"], rows))


@pytest.mark.parametrize("cell", ["007", "NA", "nan", "", "1e-3", "True", "-4.39_-55.20", "é", '"', "=1+1"])
def test_cells_stay_text(tmp_path: Path, cell: str) -> None:
    write_table(tmp_path / "r.csv", table_of(["a", "b"], [(cell, "x")]))
    assert _rows(tmp_path / "r.csv") == [(cell, "x")]


def test_line_ends_of_windows_empty_lines_and_short_rows(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_bytes(b"\xef\xbb\xbfa,b\r\n1,2\r\n\r\n3")
    assert _rows(tmp_path / "r.csv") == [("1", "2"), ("3", "")]
    assert read_table(tmp_path / "r.csv").columns.tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"a\n\xff\n", "not UTF-8"),
        (b'a\n"' + b"x" * 200_000, "is no CSV file .*; write it again"),
        (b"", "is no CSV file .*; write it again"),
        (b"a,b\n1,2,3\n", "is no CSV file .*more cells than its header.*; write it again"),
        (b"a,b\n1,2\n1,2,3\n", "is no CSV file .*; write it again"),
    ],
)
def test_bad_files_are_said(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "r.csv").write_bytes(data)
    with pytest.raises(PbvsError, match=words):
        read_table(tmp_path / "r.csv", "write it again")


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(PbvsError, match="There is no file"):
        read_table(tmp_path / "none.csv")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_table(tmp_path / "r.csv", table_of(["a"], [["0"]]))
    with pytest.raises(UnicodeEncodeError):
        write_table(tmp_path / "r.csv", table_of(["a"], [["\ud800"]]))
    assert _rows(tmp_path / "r.csv") == [("0",)]
    assert [path.name for path in tmp_path.iterdir()] == ["r.csv"]


# --- Manifests.


def _pairs(count: int) -> list[Pair]:
    return [Pair(f"p{number}", "rgb2ir", "test", "here", f"in/{number}.png") for number in range(count)]


def test_a_manifest_is_a_list_of_pairs_and_a_frame(tmp_path: Path) -> None:
    path = tmp_path / "rgb2ir_test.csv"
    write_manifest(path, _pairs(50))
    assert read_manifest(path) == _pairs(50)
    frame = manifest_table(path)
    assert tuple(frame.columns) == COLUMNS and frame["name"].tolist() == [f"p{number}" for number in range(50)]
    write_manifest(path, [])
    assert read_manifest(path) == []


def test_two_rows_of_a_name_are_refused(tmp_path: Path) -> None:
    pairs = _pairs(50)
    write_manifest(tmp_path / "rgb2ir_test.csv", [*pairs, pairs[3]])
    with pytest.raises(
        PbvsError, match=r"_test\.csv, line 52: there are two rows of the same name 'p3'; make it again"
    ):
        read_manifest(tmp_path / "rgb2ir_test.csv")


def test_a_manifest_of_an_earlier_version_does_without_the_newer_columns(tmp_path: Path) -> None:
    lines = ["name,task,split,location,source,target,source_date,target_date,origin,alignment,overlap,source_rule"]
    lines = [lines[0] + ",target_rule", "a,rgb2ir,val,here,in/a.png,out/a.png,,,held-out,footprint,1.0000,full,full"]
    (tmp_path / "rgb2ir_val.csv").write_text("\n".join(lines))
    assert read_manifest(tmp_path / "rgb2ir_val.csv") == [
        Pair("a", "rgb2ir", "val", "here", "in/a.png", "out/a.png", "", "", "held-out", "footprint", "1.0000", "full",
             "full")
    ]  # fmt: skip
    (tmp_path / "rgb2ir_val.csv").write_text(lines[0].replace("overlap,", "") + "\n")
    with pytest.raises(PbvsError, match="has no column 'overlap'"):
        read_manifest(tmp_path / "rgb2ir_val.csv")


def _mistakes() -> Iterator[tuple[dict[str, str], str]]:
    for column in ("name", "task", "split", "source"):
        yield {column: ""}, f"the column '{column}' is empty"
    for name in (".hidden", "a/b", "a\\b", "a\nb", "x" * 252, "é" * 126):
        yield {"name": name}, "cannot be a file's name"
    for rule in ("half", "full:x", "window:1", "power-db:1e999:0", "auto", "full\n", "full:" + "9" * 40):
        yield {"target_rule": rule}, "there is no intensity rule"


@pytest.mark.parametrize(("change", "words"), list(_mistakes()))
def test_a_row_that_cannot_be_a_pair_is_named(tmp_path: Path, change: dict[str, str], words: str) -> None:
    import dataclasses

    pairs = _pairs(3)
    pairs[1] = dataclasses.replace(pairs[1], **change)
    write_manifest(tmp_path / "rgb2ir_test.csv", pairs)
    with pytest.raises(PbvsError, match=f"line 3: .*{words}.*make it again with `pbvs build-pairs`"):
        read_manifest(tmp_path / "rgb2ir_test.csv")


@pytest.mark.parametrize("name", ["x" * 251, "é" * 125, "=HYPERLINK(A1)", "+1", "\t=1", "-4.39_-55.20_7"])
def test_a_manifest_keeps_every_name_that_a_file_may_have(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.png").touch()
    pair = Pair(name, "rgb2ir", "test", "", f"=in/{name}.png")
    write_manifest(tmp_path / "rgb2ir_test.csv", [pair])
    assert read_manifest(tmp_path / "rgb2ir_test.csv") == [pair]


@pytest.mark.parametrize(
    "cell", ["=1+1", "+1;2", "-4.39_-55.20", "@SUM(A1)", "\tx", "\r=1", " =1", "\uff1d1", "'=1", "\n\t-2x"]
)
def test_a_formula_is_quoted_and_comes_back(cell: str) -> None:
    assert (quoted(cell) != cell) == (cell != "'=1")
    assert cell == "'=1" or from_csv_cell(quoted(cell)) == cell
    assert not csv_cell(cell).lstrip().startswith(("=", "+", "-", "@", "\uff1d"))


def test_tables_for_people_quote_texts_and_leave_numbers() -> None:
    frame = table_of(["name", "value", "note"], [("=1+1", -0.5, None), ("-0.25", 2, "\x1b[2J")])
    assert table_text(for_people(frame)) == "name,value,note\n'=1+1,-0.5,\n-0.25,2,\\x1b[2J\n"


@pytest.mark.parametrize("rule", ["full", "full:4095", "window:1e-3:2.5E+1", "percentile:1.:99", "power-db:-25:-1e0"])
def test_a_rule_that_a_manifest_takes_is_taken_in_a_recipe_too(tmp_path: Path, rule: str) -> None:
    from pbvs.recipe import Radiometry

    write_manifest(tmp_path / "rgb2ir_test.csv", [Pair("a", "rgb2ir", "test", "", "a.png", source_rule=rule)])
    assert read_manifest(tmp_path / "rgb2ir_test.csv")[0].source_rule == Radiometry(rgb=rule).rgb == rule


def test_the_digest_of_pairs_follows_their_content_and_not_the_file(tmp_path: Path) -> None:
    import dataclasses

    pairs = _pairs(4)
    write_manifest(tmp_path / "rgb2ir_test.csv", pairs)
    text = (tmp_path / "rgb2ir_test.csv").read_bytes()
    (tmp_path / "rgb2ir_test.csv").write_bytes(text.replace(b"\n", b"\r\n"))
    assert pairs_digest(read_manifest(tmp_path / "rgb2ir_test.csv")) == pairs_digest(pairs)
    for column in COLUMNS:
        changed = [*pairs[:2], dataclasses.replace(pairs[2], **{column: "other"}), pairs[3]]
        assert pairs_digest(changed) != pairs_digest(pairs)
    assert pairs_digest(pairs[::-1]) != pairs_digest(pairs)


@pytest.mark.parametrize("count", [2, 3, 7, 24])
def test_evenly_spaced_items_are_in_order_and_as_far_apart_as_can_be(count: int) -> None:
    for length in range(count, 60):
        for ends in (False, True):
            found = evenly_spaced(range(length), count, ends=ends)
            steps = {later - earlier for earlier, later in itertools.pairwise(found)}
            assert len(found) == count and found[0] == 0 and max(steps) - min(steps) <= 1
            assert not ends or found[-1] == length - 1
    assert evenly_spaced("ab", count) == ["a", "b"]
