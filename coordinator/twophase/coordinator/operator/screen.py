"""Standard output, and tables on it that cut nothing.

Lives here: the look that all verbs share. Must not live here: what is shown.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDE: Final = 400


def screen(width: int | None = None) -> Console:
    """Standard output; where that is no terminal, lines are as long as what they say. What its encoding has no letters
    for is escaped."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    console = Console(highlight=False, soft_wrap=False, width=width)
    return console if console.is_terminal or width is not None else Console(highlight=False, width=_WIDE)


def facts(rows: Iterable[tuple[str, str | Text]]) -> Table:
    """One fact a line, its name before it. What does not fit goes on below itself."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for name, fact in rows:
        table.add_row(name, plain(fact))
    return table


def columns(headings: Sequence[str], rows: Iterable[Sequence[str | Text]], *, right: Sequence[str] = ()) -> Table:
    """A table without lines; names are folded where they do not fit, and never cut. `right`: headings of numbers."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for heading in headings:
        table.add_column(heading, overflow="fold", justify="right" if heading in right else "left")
    for row in rows:
        table.add_row(*(plain(cell) for cell in row))
    return table


def plain(cell: str | Text) -> Text:
    """Text as it is: what came from elsewhere is never read as markup, and moves no cursor."""
    if isinstance(cell, Text):
        return cell
    return Text("".join(letter if letter.isprintable() or letter == "\n" else "�" for letter in cell))
