"""Draws the diagrams and the tables of docs/protocol.md from the machines' own tables.

Run `python tests/tools/draw_protocol.py` to write them anew; a test holds the document against `render`.
"""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from twophase.coordinator.protocol import saga, twophase

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"
_BLOCK = re.compile(r"(<!-- drawn: (\w+) -->\n).*?(<!-- /drawn -->)", re.DOTALL)


class Machine(NamedTuple):
    """What is drawn: the rows, where it begins, and where it may end."""

    rows: tuple[twophase.Row, ...] | tuple[saga.Row, ...]
    first: Enum
    last: tuple[Enum, ...]


TWO_PHASE = Machine(twophase.TABLE, twophase.Phase.VOTING, (twophase.Phase.COMMITTED, twophase.Phase.ABORTED))
SAGA = Machine(saga.TABLE, saga.Phase.STARTING, (saga.Phase.COMPLETED, saga.Phase.COMPENSATED, saga.Phase.ABORTED))


def render(text: str) -> str:
    """The document with every drawn block written anew."""
    blocks = {
        "diagram": diagram(TWO_PHASE),
        "table": table(TWO_PHASE),
        "saga_diagram": diagram(SAGA),
        "saga_table": table(SAGA),
    }
    return _BLOCK.sub(lambda found: f"{found[1]}{blocks[found[2]]}{found[3]}", text)


def diagram(machine: Machine) -> str:
    """The machine as a Mermaid state diagram: an arrow for each row of the table."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {machine.first.value}: begin"]
    for row in machine.rows:
        label = f"{_words(row.event.__name__)} [{_says(row.guard)}]"
        lines.append(f"    {row.phase.value} --> {row.to.value}: {label} / {_does(row)}")
    lines += [f"    {phase.value} --> [*]" for phase in machine.last]
    return "\n".join([*lines, "```", ""])


def table(machine: Machine) -> str:
    """The same rows as a Markdown table, grouped by phase."""
    lines = ["| in | on | if | go to | do |", "|---|---|---|---|---|"]
    phase = None
    for row in machine.rows:
        name = "" if row.phase is phase else f"**{row.phase.value}**"
        phase = row.phase
        lines.append(f"| {name} | {_words(row.event.__name__)} | {_says(row.guard)} | {row.to.value} | {_does(row)} |")
    return "\n".join([*lines, ""])


def _does(row: twophase.Row | saga.Row) -> str:
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
