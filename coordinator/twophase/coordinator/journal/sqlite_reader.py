"""Reading the SQLite journal, on a connection that only reads: no list holds up a decision.

Lives here: the way to that connection's thread, which whoever asks at the same moment shares. Must not live here: which
statement answers what (`sqlite`), and what is still on its way into the file (`sqlite_writer`).
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeVar

from twophase.coordinator.journal import schema
from twophase.coordinator.journal.port import JournalFailed
from twophase.coordinator.journal.sqlite_thread import SqliteThread

T = TypeVar("T")

Rows: TypeAlias = list[Any]


class Reader:
    """Use from one event loop. Everything raises `JournalFailed` if the file cannot be read; `on_failure` hears of it
    first."""

    def __init__(self, thread: SqliteThread, *, name: str, on_failure: Callable[[sqlite3.Error], None]) -> None:
        """`name` says which journal it is, in messages."""
        self._loop = asyncio.get_running_loop()
        self._thread = thread
        self._name = name
        self._on_failure = on_failure
        self._asked: list[tuple[str, asyncio.Future[Rows]]] = []
        self._at_work = False

    async def read(self, sql: str, *parameters: object) -> Rows:
        """The rows of one statement."""
        return await self.run(lambda connection: connection.execute(sql, parameters).fetchall())

    def request(self, request_id: str) -> asyncio.Future[Rows]:
        """The events of the transaction that answers for a request. It is asked for once in every transaction: all that
        come in the same turn of the loop, or while others are looked up, go together."""
        answer: asyncio.Future[Rows] = self._loop.create_future()
        self._asked.append((request_id, answer))
        if not self._at_work:
            self._at_work = True
            self._loop.call_soon(self._look_up)
        return answer

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` returns."""
        try:
            return await self._thread.run(work)
        except sqlite3.Error as error:
            self._on_failure(error)
            raise JournalFailed(
                f"journal {self._name} cannot be read: {error}; stop this process and start it anew"
            ) from error

    def _look_up(self) -> None:
        asked, self._asked = self._asked, []
        reading = self._loop.create_task(self.run(partial(_events_of, [request_id for request_id, _ in asked])))
        reading.add_done_callback(partial(self._tell, asked))

    def _tell(self, asked: list[tuple[str, asyncio.Future[Rows]]], reading: asyncio.Task[list[Rows]]) -> None:
        waiting = [(number, answer) for number, (_, answer) in enumerate(asked) if not answer.done()]
        if reading.cancelled():
            for _, answer in waiting:
                answer.cancel()
        elif (error := reading.exception()) is not None:
            for _, answer in waiting:
                answer.set_exception(error)
        else:
            for number, answer in waiting:
                answer.set_result(reading.result()[number])
        self._at_work = bool(self._asked)
        if self._asked:
            self._look_up()


def _events_of(request_ids: Sequence[str], connection: sqlite3.Connection) -> list[Rows]:
    """On the thread."""
    found: list[Rows] = [[] for _ in request_ids]
    for place, *event in connection.execute(schema.EVENTS_OF_REQUESTS, (json.dumps(request_ids),)).fetchall():
        found[place].append(event)
    return found
