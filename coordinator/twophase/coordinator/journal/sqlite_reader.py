"""Reading the SQLite journal, on a connection that only reads: no list holds up a decision.

Lives here: the way to that connection's thread. Must not live here: which statement answers what (`sqlite`), and what
is still on its way into the file (`sqlite_writer`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from twophase.coordinator.journal.port import JournalFailed
from twophase.coordinator.journal.sqlite_thread import SqliteThread

T = TypeVar("T")

Rows: TypeAlias = list[Any]


class Reader:
    """Use from one event loop. Everything raises `JournalFailed` if the file cannot be read; `on_failure` hears of it
    first."""

    def __init__(self, thread: SqliteThread, *, name: str, on_failure: Callable[[sqlite3.Error], None]) -> None:
        """`name` says which journal it is, in messages."""
        self._thread = thread
        self._name = name
        self._on_failure = on_failure

    async def read(self, sql: str, *parameters: object) -> Rows:
        """The rows of one statement."""
        return await self.run(lambda connection: connection.execute(sql, parameters).fetchall())

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` returns."""
        try:
            return await self._thread.run(work)
        except sqlite3.Error as error:
            self._on_failure(error)
            raise JournalFailed(
                f"journal {self._name} cannot be read: {error}; stop this process and start it anew"
            ) from error
