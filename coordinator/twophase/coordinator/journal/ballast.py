"""The ballast: a file beside the journal that only takes up room, to be given up when the disk is full (R10).

Lives here: making it, giving it up, and how much room there is. Must not live here: when (`twophase.coordinator.room`).
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

_CHUNK: Final = 1 << 20
_BLOCK: Final = 512  # what st_blocks counts in (stat(2))


class Ballast:
    """`<journal>.ballast`, of `size` bytes. Only the holder of the journal's lock may touch it."""

    def __init__(self, journal: Path, size: int) -> None:
        self.size: Final = size
        self.directory: Final = journal.parent
        self._path = journal.with_name(journal.name + ".ballast")

    def free(self) -> int:
        """How many bytes may still be written on its disk, by this user. A quota may allow less. Raises OSError."""
        disk = os.statvfs(self.directory)
        return disk.f_bavail * disk.f_frsize

    def is_there(self) -> bool:
        """True if it is there, of its full size. Raises OSError."""
        try:
            return self._path.stat().st_size == self.size
        except FileNotFoundError:
            return False

    def make(self) -> None:
        """Makes it anew. Raises OSError if there is no room for it; then nothing of it stays."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, self.size)
            if os.fstat(descriptor).st_blocks * _BLOCK < self.size:
                self._fill(descriptor)
        except BaseException:
            self._path.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)

    def give_up(self) -> None:
        """Removes it, so that its room is there for the journal. Raises OSError."""
        try:
            self._path.unlink()
        except FileNotFoundError:
            return
        directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)  # some file systems give room free only with this
        finally:
            os.close(directory)

    def _fill(self, descriptor: int) -> None:
        """Where room cannot be reserved. Random, so that a file system that compresses cannot save it."""
        written = 0
        while written < self.size:
            written += os.pwrite(descriptor, secrets.token_bytes(min(_CHUNK, self.size - written)), written)
        os.fsync(descriptor)
