"""Text made fit to be shown and stored: what strangers chose is escaped, and tables fit the width of a terminal.

A terminal obeys escape sequences, and a spreadsheet runs a cell that begins with `=`: neither belongs to a file's name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

LENGTH = 120
FORMULA = ("=", "+", "-", "@")  # what a spreadsheet takes for a formula


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
    safe = escaped(text)
    if safe.lstrip("\t\n ").startswith(FORMULA):
        with contextlib.suppress(ValueError):
            float(safe)
            return safe
        return f"'{safe}"
    return safe


def from_csv_cell(cell: str) -> str:
    """Return what `csv_cell` was given, escapes apart.

    >>> from_csv_cell("'=A1"), from_csv_cell("'s")
    ('=A1', "'s")
    """
    return cell[1:] if cell.startswith("'") and cell[1:].lstrip("\t\n ").startswith(FORMULA) else cell


def shortened(name: str, width: int) -> str:
    """Return a name in at most `width` characters, its end kept: that is where names of one family differ.

    >>> shortened("family-of-runs-one", 12)
    'famil..s-one'
    """
    return name if len(name) <= width else f"{name[: width // 2 - 1]}..{name[-(width - width // 2 - 1) :]}"


def aligned(rows: Sequence[Sequence[str]], width: int, least: int = 20) -> list[str]:
    """Return rows of cells, the head first, as lines of at most `width` characters: names left, numbers right.

    Where there is not room for all, columns move together, then names are shortened to at least `least` characters (if
    they still differ then), and the columns that are too many follow in a further block, with the names again.

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
            cells = (shortened(columns[n][number], cut).rjust(min(widths[n], cut) + gap) for n in block)
            lines.append(f"{shortened(name, room):<{room}}{''.join(cells)}".rstrip())
    return lines
