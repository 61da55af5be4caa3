"""Four banks with a shop each, which move money and sell things: the business of the drills.

Lives here: their operations and tables. Must not live here: who moves what (`drill.load`), whether it adds up
(`drill.check`).

Nothing in the tables keeps a movement or a sale, or what takes it back, from being booked twice: that is what is being
tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import psycopg

from twophase.participant import Participant, Refused

NAMES: Final = ("east", "west", "north", "south")
# Two of them share a server: what is prepared there has names of the whole server, and belongs to one database.
CLUSTERS: Final = {"east": "east", "west": "west", "north": "shared", "south": "shared"}
ACCOUNTS: Final = 40
OPENING: Final = Decimal(1000)
ITEMS: Final = 10
STOCK: Final = 12
# Made of constants of this module.
SCHEMA: Final = f"""
CREATE TABLE account (id int PRIMARY KEY, balance numeric NOT NULL);
CREATE TABLE movement (
  transfer text NOT NULL, account int NOT NULL, amount numeric NOT NULL, undo boolean NOT NULL DEFAULT false
);
CREATE TABLE stock (item int PRIMARY KEY, pieces int NOT NULL);
CREATE TABLE sale (
  transfer text NOT NULL, item int NOT NULL, pieces int NOT NULL, undo boolean NOT NULL DEFAULT false
);
CREATE TABLE stubborn (since timestamptz NOT NULL);
INSERT INTO account SELECT id, {OPENING} FROM generate_series(1, {ACCOUNTS}) AS id;
INSERT INTO stock SELECT item, {STOCK} FROM generate_series(1, {ITEMS}) AS item;
"""  # noqa: S608
# The opening balances and stocks again.
EMPTY: Final = "TRUNCATE movement, account, sale, stock, stubborn"
FILL: Final = "INSERT" + SCHEMA.split("INSERT", 1)[1]


@dataclass(frozen=True, slots=True)
class Movement:
    """Money on an account, or from it. `seconds` is how long the bank thinks about it, with the row locked."""

    transfer: str
    account: int
    amount: Decimal
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Sale:
    """Pieces of an item that leave the shop; fewer than 0 are delivered to it."""

    transfer: str
    item: int
    pieces: int


@dataclass(frozen=True, slots=True)
class Question:
    """Which account."""

    account: int


def bank(name: str) -> Participant:
    """One bank."""
    participant = Participant(name)

    @participant.operation
    def move(connection: psycopg.Connection, movement: Movement) -> None:
        """Books a movement; refuses what the account does not hold."""
        booked = connection.execute(
            "UPDATE account SET balance = balance + %(amount)s"
            " WHERE id = %(account)s AND (%(amount)s >= 0 OR balance + %(amount)s >= 0)",
            {"amount": movement.amount, "account": movement.account},
        )
        if movement.seconds:
            connection.execute("SELECT pg_sleep(%s)", [movement.seconds])
        if booked.rowcount == 0:
            raise Refused("NOT_ENOUGH", f"account {movement.account} of {name} does not hold {-movement.amount}")
        connection.execute(
            "INSERT INTO movement (transfer, account, amount) VALUES (%s, %s, %s)",
            [movement.transfer, movement.account, movement.amount],
        )

    @participant.compensation(move)
    def move_back(connection: psycopg.Connection, movement: Movement) -> None:
        """Books the reverse movement, also where it leaves the account with less than nothing; refuses while a row says
        that the bank is stubborn."""
        if connection.execute("SELECT FROM stubborn").fetchone() is not None:
            raise Refused("STUBBORN", f"{name} takes nothing back at the moment")
        connection.execute(
            "UPDATE account SET balance = balance - %s WHERE id = %s", [movement.amount, movement.account]
        )
        connection.execute(
            "INSERT INTO movement (transfer, account, amount, undo) VALUES (%s, %s, %s, true)",
            [movement.transfer, movement.account, -movement.amount],
        )

    @participant.operation
    def sell(connection: psycopg.Connection, sale: Sale) -> None:
        """Takes pieces from the stock; refuses what is not there."""
        taken = connection.execute(
            "UPDATE stock SET pieces = pieces - %(pieces)s WHERE item = %(item)s AND pieces >= %(pieces)s",
            {"pieces": sale.pieces, "item": sale.item},
        )
        if taken.rowcount == 0:
            raise Refused("OUT_OF_STOCK", f"the shop of {name} has less than {sale.pieces} of item {sale.item}")
        connection.execute(
            "INSERT INTO sale (transfer, item, pieces) VALUES (%s, %s, %s)", [sale.transfer, sale.item, sale.pieces]
        )

    @participant.compensation(sell)
    def take_back(connection: psycopg.Connection, sale: Sale) -> None:
        """Puts the pieces back into the stock."""
        connection.execute("UPDATE stock SET pieces = pieces + %s WHERE item = %s", [sale.pieces, sale.item])
        connection.execute(
            "INSERT INTO sale (transfer, item, pieces, undo) VALUES (%s, %s, %s, true)",
            [sale.transfer, sale.item, -sale.pieces],
        )

    @participant.operation(read_only=True)
    def look(connection: psycopg.Connection, question: Question) -> str:
        """The balance of an account."""
        row = connection.execute("SELECT balance::text FROM account WHERE id = %s", [question.account]).fetchone()
        if row is None:
            raise Refused("NO_SUCH_ACCOUNT", f"{name} has no account {question.account}")
        return str(row[0])

    return participant


east, west, north, south = (bank(name) for name in NAMES)
