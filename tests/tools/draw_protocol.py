"""Draws the diagram and the table of docs/protocol.md from the machine's own table.

Run `python tests/tools/draw_protocol.py` to write them anew; a test holds the document against `render`.
"""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

from twophase.coordinator.protocol.twophase import TABLE, Phase, Row

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"
_BLOCK = re.compile(r"(<!-- drawn: (\w+) -->\n).*?(<!-- /drawn -->)", re.DOTALL)


def render(text: str) -> str:
    """The document with every drawn block written anew."""
    blocks = {"diagram": diagram(), "table": table()}
    return _BLOCK.sub(lambda found: f"{found[1]}{blocks[found[2]]}{found[3]}", text)


def diagram() -> str:
    """The machine as a Mermaid state diagram: an arrow for each row of the table."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {Phase.VOTING.value}: begin"]
    for row in TABLE:
        label = f"{_words(row.event.__name__)} [{_says(row.guard)}]"
        lines.append(f"    {row.phase.value} --> {row.to.value}: {label} / {_does(row)}")
    lines += [f"    {phase.value} --> [*]" for phase in (Phase.COMMITTED, Phase.ABORTED)]
    return "\n".join([*lines, "```", ""])


def table() -> str:
    """The same rows as a Markdown table, grouped by phase."""
    lines = ["| in | on | if | go to | do |", "|---|---|---|---|---|"]
    for phase, rows in groupby(TABLE, key=lambda row: row.phase):
        for number, row in enumerate(rows):
            name = "" if number else f"**{phase.value}**"
            lines.append(
                f"| {name} | {_words(row.event.__name__)} | {_says(row.guard)} | {row.to.value} | {_does(row)} |"
            )
    return "\n".join([*lines, ""])


def _does(row: Row) -> str:
    return ", ".join(_says(action) for action in row.actions)


def _says(function: object) -> str:
    said = function.__doc__
    if not said:
        raise ValueError(f"{function} has no docstring: the diagram is labelled with it")
    return said.strip()


def _words(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


if __name__ == "__main__":
    DOCUMENT.write_text(render(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
