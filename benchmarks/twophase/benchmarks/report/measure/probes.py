"""Bystanders of a load: updates that take no part in it, who reads both banks, and who watches what is prepared.

Lives here: what they see. Must not live here: the load itself, conclusions. They run in this process, which does
nothing else meanwhile, over connections of their own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, LiteralString

import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from twophase.benchmarks.report.measure.bench import Load

_TOUCH: Final[LiteralString] = "UPDATE account SET balance = balance WHERE id = %s"
_PREPARED: Final[LiteralString] = """
SELECT gid, extract(epoch FROM prepared)::float8 FROM pg_prepared_xacts WHERE database = current_database()"""
_LATEST: Final[LiteralString] = """
SELECT deed FROM (SELECT deed, bool_or(undo) AS undone, max(id) AS id FROM
  (SELECT deed, undo, id FROM movement ORDER BY id DESC LIMIT 40) AS latest GROUP BY deed) AS deeds
WHERE NOT undone AND deed LIKE %s ORDER BY id DESC LIMIT 5"""
_THERE: Final[LiteralString] = "SELECT DISTINCT deed FROM movement WHERE deed = ANY (%s)"
_POLL: Final = 0.02
_SPARE: Final = 8


@dataclass(slots=True)
class Victim:
    """An open loop of updates of single rows, one after the other, each in a transaction of its own.

    No lock timeout; a statement ends after `timeout` seconds, and has waited at least so long. `waits` are pairs: when
    it was due, and how long it took, in seconds, the first from the time that counts. Each waits on a connection of its
    own, up to `connections`.
    """

    dsn: str
    rows: Sequence[int]
    rate: float
    timeout: float
    connections: int = 100
    waits: list[tuple[float, float]] = field(default_factory=list)

    async def watch(self, load: Load) -> None:
        """Beside a load, as long as it sends."""
        options = f"-c statement_timeout={int(self.timeout * 1000)} -c lock_timeout=0 -c synchronous_commit=on"
        pool = AsyncConnectionPool(
            self.dsn,
            kwargs={"autocommit": True, "options": options},
            min_size=_SPARE,
            max_size=self.connections,
            timeout=self.timeout,
            num_workers=4,
            open=False,
        )
        async with pool:
            await pool.wait()
            await load.begun.wait()
            zero = time.perf_counter()
            async with asyncio.TaskGroup() as updates:
                number = 0
                while (at := number / self.rate) < load.task.seconds and not load.ended.is_set():
                    await asyncio.sleep(max(0.0, zero + at - time.perf_counter()))
                    updates.create_task(self._update(pool, self.rows[number % len(self.rows)], zero, at))
                    number += 1
        self.waits.sort()

    async def _update(self, pool: AsyncConnectionPool[AsyncConnection], row: int, zero: float, at: float) -> None:
        try:
            async with pool.connection() as connection:
                await connection.execute(_TOUCH, [row])
            waited = time.perf_counter() - zero - at
        except (psycopg.errors.QueryCanceled, psycopg.OperationalError):  # a pool's own timeout is one of the latter
            waited = max(self.timeout, time.perf_counter() - zero - at)
        self.waits.append((at, waited))


@dataclass(slots=True)
class Seen:
    """A prepared branch: when it was prepared (its own time stamp), and when it was seen first and last.

    In seconds since 1970.
    """

    prepared: float
    first: float
    last: float


@dataclass(slots=True)
class PreparedWatch:
    """Looks at `pg_prepared_xacts` of some databases every 20 ms, in threads, also after the load until `stop`."""

    dsns: Sequence[str]
    seen: dict[str, Seen] = field(default_factory=dict)
    looks: list[float] = field(default_factory=list)
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)

    def stop(self) -> None:
        """It ends."""
        self._stopped.set()

    def left_at(self, moment: float) -> list[Seen]:
        """What was prepared before a moment and still was at the first look behind it."""
        after = next((look for look in self.looks if look >= moment), moment)
        return [each for each in self.seen.values() if each.prepared <= moment and each.last >= after]

    async def watch(self, load: Load) -> None:
        """Beside a load, until it is over."""
        await asyncio.gather(*(self._watch(dsn) for dsn in self.dsns), self._ends(load))

    async def _ends(self, load: Load) -> None:
        await load.ended.wait()
        self.stop()

    async def _watch(self, dsn: str) -> None:
        async with await AsyncConnection.connect(dsn, autocommit=True) as connection:
            while not self._stopped.is_set():
                now = time.time()
                for gid, prepared in await (await connection.execute(_PREPARED)).fetchall():
                    self.seen.setdefault(gid, Seen(prepared, now, now)).last = now
                self.looks.append(now)
                try:
                    await asyncio.wait_for(self._stopped.wait(), _POLL)
                except TimeoutError:
                    continue


@dataclass(slots=True)
class Observer:
    """Reads both banks as an application would that wants to know how things stand: first one, then the other.

    A look takes the latest deeds that the first bank shows, and asks the second bank for them afterwards. What the
    second does not have then was half done at that moment: what the first bank showed stays, unless it is taken back.
    So no look raises a false alarm. Every other look goes the other way round. `half` are deeds seen so, `shown` all.
    """

    first: str
    second: str
    rate: float
    looks: int = 0
    looks_half: int = 0
    half: set[str] = field(default_factory=set)
    shown: list[tuple[str, ...]] = field(default_factory=list)

    async def watch(self, load: Load) -> None:
        """Beside a load, as long as it sends. A look that is late makes the next ones late, not lost."""
        async with (
            await AsyncConnection.connect(self.first, autocommit=True) as first,
            await AsyncConnection.connect(self.second, autocommit=True) as second,
        ):
            await load.begun.wait()
            zero = time.perf_counter()
            while (at := self.looks / self.rate) < load.task.seconds and not load.ended.is_set():
                await asyncio.sleep(max(0.0, zero + at - time.perf_counter()))
                here, there = (first, second) if self.looks % 2 == 0 else (second, first)
                await self._look(here, there, load.task.run)

    async def _look(self, here: AsyncConnection, there: AsyncConnection, run: str) -> None:
        self.looks += 1
        deeds = [deed for (deed,) in await (await here.execute(_LATEST, [f"{run}/%"])).fetchall()]
        present = {deed for (deed,) in await (await there.execute(_THERE, [deeds])).fetchall()}
        missing = set(deeds) - present
        self.shown.append(tuple(deeds))
        self.looks_half += bool(missing)
        self.half |= missing
