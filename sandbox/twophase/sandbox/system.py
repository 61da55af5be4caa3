"""A whole system on one machine: a coordinator, participants, and Postgres clusters, each a process of its own.

Lives here: `System`, which puts them together on free ports in a temporary directory. General on purpose: the demo, the
drills and the benchmarks say which services there are. Must not live here: any of their business.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

import psycopg

from twophase.coordinator.client import AsyncClient, TwophaseError
from twophase.sandbox.errors import ProcessFailed
from twophase.sandbox.guardian import Guardian
from twophase.sandbox.life import Watcher, nobody
from twophase.sandbox.logs import tail_of
from twophase.sandbox.postgres import Cluster, make_all
from twophase.sandbox.processes import Program
from twophase.sandbox.proxy import Proxy

COORDINATOR: Final = "coordinator"


@dataclass(frozen=True, slots=True)
class Service:
    """One participant to run. `target` is its `module:attribute`; `schema` the SQL that makes its tables.

    Its database, named like it, belongs to a role of the same name, on the cluster `cluster` (one of its own unless it
    names one that others name too). `options` are further arguments of `twophase participant`.
    """

    name: str
    target: str
    schema: str = ""
    cluster: str = ""
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def cluster_name(self) -> str:
        """The cluster its database is on."""
        return self.cluster or self.name


class System:
    """A coordinator and its participants, started by `async with` and gone at its end, whatever happens.

    `postgres` are settings for every cluster, `coordinator_options` further arguments of `twophase serve`, which
    may be changed between its starts. A `guardian` that is given is closed by whoever gave it. `clusters`,
    `participants` (by name) and `coordinator` may be stopped, killed and started again by themselves; `journal` may be
    moved while the coordinator is down. `watcher` is told what becomes of each of them.
    """

    def __init__(
        self,
        services: Sequence[Service],
        *,
        postgres: Mapping[str, str] | None = None,
        coordinator_options: Sequence[str] = (),
        coordinator_environment: Mapping[str, str] | None = None,
        guardian: Guardian | None = None,
    ) -> None:
        self.services: Final = {service.name: service for service in services}
        self.guardian: Final = guardian or Guardian()
        self._owns_guardian = guardian is None
        self.directory: Final = self.guardian.directory()
        self.journal = self.directory / "coordinator.journal"
        self.clusters: dict[str, Cluster] = {}
        self.participants: dict[str, Program] = {}
        self.coordinator_options = tuple(coordinator_options)
        self._standbys = itertools.count(1)
        self.coordinator: Final = Program(
            COORDINATOR,
            self._serve,
            guardian=self.guardian,
            directory=self.directory,
            environment=coordinator_environment,
            watcher=self._tell,
        )
        self._postgres = postgres
        self.watcher: Watcher = nobody
        self._advertised: dict[str, str] = {}
        self._databases_at: dict[str, str] = {}

    @property
    def address(self) -> str:
        """The coordinator's `host:port`."""
        return self.coordinator.address

    def cluster_of(self, service: str) -> Cluster:
        """The Postgres cluster of a service."""
        return self.clusters[self.services[service].cluster_name]

    def dsn(self, service: str) -> str:
        """The connection URI of a service's database as its own role, with the password in it."""
        return self.cluster_of(service).dsn(service, user=service)

    def connect(self, service: str) -> psycopg.Connection:
        """A connection to a service's database as its own role, in autocommit; the caller closes it."""
        return self.cluster_of(service).connect(service, user=service)

    def standby(self, *options: str) -> Program:
        """One more coordinator for the same journal and address, to be started with `Program.stand_by`."""
        return Program(
            f"{COORDINATOR}-standby-{next(self._standbys)}",
            lambda listen: [*self._serve(listen), "--standby", *options],
            guardian=self.guardian,
            directory=self.directory,
            environment=self.coordinator.environment,
            port=self.coordinator.port,
            watcher=self._tell,
        )

    async def __aenter__(self) -> Self:
        try:
            await self.start_databases()
            await self.start_processes()
        except BaseException:
            self.abandon()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.close()
        else:
            self.abandon()

    async def start_databases(self) -> None:
        """Makes the clusters, all at once, and in them every service's role, database and tables."""
        names = dict.fromkeys(service.cluster_name for service in self.services.values())
        self.clusters = await asyncio.to_thread(make_all, names, guardian=self.guardian, settings=self._postgres)
        for cluster in self.clusters.values():
            cluster.watcher = self._tell
        await asyncio.gather(*(asyncio.to_thread(self._make_database, service) for service in self.services.values()))

    async def start_processes(self) -> None:
        """Starts the coordinator, then all participants at once; returns when the coordinator knows every one of them.

        Raises `ProcessFailed`.
        """
        await self.coordinator.start()
        self.participants = {name: self._participant(service) for name, service in self.services.items()}
        async with asyncio.TaskGroup() as starting:
            for program in self.participants.values():
                starting.create_task(program.start())
        await self._registered()

    async def admit(self, name: str, command: Callable[[str], Sequence[str]], *, executable: Sequence[str]) -> Program:
        """Starts one more participant, of any kind, and makes it known: `executable` with what `command` returns.

        It is one of `participants` from then on, without a cluster of its own. Raises `ProcessFailed`.
        """
        program = Program(
            name,
            command,
            guardian=self.guardian,
            directory=self.directory,
            executable=executable,
            watcher=self._tell,
        )
        await program.start()
        self.participants[name] = program
        await self._register(name)
        return program

    async def close(self) -> None:
        """Stops everything in order and removes it. Raises `ProcessFailed` if a process had to be killed."""
        try:
            # The coordinator first: while it finishes what runs, its participants answer.
            await self.coordinator.stop()
            async with asyncio.TaskGroup() as stopping:
                for program in self.participants.values():
                    stopping.create_task(program.stop())
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Ends everything at once, as if this process had died, and waits for that."""
        if self._owns_guardian:
            self.guardian.close()

    def proxy_to_coordinator(self) -> Proxy:
        """A proxy for clients, to be entered."""
        return Proxy(self.address, name=f"clients - {COORDINATOR}", watcher=self._tell)

    @contextlib.asynccontextmanager
    async def proxy_to_participant(self, service: str) -> AsyncIterator[Proxy]:
        """In the block the coordinator reaches a participant through the proxy. Raises `ProcessFailed`.

        The network must be whole at the block's end. Nothing is restarted; what is restarted in the block stays behind
        the proxy.
        """
        name = f"{COORDINATOR} - {service}"
        async with Proxy(self.participants[service].address, name=name, watcher=self._tell) as proxy:
            self._advertised[service] = proxy.address
            await self._register(service)
            try:
                yield proxy
            finally:
                del self._advertised[service]
                await self._register(service)

    @contextlib.asynccontextmanager
    async def proxy_to_database(self, service: str) -> AsyncIterator[Proxy]:
        """In the block a participant reaches its Postgres through the proxy; it is restarted at both ends of the block.

        Raises `ProcessFailed`.
        """
        program = self.participants[service]
        cluster = self.cluster_of(service)
        name = f"{service} - Postgres {cluster.name}"
        async with Proxy(cluster.address, name=name, watcher=self._tell) as proxy:
            self._databases_at[service] = proxy.address
            await program.restart()
            try:
                yield proxy
            finally:
                del self._databases_at[service]
                await program.restart()

    def _tell(self, who: str, what: str) -> None:
        self.watcher(who, what)

    async def _registered(self) -> None:
        for name in self.participants:
            await self._register(name)

    async def _register(self, name: str) -> None:
        """A participant is ready before it has registered itself; doing it for it once more tells that it is done."""
        program = self.participants[name]
        async with AsyncClient(self.address) as client:
            try:
                await client.register(name, self._advertised.get(name, program.address))
            except TwophaseError as error:
                said = tail_of(program.log)
                raise ProcessFailed(f"{name} could not be made known to the coordinator: {error}. {said}") from error

    def _serve(self, listen: str) -> list[str]:
        return ["serve", "--journal", str(self.journal), "--listen", listen, *self.coordinator_options]

    def _make_database(self, service: Service) -> None:
        cluster = self.cluster_of(service.name)
        cluster.create_role(service.name)
        cluster.create_database(service.name, owner=service.name)
        if service.schema:
            with self.connect(service.name) as connection:
                connection.execute(service.schema.encode())

    def _participant(self, service: Service) -> Program:
        cluster = self.cluster_of(service.name)

        def command(listen: str) -> list[str]:
            dsn = cluster.public_dsn(service.name, user=service.name, at=self._databases_at.get(service.name))
            where = ["--dsn", dsn, "--listen", listen, "--coordinator", self.address]
            advertised = self._advertised.get(service.name)
            advertise = [] if advertised is None else ["--advertise", advertised]
            return ["participant", service.target, *where, *advertise, "--migrate", *service.options]

        return Program(
            service.name,
            command,
            guardian=self.guardian,
            directory=self.directory,
            environment={"PGPASSWORD": cluster.password, **service.environment},
            watcher=self._tell,
        )
