"""The tables of the branches: reservations, the ledger, and what is remembered of journals.

Lives here: every statement about them, and their rows as values. Must not live here: when a transaction begins and ends
(`store`), the tables of the business (`theatre`).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from twophase.sandbox.tcc.names import Gid, names_under
from twophase.v1 import participant_pb2, types_pb2

Kind: TypeAlias = Literal["work", "compensation"]
State: TypeAlias = Literal["reserved", "applied", "refused", "tombstone"]
Decision: TypeAlias = types_pb2.Decision.ValueType

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS identity (number TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS branch (
  gid         TEXT NOT NULL,
  kind        TEXT NOT NULL CHECK (kind IN ('work', 'compensation')),
  state       TEXT NOT NULL CHECK (state IN ('reserved', 'applied', 'refused', 'tombstone')),
  decision    INTEGER NOT NULL,
  results     BLOB NOT NULL,
  refusal     BLOB NOT NULL,
  fingerprint BLOB NOT NULL,
  position    INTEGER NOT NULL,
  at          REAL NOT NULL,
  PRIMARY KEY (gid, kind)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS reserved ON branch (gid, at) WHERE state = 'reserved';
CREATE TABLE IF NOT EXISTS journal (
  id TEXT PRIMARY KEY, number INTEGER NOT NULL, nonce TEXT NOT NULL, pruned_position INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS horizon (
  journal TEXT NOT NULL, epoch TEXT NOT NULL, sequence INTEGER NOT NULL, PRIMARY KEY (journal, epoch)
) STRICT;
"""

_PRUNED_AT_ONCE: Final = 1_000
_COLUMNS: Final = "gid, kind, state, decision, results, refusal, fingerprint, position"


@dataclass(frozen=True, slots=True)
class Row:
    """One row: a reservation, or an entry of the ledger."""

    gid: str
    kind: Kind
    state: State
    decision: Decision = types_pb2.DECISION_UNSPECIFIED
    results: tuple[types_pb2.Payload, ...] = ()
    refusal: types_pb2.Refusal | None = None
    fingerprint: bytes = b""
    position: int = 0


@dataclass(frozen=True, slots=True)
class Remembered:
    """What was known of a journal before it shook hands."""

    last_epoch: types_pb2.Epoch | None
    highest_position: int
    pruning_left: bool = False


def find(db: sqlite3.Connection, gid: Gid, kind: Kind) -> Row | None:
    """The row of a branch, if there is one."""
    query = f"SELECT {_COLUMNS} FROM branch WHERE gid = ? AND kind = ?"  # noqa: S608
    found = db.execute(query, [gid.text, kind]).fetchone()
    return None if found is None else _row(found)


def find_all(db: sqlite3.Connection, names: tuple[str, str]) -> list[Row]:
    """The rows within a range of names, in the order of the branches, each one's work first."""
    query = f"SELECT {_COLUMNS} FROM branch WHERE gid >= ? AND gid < ? ORDER BY gid, kind DESC"  # noqa: S608
    return [_row(row) for row in db.execute(query, names)]


def reserved(db: sqlite3.Connection, names: tuple[str, str]) -> list[tuple[str, float]]:
    """The branches that are reserved within a range of names, each with how long for, in seconds."""
    query = "SELECT gid, max(0.0, ? - at) FROM branch WHERE gid >= ? AND gid < ? AND state = 'reserved'"
    return db.execute(query, [time.time(), *names]).fetchall()


def insert(db: sqlite3.Connection, row: Row) -> None:
    """Writes a row."""
    # The results in one message, as an answer has them.
    results = participant_pb2.ApplyResponse(results=row.results).SerializeToString()
    refusal = b"" if row.refusal is None else row.refusal.SerializeToString()
    db.execute(
        "INSERT INTO branch VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [row.gid, row.kind, row.state, row.decision, results, refusal, row.fingerprint, row.position, time.time()],
    )


def turn(db: sqlite3.Connection, gid: Gid, state: State, decision: Decision = types_pb2.DECISION_UNSPECIFIED) -> Row:
    """Turns a reservation into an entry of the ledger."""
    query = "UPDATE branch SET state = ?, decision = ? WHERE gid = ? AND kind = 'work'"
    db.execute(query, [state, decision, gid.text])
    return Row(gid.text, "work", state, decision)


def is_forgotten(db: sqlite3.Connection, gid: Gid) -> bool:
    """True if the branch lies below its epoch's horizon."""
    query = "SELECT sequence > ? FROM horizon WHERE journal = ? AND epoch = ?"
    return bool(db.execute(query, [gid.sequence, gid.journal, gid.epoch]).fetchone() == (1,))


def recall(db: sqlite3.Connection, journal: str) -> Remembered:
    """What is known of a journal. Writes nothing."""
    known = db.execute("SELECT number, nonce, pruned_position FROM journal WHERE id = ?", [journal]).fetchone()
    number, nonce, pruned = known or (0, "", 0)
    query = "SELECT coalesce(max(position), 0) FROM branch WHERE gid >= ? AND gid < ?"
    (highest,) = db.execute(query, names_under(f"tp-{journal}")).fetchone()
    last = types_pb2.Epoch(number=number, nonce=nonce) if known else None
    return Remembered(last, max(pruned, highest))


def remember(db: sqlite3.Connection, journal: str, epoch: types_pb2.Epoch, horizons: Mapping[str, int]) -> Remembered:
    """Keeps a journal's epoch, if it is higher, and its horizons; prunes below them. Tells what was known before."""
    before = recall(db, journal)
    # Of two epochs with one number the first stays: that there are two shows that a journal was restored.
    db.execute(
        "INSERT INTO journal VALUES (?, ?, ?, 0) ON CONFLICT DO UPDATE"
        " SET number = excluded.number, nonce = excluded.nonce WHERE number < excluded.number",
        [journal, epoch.number, epoch.nonce],
    )
    left = [_prune(db, journal, owner, sequence) for owner, sequence in horizons.items()]
    return Remembered(before.last_epoch, before.highest_position, any(left))


def _prune(db: sqlite3.Connection, journal: str, epoch: str, sequence: int) -> bool:
    """Raises a horizon, and forgets a bounded number of rows below it; True if there are more. No reservation is
    forgotten: it holds seats."""
    db.execute(
        "INSERT INTO horizon VALUES (?, ?, ?) ON CONFLICT DO UPDATE"
        " SET sequence = excluded.sequence WHERE sequence < excluded.sequence",
        [journal, epoch, sequence],
    )
    lowest, end = names_under(f"tp-{journal}-{epoch}")
    gone = db.execute(
        "SELECT gid, kind, position FROM branch WHERE gid >= ? AND gid < min(?, ?) AND state <> 'reserved' LIMIT ?",
        [lowest, end, f"{lowest}{sequence:012x}", _PRUNED_AT_ONCE],
    ).fetchall()
    db.executemany("DELETE FROM branch WHERE gid = ? AND kind = ?", [row[:2] for row in gone])
    highest = max((position for *_, position in gone), default=0)
    db.execute("UPDATE journal SET pruned_position = max(pruned_position, ?) WHERE id = ?", [highest, journal])
    return len(gone) == _PRUNED_AT_ONCE


def _row(row: Sequence[Any]) -> Row:
    gid, kind, state, decision, results, refusal, fingerprint, position = row
    return Row(
        gid,
        kind,
        state,
        decision,
        tuple(participant_pb2.ApplyResponse.FromString(results).results),
        types_pb2.Refusal.FromString(refusal) if refusal else None,
        fingerprint,
        position,
    )
