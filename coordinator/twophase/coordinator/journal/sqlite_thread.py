"""One SQLite connection on a thread of its own, which runs whole functions.

Lives here: the way from the event loop to the connection. Must not live here: SQL.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import aiosqlite

T = TypeVar("T")

# How many prepared statements a connection keeps: those of a batch differ in their numbers of rows.
_STATEMENTS: Final = 512


class _StagedConnection(sqlite3.Connection):
    """A connection whose `commit` runs the oldest piece of staged work.

    aiosqlite takes one statement a call, and each call is a hop to its thread and back; a batch of decisions would be
    dozens. `commit` is the call that takes no SQL, so it carries a unit of work: one hop, however much there is to do.
    """

    staged: deque[Callable[[], None]]

    def commit(self) -> None:
        self.staged.popleft()()


class SqliteThread:
    """Work is done one piece after the other, in the order of the calls, whoever stops waiting for it."""

    def __init__(self, connection: aiosqlite.Connection, raw: _StagedConnection) -> None:
        self._connection = connection
        self._raw = raw
        self._stopped: asyncio.Future[object] | None = None

    @classmethod
    async def open(cls, path: Path, *, mode: str, busy_timeout: float) -> SqliteThread:
        """Opens a file that exists, with SQLite's `mode` "ro" or "rw". `busy_timeout` is in seconds: how long SQLite
        waits for another connection's lock. Raises sqlite3.Error."""
        made: list[_StagedConnection] = []

        def connect() -> sqlite3.Connection:
            raw = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={mode}",
                uri=True,
                timeout=busy_timeout,
                isolation_level=None,
                factory=_StagedConnection,
                cached_statements=_STATEMENTS,
            )
            raw.staged = deque()
            made.append(raw)
            return raw

        connection = await aiosqlite.Connection(connect, iter_chunk_size=64)
        return cls(connection, made[0])

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` returns or raises. Transactions are its own business: SQLite is in autocommit mode.

        A cancelled call is done all the same.
        """
        outcome: list[T] = []
        self._raw.staged.append(lambda: outcome.append(work(self._raw)))
        await self._connection.commit()
        return outcome[0]

    def stop(self) -> None:
        """Begins to end the thread, after all earlier work. A second call does nothing."""
        if self._stopped is None:
            self._stopped = self._connection.stop()

    async def close(self) -> None:
        """Ends the thread, after all earlier work. A second call does nothing."""
        self.stop()
        if self._stopped is not None:
            await self._stopped
