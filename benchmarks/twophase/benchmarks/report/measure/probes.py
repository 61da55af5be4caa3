"""Bystanders of a load: updates that take no part in it, who reads both banks, and who watches what is prepared.

Lives here: what they see. Must not live here: the load itself, conclusions. They run in this process, which does
nothing else meanwhile, over connections of their own.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, LiteralString

import psycopg
from psycopg import AsyncConnection, AsyncCursor
from psycopg_pool import AsyncConnectionPool

from twophase.benchmarks.report.measure.bench import Load

_TOUCH: Final[LiteralString] = "UPDATE account SET balance = balance WHERE id = %s"
_PREPARED: Final[LiteralString] = """
SELECT gid, extract(epoch FROM prepared)::float8 FROM pg_prepared_xacts WHERE database = current_database()"""
_POLL: Final = 0.02
_SPARE: Final = 8


@dataclass(slots=True)
class Victim:
    """An open loop of updates of single rows, one after the other, each in a transaction of its own, at random moments.

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
                for number, at in enumerate(_moments(self.rate)):
                    if at >= load.task.seconds or load.ended.is_set():
                        break
                    await asyncio.sleep(max(0.0, zero + at - time.perf_counter()))
                    updates.create_task(self._update(pool, self.rows[number % len(self.rows)], zero, at))
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
    """Looks at `pg_prepared_xacts` of some databases every 20 ms, also behind the load, until `stop`."""

    dsns: Sequence[str]
    seen: dict[str, Seen] = field(default_factory=dict)
    looks: list[float] = field(default_factory=list)
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)
    _present: dict[str, tuple[float, frozenset[str]]] = field(default_factory=dict)

    def stop(self) -> None:
        """It ends."""
        self._stopped.set()

    def left_at(self, moment: float) -> list[Seen]:
        """What was prepared before a moment and still was at the first look behind it."""
        after = next((look for look in self.looks if look >= moment), moment)
        return [each for each in self.seen.values() if each.prepared <= moment and each.last >= after]

    async def until_none_of(self, moment: float, *, within: float) -> None:
        """Waits until nothing is prepared any more that was at a moment, or for so many seconds; then it ends."""
        end = time.monotonic() + within
        while time.monotonic() < end:
            latest = [gids for looked, gids in self._present.values() if looked > moment]
            if len(latest) == len(self.dsns) and all(self.seen[gid].prepared > moment for gid in set().union(*latest)):
                break
            await asyncio.sleep(_POLL)
        self.stop()

    async def watch(self, _: Load) -> None:
        """Beside a load, and behind it, until `stop`."""
        await asyncio.gather(*(self._watch(dsn) for dsn in self.dsns))

    async def _watch(self, dsn: str) -> None:
        async with await AsyncConnection.connect(dsn, autocommit=True) as connection:
            while not self._stopped.is_set():
                now = time.time()
                found = await (await connection.execute(_PREPARED)).fetchall()
                for gid, prepared in found:
                    self.seen.setdefault(gid, Seen(prepared, now, now)).last = now
                self._present[dsn] = now, frozenset(gid for gid, _ in found)
                self.looks.append(now)
                try:
                    await asyncio.wait_for(self._stopped.wait(), _POLL)
                except TimeoutError:
                    continue


@dataclass(frozen=True, slots=True)
class View:
    """What an observer asks a database for: the latest deeds with names like this that it shows, and which of some it
    has. What was taken back is not shown.
    """

    latest: LiteralString
    there: LiteralString


TRANSFERS: Final = View(
    """
SELECT deed FROM (SELECT deed, bool_or(undo) AS undone, max(id) AS id FROM
  (SELECT deed, undo, id FROM movement ORDER BY id DESC LIMIT 40) AS latest GROUP BY deed) AS deeds
WHERE NOT undone AND deed LIKE %s ORDER BY id DESC LIMIT 5""",
    "SELECT DISTINCT deed FROM movement WHERE deed = ANY (%s)",
)
# These tables are empty when a load begins, and nothing vacuums them meanwhile: what is last in them came last.
RESERVATIONS: Final = View(
    "SELECT order_id FROM reservation WHERE order_id LIKE %s ORDER BY ctid DESC LIMIT 5",
    "SELECT DISTINCT order_id FROM reservation WHERE order_id = ANY (%s)",
)
CHARGES: Final = View(
    "SELECT order_id FROM charge WHERE order_id LIKE %s ORDER BY ctid DESC LIMIT 5",
    "SELECT order_id FROM charge WHERE order_id = ANY (%s)",
)


@dataclass(slots=True)
class Observer:
    """Reads two databases as an application would that wants to know how things stand: first one, then the other.

    A look takes the latest deeds that the first one shows, and asks the second one for them afterwards. What the
    second does not have then was half done at that moment: what the first one showed stays, unless it is taken back.
    So no look raises a false alarm. Every other look goes the other way round. `half` are deeds seen so, `shown` all.
    """

    first: tuple[str, View]
    second: tuple[str, View]
    rate: float
    looks: int = 0
    looks_half: int = 0
    half: set[str] = field(default_factory=set)
    shown: list[tuple[str, ...]] = field(default_factory=list)

    async def watch(self, load: Load) -> None:
        """Beside a load, as long as it sends. A look that is late makes the next ones late, not lost."""
        async with (
            await AsyncConnection.connect(self.first[0], autocommit=True) as first,
            await AsyncConnection.connect(self.second[0], autocommit=True) as second,
        ):
            await load.begun.wait()
            zero = time.perf_counter()
            for at in _moments(self.rate):
                if at >= load.task.seconds or load.ended.is_set():
                    break
                await asyncio.sleep(max(0.0, zero + at - time.perf_counter()))
                ways = (first, self.first[1]), (second, self.second[1])
                here, there = ways if self.looks % 2 == 0 else reversed(ways)
                await self._look(here, there, load.task.run)

    async def _look(self, here: tuple[AsyncConnection, View], there: tuple[AsyncConnection, View], run: str) -> None:
        self.looks += 1
        (asked, view), (asked_next, next_view) = here, there
        deeds = list(dict.fromkeys(deed for (deed,) in await _rows(asked, view.latest, f"{run}/%")))
        present = {deed for (deed,) in await _rows(asked_next, next_view.there, deeds)}
        missing = set(deeds) - present
        self.shown.append(tuple(deeds))
        self.looks_half += bool(missing)
        self.half |= missing


def _moments(rate: float) -> Iterator[float]:
    """Random ones, always the same, with independent gaps: who looks then sees everything for the share of time that it
    takes (Wolff, Poisson Arrivals See Time Averages, Operations Research 30, 1982). A load comes at even times, and
    whoever looks in step with it, however loosely, sees it at some points of its way and at others never."""
    chance = random.Random("moments")  # noqa: S311 - the same moments for everybody
    return itertools.accumulate(chance.expovariate(rate) for _ in itertools.repeat(None))


async def _rows(connection: AsyncConnection, statement: LiteralString, value: object) -> list[tuple[str]]:
    cursor: AsyncCursor[tuple[str]] = await connection.execute(statement, [value])
    return await cursor.fetchall()
