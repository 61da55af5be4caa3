"""The banks of the report: what a transfer does at one of them, and the tables that tell afterwards how it went.

Lives here: tables, statements, the participants. Must not live here: who moves what (`business`), and by which way
(`contenders`). Every contender runs these functions; they differ in how they commit.

A movement is stamped as it is written, with the row locked. Postgres stamps the commit itself, by
`track_commit_timestamp`, so that how long each row was locked can be read afterwards for every single transfer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, LiteralString

import psycopg

from twophase.participant import Participant, Refused

LEFT: Final = "left"
RIGHT: Final = "right"
FAR: Final = "far"
BANKS: Final = (LEFT, RIGHT, FAR)
FANNED: Final = tuple(f"bank{number:02}" for number in range(1, 33))
OPENING: Final = 1_000_000
MARKED: Final = 0
"""The account that holds nothing, so that whoever takes from it is refused."""

SCHEMA: Final = """
CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL) WITH (fillfactor = 50);
CREATE TABLE movement (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  deed text NOT NULL,
  account int NOT NULL,
  amount bigint NOT NULL,
  undo boolean NOT NULL,
  written timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ON movement (deed);
"""
FILL: Final[LiteralString] = """
INSERT INTO account SELECT id, CASE id WHEN 0 THEN 0 ELSE %s END FROM generate_series(0, %s) AS id"""

# One statement, so one round trip: the row is locked, changed and stamped, or nothing is written.
_MOVE: Final[LiteralString] = """
WITH booked AS (
  UPDATE account SET balance = balance + %(amount)s
  WHERE id = %(account)s AND balance + %(amount)s >= 0 RETURNING id)
INSERT INTO movement (deed, account, amount, undo) SELECT %(deed)s, id, %(amount)s, %(undo)s FROM booked"""


@dataclass(frozen=True, slots=True)
class Movement:
    """Money on an account, or from it, as a part of a deed."""

    deed: str
    account: int
    amount: int


def move(connection: psycopg.Connection, movement: Movement) -> None:
    """Books it. Raises `Refused` if the account does not hold what is taken."""
    if _book(connection, movement, movement.amount, undo=False) == 0:
        raise Refused("NOT_ENOUGH", f"account {movement.account} does not hold {-movement.amount}")


def move_back(connection: psycopg.Connection, movement: Movement) -> None:
    """Books the contrary, and both stay in the books."""
    _book(connection, movement, -movement.amount, undo=True)


def bank(name: str) -> Participant:
    """One bank as a participant."""
    participant = Participant(name)
    participant.operation(move)
    participant.compensation(move)(move_back)
    return participant


left, right, far = (bank(name) for name in BANKS)


def _book(connection: psycopg.Connection, movement: Movement, amount: int, *, undo: bool) -> int:
    values = {"deed": movement.deed, "account": movement.account, "amount": amount, "undo": undo}
    return connection.execute(_MOVE, values).rowcount
