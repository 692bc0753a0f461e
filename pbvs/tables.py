"""CSV tables as pandas frames of text: read with a sentence for what is wrong, written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pbvs.errors import PbvsError
from pbvs.files import atomic_path, read_error

if TYPE_CHECKING:
    from pandas import DataFrame


def read_table(path: Path, hint: str = "make it again") -> DataFrame:
    """Read a UTF-8 CSV file with a header: every cell is text as it stands there, "" where a row is short.

    "NA" stays "NA" and "007" stays "007"; empty lines are skipped. Raises PbvsError when the file is missing,
    unreadable or no CSV, with `hint`, the words that say what to do.

    >>> read_table(Path("data_manifests/unused.csv")).columns.tolist()  # doctest: +SKIP
    ['path', 'reason']
    """
    import pandas

    try:
        header = pandas.read_csv(path, header=None, nrows=1, dtype=str, na_filter=False, encoding="utf-8").iloc[0]
        frame = pandas.read_csv(path, dtype=str, na_filter=False, encoding="utf-8")
    except (pandas.errors.ParserError, pandas.errors.EmptyDataError) as error:
        raise PbvsError(f"{path} is no CSV file ({' '.join(str(error).split())}); {hint}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise read_error(path, error) from error
    for column in header[header.duplicated()]:
        raise PbvsError(f"{path} is no CSV file (the column {column!r} is there twice); {hint}.")
    if not isinstance(frame.index, pandas.RangeIndex):  # pandas takes what is too much for an index
        raise PbvsError(f"{path} is no CSV file (its first row has more cells than its header); {hint}.")
    return frame


def table_of(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> DataFrame:
    """Return rows, each as long as `columns`, as a frame that keeps their values as they are."""
    import pandas

    frame: DataFrame = pandas.DataFrame(list(rows), columns=list(columns), dtype=object)
    return frame


def table_text(frame: DataFrame) -> str:
    """Return a frame as CSV below a header, without its index."""
    text: str = frame.to_csv(index=False, lineterminator="\n")
    return text


def write_table(path: Path, frame: DataFrame) -> None:
    """Write a frame as CSV below a header, without its index, whole or not at all."""
    with atomic_path(path) as part:
        frame.to_csv(part, index=False, lineterminator="\n", encoding="utf-8")
