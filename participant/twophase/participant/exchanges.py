"""What the steps of a branch say to whoever runs them: round trips to make, and the business code's turn.

Lives here: the commands, their answers, and the statements that every kind of step needs. Must not live here: which
steps there are (`branch`, `finish`), how they are run (`drivers`).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from twophase.participant.outcomes import Results


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement; where it is alone in its exchange also several in one string, answered by the last one's reply."""

    query: bytes
    params: Mapping[str, Any] | None = None


class Reply(NamedTuple):
    """The result of a statement: its command tag, its rows, and whether a standby's wait was cut short.

    `unreplicated` is True if Postgres warned that it stopped waiting for a synchronous standby: what was committed or
    prepared is so on this server only.
    """

    tag: str
    rows: tuple[tuple[Any, ...], ...] = ()
    unreplicated: bool = False


@dataclass(frozen=True, slots=True)
class Exchange:
    """Statements for one round trip, answered with as many replies. Without parameters in any of them they are one
    string of the simple protocol, and after them the session can be cleaned.

    Thrown in: `ConnectionGone` if the session is lost, else the first statement's `psycopg.Error` (those after it were
    not run). How the cleaning went changes no answer; what was not cleaned is not used again.
    """

    statements: tuple[Statement, ...]
    cleaning: bytes = b""

    def script(self) -> bytes | None:
        """All of it in one string; None if there are parameters."""
        parts = []
        for each in self.statements:
            if each.params is not None:
                return None
            parts.append(each.query)
        if self.cleaning:
            parts.append(self.cleaning)
        return b"; ".join(parts)


@dataclass(frozen=True, slots=True)
class DoWork:
    """The business code's turn, answered with `Worked`. Thrown in: whatever it raises."""


@dataclass(frozen=True, slots=True)
class Worked:
    """What the business code returned, and the state it left the transaction in (a `TransactionStatus`)."""

    results: Results
    status: int


_T = TypeVar("_T")
Steps: TypeAlias = Generator[Exchange | DoWork, Any, _T]

ROLLBACK: Final = Statement(b"ROLLBACK")
COMMIT: Final = Statement(b"COMMIT")


def brief_transaction(seconds: float) -> tuple[Statement, ...]:
    """BEGIN of a transaction for one row, with a bounded wait for whoever holds its key. READ COMMITTED, so that a
    conflict is a conflict and no serialization failure."""
    timeout = f"SET LOCAL lock_timeout = {max(1, int(seconds * 1000))}"
    return Statement(b"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"), Statement(timeout.encode())
