"""The lock that gives a journal file to one process at a time, and what its holder writes into it.

Lives here: taking and giving back, the holder's record and its heartbeat. Must not live here: waiting for the lock, and
what follows from a heart that does not beat (`twophase.coordinator.standby`).
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from twophase.coordinator.journal.holder import Holder
from twophase.coordinator.journal.port import JournalLocked, JournalUnusable

_log = logging.getLogger(__name__)

BEAT_SECONDS: Final = 0.25
"""How often a holder whose event loop turns says so."""

# Always written whole and never cut off: on a full disk the file's one block is there already.
_RECORD_BYTES: Final = 256


@dataclass(frozen=True, slots=True)
class Record:
    """What a lock's file says. `beats` grows while the holder's event loop turns; 0: this holder shows no heartbeat."""

    holder: Holder
    beats: int = 0

    def to_bytes(self) -> bytes:
        """One line, which a person can read, too."""
        holder = self.holder
        line = f"{holder.pid} {holder.born} {holder.where} {self.beats}"
        return line.encode("ascii").ljust(_RECORD_BYTES - 1)[: _RECORD_BYTES - 1] + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Record | None:
        """None for what is no record, or is just being written."""
        fields = data.decode("ascii", "replace").split()
        try:
            match fields:
                case [pid, born, where, beats]:
                    return cls(Holder(int(pid), born, where), int(beats))
                case _:
                    return None
        except ValueError:
            return None


def real_path(name: str | Path) -> Path:
    """The journal behind all links: locks go by name, and through a link it would be another one. Raises
    `JournalUnusable`."""
    try:
        return Path(name).resolve()
    except RuntimeError as error:  # up to Python 3.12; later it is found when the file is opened
        raise JournalUnusable(f"{name} is no place for a journal: its symbolic links lead in a circle") from error


def read_record(journal: Path) -> Record | None:
    """Who has the journal's lock, by its own words; None if nobody says so. Only trying to take it tells for sure.

    Raises OSError.
    """
    return Record.from_bytes(_file(journal.resolve()).read_bytes())


class FileLock:
    """An exclusive `flock` on `<journal>.lock`, held until `release` or the end of the process, however it ends.

    The file stays: removing it would let two processes lock two files of one name.
    """

    def __init__(self, journal: Path) -> None:
        """Takes the lock. Raises `JournalLocked` at once if another has it, and OSError if the file cannot be made."""
        self.journal = journal
        self._record = Record(Holder.this_process())
        self._timer: asyncio.TimerHandle | None = None
        self._told = False
        self._descriptor: int | None = os.open(_file(journal), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(self._descriptor, journal)
            self._write(self._record.to_bytes())
        except BaseException:
            os.close(self._descriptor)
            raise

    def keep_beating(self) -> None:
        """Beats from now on, from the running event loop: a loop that is stuck shows none. A second call does nothing.

        Whoever never calls this is never taken for frozen.
        """
        if self._timer is None:
            self._beat()

    def release(self) -> None:
        """Gives the lock back. A second call does nothing."""
        if self._timer is not None:
            self._timer.cancel()
        if self._descriptor is not None:
            self._write(b" " * _RECORD_BYTES)
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def _beat(self) -> None:
        self._record = replace(self._record, beats=self._record.beats + 1)
        self._write(self._record.to_bytes())
        self._timer = asyncio.get_running_loop().call_later(BEAT_SECONDS, self._beat)

    def _write(self, record: bytes) -> None:
        """The lock counts, not its words: without them a standby takes over only when the lock is free."""
        if self._descriptor is None:
            return
        try:
            os.pwrite(self._descriptor, record, 0)
        except OSError as error:
            if not self._told:
                _log.warning("%s cannot be written (%s): it does not say who has it", _file(self.journal), error)
            self._told = True


def _file(journal: Path) -> Path:
    return journal.with_name(journal.name + ".lock")


def _lock(descriptor: int, journal: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        record = Record.from_bytes(os.pread(descriptor, _RECORD_BYTES, 0))
        who = f"process {record.holder.pid}" if record is not None else "another process"
        raise JournalLocked(
            f"journal {journal} is in use by {who}; stop that coordinator, start this one with --standby, or give it a"
            " journal of its own"
        ) from None
