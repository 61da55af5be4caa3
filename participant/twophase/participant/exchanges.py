"""What the steps of a branch say to whoever runs them: round trips to make, and the business code's turn.

Lives here: the commands, their answers, and the statements that every kind of step needs. Must not live here: which
steps there are (`branch`, `finish`), how they are run (`drivers`).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

from psycopg.pq import TransactionStatus

from twophase.participant.outcomes import Results


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement. Without parameters it goes through the simple protocol and may be several, split by ';'."""

    query: bytes
    params: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """The last result of a statement: its command tag, its rows, and whether a standby's wait was cut short.

    `unreplicated` is True if Postgres warned that it stopped waiting for a synchronous standby: what was committed or
    prepared is so on this server only.
    """

    tag: str
    rows: tuple[tuple[Any, ...], ...] = ()
    unreplicated: bool = False


@dataclass(frozen=True, slots=True)
class Exchange:
    """Statements for one round trip, answered with as many replies.

    Thrown in: `ConnectionGone` if the session is lost, else the first statement's `psycopg.Error` (those after it were
    not run).
    """

    statements: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class DoWork:
    """The business code's turn, answered with `Worked`. Thrown in: whatever it raises."""


@dataclass(frozen=True, slots=True)
class Worked:
    """What the business code returned, and the state it left the transaction in."""

    results: Results
    status: TransactionStatus


_T = TypeVar("_T")
Steps: TypeAlias = Generator[Exchange | DoWork, Any, _T]

ROLLBACK: Final = Statement(b"ROLLBACK")
COMMIT: Final = Statement(b"COMMIT")


def brief_transaction(seconds: float) -> tuple[Statement, ...]:
    """BEGIN of a transaction for one row, with a bounded wait for whoever holds its key. READ COMMITTED, so that a
    conflict is a conflict and no serialization failure."""
    timeout = f"SET LOCAL lock_timeout = {max(1, int(seconds * 1000))}"
    return Statement(b"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"), Statement(timeout.encode())
