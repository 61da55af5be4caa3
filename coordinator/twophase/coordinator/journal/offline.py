"""Reading a journal's file without a coordinator, and without leaving a trace in it.

Lives here: what is in a file, as values. Must not live here: how the copy is made (`snapshot`), how it is shown.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from twophase.contract.names import Epoch, InvalidName, Txid
from twophase.coordinator.journal import schema
from twophase.coordinator.journal.codec import decode
from twophase.coordinator.journal.events import Ended, Event, Happening
from twophase.coordinator.journal.port import EpochRecord, JournalUnusable, ParticipantRecord
from twophase.coordinator.journal.snapshot import Snapshot, snapshot

NEWEST: Final = 10
_SQLITE_MAGIC: Final = b"SQLite format 3\0"


@dataclass(frozen=True, slots=True)
class Sagas:
    """How many sagas there are: every step done, every step undone, and neither yet."""

    completed: int
    compensated: int
    running: int


@dataclass(frozen=True, slots=True)
class Counts:
    """How many transactions there are. `unfinished` are decided, or started as a saga, and not over everywhere;
    `undecided` have no decision; `unknown` were delegated and the delegate was not heard; `sagas` are those that began.
    These overlap with nothing but `unfinished`."""

    committed: int
    aborted: int
    unknown: int
    undecided: int
    unfinished: int
    heuristic: int
    sagas: Sagas


@dataclass(frozen=True, slots=True)
class Inspection:
    """What is in a journal's file. `integrity` is "ok", or what is wrong. `proofs` show that it is an older copy than
    its participants know: while there are any, a coordinator presumes nothing. `newest` are its last events."""

    path: Path
    file_bytes: int
    log_bytes: int
    journal_id: str
    label: str
    schema_version: int
    application_id: int
    integrity: str
    epochs: tuple[EpochRecord, ...]
    participants: tuple[ParticipantRecord, ...]
    proofs: tuple[str, ...]
    position: int
    counts: Counts
    newest: tuple[Happening, ...]


class OfflineJournal:
    """A private copy of a journal, open for reading; made by `open_offline`. Its methods raise `JournalUnusable`."""

    def __init__(self, path: Path, taken: Snapshot, connection: sqlite3.Connection) -> None:
        self._path = path
        self._taken = taken
        self._connection = connection
        self._version = _recognise(path, connection)
        self.integrity = _check(connection)
        with explained(path):
            for statements in schema.MIGRATIONS[self._version :]:
                for statement in statements:
                    connection.execute(statement)

    def inspect(self) -> Inspection:
        """Everything but the transactions one by one."""
        with explained(self._path):
            journal_id, label = self._all(schema.SELECT_JOURNAL)[0]
            epochs = tuple(
                EpochRecord(Epoch(number, nonce), bool(fenced), horizon)
                for number, nonce, fenced, horizon in self._all(schema.SELECT_EPOCHS)
            )
            return Inspection(
                path=self._path,
                file_bytes=self._taken.file_bytes,
                log_bytes=self._taken.log_bytes,
                journal_id=journal_id,
                label=label,
                schema_version=self._version,
                application_id=schema.APPLICATION_ID,
                integrity=self.integrity,
                epochs=epochs,
                participants=tuple(ParticipantRecord(*row) for row in self._all(schema.SELECT_PARTICIPANTS)),
                proofs=tuple(proof for (proof,) in self._all(schema.SELECT_PROOFS)),
                position=self._all(schema.LAST_POSITION)[0][0],
                counts=self._counts(),
                newest=tuple(_happening(row) for row in self._all(schema.NEWEST_EVENTS, NEWEST)),
            )

    def history(self, key: Txid | str) -> tuple[Happening, ...]:
        """What happened to a transaction, named by its txid or by its request; empty if there is no record."""
        sql = schema.EVENTS_OF_TRANSACTION if isinstance(key, Txid) else schema.EVENTS_OF_REQUEST
        with explained(self._path):
            rows = self._all(sql, str(key))
            return self._history(rows[0][0]) if rows else ()

    def unfinished(self) -> Iterator[tuple[Happening, ...]]:
        """The histories of all that is not over, the oldest transaction first."""
        with explained(self._path):
            rows = self._all(schema.HISTORIES_OF_UNENDED)
            for _, events in groupby(rows, key=lambda row: row[1]):
                yield tuple(_happening(row) for row in events)

    def _history(self, txid: str) -> tuple[Happening, ...]:
        rows = self._all(schema.HISTORY_OF_TRANSACTION, txid)
        return tuple(_happening((position, txid, at, kind, body)) for position, at, kind, body in rows)

    def _counts(self) -> Counts:
        found = {(decision, ended): count for decision, ended, count in self._all(schema.COUNT_TRANSACTIONS)}
        ends = Counter((kind, _committed(_happening(row).event)) for kind, *row in self._all(schema.ENDS))
        applied, refused = ends["delegated", True], ends["delegated", False]
        completed, compensated = ends["saga", True], ends["saga", False]
        kinds = ("commit", "abort", "delegated", "saga")
        decided = {kind: found.get((kind, 0), 0) + found.get((kind, 1), 0) for kind in kinds}
        return Counts(
            committed=decided["commit"] + applied,
            aborted=decided["abort"] + refused,
            unknown=decided["delegated"] - applied - refused,
            undecided=found.get((None, 0), 0),
            unfinished=sum(count for (decision, ended), count in found.items() if decision is not None and not ended),
            heuristic=self._all(schema.COUNT_HEURISTIC)[0][0],
            sagas=Sagas(completed, compensated, running=decided["saga"] - completed - compensated),
        )

    def _all(self, sql: str, *parameters: object) -> list[Any]:
        return self._connection.execute(sql, parameters).fetchall()


@contextmanager
def open_offline(path: Path) -> Iterator[OfflineJournal]:
    """Opens a private copy of a journal's file. Not a byte changes in the file, its log, or their directory.

    Raises `JournalUnusable`: no such file, no journal, of a newer schema, too damaged to be read.
    """
    with snapshot(path) as taken:
        if taken.file_bytes == 0:
            raise JournalUnusable(f"{path} is empty: no coordinator has begun a journal there, or it was cut off")
        with taken.copy.open("rb") as file:
            if file.read(len(_SQLITE_MAGIC)) != _SQLITE_MAGIC:
                raise JournalUnusable(f"{path} is not a SQLite file, so it is no journal; name another file")
        with closing(sqlite3.connect(taken.copy, isolation_level=None)) as connection:
            yield OfflineJournal(path, taken, connection)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns what a damaged file makes of reading it into `JournalUnusable`."""
    try:
        yield
    except (sqlite3.Error, InvalidName, IndexError, TypeError) as error:
        raise JournalUnusable(f"journal {path} is damaged and cannot be read ({error}); restore it") from error


def _recognise(path: Path, connection: sqlite3.Connection) -> int:
    """The file's schema version."""
    with explained(path):
        ((application,),) = connection.execute("PRAGMA application_id").fetchall()
        ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    if application != schema.APPLICATION_ID:
        raise JournalUnusable(f"{path} is a SQLite file but not a journal of twophase; name another file")
    if version > schema.VERSION:
        raise JournalUnusable(
            f"journal {path} has schema version {version}, and this twophase knows versions up to {schema.VERSION};"
            " look at it with the newer twophase that wrote it"
        )
    return int(version)


def _check(connection: sqlite3.Connection) -> str:
    """SQLite's own check of the whole file, in one line."""
    try:
        found = [str(line) for (line,) in connection.execute("PRAGMA quick_check(3)").fetchall()]
    except sqlite3.Error as error:
        return str(error)
    return "; ".join(line.strip().replace("\n", " ") for line in found)


def _committed(event: Event) -> bool:
    return isinstance(event, Ended) and event.committed


def _happening(row: Sequence[Any]) -> Happening:
    position, name, at, kind, body = row
    return Happening(position, at, decode(Txid.parse(name), kind, body))
