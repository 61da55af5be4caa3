"""The run of `twophase bench transfer`: all contenders in turn, on the same two databases, and a check after each.

Lives here: the system, the order of the rounds, what is read before and after each. Must not live here: what a
contender does (`driver`), what the figures come to (`values`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, replace
from typing import Final

from twophase.benchmarks import cpu
from twophase.benchmarks.audit import problems_with_ledgers, problems_with_money, wait_for_rest
from twophase.benchmarks.bank import FILL, LEFT, NAMES, OPENING, RIGHT, SCHEMA
from twophase.benchmarks.clients import Clients
from twophase.benchmarks.contenders import OURS, Contender, Places, versions
from twophase.benchmarks.revision import revision
from twophase.benchmarks.values import Measured, Plan, Report
from twophase.benchmarks.workload import Books, Order
from twophase.participant.resource import Settings
from twophase.sandbox.drill.setting import setting_of
from twophase.sandbox.guardian import Guardian
from twophase.sandbox.system import Service, System

POSTGRES: Final = {
    # The same for all contenders, and nothing that makes a commit less durable.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "128MB",
    "max_wal_size": "4GB",
    # Both run before every round instead, so that they fall into nobody's.
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
}
_CLIENTS: Final = "twophase.benchmarks.driver"
_STATE: Final = "dbos"
_SPARE: Final = 60  # connections, beside those of the clients

Progress = Callable[[Contender, int, int], None]
"""Is told who is measured now, with how many clients, in which round."""


async def run_transfers(plan: Plan, guardian: Guardian, progress: Progress) -> Report:
    """Starts everything, measures, checks. Raises `SandboxError` if a process or a server fails."""
    connections = {key: str(2 * max(plan.clients) + _SPARE) for key in ("max_connections", "max_prepared_transactions")}
    settings = {**POSTGRES, **connections}
    measured, load_before = await asyncio.to_thread(revision), os.getloadavg()
    services = [Service(name, f"twophase.benchmarks.bank:{name}", SCHEMA) for name in NAMES]
    async with System(services, postgres=settings, guardian=guardian) as system:
        await asyncio.to_thread(_fill, system, plan.accounts)
        setting = await asyncio.to_thread(setting_of, system)
        setting = replace(setting, versions={**setting.versions, **versions()})
        run = _Run(plan, system)
        async with run.drivers():
            for number, clients, contender in schedule(plan):
                progress(contender, clients, number)
                await run.measure(contender, clients, number)
                if run.problems:
                    break  # the run is void: whatever else it measured would be, too
        run.problems += await asyncio.to_thread(problems_with_ledgers, system, run.txids)
    circumstances = {
        "revision": measured,
        "postgres": settings,
        "participants": asdict(Settings()),
        "load_average": {"before": load_before, "after": os.getloadavg()},
    }
    return Report(plan, setting, circumstances, run.measured, run.problems)


def schedule(plan: Plan) -> Iterator[tuple[int, int, Contender]]:
    """Round, clients, contender: everyone once before anyone again, and nobody always behind the same one."""
    for number in range(plan.rounds):
        for clients in plan.clients:
            first = number % len(plan.contenders)
            for contender in plan.contenders[first:] + plan.contenders[:first]:
                yield number, clients, contender


class _Run:
    """The run under way: the drivers, and what has been measured and told so far."""

    def __init__(self, plan: Plan, system: System) -> None:
        self.plan = plan
        self.system = system
        self.measured: list[Measured] = []
        self.problems: list[str] = []
        self.txids: set[str] = set()
        self._books = Books()
        self._drivers: dict[Contender, Clients] = {}

    @contextlib.asynccontextmanager
    async def drivers(self) -> AsyncIterator[None]:
        """While the block runs, every contender has its process; whoever is not at work is frozen."""
        started = await asyncio.gather(*(self._start(each) for each in self.plan.contenders))
        self._drivers = dict(zip(self.plan.contenders, started, strict=True))
        try:
            yield
        finally:
            await asyncio.gather(*(driver.close() for driver in started))

    async def measure(self, contender: Contender, clients: int, number: int) -> None:
        """One round, and the check after it."""
        plan = self.plan
        await asyncio.to_thread(_tidy, self.system)
        order = Order(clients, plan.seconds, plan.warm_up, f"{plan.seed}/{number}/{clients}", plan.accounts)
        driver = self._drivers[contender]
        readings: list[dict[str, float]] = []
        threads: list[dict[str, float]] = []

        def read(_: str) -> None:
            if cpu.is_known():
                readings.append(self._cpu(driver))
                threads.append(self._threads(driver))

        told = await driver.run(asdict(order), read, seconds=order.warm_up + order.seconds)
        self._books.add(Books.from_json(told["books"]))
        self.txids.update(told["txids"])
        self.measured.append(
            Measured(
                contender,
                clients,
                number,
                told["seconds"],
                tuple(told["latencies_ms"]),
                told["committed"],
                told["refused"],
                cpu.between(*readings) if readings else {},
                cpu.between(*threads) if threads and contender in OURS else {},
            )
        )
        where = f"after {contender} with {clients} client{'s' if clients > 1 else ''}: "
        found = await asyncio.to_thread(wait_for_rest, self.system)
        found += await asyncio.to_thread(problems_with_money, self.system, self._books)
        self.problems += [where + problem for problem in found]

    def _cpu(self, driver: Clients) -> dict[str, float]:
        system = self.system
        return {
            "clients": cpu.of_process(driver.program.pid),
            "coordinator": cpu.of_process(system.coordinator.pid),
            "participants": sum(cpu.of_process(program.pid) for program in system.participants.values()),
            "postgres": sum(cpu.of_family(cluster.pid) for cluster in system.clusters.values()),
        }

    def _threads(self, driver: Clients) -> dict[str, float]:
        processes = {
            "clients": [driver.program],
            "coordinator": [self.system.coordinator],
            "participants": list(self.system.participants.values()),
        }
        found: dict[str, float] = {}
        for process, programs in processes.items():
            for kind, seconds in (each for one in programs for each in cpu.of_threads(one.pid).items()):
                name = f"{process}: {kind}"
                found[name] = found.get(name, 0.0) + seconds
        return found

    async def _start(self, contender: Contender) -> Clients:
        system = self.system
        places = Places(system.dsn(LEFT), system.dsn(RIGHT), system.address, _state(contender, system))
        return await Clients.start(
            _CLIENTS,
            contender,
            environment=places.to_environment(),
            guardian=system.guardian,
            directory=system.directory,
        )


def _state(contender: Contender, system: System) -> str:
    """Where DBOS keeps its state: a file beside the journal, or a database of its own on the first server."""
    match contender:
        case Contender.DBOS_SQLITE:
            return f"sqlite:///{system.directory / 'dbos.sqlite'}"
        case Contender.DBOS_POSTGRES:
            system.cluster_of(LEFT).create_database(_STATE, owner=LEFT)
            return system.cluster_of(LEFT).dsn(_STATE, user=LEFT)
        case _:
            return ""


def _fill(system: System, accounts: int) -> None:
    for name in NAMES:
        with system.connect(name) as connection:
            connection.execute(FILL, (OPENING, accounts))


def _tidy(system: System) -> None:
    """Every round begins alike."""
    for name in NAMES:
        with system.cluster_of(name).connect(name) as connection:
            connection.execute("VACUUM ANALYZE account")
            connection.execute("CHECKPOINT")
