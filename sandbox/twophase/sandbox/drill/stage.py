"""The stage of a drill: the system under load, and what can be done to it.

Lives here: arming, killing, freezing, restarting, and measuring until nothing is in doubt. Must not live here: which
drills there are (`catalogue`), what is wrong in the end (`check`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from twophase.contract.crashpoints import VARIABLE, CrashPoint
from twophase.coordinator.client import AsyncClient, Protocol
from twophase.sandbox.bank import CLUSTERS, EMPTY, FILL, NAMES, SCHEMA
from twophase.sandbox.drill import outside
from twophase.sandbox.drill.business import Business
from twophase.sandbox.drill.check import prepared, read_books, violations
from twophase.sandbox.drill.load import Load
from twophase.sandbox.drill.timeline import DONE, IN_DOUBT, RECOVERY, Recorder
from twophase.sandbox.drill.work import work_of
from twophase.sandbox.errors import ProcessFailed, SandboxError
from twophase.sandbox.life import Life
from twophase.sandbox.networks import WHOLE, Network
from twophase.sandbox.processes import Program, clean_environment
from twophase.sandbox.proxy import Proxy
from twophase.sandbox.system import Service, System

COORDINATOR: Final = "coordinator"
_DIE_SECONDS: Final = 15.0
_REST_SECONDS: Final = 20.0
_POLL: Final = 0.005
_CHECK_SECONDS: Final = 60.0
_LOCK_MS: Final = 5_000
_TARGET: Final = "twophase.sandbox.bank"


class NotHit(SandboxError):
    """The armed process lived on: the drill did not try what it is for."""


class Skipped(SandboxError):
    """Raised by a drill that cannot be run on this machine. The message says what is missing."""


class Violated(SandboxError):
    """What a drill itself found wrong, one contradiction a line."""

    def __init__(self, violations: Sequence[str]) -> None:
        super().__init__("; ".join(violations))
        self.violations = tuple(violations)


def bank_services() -> list[Service]:
    """Four banks, two of them with databases on one server."""
    return [Service(name, f"{_TARGET}:{name}", schema=SCHEMA, cluster=CLUSTERS[name]) for name in NAMES]


@dataclass(slots=True)
class Stage:
    """One running system, and the load on it. `hit` collects the points at which a process really died; `armed` holds,
    by name, how long the log of an armed process was when it was started.

    While a drill runs, `running` is its load, `business` what that does, and `front` the proxy through which its
    clients reach the coordinator.
    """

    system: System
    clients: int = 8
    hit: set[CrashPoint] = field(default_factory=set)
    armed: dict[str, int] = field(default_factory=dict)
    recoveries: list[float] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    recorder: Recorder = field(default_factory=Recorder)
    _running: Load | None = None
    _front: Proxy | None = None
    business: Business = Business.TRANSFERS
    _horizons_before: list[Any] = field(default_factory=list)

    @property
    def running(self) -> Load:
        """The load of the drill that runs."""
        assert self._running is not None  # noqa: S101 - a drill runs
        return self._running

    @property
    def front(self) -> Proxy:
        """The proxy between the clients and the coordinator."""
        assert self._front is not None  # noqa: S101 - a drill runs
        return self._front

    def program(self, name: str) -> Program:
        """The coordinator or a participant."""
        return self.system.coordinator if name == COORDINATOR else self.system.participants[name]

    @contextlib.asynccontextmanager
    async def recording(self) -> AsyncIterator[None]:
        """Whatever happens in the block is in `recorder`'s timeline."""
        programs = (self.system.coordinator, *self.system.participants.values())
        if self.system.watcher != self.recorder.watch:
            self.system.watcher = self.recorder.watch
            for who in (*(program.name for program in programs), *self._servers()):
                self.recorder.watch(who, Life.UP.value)

        self._horizons_before = self._horizons()

        def look() -> None:
            for program in programs:
                _ = program.is_running  # asked, it finds out, and tells the watcher

        async with self.recorder.recording(self.system.clusters.values(), look):
            yield

    @contextlib.asynccontextmanager
    async def load(self, seed: int, business: Business = Business.TRANSFERS) -> AsyncIterator[Load]:
        """Clients at work while the block runs; at its end everyone gets an answer, if there is one."""
        async with self.system.proxy_to_coordinator() as self._front:
            self.business = business
            work = work_of(business, seed)
            load = self._running = Load(self._front.address, clients=self.clients, seed=seed, work=work)
            sending = asyncio.create_task(load.run())
            try:
                yield load
            finally:
                await self._front.set(WHOLE)
                load.stop()
                await sending

    async def arm(self, name: str, point: CrashPoint, *, nth: int = 1) -> None:
        """Restarts a process with a crash point armed. One that dies before it is ready was hit already."""
        program = self.program(name)
        await program.stop()
        await self.start_armed(name, point, nth=nth)

    async def start_armed(self, name: str, point: CrashPoint, *, nth: int = 1) -> None:
        """Starts a process that is down, armed."""
        program = self.program(name)
        program.environment[VARIABLE] = f"{point.value}:{nth}"
        self.armed[name] = program.log.stat().st_size if program.log.exists() else 0
        try:
            with contextlib.suppress(ProcessFailed):
                await program.start()
        finally:
            del program.environment[VARIABLE]

    async def dies(self, name: str, point: CrashPoint) -> None:
        """Waits until the armed process has killed itself. Raises `NotHit`."""
        program = self.program(name)
        if program.is_running:
            try:
                await program.wait(timeout=_DIE_SECONDS)
            except TimeoutError:
                raise NotHit(f"{name} did not reach {point.value} within {_DIE_SECONDS:g} s") from None
        said = program.log.read_bytes()[self.armed.pop(name) :]
        if f"crash point {point.value} reached".encode() not in said:
            raise NotHit(f"{name} ended, and not at {point.value}; see {program.log}")
        self.hit.add(point)

    async def first_to_die(self, *names: str) -> str:
        """Waits until one of these processes has ended, and says which. Raises `NotHit`."""
        try:
            async with asyncio.timeout(_DIE_SECONDS):
                while True:
                    for name in names:
                        if not self.program(name).is_running:
                            return name
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            raise NotHit(f"none of {', '.join(names)} died within {_DIE_SECONDS:g} s") from None

    async def disarm(self) -> None:
        """Everything runs, and nothing is armed any more, whatever the drill left behind."""
        for name in (*NAMES, COORDINATOR):
            program = self.program(name)
            if name in self.armed and program.is_running:
                await program.kill()
            if not program.is_running:
                await program.start()
        self.armed.clear()

    async def revive(self, *names: str) -> None:
        """Starts processes that are down, and measures from the last ready line until nothing of before is in doubt."""
        for name in names:
            if not self.program(name).is_running:
                await self.program(name).start()
        await self.measure()

    async def measure(self) -> None:
        """How long it takes until what is prepared now is not prepared any more, and the sagas of now have ended, in
        milliseconds.
        """
        started = time.monotonic()
        self.recorder.watch(RECOVERY, IN_DOUBT)
        await asyncio.gather(*(asyncio.to_thread(self._until_gone, bank) for bank in NAMES), self._until_ended())
        self.recorder.watch(RECOVERY, DONE)
        self.recoveries.append((time.monotonic() - started) * 1000)

    async def under(self, proxy: Proxy, network: Network, *, seconds: float) -> None:
        """Lets the network fail for so long, and heals it."""
        await proxy.set(network)
        await asyncio.sleep(seconds)
        await self.heal(proxy)

    async def heal(self, proxy: Proxy) -> None:
        """Makes the network whole, and measures until nothing of before is in doubt.

        Raises `NotHit` if nothing went through the proxy that its failure could touch.
        """
        touched = proxy.touched
        await proxy.set(WHOLE)
        if not touched:
            raise NotHit("the network failed, and nothing was sent over it")
        await self.measure()

    def take_figures(self) -> dict[str, float]:
        """What a drill measured, by name; it is forgotten here."""
        figures, self.figures = self.figures, {}
        return figures

    async def register(self, name: str, address: str, *, within: float = 10.0) -> None:
        """Has the coordinator make a participant known under an address; tries for `within` seconds."""
        async with AsyncClient(self.system.address, timeout=within) as client:
            await client.register(name, address)

    async def rest(self) -> tuple[str, ...]:
        """Waits until no branch is prepared anywhere, and no saga under way. Branches that stay are for the checker to
        find; the sagas that do are returned, in words.
        """
        stuck = tuple(f"R8: saga {txid} has not ended" for txid in sorted(await self._until_ended()))
        end = time.monotonic() + _REST_SECONDS
        for bank in NAMES:
            with self.system.connect(bank) as connection:
                while prepared(connection) and time.monotonic() < end:  # noqa: ASYNC110 - a database tells nobody
                    await asyncio.sleep(_POLL)
        return stuck

    def verdict(self, load: Load) -> tuple[str, ...]:
        """What the checker finds, with the system at rest."""
        return violations(load.record, read_books(self.system.connect))

    async def outside_verdict(self) -> tuple[str, ...]:
        """What somebody finds who knows only the databases, in a process of his own. The system must be at rest."""
        databases = "".join(f"{bank}={self.system.dsn(bank)}\n" for bank in NAMES)
        pruned = ["--pruned"] if self._horizons() != self._horizons_before else []
        checked = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-I", outside.__file__, *pruned],
            input=databases,
            capture_output=True,
            text=True,
            check=False,
            timeout=_CHECK_SECONDS,
            env=clean_environment(),
        )
        if checked.returncode not in (0, 1):
            return (f"it failed ({checked.returncode}): {checked.stderr.strip()}",)
        return tuple(json.loads(checked.stdout))

    def left(self) -> dict[str, tuple[str, ...]]:
        """What is prepared now, by bank."""
        found = {}
        for bank in NAMES:
            with self.system.connect(bank) as connection:
                found[bank] = prepared(connection)
        return found

    def forget(self) -> None:
        """Empties the books, so that the next drill starts from the opening balances."""
        for bank in NAMES:
            with self.system.connect(bank) as connection:
                connection.execute(f"SET lock_timeout = {_LOCK_MS}")  # what is still prepared would bar it for ever
                connection.execute(EMPTY)
                connection.execute(FILL.encode())

    def _horizons(self) -> list[Any]:
        """What every bank may have pruned up to."""
        found: list[Any] = []
        for bank in NAMES:
            with self.system.connect(bank) as connection:
                found += connection.execute("SELECT epoch::text, sequence FROM twophase.horizon ORDER BY 1").fetchall()
        return found

    async def sagas_under_way(self, client: AsyncClient) -> set[str]:
        """Those that have begun and not ended, as the coordinator says."""
        under_way = client.transactions(unfinished_only=True)
        return {each.txid async for each in under_way if each.protocol is Protocol.SAGA}

    async def _until_ended(self) -> set[str]:
        """Waits until the sagas of now have ended; returns those that have not."""
        if self.business is not Business.SAGAS:
            return set()
        end = time.monotonic() + _REST_SECONDS
        async with AsyncClient(self.system.address) as client:
            before = await self.sagas_under_way(client)
            while before and time.monotonic() < end:
                await asyncio.sleep(_POLL)
                before &= await self.sagas_under_way(client)
        return before

    def _servers(self) -> tuple[str, ...]:
        return tuple(f"Postgres {name}" for name in self.system.clusters)

    def _until_gone(self, bank: str) -> None:
        end = time.monotonic() + _REST_SECONDS
        with self.system.connect(bank) as connection:
            before = set(prepared(connection))
            while before and time.monotonic() < end:
                before.intersection_update(prepared(connection))
                time.sleep(_POLL)
