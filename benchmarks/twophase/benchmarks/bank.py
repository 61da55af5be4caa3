"""Two banks with many accounts: what every contender of `twophase bench transfer` works on, with the same two updates.

Lives here: the tables, the statement, the two participants. Must not live here: who moves what (`workload`), and how
(`hand_written` and its neighbours).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, LiteralString

import psycopg

from twophase.participant import Participant

LEFT: Final = "left"
RIGHT: Final = "right"
NAMES: Final = (LEFT, RIGHT)
OPENING: Final = 1_000_000

SCHEMA: Final = "CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL)"
FILL: Final[LiteralString] = "INSERT INTO account SELECT id, %s FROM generate_series(1, %s) AS id"
UPDATE: Final[LiteralString] = "UPDATE account SET balance = balance + %s WHERE id = %s"


@dataclass(frozen=True, slots=True)
class Movement:
    """Money on an account, or from it."""

    account: int
    amount: int


def bank(name: str) -> Participant:
    """One bank. An account may be overdrawn: nothing is refused, so that every contender does the same work."""
    participant = Participant(name)

    @participant.operation
    def move(connection: psycopg.Connection, movement: Movement) -> None:
        connection.execute(UPDATE, (movement.amount, movement.account))

    @participant.compensation(move)
    def move_back(connection: psycopg.Connection, movement: Movement) -> None:
        connection.execute(UPDATE, (-movement.amount, movement.account))

    return participant


left, right = (bank(name) for name in NAMES)
