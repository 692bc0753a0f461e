"""Text that strangers chose (names of files, tensors and runs, descriptions) made fit to be shown and stored.

A terminal obeys escape sequences, and a spreadsheet runs a cell that begins with `=`: neither belongs to a file's name.
"""

from __future__ import annotations

import contextlib

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
