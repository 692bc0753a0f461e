"""Text made fit to be shown and stored: what strangers chose is escaped, and tables fit the width of a terminal.

A terminal obeys escape sequences, and a spreadsheet runs a cell that begins with `=`: neither belongs to a file's name.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from pbvs.errors import PbvsError

if TYPE_CHECKING:
    from pandas import DataFrame

LENGTH = 120
BARS, ASCII_BARS = "▁▂▃▄▅▆▇█", "_.-:=+*#"
# What a spreadsheet takes for a formula, full-width signs too, or would drop before one.
_FORMULA = re.compile(r"[\t\r]|\s*[-=+@\uff0d\uff1d\uff0b\uff20]")


def escaped(text: str) -> str:
    r"""Return text in which everything that does not print is escaped, but for line ends and tabs.

    >>> escaped("night\x1b[2J")
    'night\\x1b[2J'
    """
    return "".join(letter if letter.isprintable() or letter in "\n\t" else ascii(letter)[1:-1] for letter in text)


def printable(name: str) -> str:
    r"""Return a name on one line with everything that does not print escaped, cut to what a terminal bears.

    >>> printable("sar2eo/\x1b]0;evil\n.png")
    'sar2eo/\\x1b]0;evil\\n.png'
    """
    safe = escaped(name).replace("\n", "\\n").replace("\t", "\\t")
    return safe if len(safe) <= LENGTH else f"{safe[:LENGTH]}... ({len(safe)} characters)"


def csv_cell(text: str) -> str:
    """Return a cell of a table that people open: what does not print escaped, a formula quoted; numbers stay.

    >>> csv_cell("=HYPERLINK(A1)"), csv_cell("-111.87"), csv_cell("town")
    ("'=HYPERLINK(A1)", '-111.87', 'town')
    """
    return quoted(escaped(text))


def quoted(text: str) -> str:
    """Return a cell of which a spreadsheet makes no formula, by an apostrophe before it; numbers stay."""
    if _FORMULA.match(text):
        with contextlib.suppress(ValueError):
            float(text)
            return text
        return f"'{text}"
    return text


def from_csv_cell(cell: str) -> str:
    """Return what `quoted` was given, or `csv_cell`, escapes apart.

    >>> from_csv_cell("'=A1"), from_csv_cell("'s")
    ('=A1', "'s")
    """
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell[1:]) else cell


def shortened(name: str, width: int) -> str:
    """Return a name in at most `width` characters, its end kept: that is where names of one family differ.

    >>> shortened("family-of-runs-one", 12)
    'famil..s-one'
    """
    return name if len(name) <= width else f"{name[: width // 2 - 1]}..{name[-(width - width // 2 - 1) :]}"


def few(names: Sequence[str], most: int = 3, between: str = ", ") -> str:
    """Return the first names, and how many more there are: `few("abcde")` is 'a, b, c and 2 more'."""
    return between.join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def terminal_width() -> int:
    """Return the columns of the terminal, or of COLUMNS; 80 where neither says."""
    return max(40, shutil.get_terminal_size((80, 24)).columns)


def shown_width(stream: TextIO) -> int:
    """Return the columns of the terminal that a stream goes to, or of COLUMNS; 0 where nothing need be folded."""
    if "COLUMNS" in os.environ:
        return terminal_width()
    return max(40, os.get_terminal_size(stream.fileno()).columns or 80) if stream.isatty() else 0


def folded(line: str, width: int, indent: int | None = None) -> list[str]:
    """Return a line as lines of at most `width` characters, the further ones indented, as far as its last column.

    A name that is too long loses its middle; a path that is too long stays whole, to be copied, and so does a command
    that comes next. 0 breaks nothing.

    >>> folded("ok    disk  plenty of room", 24)
    ['ok    disk  plenty of', '            room']
    """
    if not width or len(line) <= width:
        return [line]
    if line.startswith("Next: pbvs "):
        return ["Next:", f"  {line[6:]}"]
    if indent is None:
        columns = [match.end() for match in re.finditer(r"^ +| {2,}", line) if match.end() <= width // 2]
        indent = columns[-1] if columns else 2
    room = width - indent
    line = re.sub(rf"(?<!\S)[^\s/]{{{room + 1},}}(?!\S)", lambda name: shortened(name[0], room), line)
    return textwrap.wrap(
        line,
        width,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
    ) or [""]


def fitted(text: str, stream: TextIO) -> str:
    """Return text escaped, and its lines folded where they go to a terminal; in a file or pipe each stays one line."""
    width = shown_width(stream)
    return "\n".join(part for line in escaped(text).split("\n") for part in folded(line, width))


def aligned(rows: Sequence[Sequence[str]], width: int, least: int = 20) -> list[str]:
    """Return rows of cells, the head first, as lines of at most `width` characters: names left, numbers right.

    Where there is not room for all, columns move together, then names are shortened to at least `least` characters (if
    they still differ then), and the columns that are too many follow in a further block, with the names again but for
    rows that have nothing there.

    >>> aligned([["run", "combined", "score"], ["a-long-name", "0.25", "0.5"]], 22, least=6)
    ['run     combined score', 'a-..ame     0.25   0.5']
    """
    names, *columns = ([row[n] for row in rows] for n in range(len(rows[0])))
    longest = max(map(len, names))
    widths = [max(map(len, column)) for column in columns]
    least = min(least, longest)
    if len({shortened(name, least) for name in names}) < len(set(names)):
        least = max(least, min(longest, width - max(widths) - 1))
    gap = 2 if least + sum(widths) + 2 * len(widths) <= width else 1
    blocks: list[list[int]] = [[]]
    for n in range(len(columns)):
        if blocks[-1] and least + sum(widths[m] + gap for m in [*blocks[-1], n]) > width:
            blocks.append([])
        blocks[-1].append(n)
    lines: list[str] = []
    for block in blocks:
        room = max(least, min(longest, width - sum(widths[n] + gap for n in block)))
        cut = width - room - gap if len(block) == 1 else width  # a column that is too wide even by itself
        lines += [""] if lines else []
        for number, name in enumerate(names):
            cells = [shortened(columns[n][number], cut).rjust(min(widths[n], cut) + gap) for n in block]
            if any(map(str.strip, cells)):
                lines.append(f"{shortened(name, room):<{room}}{''.join(cells)}".rstrip())
    return lines


def listed(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return a table of texts that fits `width`: whole, or with its last column folded where there is room for that.

    Else each row is a block of `name  value` lines.

    >>> listed(["run", "note", "more"], [["night", "the first", "none"]], 16)
    ['night', '  note  the', '        first', '  more  none']
    """
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    if sum(widths) + 2 * (len(widths) - 1) <= width or not rows:
        lines = ("  ".join(map(str.ljust, row, widths)) for row in [head, *rows])
        return [line.rstrip() for line in lines]
    before = sum(widths[:-1]) + 2 * (len(widths) - 1)
    if width - before >= max(20, width // 3):
        lines = ("  ".join(map(str.ljust, row, [*widths[:-1], 0])) for row in [head, *rows])
        return [part for line in lines for part in folded(line, width, before)]
    label = min(width // 2, max(map(len, head[1:])))
    blocks: list[str] = []
    for row in rows:
        blocks += folded(row[0], width)
        for name, cell in zip(head[1:], row[1:], strict=True):
            blocks += folded(f"  {shortened(name, label):<{label}}  {cell}".rstrip(), width, label + 4)
    return blocks


def bars(values: Sequence[float], encoding: str = "utf-8") -> str:
    """Return a histogram on one line: a bar for each value (0 and above), the largest full, the lowest for 0 alone.

    `encoding` is that of the stream it is printed to; where it lacks the eight blocks, ASCII stands for them.

    >>> bars([0, 1, 4, 8]), bars([0, 1, 4, 8], "ascii")
    ('▁▂▅█', '_.=#')
    """
    try:
        marks = BARS.encode(encoding).decode(encoding)
    except (UnicodeError, LookupError):
        marks = ASCII_BARS
    top = max(values, default=0) or 1
    return "".join(marks[math.ceil(7 * (value / top))] for value in values)


# --- CSV tables as pandas frames of text: read with a sentence for what is wrong, written whole or not at all.


def read_table(path: Path, hint: str = "make it again") -> DataFrame:
    """Read a UTF-8 CSV file with a header: every cell is text as it stands there, "" where a row is short.

    "NA" stays "NA" and "007" stays "007"; empty lines are skipped. Raises PbvsError when the file is missing,
    unreadable or no CSV, with `hint`, the words that say what to do.

    >>> read_table(Path("data_manifests/unused.csv")).columns.tolist()  # doctest: +SKIP
    ['path', 'reason']
    """
    import pandas

    from pbvs.files import read_error

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


def for_people(frame: DataFrame) -> DataFrame:
    """Return a frame whose texts are `csv_cell`s, for tables that people open; manifests are data and stay exact."""
    rows = frame.itertuples(index=False, name=None)
    cells = ([csv_cell(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    return table_of(map(str, frame.columns), cells)


def table_text(frame: DataFrame) -> str:
    """Return a frame as CSV below a header, without its index."""
    text: str = frame.to_csv(index=False, lineterminator="\n")
    return text


def write_table(path: Path, frame: DataFrame) -> None:
    """Write a frame as CSV below a header, without its index, whole or not at all."""
    from pbvs.files import atomic_path

    with atomic_path(path) as part:
        frame.to_csv(part, index=False, lineterminator="\n", encoding="utf-8")
