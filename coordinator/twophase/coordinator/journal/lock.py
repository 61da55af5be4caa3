"""The lock that gives a journal file to one process at a time.

Lives here: taking and giving back. Must not live here: waiting for it, or anything about the process that holds it but
the number it left.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from twophase.coordinator.journal.port import JournalLocked


class FileLock:
    """An exclusive `flock` on `<journal>.lock`, held until `release` or the end of the process, however it ends.

    The file stays: removing it would let two processes lock two files of one name.
    """

    def __init__(self, journal: Path) -> None:
        """Takes the lock. Raises `JournalLocked` at once if another has it, and OSError if the file cannot be made."""
        self.journal = journal
        path = journal.with_name(journal.name + ".lock")
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(self._descriptor, journal)
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        except BaseException:
            os.close(self._descriptor)
            raise

    def release(self) -> None:
        """Gives the lock back. A second call does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.ftruncate(descriptor, 0)
            os.close(descriptor)


def _lock(descriptor: int, journal: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        who = f"process {holder}" if holder else "another process"
        raise JournalLocked(
            f"journal {journal} is in use by {who}; stop that coordinator, or give this one a journal of its own"
        ) from None
