"""The whiteboard: the lines that a command leaves on it.

Lives here: how a message, a record, a state, a refusal and an alarm are drawn. Must not live here: when that is.

    one      ──▶ stock     prepare      a message
    stock    ──✗ one       yes          a message that does not arrive, or that nobody waits for
    one      ··▶ journal   begun        a record that rides along with the next forced write
    one      ══▶ journal   epoch 1      a forced write; the other way round: a ruling that is on disk
    stock    [prepared]                 how things are there from now on
    one      !!! stock is lost          an alarm
"""

from __future__ import annotations

from enum import Enum

from transcripts.script import INDENT

_NAME = 8


class Arrow(Enum):
    """How it goes."""

    SENT = "──▶"
    LOST = "──✗"
    RIDES = "··▶"
    FORCED = "══▶"


class Board:
    """The lines since they were taken off last."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def draw(self, source: str, arrow: Arrow, target: str, what: str) -> None:
        """Something goes from one to another."""
        self._write(f"{source:<{_NAME}} {arrow.value} {target:<{_NAME}}  {what}")

    def stands(self, who: str, how: str) -> None:
        """How things are with somebody now."""
        self._write(f"{who:<{_NAME}} [{how}]")

    def alarm(self, who: str, what: str) -> None:
        """Somebody raises an alarm."""
        self._write(f"{who:<{_NAME}} !!! {what}")

    def take(self) -> tuple[str, ...]:
        """The lines, which are off the board then."""
        lines, self._lines = tuple(self._lines), []
        return lines

    def _write(self, line: str) -> None:
        self._lines.append(f"{INDENT}{line}".rstrip())
