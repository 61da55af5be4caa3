"""The report as Markdown, with the drawings as files beside it: for a repository, or a terminal.

Lives here: marks and their escaping. Must not live here: words (`document` and what it calls).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from twophase.benchmarks.report.paper.blocks import (
    LEADS,
    Block,
    Bullets,
    Contents,
    Document,
    Finding,
    Heading,
    Paragraph,
    Plot,
    Table,
)

PLOTS: Final = "plots"
"""The directory of the drawings, beside the file."""

_SPECIAL: Final = re.compile(r"([\\`*_\[\]<>|#])")


def markdown(document: Document) -> str:
    """The text."""
    lines = [f"# {_escaped(document.title)}", "", _escaped(document.subtitle), ""]
    for part in document.parts:
        lines += [f'<a id="{part.anchor}"></a>', "", f"## {_escaped(part.title)}", ""]
        for block in part.blocks:
            lines += [*_block(block), ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def _block(block: Block) -> Iterator[str]:
    match block:
        case Paragraph(text, lead):
            yield f"**{_escaped(lead)}** {_escaped(text)}" if lead else _escaped(text)
        case Bullets(items):
            yield from (f"- {_escaped(item)}" for item in items)
        case Heading(text):
            yield f"### {_escaped(text)}"
        case Table(caption, head, rows, words):
            yield f"**{_escaped(caption)}**"
            yield ""
            yield _row(head)
            yield _row(["---" if place < words else "---:" for place in range(len(head))], escape=False)
            yield from (_row(row) for row in rows)
        case Plot(name, caption, alt, _):
            yield f"![{_escaped(alt)}]({PLOTS}/{name}.svg)"
            yield ""
            yield _escaped(caption)
        case Finding(text, figures, holds, flips, sure, anchor):
            told = "; ".join(f"{_escaped(name)}: {_escaped(value)}" for name, value in figures)
            yield f"**{_escaped(text)}** ([details](#{anchor}))"
            yield ""
            yield f"- Figures: {told}."
            more = ((name, said) for name, said in zip(LEADS, (holds, flips, sure), strict=True))
            yield from (f"- {name}: {_escaped(said)}" for name, said in more if said)
        case Contents(entries):
            yield from (
                f"- [{_escaped(title)}](#{anchor}): {_escaped(question)}" for anchor, title, question in entries
            )


def _row(cells: Sequence[str], *, escape: bool = True) -> str:
    return f"| {' | '.join(_escaped(cell) if escape else cell for cell in cells)} |"


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)
