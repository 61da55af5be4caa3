"""Opening a SQLite journal (R10): what must hold before anything that is read is acted on.

Lives here: the file and its lock, recognising it, making or migrating its tables, getting what it shows onto the disk,
giving out the epoch. Must not live here: everything that happens once the journal is open.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from twophase.contract.crashpoints import CrashPoint, reach
from twophase.contract.names import Epoch, InvalidName, check_journal_id
from twophase.coordinator.journal import schema
from twophase.coordinator.journal.lock import FileLock, real_path
from twophase.coordinator.journal.port import JournalFull, JournalLocked, JournalUnusable

# Above this size the whole file is not read through at every start: that would cost history. Damage there is found when
# the page is read.
CHECKED_BYTES: Final = 64 << 20
_MOUNTS: Final = Path("/proc/self/mountinfo")
# What SQLite says where a quota or a limit on file sizes is reached, among other things.
_PERHAPS_FULL: Final = frozenset({sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_SHMSIZE})


@dataclass(frozen=True, slots=True)
class Opened:
    """What an opening found and gave out. `position` is the highest one on disk."""

    journal_id: str
    label: str
    epoch: Epoch
    position: int


def take_lock(name: str | Path) -> FileLock:
    """Makes this process the only one with the journal. Raises `JournalLocked`, and `JournalUnusable` if there is no
    place for it."""
    path = real_path(name)
    if not path.parent.is_dir():
        raise JournalUnusable(
            f"the directory {path.parent} of journal {path} does not exist; make it: mkdir -p {path.parent}"
        )
    try:
        return FileLock(path)
    except OSError as error:
        raise _out_of_reach(path, error) from error


def make_file(path: Path) -> None:
    """Makes an empty file, mode 0600, if there is none, and its name durable. Raises `JournalUnusable`."""
    try:
        _check_log(path)
        if path.exists():
            _check_kind(path)
            return
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise _out_of_reach(path, error) from error


def _check_kind(path: Path) -> None:
    if not path.is_file():
        raise JournalUnusable(f"{path} is not a file, so it cannot be a journal; name a file")
    # The lock and the log go by name: under another name there is another coordinator, and its decisions are elsewhere.
    names = path.stat().st_nlink
    if names > 1:
        raise JournalUnusable(
            f"journal {path} is one file with {names} names (hard links), and its lock and its log go by name; remove"
            f" the others (find DIRECTORY -samefile {path})"
        )
    if _is_mounted(path):
        raise JournalUnusable(
            f"journal {path} is mounted alone, without its log and its lock, which belong beside it; mount its"
            " directory"
        )


def _check_log(path: Path) -> None:
    """SQLite would throw the log of a file away that is empty, or made anew."""
    wal = path.with_name(path.name + "-wal")
    if not wal.exists() or wal.stat().st_size == 0:
        return
    if not path.exists():
        raise JournalUnusable(
            f"there is no journal {path}, but the log of one, {wal.name}: put the journal back that it belongs to; if"
            " that is lost for good, remove the log"
        )
    if path.stat().st_size == 0:
        raise JournalUnusable(
            f"journal {path} is empty while its log {wal.name} is not: the file was cut off; restore both"
        )


def _is_mounted(path: Path) -> bool:
    """Whether a file system was mounted on this very file. Field 5 of /proc/self/mountinfo (proc(5))."""
    try:
        mounts = _MOUNTS.read_bytes().splitlines()
    except OSError:
        return False
    name = os.fsencode(path)
    for byte in b"\\ \t\n":  # the backslash first
        name = name.replace(bytes((byte,)), b"\\%03o" % byte)
    return any(mount.split(b" ")[4] == name for mount in mounts)


def _out_of_reach(path: Path, error: OSError) -> JournalUnusable:
    reason = error.strerror or str(error)
    return JournalUnusable(
        f"journal {path} cannot be opened: {reason}; give it a place that this user may read and write"
    )


def prepare(connection: sqlite3.Connection, path: Path, label: str | None, patience: int) -> Opened:
    """The whole opening, on the writer's connection. `patience` is how many times the checkpoint is tried; each try
    waits for the connection's busy timeout.

    Raises `JournalUnusable`, `JournalLocked` if another program's connection keeps the file busy, and sqlite3.Error
    (see `explained`). Of a failed opening nothing stays but a newer form of the tables.
    """
    _recognise(connection, path)
    _configure(connection, path)
    _migrate(connection, label)
    _checkpoint(connection, path, patience)
    return _begin_epoch(connection, path, label)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns SQLite's errors into the port's: one line, with the remedy."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        kind: type[JournalUnusable] = JournalUnusable
        # The low byte is the kind of error; the rest says more about it.
        match error.sqlite_errorcode & 0xFF:
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                raise _busy(path) from error
            case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
                remedy = "restore it from a backup, or name another file"
            case sqlite3.SQLITE_FULL:
                kind, remedy = JournalFull, f"make room on the disk of {path.parent}"
            case _:
                if error.sqlite_errorcode in _PERHAPS_FULL:
                    kind = JournalFull
                remedy = "look after the disk, and the rights to the file and its directory"
        raise kind(f"journal {path} cannot be used: {error}; {remedy}") from error


def _recognise(connection: sqlite3.Connection, path: Path) -> None:
    """Reads before anything is written: is it a journal, of a version we know, and whole?"""
    application, version, objects = (
        connection.execute(sql).fetchone()[0]
        for sql in ("PRAGMA application_id", "PRAGMA user_version", schema.COUNT_OBJECTS)
    )
    if (application, version, objects) == (0, 0, 0):
        return
    if application != schema.APPLICATION_ID:
        raise JournalUnusable(f"{path} is a SQLite file but not a journal of twophase; name another file")
    if version > schema.VERSION:
        raise JournalUnusable(
            f"journal {path} has schema version {version}, and this twophase knows versions up to {schema.VERSION};"
            " run the newer twophase that wrote it"
        )
    if path.stat().st_size <= CHECKED_BYTES:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise JournalUnusable(
                f"journal {path} is damaged ({found.splitlines()[-1]}); restore it from a backup, without another one's"
                " log (-wal) beside it"
            )


def _configure(connection: sqlite3.Connection, path: Path) -> None:
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise JournalUnusable(f"journal {path} cannot use a write-ahead log here ({mode}); put it on a local disk")
    # Checkpoints are the writer's business, between batches.
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("PRAGMA synchronous = FULL")
    # On macOS a plain fsync leaves the data in the drive; elsewhere these do nothing.
    connection.execute("PRAGMA fullfsync = ON")
    connection.execute("PRAGMA checkpoint_fullfsync = ON")
    connection.execute("PRAGMA trusted_schema = OFF")


def _migrate(connection: sqlite3.Connection, label: str | None) -> None:
    """Brings the file to our version; a new one is version 0. One transaction: it is done or it is not."""
    connection.execute("BEGIN IMMEDIATE")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version < schema.VERSION:
        for statements in schema.MIGRATIONS[version:]:
            for statement in statements:
                connection.execute(statement)
        if version == 0:
            connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
            connection.execute(schema.INSERT_JOURNAL, (secrets.token_hex(8), label or ""))
        connection.execute(f"PRAGMA user_version = {schema.VERSION}")
    connection.execute("COMMIT")


def _checkpoint(connection: sqlite3.Connection, path: Path, patience: int) -> None:
    """Gets onto the disk what reading shows: after a crash that may be in the page cache only (R10)."""
    for _ in range(patience):
        # SQLite itself waits for its busy timeout inside each try.
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if not busy:
            return
    raise _busy(path)


def _busy(path: Path) -> JournalLocked:
    return JournalLocked(f"journal {path} is held by another program's SQLite connection; close that program")


def _begin_epoch(connection: sqlite3.Connection, path: Path, label: str | None) -> Opened:
    """Gives out the epoch and fences all lower ones, in one forced transaction."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        journal_id, kept_label = connection.execute(schema.SELECT_JOURNAL).fetchone()
        check_journal_id(journal_id)
        last = connection.execute(schema.LAST_EPOCH).fetchone()[0]
        epoch = Epoch(last + 1, secrets.token_hex(4))
    except (InvalidName, TypeError) as error:
        raise JournalUnusable(f"journal {path} is damaged ({error}); restore it from a backup") from error
    connection.execute(schema.INSERT_EPOCH, (epoch.number, epoch.nonce))
    connection.execute(schema.FENCE_BELOW, (epoch.number,))
    if label is not None and label != kept_label:
        connection.execute(schema.UPDATE_LABEL, (label,))
        kept_label = label
    reach(CrashPoint.COORDINATOR_BEFORE_EPOCH)
    connection.execute("COMMIT")
    reach(CrashPoint.COORDINATOR_AFTER_EPOCH)
    position = connection.execute(schema.LAST_POSITION).fetchone()[0]
    return Opened(journal_id, kept_label, epoch, position)
