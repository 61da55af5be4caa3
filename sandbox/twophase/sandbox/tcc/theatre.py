"""The business: seats of a show, by category, of which every one is free, reserved or sold at every moment.

Lives here: the tables of the business, and what an operation does in them, inside a transaction that somebody else
began. Must not live here: branches and their outcomes (`store`, `ledger`).

A reservation is what a lock is in two-phase commit, only that everybody sees it: the seats are not free, and not sold.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from twophase.v1 import types_pb2

# The CHECKs are the promise: whatever this module does wrong, no seat is sold twice.
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS category (
  name     TEXT PRIMARY KEY,
  capacity INTEGER NOT NULL,
  free     INTEGER NOT NULL CHECK (free >= 0),
  reserved INTEGER NOT NULL CHECK (reserved >= 0),
  sold     INTEGER NOT NULL CHECK (sold >= 0),
  CHECK (free + reserved + sold = capacity)
) STRICT;
CREATE TABLE IF NOT EXISTS booking (
  gid       TEXT NOT NULL,
  number    INTEGER NOT NULL,
  reference TEXT NOT NULL,
  category  TEXT NOT NULL REFERENCES category,
  seats     INTEGER NOT NULL CHECK (seats > 0),
  state     TEXT NOT NULL CHECK (state IN ('reserved', 'sold')),
  PRIMARY KEY (gid, number)
) STRICT, WITHOUT ROWID;
"""

BOOK: Final = "book"
AVAILABILITY: Final = "availability"
OPERATIONS: Final = (BOOK, AVAILABILITY)
READ_ONLY: Final = frozenset({AVAILABILITY})

_MOST_SEATS: Final = 1_000_000

_RESERVE: Final = "UPDATE category SET free = free - :seats, reserved = reserved + :seats WHERE name = :category"
_CONFIRM: Final = "UPDATE category SET reserved = reserved - :seats, sold = sold + :seats WHERE name = :category"
_CANCEL: Final = "UPDATE category SET reserved = reserved - :seats, free = free + :seats WHERE name = :category"
_RETURN: Final = "UPDATE category SET sold = sold - :seats, free = free + :seats WHERE name = :category"


class Refused(Exception):
    """The operation cannot be done. `refusal` is the reason as the contract words it."""

    def __init__(self, kind: types_pb2.RefusalKind.ValueType, code: str, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.refusal = types_pb2.Refusal(kind=kind, code=code, message=message, retryable=retryable)


@dataclass(frozen=True, slots=True)
class _Booking:
    """What `book` is given: `{"reference": "b-1", "category": "stalls", "seats": 2}`."""

    reference: str
    category: str
    seats: int


def make(db: sqlite3.Connection, capacities: Mapping[str, int]) -> None:
    """Makes the categories that are not there yet; those that are stay as they are."""
    db.executemany(
        "INSERT INTO category VALUES (:name, :seats, :seats, 0, 0) ON CONFLICT DO NOTHING",
        [{"name": name, "seats": seats} for name, seats in capacities.items()],
    )


def perform(db: sqlite3.Connection, gid: str, number: int, name: str, payload: types_pb2.Payload) -> str:
    """Tries the branch's operation `number`; returns its result as JSON. Raises `Refused`."""
    match name:
        case "book":
            return json.dumps(_reserve(db, gid, number, _booking(payload)))
        case "availability":
            _, free, reserved, sold = _category(db, str(_fields(payload).get("category")))
            return json.dumps({"free": free, "reserved": reserved, "sold": sold})
        case _:
            kind = types_pb2.REFUSAL_KIND_UNKNOWN_OPERATION
            offered = " and ".join(OPERATIONS)
            raise Refused(kind, "UNKNOWN_OPERATION", f"there is no {name[:60]!r}, but {offered}", retryable=False)


def confirm(db: sqlite3.Connection, gid: str) -> None:
    """Sells what the branch has reserved."""
    _move(db, gid, _CONFIRM)
    db.execute("UPDATE booking SET state = 'sold' WHERE gid = ?", [gid])


def cancel(db: sqlite3.Connection, gid: str) -> None:
    """Lets go what the branch has reserved."""
    _move(db, gid, _CANCEL)
    db.execute("DELETE FROM booking WHERE gid = ?", [gid])


def give_back(db: sqlite3.Connection, gid: str) -> None:
    """Undoes the sale of a branch: the compensation."""
    _move(db, gid, _RETURN)
    db.execute("DELETE FROM booking WHERE gid = ?", [gid])


def _reserve(db: sqlite3.Connection, gid: str, number: int, booking: _Booking) -> dict[str, object]:
    name, free, reserved, _ = _category(db, booking.category)
    if free < booking.seats:
        message = f"{booking.seats} seats of {name} wanted, {free} free and {reserved} reserved"
        if free + reserved < booking.seats:
            raise Refused(types_pb2.REFUSAL_KIND_BUSINESS, "SOLD_OUT", message, retryable=False)
        # Whoever reserved them may let them go: the counterpart of waiting for a lock, and left to the client.
        raise Refused(types_pb2.REFUSAL_KIND_CONFLICT, "SEATS_RESERVED", message, retryable=True)
    db.execute(_RESERVE, {"seats": booking.seats, "category": name})
    db.execute(
        "INSERT INTO booking VALUES (?, ?, ?, ?, ?, 'reserved')", [gid, number, booking.reference, name, booking.seats]
    )
    return {"category": name, "seats": booking.seats}


def _move(db: sqlite3.Connection, gid: str, how: str) -> None:
    for category, seats in db.execute("SELECT category, seats FROM booking WHERE gid = ?", [gid]).fetchall():
        db.execute(how, {"category": category, "seats": seats})


def _category(db: sqlite3.Connection, name: str) -> tuple[str, int, int, int]:
    query = "SELECT name, free, reserved, sold FROM category WHERE name = ?"
    # What is unprintable may be half a character, which no text holds.
    row = db.execute(query, [name]).fetchone() if name.isprintable() else None
    if row is None:
        kind = types_pb2.REFUSAL_KIND_BUSINESS
        raise Refused(kind, "NO_SUCH_CATEGORY", f"the house has no category {name[:60]!a}", retryable=False)
    return row[0], row[1], row[2], row[3]


def _booking(payload: types_pb2.Payload) -> _Booking:
    match _fields(payload):
        # JSON's true is an int of Python's.
        case {"reference": str(reference), "category": str(category), "seats": int(seats)} if type(seats) is int:
            if reference.isprintable() and 0 < seats <= _MOST_SEATS:
                return _Booking(reference, category, seats)
    raise _misfit("a printable reference, a category and a number of seats, at least 1")


def _fields(payload: types_pb2.Payload) -> dict[str, Any]:
    try:
        content = json.loads(payload.json)
    except (ValueError, RecursionError):
        raise _misfit("a JSON document") from None
    if not isinstance(content, dict):
        raise _misfit("a JSON object")
    return content


def _misfit(expected: str) -> Refused:
    kind = types_pb2.REFUSAL_KIND_INVALID_PAYLOAD
    return Refused(kind, "INVALID_PAYLOAD", f"{expected} is expected", retryable=False)
