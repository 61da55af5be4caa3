"""Where a journal can be kept, for the tests that every store must pass."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Protocol

from twophase.contract.names import Epoch
from twophase.coordinator.journal.memory import MemoryDisk, MemoryJournal
from twophase.coordinator.journal.memory_state import Horizon
from twophase.coordinator.journal.port import Journal
from twophase.coordinator.journal.sqlite import SqliteJournal


class HandSetClock:
    """A wall clock that stands still until a test moves it. Milliseconds since 1970."""

    def __init__(self) -> None:
        self.at = 1_700_000_000_000

    def __call__(self) -> int:
        return self.at


class Store(Protocol):
    """A place where one journal is kept."""

    @property
    def clock(self) -> HandSetClock: ...

    async def open(self) -> Journal: ...

    def set_horizon(self, epoch: Epoch, sequence: int) -> None:
        """As pruning will; only while the journal is closed."""


class MemoryStore:
    def __init__(self) -> None:
        self.disk = MemoryDisk()
        self.clock = HandSetClock()

    async def open(self) -> Journal:
        return await MemoryJournal.open(self.disk, clock=self.clock)

    def set_horizon(self, epoch: Epoch, sequence: int) -> None:
        self.disk.durable.append(Horizon(epoch, sequence))


class SqliteStore:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = HandSetClock()

    async def open(self) -> Journal:
        return await SqliteJournal.open(self.path, clock=self.clock)

    def set_horizon(self, epoch: Epoch, sequence: int) -> None:
        connection = sqlite3.connect(self.path, isolation_level=None)
        connection.execute("UPDATE epochs SET horizon = ? WHERE number = ?", (sequence, epoch.number))
        connection.close()
