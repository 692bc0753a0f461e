"""CSV rows that stay on the disk are those of a list, whatever the cells hold and whatever becomes of the file."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbvs.data.manifest import ByName, Pair, read_manifest, write_manifest
from pbvs.errors import PbvsError
from pbvs.rows import Rows, open_rows, write_rows

CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=12)


def _tuples(path: Path) -> Rows[tuple[str, ...]]:
    return open_rows(path, lambda header: lambda fields: tuple(fields), "write it again")


def _numbers(tmp_path: Path, count: int = 10) -> Rows[tuple[str, ...]]:
    write_rows(tmp_path / "n.csv", ["n"], ([str(number)] for number in range(count)))
    return _tuples(tmp_path / "n.csv")


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.tuples(CELLS, CELLS).filter(any), max_size=8))
def test_any_cells_come_back(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    """Line ends inside quotes and Unicode's own line separators among them."""
    path = tmp_path_factory.mktemp("rows") / "r.csv"
    write_rows(path, ["a", "b\nc"], rows)
    found = _tuples(path)
    assert list(found) == rows
    assert [found[place] for place in range(len(rows))] == rows


def test_it_is_a_sequence(tmp_path: Path) -> None:
    rows = _numbers(tmp_path)
    assert len(rows) == 10 and rows[3] == ("3",) and rows[-1] == ("9",)
    assert rows[1::3] == [("1",), ("4",), ("7",)] and list(rows.every(3, 1)) == rows[1::3]
    even = rows.where(lambda row: int(row[0]) % 2 == 0)
    assert list(even) == [("0",), ("2",), ("4",), ("6",), ("8",)] and even[::-2] == [("8",), ("4",), ("0",)]
    assert even == [("0",), ("2",), ("4",), ("6",), ("8",)] and even != rows and rows != 3
    with pytest.raises(IndexError):
        rows[10]


def test_line_ends_of_windows_and_empty_lines(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_bytes(b"a,b\r\n1,2\r\n\r\n3,4")
    assert list(_tuples(tmp_path / "r.csv")) == [("1", "2"), ("3", "4")]


def test_threads_forked_processes_and_pickles_see_the_same(tmp_path: Path) -> None:
    rows = _numbers(tmp_path, 500)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(rows.__getitem__, range(500))) == list(rows)
    assert pickle.loads(pickle.dumps(rows)) == list(rows)
    child = os.fork()
    if child == 0:
        os._exit(0 if all(row == (str(number),) for number, row in enumerate(rows)) else 1)
    assert list(rows)[499] == ("499",)
    assert os.waitpid(child, 0)[1] == 0


def test_a_file_that_is_replaced_meanwhile_stays_what_it_was(tmp_path: Path) -> None:
    rows = _numbers(tmp_path)
    write_rows(tmp_path / "n.csv", ["n"], [["other"]])
    assert rows[9] == ("9",)


def test_a_file_that_is_rewritten_meanwhile_is_an_error(tmp_path: Path) -> None:
    rows = _numbers(tmp_path)
    (tmp_path / "n.csv").write_text("n\n")
    with pytest.raises(PbvsError, match="rewritten while it was in use; start the command again"):
        rows[9]


def _open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_no_file_stays_open(tmp_path: Path) -> None:
    before = _open_files()
    rows = _numbers(tmp_path)
    view = rows.every(1, 2)
    assert _open_files() == before + 1
    del rows
    assert view[0] == ("2",)
    del view
    assert _open_files() == before


def test_bad_files_are_said(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    for data, words in ((b"a\n\xff\n", "not UTF-8"), (b'a\n"' + b"x" * 200_000, "is no CSV file .*; write it again")):
        path.write_bytes(data)
        with pytest.raises(PbvsError, match=words):
            _tuples(path)
    with pytest.raises(PbvsError, match="There is no file"):
        _tuples(tmp_path / "none.csv")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    def rows() -> object:
        yield ["1"]
        raise PbvsError("no more")

    write_rows(tmp_path / "r.csv", ["a"], [["0"]])
    with pytest.raises(PbvsError, match="no more"):
        write_rows(tmp_path / "r.csv", ["a"], rows())  # type: ignore[arg-type]
    assert list(_tuples(tmp_path / "r.csv")) == [("0",)]
    assert [path.name for path in tmp_path.iterdir()] == ["r.csv"]


def test_pairs_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [Pair(f"p{number}", "rgb2ir", "test", "here", f"in/{number}.png") for number in range(50)]
    write_manifest(tmp_path / "m.csv", pairs)
    found = ByName(read_manifest(tmp_path / "m.csv"))
    assert dict(found) == {pair.name: pair for pair in pairs}
    assert "p50" not in found and "" not in found
    # Names whose digests are equal are told apart, and refused only when they are equal themselves.
    for module in ("pbvs.data.manifest", "pbvs.lookup"):
        monkeypatch.setattr(f"{module}.hash", lambda name: 7, raising=False)
    found = ByName(read_manifest(tmp_path / "m.csv"))
    assert found["p49"] == pairs[49] and "p50" not in found
    write_manifest(tmp_path / "m.csv", [*pairs, pairs[3]])
    with pytest.raises(PbvsError, match="two rows of the same name"):
        read_manifest(tmp_path / "m.csv")
