"""The store: the branches and their outcomes, beside the business, in one SQLite file.

Lives here: every durable step of a branch, in one local transaction with what it does to the business. Must not live
here: the tables of the branches (`ledger`), the business (`theatre`), gRPC (`service`).

A branch's row goes one way:

    (none) -> reserved -> applied           try, confirm
    (none) -> reserved -> tombstone         try, cancel
    (none) -> applied | refused             try and confirm at once, for a branch that decides by itself
    (none) -> tombstone                     cancel before the work came: it is barred for good

One thread, one connection, one writer: whoever calls these methods calls them one after the other. What another process
does in the same file is kept apart by BEGIN IMMEDIATE.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from twophase.sandbox.tcc import ledger, theatre
from twophase.sandbox.tcc.ledger import Decision, Kind, Remembered, Row, State
from twophase.sandbox.tcc.names import Gid
from twophase.v1 import participant_pb2, types_pb2

DEEDS: Final = ("try", "confirm", "cancel", "apply", "compensate", "remember")
MOMENTS: Final = tuple(f"{when}-{deed}" for deed in DEEDS for when in ("before", "within", "after"))
"""Before anything is written, written but not committed, durable but not answered: where a drill kills the process."""

_BUSY_SECONDS: Final = 5.0


class StoreUnusable(Exception):
    """The store cannot be opened. The message says why, and what to do."""


class Forgotten(Exception):
    """The branch lies below its epoch's horizon, and nothing is known of it: FAILED_PRECONDITION."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a branch is to do, and until when by the monotonic clock."""

    gid: Gid
    operations: Sequence[participant_pb2.BranchOperation]
    until: float
    fingerprint: bytes = b""
    position: int = 0
    must_succeed: bool = False


@dataclass(frozen=True, slots=True)
class ReadOnly:
    """The branch only read; nothing is kept of it."""

    results: tuple[types_pb2.Payload, ...]


class Store:
    """An open store. `capacities` are the categories to make, if they are not there. `passing` hears of each moment."""

    def __init__(
        self, path: Path, capacities: Mapping[str, int], *, passing: Callable[[str], None] = lambda _: None
    ) -> None:
        """Raises `StoreUnusable`."""
        self._pass = passing
        try:
            self._db = _open(path)
            with self._transaction():
                theatre.make(self._db, capacities)
                if self._db.execute("SELECT count(*) FROM identity").fetchone() == (0,):
                    self._db.execute("INSERT INTO identity VALUES (?)", [str(secrets.randbits(62) + 1)])
                (self.identity,) = self._db.execute("SELECT number FROM identity").fetchone()
        except sqlite3.Error as error:
            raise StoreUnusable(f"{path} cannot be used: {error}; name a file that this process may write") from error

    def close(self) -> None:
        """Closes it. Nothing is lost without it."""
        self._db.close()

    def reserve(self, work: Work) -> Row | ReadOnly | types_pb2.Refusal:
        """Prepare: reserves. A row that is there already answers; a refusal leaves none."""
        try:
            with self._durably("try"):
                found = ledger.find(self._db, work.gid, "work")
                if found is not None:
                    return found
                self._check_horizon(work.gid)
                results = self._perform(work)
                if all(operation.name in theatre.READ_ONLY for operation in work.operations):
                    return ReadOnly(results)
                return self._keep(work, "work", "reserved", results=results)
        except theatre.Refused as refused:
            return refused.refusal

    def confirm(self, gid: Gid) -> Row:
        """Commit: sells. No row: somebody else ended it, and a tombstone proves it. Raises `Forgotten`."""
        with self._durably("confirm"):
            found = ledger.find(self._db, gid, "work")
            if found is None:
                return self._bar(gid, "work", types_pb2.DECISION_COMMIT)
            if found.state == "reserved":
                theatre.confirm(self._db, gid.text)
                return ledger.turn(self._db, gid, "applied")
            return found

    def cancel(self, gid: Gid, kind: Kind, decision: Decision) -> Row:
        """Abort: lets go what is reserved, and bars what has not come. Raises `Forgotten`."""
        with self._durably("cancel"):
            found = ledger.find(self._db, gid, kind)
            if found is None:
                return self._bar(gid, kind, decision)
            if found.state == "reserved":
                theatre.cancel(self._db, gid.text)
                return ledger.turn(self._db, gid, "tombstone", decision)
            return found

    def apply(self, work: Work) -> Row | types_pb2.Refusal:
        """Apply: reserves and sells in one transaction. A refusal that is returned left no row. Raises `Forgotten`."""
        with self._durably("apply"):
            found = ledger.find(self._db, work.gid, "work")
            if found is not None:
                return found
            if ledger.is_forgotten(self._db, work.gid):
                raise _forgotten(work.gid)
            self._db.execute("SAVEPOINT work")
            try:
                results = self._perform(work)
            except theatre.Refused as refused:
                self._db.execute("ROLLBACK TO work")
                if work.must_succeed:
                    refused.refusal.retryable = True
                if refused.refusal.retryable:
                    return refused.refusal
                return self._keep(work, "work", "refused", refusal=refused.refusal)
            theatre.confirm(self._db, work.gid.text)
            return self._keep(work, "work", "applied", results=results)

    def compensate(self, work: Work) -> Row | types_pb2.Refusal:
        """Apply of a compensation: claims the work's key, then gives back what was sold. Raises `Forgotten`.

        The row of the compensation if it is applied or barred; the row of the work if there is nothing to undo.
        """
        with self._durably("compensate"):
            done = ledger.find(self._db, work.gid, "compensation")
            if done is not None:
                return done
            claimed = ledger.find(self._db, work.gid, "work") or self._bar(
                work.gid, "work", types_pb2.DECISION_DELEGATED
            )
            match claimed.state:
                case "applied":
                    theatre.give_back(self._db, work.gid.text)
                    return self._keep(work, "compensation", "applied")
                case "reserved":
                    message = f"{work.gid.text} is reserved, which no step of a saga is"
                    kind = types_pb2.REFUSAL_KIND_CONFLICT
                    return types_pb2.Refusal(kind=kind, code="RESERVED", message=message, retryable=True)
                case _:
                    return claimed

    def reserved(self, names: tuple[str, str]) -> list[tuple[str, float]]:
        """The branches that are reserved within a range of names, each with how long for, in seconds."""
        return ledger.reserved(self._db, names)

    def rows(self, ranges: Sequence[tuple[str, str]]) -> list[Row]:
        """The rows within ranges of names, as of one moment."""
        with self._transaction("BEGIN"):
            return [row for names in ranges for row in ledger.find_all(self._db, names)]

    def recall(self, journal: str) -> Remembered:
        """What is known of a journal. Writes nothing."""
        return ledger.recall(self._db, journal)

    def remember(self, journal: str, epoch: types_pb2.Epoch, horizons: Mapping[str, int]) -> Remembered:
        """Keeps a journal's epoch and its horizons, and prunes below them. Tells what was known before."""
        with self._durably("remember"):
            return ledger.remember(self._db, journal, epoch, horizons)

    def _perform(self, work: Work) -> tuple[types_pb2.Payload, ...]:
        if time.monotonic() >= work.until:
            kind = types_pb2.REFUSAL_KIND_DEADLINE
            raise theatre.Refused(kind, "DEADLINE", "the deadline passed before the seats were tried", retryable=True)
        results = []
        for number, operation in enumerate(work.operations):
            try:
                result = theatre.perform(self._db, work.gid.text, number, operation.name, operation.payload)
            except theatre.Refused as refused:
                refused.refusal.operation = operation.name
                raise
            results.append(types_pb2.Payload(json=result))
        return tuple(results)

    def _keep(
        self,
        work: Work,
        kind: Kind,
        state: State,
        *,
        results: tuple[types_pb2.Payload, ...] = (),
        refusal: types_pb2.Refusal | None = None,
    ) -> Row:
        row = Row(
            gid=work.gid.text,
            kind=kind,
            state=state,
            results=results,
            refusal=refusal,
            fingerprint=work.fingerprint,
            position=work.position,
        )
        ledger.insert(self._db, row)
        return row

    def _bar(self, gid: Gid, kind: Kind, decision: Decision) -> Row:
        if ledger.is_forgotten(self._db, gid):
            raise _forgotten(gid)
        row = Row(gid.text, kind, "tombstone", decision)
        ledger.insert(self._db, row)
        return row

    def _check_horizon(self, gid: Gid) -> None:
        if ledger.is_forgotten(self._db, gid):
            kind = types_pb2.REFUSAL_KIND_ABORTED
            raise theatre.Refused(kind, "ABORTED", f"{gid.text} ended long ago", retryable=False)

    @contextmanager
    def _durably(self, deed: str) -> Iterator[None]:
        """One transaction, committed and synced when the block is left."""
        self._pass(f"before-{deed}")
        with self._transaction():
            yield
            self._pass(f"within-{deed}")
        self._pass(f"after-{deed}")

    @contextmanager
    def _transaction(self, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
        self._db.execute(begin)
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        _set_up(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _set_up(db: sqlite3.Connection, path: Path) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    # Every commit is on the disk before it is answered: a vote is a promise over any crash.
    db.execute("PRAGMA synchronous = FULL")
    # What is read may be in the page cache and not on the disk, if a sync failed before a crash: sync it first.
    (busy, *_) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise StoreUnusable(f"{path} is being read by another program; close that, and start again")
    db.executescript(ledger.SCHEMA + theatre.SCHEMA)


def _forgotten(gid: Gid) -> Forgotten:
    return Forgotten(f"{gid.text} lies below its epoch's horizon: it ended long ago, and its row may be pruned")
