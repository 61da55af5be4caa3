"""Lines with something before them, that go on below themselves where they do not fit.

Lives here: the one way in which findings and facts are laid out; without spaces at the end, so that what is to be typed
can be copied. Must not live here: what is shown.
"""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from twophase.coordinator.operator.screen import plain


def hanging(console: Console, before: str | Text, said: str | Text) -> None:
    """Prints `said`, each of its lines wrapped between words, to the right of `before`."""
    head = Text(before) if isinstance(before, str) else before
    margin = " " * head.cell_len
    for line in plain(said).split(allow_blank=True):
        for part in line.wrap(console, max(console.width - head.cell_len, 20)):
            part.rstrip()
            console.print(Text.assemble(head, part), soft_wrap=True)
            head = Text(margin)


def fact(console: Console, name: str, said: str | Text, *, width: int) -> None:
    """A fact with its name before it, which takes `width` cells."""
    hanging(console, Text(f"  {name:<{width}}  ", "dim"), said)
