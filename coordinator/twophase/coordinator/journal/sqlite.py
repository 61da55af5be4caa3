"""The SQLite journal: one file, one coordinator at a time.

Lives here: the port's calls. Must not live here: how a file is opened (`sqlite_open`), when a batch is written
(`sqlite_writer`) and what it writes (`sqlite_batch`), the connection that reads (`sqlite_reader`), SQL (`schema`).

Reads see what was handed over before them: if something about their subject is still on its way, they wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Iterable
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from twophase.contract.crashpoints import CrashPoint, reach
from twophase.contract.names import Epoch, Txid
from twophase.coordinator.journal import schema, sqlite_open, sqlite_prune
from twophase.coordinator.journal.clock import Clock, wall_clock
from twophase.coordinator.journal.codec import decode
from twophase.coordinator.journal.events import Begun, Event, Happening, TransactionRecord, Turned
from twophase.coordinator.journal.fold import fold
from twophase.coordinator.journal.lock import FileLock
from twophase.coordinator.journal.novelty import Novelty
from twophase.coordinator.journal.port import (
    EpochRecord,
    JournalClosed,
    JournalFailed,
    ParticipantRecord,
    Proposal,
    Pruned,
    Pruning,
    Restoration,
    Ruling,
)
from twophase.coordinator.journal.rules import check_event, check_limit
from twophase.coordinator.journal.sqlite_batch import Append, Fence, Lift, Mark, Propose, Prune, Register, Suspect, Turn
from twophase.coordinator.journal.sqlite_reader import Reader, Rows
from twophase.coordinator.journal.sqlite_thread import SqliteThread
from twophase.coordinator.journal.sqlite_writer import Topic, Writer

# How long, in seconds, SQLite waits for a lock that another program's connection has on the file.
BUSY_TIMEOUT: Final = 2.0
# How often the checkpoint of the opening is tried, each time for the busy timeout.
OPEN_ATTEMPTS: Final = 5

# Sorts after the name of every transaction.
_NEWEST: Final = "~"


class SqliteJournal:
    """The port's `Journal` in a SQLite file. Use from one event loop."""

    def __init__(
        self,
        path: Path,
        lock: FileLock,
        writing: SqliteThread,
        reading: SqliteThread,
        opened: sqlite_open.Opened,
        clock: Clock,
    ) -> None:
        """For `open` only."""
        self._path = path
        self._lock = lock
        self._threads = (reading, writing)
        self._opened = opened
        self._clock = clock
        self._writer = Writer(writing, position=opened.position, name=str(path), on_failure=self._stop_threads)
        self._reader = Reader(reading, name=str(path), on_failure=self._writer.fail)
        self._novelty = Novelty(self._settle, self._read_request_ids)
        self._learning = asyncio.create_task(self._learn(), name=f"learning the requests of {path}")
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        path: str | Path,
        *,
        label: str | None = None,
        busy_timeout: float = BUSY_TIMEOUT,
        attempts: int = OPEN_ATTEMPTS,
        lock: FileLock | None = None,
        clock: Clock = wall_clock,
    ) -> SqliteJournal:
        """Opens the journal, and makes it where there is none. `label` is what people call the installation; without
        one the earlier label stays. A `lock` that was taken before is the journal's once it is open. `clock` stamps its
        events.

        Raises `JournalLocked` if another process has it, or another program's connection keeps it busy for `attempts`
        times `busy_timeout` seconds: retryable. Raises `JournalFull` if there is no room for it, and `JournalUnusable`
        if it cannot be used: not retryable.
        """
        given, lock = lock, lock or sqlite_open.take_lock(path)
        lock.keep_beating()
        path = lock.journal
        threads: list[SqliteThread] = []
        try:
            sqlite_open.make_file(path)
            with sqlite_open.explained(path):
                writing = await SqliteThread.open(path, mode="rw", busy_timeout=busy_timeout)
                threads.append(writing)
                opened = await writing.run(partial(sqlite_open.prepare, path=path, label=label, patience=attempts))
                reading = await SqliteThread.open(path, mode="ro", busy_timeout=busy_timeout)
                threads.append(reading)
            return cls(path, lock, writing, reading, opened, clock)
        except BaseException:
            for thread in reversed(threads):
                await thread.close()
            if given is None:
                lock.release()
            raise

    @property
    def journal_id(self) -> str:
        """See the port."""
        return self._opened.journal_id

    @property
    def label(self) -> str:
        """What people call this installation; empty if nobody said."""
        return self._opened.label

    @property
    def path(self) -> Path:
        """Where it is; its log lies beside it, with `-wal` behind the name."""
        return self._path

    @property
    def sync_seconds(self) -> float | None:
        """How long the last forced write took; None if there was none since it was opened."""
        return self._writer.sync_seconds

    @property
    def epoch(self) -> Epoch:
        """See the port."""
        return self._opened.epoch

    @property
    def position(self) -> int:
        """See the port."""
        return self._writer.position

    @property
    def syncs(self) -> int:
        """See the port."""
        return self._writer.syncs

    def decide(self, proposal: Proposal) -> Awaitable[Ruling]:
        """See the port."""
        self._check_open()
        topics = [str(proposal.txid)]
        if proposal.request is not None:
            topics.append(proposal.request.request_id)
            self._novelty.note(proposal.request.request_id)
        return self._writer.submit(Propose(proposal, self._clock()), topics)

    async def turn(self, turned: Turned) -> None:
        """See the port."""
        self._check_open()
        await self._writer.submit(Turn(turned, self.epoch, self._clock()), [str(turned.txid)])

    def append(self, event: Event) -> None:
        """See the port."""
        self._check_open()
        check_event(event)
        topics = [str(event.txid)]
        if isinstance(event, Begun) and event.request is not None:
            topics.append(event.request.request_id)
            self._novelty.note(event.request.request_id)
        self._writer.hand_over(Append(event, self._clock()), topics)

    async def flush(self) -> None:
        """See the port."""
        self._check_open()
        await self._writer.submit(Mark(forced=True))

    async def register(self, participant: ParticipantRecord) -> None:
        """See the port."""
        self._check_open()
        await self._writer.submit(Register(participant))

    async def fence(self, epoch: Epoch) -> None:
        """See the port."""
        self._check_open()
        await self._writer.submit(Fence(epoch))

    async def prune(self, pruning: Pruning) -> Pruned:
        """See the port."""
        await self._settle()
        planned, horizon, _ = await self._reader.run(partial(sqlite_prune.look, pruning=pruning))
        if planned.horizon <= horizon and not planned.gone:
            return Pruned(horizon, 0, more=False)
        reach(CrashPoint.COORDINATOR_BEFORE_PRUNE)
        pruned: Pruned = await self._writer.submit(Prune(pruning))
        reach(CrashPoint.COORDINATOR_AFTER_PRUNE)
        return pruned

    async def suspect(self, proof: str) -> None:
        """See the port."""
        self._check_open()
        await self._writer.submit(Suspect(proof, self._clock()))

    async def lift(self, *, epoch: int, position: int) -> None:
        """See the port."""
        self._check_open()
        await self._writer.submit(Lift(epoch, position, self._clock()))

    async def restoration(self) -> Restoration:
        """See the port."""
        await self._settle()
        proofs = await self._reader.read(schema.SELECT_PROOFS)
        ((floor,),) = await self._reader.read(schema.SELECT_FLOOR)
        return Restoration(tuple(proof for (proof,) in proofs), floor)

    async def participants(self) -> tuple[ParticipantRecord, ...]:
        """See the port."""
        await self._settle()
        return tuple(ParticipantRecord(*row) for row in await self._reader.read(schema.SELECT_PARTICIPANTS))

    async def epochs(self) -> tuple[EpochRecord, ...]:
        """See the port."""
        await self._settle()
        rows = await self._reader.read(schema.SELECT_EPOCHS)
        return tuple(EpochRecord(Epoch(number, nonce), bool(fence), horizon) for number, nonce, fence, horizon in rows)

    async def transaction(self, txid: Txid) -> TransactionRecord | None:
        """See the port."""
        await self._settle(str(txid))
        records = await self._read_records(schema.EVENTS_OF_TRANSACTION, str(txid))
        return records[0] if records else None

    async def history(self, txid: Txid) -> tuple[Happening, ...]:
        """See the port."""
        await self._settle(str(txid))
        rows = await self._reader.read(schema.HISTORY_OF_TRANSACTION, str(txid))
        return tuple(Happening(position, at, decode(txid, kind, body)) for position, at, kind, body in rows)

    async def request(self, request_id: str) -> TransactionRecord | None:
        """See the port."""
        if self._novelty.is_new(request_id):
            self._check_open()
            self._writer.check()
            return None
        await self._settle(request_id)
        rows = await self._reader.read(schema.EVENTS_OF_REQUEST, request_id)
        if rows and await self._settle(rows[0][0]):
            rows = await self._reader.read(schema.EVENTS_OF_REQUEST, request_id)
        return _records(rows)[0] if rows else None

    async def unfinished(self) -> tuple[TransactionRecord, ...]:
        """See the port."""
        await self._settle()
        return await self._read_records(schema.EVENTS_OF_UNFINISHED)

    async def heuristics(self) -> tuple[TransactionRecord, ...]:
        """See the port."""
        await self._settle()
        return await self._read_records(schema.EVENTS_OF_HEURISTICS)

    async def transactions(
        self, *, limit: int, before: Txid | None = None, unfinished_only: bool = False
    ) -> tuple[TransactionRecord, ...]:
        """See the port."""
        check_limit(limit)
        await self._settle()
        sql = schema.EVENTS_OF_NEWEST_UNFINISHED if unfinished_only else schema.EVENTS_OF_NEWEST
        return await self._read_records(sql, _NEWEST if before is None else str(before), limit)

    async def close(self) -> None:
        """See the port."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name=f"closing {self._path}")
        elif self._closing.done():
            return
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._learning.cancel()
        try:
            await self._writer.end()
        finally:
            # The writer's connection goes last: it moves the log into the file.
            for thread in self._threads:
                await thread.close()
            self._lock.release()

    def _stop_threads(self) -> None:
        for thread in self._threads:
            thread.stop()

    def _check_open(self) -> None:
        if self._closing is not None:
            raise JournalClosed(f"journal {self._path} is closed; open it again")

    def _settle(self, *topics: Topic) -> Awaitable[bool]:
        self._check_open()
        return self._writer.settle(*topics)

    async def _learn(self) -> None:
        with contextlib.suppress(JournalFailed, JournalClosed):  # whoever calls is told
            await self._novelty.keep()

    async def _read_request_ids(self, after: str, limit: int) -> tuple[str, ...]:
        return tuple(request_id for (request_id,) in await self._reader.read(schema.SELECT_REQUEST_IDS, after, limit))

    async def _read_records(self, sql: str, *parameters: object) -> tuple[TransactionRecord, ...]:
        """Understood on the reader's thread: there may be thousands, and the event loop must turn meanwhile."""
        return await self._reader.run(lambda connection: _records(connection.execute(sql, parameters).fetchall()))


def _records(rows: Rows) -> tuple[TransactionRecord, ...]:
    """What the events of transactions, one after the other, amount to."""
    return tuple(_record(Txid.parse(name), events) for name, events in groupby(rows, key=lambda row: str(row[0])))


def _record(txid: Txid, rows: Iterable[Any]) -> TransactionRecord:
    return fold(decode(txid, kind, body) for _, kind, body in rows)
