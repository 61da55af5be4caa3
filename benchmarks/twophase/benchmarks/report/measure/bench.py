"""What a report is measured on: one system for all contenders, their processes, and one load at a time with its check.

Lives here: starting all that, running a load beside observers, and voiding the run if the books are wrong. Must not
live here: what is varied (`sections`), how much (`plan`), the conversation with a contender's process (`clients`).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final, LiteralString

import psycopg

from twophase.benchmarks import cpu
from twophase.benchmarks.clients import Clients
from twophase.benchmarks.report.measure import books as bookkeeping
from twophase.benchmarks.report.measure import orders
from twophase.benchmarks.report.measure.bank import BANKS, FANNED, FILL, OPENING, SCHEMA
from twophase.benchmarks.report.measure.books import Books
from twophase.benchmarks.report.measure.business import Transfer, Workload, participants_of
from twophase.benchmarks.report.measure.contenders.places import Places
from twophase.benchmarks.report.measure.task import Answer, Log, Task, Told
from twophase.benchmarks.report.values import Who
from twophase.coordinator.client import AsyncClient
from twophase.sandbox.checkout.services import services
from twophase.sandbox.errors import SandboxError
from twophase.sandbox.guardian import Guardian
from twophase.sandbox.postgres import Cluster
from twophase.sandbox.processes import Program
from twophase.sandbox.system import Service, System

POSTGRES: Final = {
    # The same for all contenders, and nothing that makes a commit less durable.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "128MB",
    "max_wal_size": "4GB",
    # How long a row was locked is read from it.
    "track_commit_timestamp": "on",
    "max_connections": "600",
    "max_prepared_transactions": "700",
    # Both run before every load instead, so that they fall into nobody's.
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
}
ACCOUNTS: Final = 10_000
OURS: Final = frozenset({Who.TWO_PHASE, Who.IN_TURN, Who.SAGA})
# Two servers: each of two banks that are asked together is on one of its own.
_SERVERS: Final = {"left": "one", "right": "two", "far": "two", "order": "one", "payment": "one"}
_FAN: Final = (sys.executable, "-m", "twophase.benchmarks.report.measure.fan")
_STATE: Final = "dbos"
_CLIENTS: Final = "twophase.benchmarks.report.measure.driver"
_REST_SECONDS: Final = 30.0
_POLL: Final = 0.02
_PREPARED: Final = "SELECT gid, database FROM pg_prepared_xacts ORDER BY gid"  # of the whole server
_VACUUM_BANK: Final = "VACUUM ANALYZE account, movement"
_VACUUM: Final[Mapping[str, LiteralString]] = {
    "order": "VACUUM ANALYZE orders, order_line",
    "inventory": "VACUUM ANALYZE stock, reservation",
    "payment": "VACUUM ANALYZE account, charge",
    "delivery": "VACUUM ANALYZE delivery",
}
_AGAIN: Final = "UPDATE account SET balance = CASE id WHEN 0 THEN 0 ELSE %s END WHERE balance <> %s AND id <> 0"


class Void(SandboxError):
    """The databases do not hold what they should: nothing was measured. `problems` in words."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


@dataclass(slots=True)
class Run:
    """A load that was run, with what it left: `books` of transfers, `cpu_ms` of one deed done in all processes.

    `began` in seconds since 1970.
    """

    who: Who
    task: Task
    log: Log
    began: float
    books: Books = field(default_factory=dict)
    orders: orders.Found = field(default_factory=orders.Found)
    doubts: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    cpu_ms: float = 0.0


Beside = Callable[["Load"], Awaitable[None]]
"""What is done and looked at while a load runs; the load is over when both are."""


@dataclass(slots=True)
class Load:
    """A load under way: the limits of the time that counts."""

    task: Task
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Bench:
    """The system, and the contenders' processes, each frozen while it is not its turn."""

    def __init__(self, system: System, accounts: int) -> None:
        self.system = system
        self.accounts = accounts
        self._drivers: dict[Who, Clients] = {}
        self._fan: Program | None = None
        self._numbers = itertools.count(1)

    @classmethod
    @contextlib.asynccontextmanager
    async def running(
        cls, guardian: Guardian, *, accounts: int = ACCOUNTS, postgres: Mapping[str, str] | None = None
    ) -> AsyncIterator[Bench]:
        """Everything but the many banks of the fan. Raises `SandboxError` if a process or a server fails."""
        async with System(_services(), postgres={**POSTGRES, **(postgres or {})}, guardian=guardian) as system:
            bench = cls(system, accounts)
            await asyncio.to_thread(bench._fill)
            try:
                yield bench
            finally:
                await asyncio.gather(*(driver.close() for driver in bench._drivers.values()))
                if bench._fan is not None:
                    await bench._fan.kill()

    def next_run(self) -> str:
        """A name for a load; every deed of it begins so."""
        return f"r{next(self._numbers)}"

    async def fan_out(self, participants: int) -> None:
        """Starts the many banks, if they are not there: all of them are one process, with databases on two servers."""
        if self._fan is not None:
            return
        names = FANNED[:participants]
        await asyncio.to_thread(self._make_fan, names)
        dsns = {name: self.system.clusters[_server_of(name)].dsn(name) for name in names}
        self._fan = Program(
            "fan",
            lambda listen: [listen],
            guardian=self.system.guardian,
            directory=self.system.directory,
            environment={"TWOPHASE_BENCH_FAN": json.dumps(dsns)},
            executable=_FAN,
        )
        await self._fan.start(timeout=90)
        found = self._fan.output.splitlines()
        async with AsyncClient(self.system.address) as client:
            for name, address in (line.split()[1:] for line in found if line.startswith("bank ")):
                await client.register(name, address)

    async def load(self, who: Who, task: Task, *beside: Beside) -> Run:
        """Runs a load, and what is to be done beside it; then waits for rest and checks the books.

        Raises `Void`, and `ProcessFailed` if a process fails that is not meant to.
        """
        await self._tidy(participants_of(task.mix))
        driver = await self._driver(who)
        load, run = Load(task), Run(who, task, Log(), time.time())
        readings: list[float] = []

        def at(moment: str) -> None:
            readings.append(self._cpu(driver))
            if moment == "begin":
                load.begun.set()
            else:
                load.ended.set()

        async with asyncio.TaskGroup() as group:
            for each in beside:
                group.create_task(_coroutine(each(load)))
            told = await driver.run(task.to_json(), at, seconds=task.warm_up + task.seconds + task.timeout)
            run.log = Log.from_json(told)
            load.ended.set()
        done = sum(answer.told == "ok" for answer in run.log.inside())
        if len(readings) == 2 and done:
            run.cpu_ms = 1000 * (readings[1] - readings[0]) / done
        await self.rest()
        found = await asyncio.to_thread(self._check, run)
        if found:
            raise Void([f"{who} with {task.mix.workload}: {problem}" for problem in found])
        await asyncio.to_thread(self._forget, participants_of(task.mix))
        return run

    async def rest(self) -> None:
        """Waits until nothing is prepared, and no saga is under way. Raises `Void` if something stays."""
        end = time.monotonic() + _REST_SECONDS
        left: list[str] = []
        async with AsyncClient(self.system.address) as client:
            while True:
                left = [f"{each.txid} has not ended" async for each in client.transactions(unfinished_only=True)]
                left += await asyncio.to_thread(self._prepared)
                if not left:
                    return
                if time.monotonic() > end:
                    raise Void(left)
                await asyncio.sleep(_POLL)

    async def settle(
        self, participants: Sequence[str], sent: Mapping[str, Transfer], *, since: float, done: bool
    ) -> None:
        """Waits for rest and checks the books, where deeds were left to the coordinator by somebody who was no client.

        All are done, or none. Raises `Void`.
        """
        await self.rest()
        found = await asyncio.to_thread(self._check_left, participants, sent, since, Told.OK if done else Told.REFUSED)
        if found:
            raise Void(found)
        await asyncio.to_thread(self._forget, participants)

    @contextlib.contextmanager
    def connections(self, participants: Sequence[str]) -> Iterator[dict[str, psycopg.Connection]]:
        """A connection to each of these databases, as one who may see everything."""
        with ExitStack() as stack:
            yield {name: stack.enter_context(self.connect(name)) for name in participants}

    def connect(self, participant: str) -> psycopg.Connection:
        """A connection to a participant's database, in autocommit; the caller closes it."""
        return self.system.clusters[_server_of(participant)].connect(participant)

    def dsn(self, participant: str) -> str:
        """The same as an URI."""
        return self.system.clusters[_server_of(participant)].dsn(participant)

    async def _driver(self, who: Who) -> Clients:
        if who not in self._drivers:
            system = self.system
            names = [*BANKS, *orders.NAMES, *FANNED]
            places = Places({name: self.dsn(name) for name in names}, system.address, self._state(who))
            self._drivers[who] = await Clients.start(
                _CLIENTS,
                who,
                environment=places.to_environment(),
                guardian=system.guardian,
                directory=system.directory,
            )
        return self._drivers[who]

    def _state(self, who: Who) -> str:
        if who is not Who.DBOS:
            return ""
        return self.system.clusters["one"].create_database(_STATE)

    def _cpu(self, driver: Clients) -> float:
        system = self.system
        fan = [self._fan] if self._fan is not None else []
        programs = [driver.program, system.coordinator, *system.participants.values(), *fan]
        return sum(cpu.of_process(program.pid) for program in programs if program.is_running) + sum(
            cpu.of_family(cluster.pid) for cluster in system.clusters.values()
        )

    def _fill(self) -> None:
        for name in BANKS:
            with self.connect(name) as connection:
                connection.execute(FILL, (OPENING, self.accounts))
        orders.fill(self.connect)

    def _make_fan(self, names: Sequence[str]) -> None:
        for name in names:
            self.system.clusters[_server_of(name)].create_database(name)
            with self.connect(name) as connection:
                connection.execute(SCHEMA)
                connection.execute(FILL, (OPENING, self.accounts))

    async def _tidy(self, participants: Sequence[str]) -> None:
        """Every load begins alike."""
        # The many banks would take longer than their load, which is short.
        kept = [name for name in participants if name not in FANNED]
        await asyncio.gather(*(asyncio.to_thread(self._vacuum, name) for name in kept))
        await asyncio.gather(*(asyncio.to_thread(_checkpoint, each) for each in self.system.clusters.values()))

    def _vacuum(self, participant: str) -> None:
        with self.connect(participant) as connection:
            connection.execute(_VACUUM.get(participant, _VACUUM_BANK))

    def _prepared(self) -> list[str]:
        found = []
        for cluster in self.system.clusters.values():
            with cluster.connect() as connection:
                rows = connection.execute(_PREPARED).fetchall()
            found += [f"{gid} is still prepared at {database}" for gid, database in rows]
        return found

    def _check(self, run: Run) -> list[str]:
        may_be_half, ours = run.who is Who.LOCAL, run.who in OURS
        with self.connections(participants_of(run.task.mix)) as connections:
            if run.task.mix.workload is Workload.ORDER:
                run.orders = orders.read(connections)
                return bookkeeping.first(orders.problems(run.task, run.log, run.orders, connections))
            run.books = bookkeeping.read(connections)
            found = bookkeeping.first(
                bookkeeping.problems(run.task.deed, run.log.answers, run.books, may_be_half=may_be_half)
            )
            for name, connection in connections.items():
                at = bookkeeping.problems_at(name, connection, since=run.began, has_ledger=ours)
                found += bookkeeping.first(at)
            if ours:
                run.doubts = bookkeeping.doubts(connections, since=run.began)
            return found

    def _check_left(
        self, participants: Sequence[str], sent: Mapping[str, Transfer], since: float, told: Told
    ) -> list[str]:
        answers = [Answer(name, 0.0, 0.0, told) for name in sent]
        with self.connections(participants) as connections:
            books = bookkeeping.read(connections)
            found = bookkeeping.first(bookkeeping.problems(sent.__getitem__, answers, books))
            for name, connection in connections.items():
                at = bookkeeping.problems_at(name, connection, since=since, has_ledger=True)
                found += bookkeeping.first(at)
        return found

    def _forget(self, participants: Sequence[str]) -> None:
        """Empty books, so that the next load begins from the opening balances."""
        with self.connections(participants) as connections:
            if "order" in connections:
                orders.forget(connections)
                return
            for connection in connections.values():
                connection.execute("TRUNCATE movement")
                connection.execute(_AGAIN, (OPENING, OPENING))


def _checkpoint(cluster: Cluster) -> None:
    with cluster.connect() as connection:
        connection.execute("CHECKPOINT")


def _services() -> list[Service]:
    target = "twophase.benchmarks.report.measure.bank"
    banks = [Service(name, f"{target}:{name}", SCHEMA, cluster=_server_of(name)) for name in BANKS]
    return banks + [Service(each.name, each.target, each.schema, cluster=_server_of(each.name)) for each in services()]


def _server_of(participant: str) -> str:
    if participant in FANNED:
        return "one" if FANNED.index(participant) % 2 == 0 else "two"
    return _SERVERS.get(participant, "two")


async def _coroutine(awaitable: Awaitable[None]) -> None:
    await awaitable
