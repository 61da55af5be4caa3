"""The writer of the SQLite journal: the queue, and group commit.

Lives here: what is written when, who is told, and what happens when a write fails. Must not live here: SQL, reads,
files.

Everything that was handed over while a batch was being written makes up the next batch: one SQL transaction, one sync.
A batch is begun as soon as somebody waits for something in it; events that nobody waits for linger a moment, for
company. A batch in which nothing must be durable is written without a sync and becomes durable with the next one.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeAlias

from twophase.coordinator.journal.port import JournalFailed
from twophase.coordinator.journal.sqlite_batch import Item, Mark, Written, is_forced, pages, write
from twophase.coordinator.journal.sqlite_thread import SqliteThread

# How long, in seconds, an item that nobody waits for may wait for company.
LINGER: Final = 0.02
# A checkpoint is due after about so many pages (4 KiB) in the log: when there is nothing else to do; in any case.
CHECKPOINT_WHEN_IDLE: Final = 1_000
CHECKPOINT_AT_LATEST: Final = 8_000
# How long, in seconds, without anything to write is nothing to do.
IDLE: Final = 0.05
# What a batch adds to the log, roughly: so many pages, and one more for every item.
_PAGES_PER_BATCH: Final = 5

# What an item is about: a transaction's name, a request id.
Topic: TypeAlias = str


@dataclass(slots=True)
class _Batch:
    """What goes into one SQL transaction."""

    items: list[Item] = field(default_factory=list)
    waiters: list[asyncio.Future[Any] | None] = field(default_factory=list)
    topics: set[Topic] = field(default_factory=set)
    forced: bool = False


class Writer:
    """Writes items in the order in which they are handed over, from a task of its own: a caller that is cancelled loses
    nothing. After a failure nothing is written any more. Use from one event loop."""

    def __init__(self, thread: SqliteThread, *, position: int, name: str, on_failure: Callable[[], None]) -> None:
        """`position` is the highest one on disk. `name` says which journal it is, in messages. `on_failure` is called
        once, when everybody who waited has been told."""
        self._loop = asyncio.get_running_loop()
        self._thread = thread
        self._name = name
        self._on_failure = on_failure
        self._position = position
        self._durable = position
        self._syncs = 0
        self._sync_seconds: float | None = None
        self._forcing = True
        self._log_pages = 0
        self._filling = _Batch()
        self._writing = _Batch()
        self._due = asyncio.Event()
        self._linger: asyncio.TimerHandle | None = None
        self._ending = False
        self._cause: BaseException | None = None
        self._task = asyncio.create_task(self._run(), name=f"writer of {name}")
        self._task.add_done_callback(self._ended)

    @property
    def position(self) -> int:
        """The position of the last durable event."""
        return self._durable

    @property
    def syncs(self) -> int:
        """How many batches were forced to disk."""
        return self._syncs

    @property
    def sync_seconds(self) -> float | None:
        """How long the last forced batch took; None before the first one."""
        return self._sync_seconds

    def check(self) -> None:
        """Raises `JournalFailed` if the journal has failed."""
        if self._cause is not None:
            raise self._failure() from self._cause

    def hand_over(self, item: Item, topics: Iterable[Topic]) -> None:
        """Takes an item that nobody waits for. Raises `JournalFailed`."""
        self._enqueue(item, topics, None)
        if self._linger is None:
            self._linger = self._loop.call_later(LINGER, self._due.set)

    def submit(self, item: Item, topics: Iterable[Topic] = ()) -> asyncio.Future[Any]:
        """Takes an item. The future has its answer once it is written, durably if it is forced; a refusal and
        `JournalFailed` are raised by it, and `JournalFailed` at once if the journal has failed before."""
        waiter = self._loop.create_future()
        self._enqueue(item, topics, waiter)
        self._due.set()
        return waiter

    async def settle(self, *topics: Topic) -> bool:
        """Waits until every item about one of these (every item, if none is given) is written; returns whether there
        was one to wait for. Raises `JournalFailed`."""
        self.check()
        for batch in (self._writing, self._filling):
            if batch.topics.intersection(topics) or (batch.items and not topics):
                await self.submit(Mark(forced=False))
                return True
        return False

    async def end(self) -> None:
        """Writes what is left, durably, and ends. Call it once. Raises `JournalFailed` if it cannot."""
        try:
            await self.submit(Mark(forced=True))
        finally:
            self._ending = True
            self._due.set()
            await asyncio.wait({self._task})

    def fail(self, cause: BaseException) -> None:
        """Ends it all: everybody who waits, and everybody who calls later, gets `JournalFailed`."""
        self._cause = self._cause or cause
        self._task.cancel()

    def _enqueue(self, item: Item, topics: Iterable[Topic], waiter: asyncio.Future[Any] | None) -> None:
        self.check()
        batch = self._filling
        batch.items.append(item)
        batch.waiters.append(waiter)
        batch.topics.update(topics)
        batch.forced = batch.forced or is_forced(item)

    async def _run(self) -> None:
        while not (self._ending and not self._filling.items):
            if await self._nothing_to_do():
                await self._checkpoint()
                continue
            self._due.clear()
            if self._linger is not None:
                self._linger.cancel()
                self._linger = None
            if self._filling.items:
                self._filling, self._writing = _Batch(), self._filling
                await self._write(self._writing)
                self._writing = _Batch()
            if self._log_pages >= CHECKPOINT_AT_LATEST:
                await self._checkpoint()

    async def _nothing_to_do(self) -> bool:
        """Waits for something to write. True if a checkpoint is due and nothing came for a while."""
        if self._log_pages < CHECKPOINT_WHEN_IDLE:
            await self._due.wait()
            return False
        try:
            async with asyncio.timeout(IDLE):
                await self._due.wait()
        except TimeoutError:
            return True
        return False

    async def _write(self, batch: _Batch) -> None:
        began = self._loop.time()
        written = await self._thread.run(partial(self._write_batch, batch))
        self._position = written.position
        self._log_pages += _PAGES_PER_BATCH + sum(map(pages, batch.items))
        if batch.forced:
            self._durable = written.position
            self._syncs += 1
            self._sync_seconds = self._loop.time() - began
        for waiter, answer in zip(batch.waiters, written.answers, strict=True):
            if waiter is None or waiter.done():
                continue
            if isinstance(answer, Exception):
                waiter.set_exception(answer)
            else:
                waiter.set_result(answer)

    def _write_batch(self, batch: _Batch, connection: sqlite3.Connection) -> Written:
        """On the thread."""
        if batch.forced is not self._forcing:
            connection.execute(f"PRAGMA synchronous = {'FULL' if batch.forced else 'NORMAL'}")
            self._forcing = batch.forced
        unsynced = self._position > self._durable
        return write(connection, batch.items, self._position, never_empty=batch.forced and unsynced)

    async def _checkpoint(self) -> None:
        """Moves the log into the file. PASSIVE: it never waits for a reader; what it leaves, the next one moves."""
        await self._thread.run(lambda connection: connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall())
        self._log_pages = 0

    def _ended(self, task: asyncio.Task[None]) -> None:
        """However the task ended: if it should not have, the journal has failed."""
        cause = asyncio.CancelledError("its writer was cancelled") if task.cancelled() else task.exception()
        if cause is None:
            return
        self._cause = self._cause or cause
        if self._linger is not None:
            self._linger.cancel()
        for waiter in (*self._writing.waiters, *self._filling.waiters):
            if waiter is not None and not waiter.done():
                failure = self._failure()
                failure.__cause__ = self._cause
                waiter.set_exception(failure)
        self._on_failure()

    def _failure(self) -> JournalFailed:
        return JournalFailed(
            f"journal {self._name} failed: {self._cause}; what was being written is unknown until it is opened again,"
            " so stop this process and start it anew"
        )
