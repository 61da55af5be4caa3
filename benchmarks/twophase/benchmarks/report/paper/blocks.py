"""What the report consists of, before it is HTML or Markdown.

Lives here: values. Both files are made from the same ones, so that they say the same. Must not live here: tags.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Text; `lead` stands before it, in bold."""

    text: str
    lead: str = ""


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list."""

    items: Sequence[str]


@dataclass(frozen=True, slots=True)
class Heading:
    """Below that of the part it is in."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """The first `words` columns hold words, the others numbers."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing as SVG. `alt` says what is seen in it to those who do not see it."""

    name: str
    caption: str
    alt: str
    svg: str


LEADS: Final = ("Measured with", "Comes out otherwise", "How sure")
"""What stands before `holds`, `flips` and `sure` of a finding."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A conclusion: what holds, the numbers by name, when it is otherwise. `anchor` is the part with the details."""

    text: str
    figures: Sequence[tuple[str, str]]
    holds: str
    flips: str
    sure: str
    anchor: str


@dataclass(frozen=True, slots=True)
class Contents:
    """The list of parts that follow, each with what it is about."""

    entries: Sequence[tuple[str, str, str]]
    """Anchor, title, question."""


Block: TypeAlias = Paragraph | Bullets | Heading | Table | Plot | Finding | Contents


@dataclass(frozen=True, slots=True)
class Part:
    """A chapter. The anchor is its address within the report."""

    anchor: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Document:
    """All of it."""

    title: str
    subtitle: str
    parts: Sequence[Part]

    def plots(self) -> list[Plot]:
        """Every drawing, in order."""
        return [block for part in self.parts for block in part.blocks if isinstance(block, Plot)]
