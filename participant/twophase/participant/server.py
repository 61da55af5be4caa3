"""One running participant: resource manager, gRPC server and registration, assembled, and taken apart again in order.

Lives here: the assembly, its start and its end. Must not live here: options and their texts (`cli`), what the parts do.

Never fork a process in which this has started: gRPC's threads do not survive it. Start one process for each server.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from twophase.contract import crashpoints, garbage
from twophase.contract.addresses import Address, InvalidAddress
from twophase.participant.errors import NotReady
from twophase.participant.operations import Participant
from twophase.participant.registration import register_until_done
from twophase.participant.resource import ResourceManager, Settings
from twophase.participant.service import SERVICE, ParticipantService
from twophase.v1 import participant_pb2_grpc

_log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES: Final = 16 << 20
"""The most work of one branch that is taken: as much as a coordinator takes for a whole transaction."""

_ADDED_BYTES: Final = 64 << 10
"""What may come on top: the branch's name, its deadline, and the like."""

NO_DSN: Final = "--dsn postgresql://USER@HOST:5432/DATABASE (or TWOPHASE_DSN, where a password is not seen by others)"

_CLOSE_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 1.0
"""How long the last answers may take to leave."""
_OPTIONS: Final = [
    # Two servers on one port would share its calls at random.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES + _ADDED_BYTES),
    # Coordinators may ping to notice a frozen connection; by default the third ping in five minutes ends it.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Probing the bandwidth pays for streams; here it would be a ping beside every small call.
    ("grpc.http2.bdp_probe", 0),
]


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How a participant is served.

    `listen` is `host:port`, port 0 takes a free one. `coordinator` is where it registers itself, empty for nowhere;
    `advertise` the address it registers, by default the one it listens on. `allow_plaintext` lets it listen where other
    machines can reach it. `grace` is how many seconds running work may take at the end.
    """

    listen: str = "127.0.0.1:0"
    coordinator: str = ""
    advertise: str = ""
    allow_plaintext: bool = False
    grace: float = 20.0
    database: Settings = field(default_factory=Settings)


class ParticipantServer:
    """Serves one participant in the running event loop.

        async with ParticipantServer(payment, dsn="postgresql://...") as server:
            print(server.address)

    `dsn` replaces the participant's own. `resources` replaces the resource manager that would be made from it.
    """

    def __init__(
        self,
        participant: Participant,
        *,
        dsn: str | None = None,
        settings: ServerSettings | None = None,
        resources: ResourceManager | None = None,
    ) -> None:
        """Raises `NotReady` if there is nothing to serve, no database, or an address that will not do."""
        self._participant = participant
        self._settings = settings or ServerSettings()
        self._listen = _address(self._settings.listen, option="--listen")
        _check(participant, self._settings, self._listen)
        self._resources = resources or _resources(participant, dsn, self._settings)
        self._service = ParticipantService(participant, self._resources)
        self._parts = AsyncExitStack()
        self._bound: Address | None = None
        self.ended_clean = True
        """False if `stop` had to leave work behind that would not end: its thread is still there."""

    @property
    def address(self) -> str:
        """Where it listens, `host:port`. Only after `start`."""
        if self._bound is None:
            raise RuntimeError("the server has no address before start(); call it, or use `async with`")
        return str(self._bound)

    @property
    def database(self) -> str:
        """The name of the database. Only after `start`."""
        return self._resources.identity.database

    async def start(self) -> str:
        """Connects to the database, listens, and begins to register; returns the address it listens on.

        Raises `NotReady`; then nothing is left behind.
        """
        async with AsyncExitStack() as parts:
            parts.push_async_callback(self._close)
            await self._resources.open()

            server = grpc.aio.server(options=_OPTIONS)
            participant_pb2_grpc.add_ParticipantServicer_to_server(self._service, server)
            checks = health.aio.HealthServicer()
            health_pb2_grpc.add_HealthServicer_to_server(checks, server)
            reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
            for name in (health.OVERALL_HEALTH, SERVICE):
                await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
            # Last: a server that is bound and never started keeps its port, and callers wait there in vain.
            self._bound = self._listen.with_port(self._bind(server))
            await server.start()
            # Ended in reverse: nobody is sent here any more, no new calls, the running ones, and then the database.
            parts.push_async_callback(self._finish, server)
            parts.push_async_callback(checks.enter_graceful_shutdown)
            if self._settings.coordinator:
                registering = asyncio.create_task(self._register(), name=f"register {self._participant.name}")
                parts.push_async_callback(_cancelled, registering)
            self._parts = parts.pop_all()
        return self.address

    async def stop(self) -> None:
        """Takes no more calls, gives the running ones the grace, and disconnects. A second call does nothing."""
        await self._parts.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _bind(self, server: grpc.aio.Server) -> int:
        try:
            return server.add_insecure_port(str(self._listen))
        except RuntimeError as error:
            raise why_not(self._listen) from error

    async def _register(self) -> None:
        await register_until_done(
            coordinator=self._settings.coordinator,
            participant=self._participant.name,
            address=self._settings.advertise or self.address,
        )

    async def _finish(self, server: grpc.aio.Server) -> None:
        end = time.monotonic() + self._settings.grace

        def left() -> float:
            return max(0.0, end - time.monotonic())

        self._service.end_streams()
        stopping = asyncio.ensure_future(server.stop(self._settings.grace))
        while not stopping.done() and await self._service.drain(timeout=left()):
            await asyncio.wait((stopping,), timeout=min(_ANSWER_SECONDS, left()))
            if not self._service.running:
                await server.stop(None)  # all that is left is nobody's work: who watches the health, for example
        await stopping
        if not await self._service.drain(timeout=left()):
            _log.warning(
                "%d calls were still being worked on after %g s; what of them is not prepared is rolled back",
                self._service.running,
                self._settings.grace,
            )

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._resources.close()
        except TimeoutError:
            self.ended_clean = False
            _log.warning("the connections to the database were not closed within %g s", _CLOSE_SECONDS)


async def serve(
    participant: Participant,
    announce: Callable[[str], None],
    *,
    dsn: str | None = None,
    settings: ServerSettings | None = None,
) -> bool:
    """Serves a participant until SIGTERM or SIGINT; `announce` gets the line that says it is ready.

    A second signal ends the process as the system does by default. False if business code would not end: its thread
    then keeps the process from ending by itself. Raises `NotReady`.
    """
    try:
        crashpoints.arm()
    except crashpoints.UnknownCrashPoint as error:
        raise NotReady(str(error), f"unset {crashpoints.VARIABLE}") from error
    told_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)

    def stop() -> None:
        for number in signals:
            loop.remove_signal_handler(number)
        told_to_stop.set()

    for number in signals:
        loop.add_signal_handler(number, stop)
    try:
        async with ParticipantServer(participant, dsn=dsn, settings=settings) as server:
            garbage.look_less_often()
            announce(
                f"twophase participant '{participant.name}' is ready on {server.address} (database {server.database})"
            )
            await told_to_stop.wait()
        return server.ended_clean
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def dsn_of(participant: Participant, given: str | None) -> str:
    """The connection string to use: the one given, else the participant's own. Raises `NotReady` if there is none."""
    dsn = given or participant.dsn
    if not dsn:
        raise NotReady(f"participant '{participant.name}' has no database: no DSN was given", NO_DSN)
    return dsn


def why_not(address: Address) -> NotReady:
    """Why a server could not listen there: gRPC does not say it, a socket of one's own does."""
    told = "the port was taken a moment ago"
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(where)
    except OSError as error:
        told = "the port is in use" if error.errno == errno.EADDRINUSE else str(error.strerror or error)
    return NotReady(f"cannot listen on {address}: {told}", f"--listen {address.with_port(0)} (takes a free port)")


def _address(text: str, *, option: str) -> Address:
    try:
        return Address.parse(text)
    except InvalidAddress as error:
        raise NotReady(f"{option}: {error}", f"{option} 127.0.0.1:7401") from error


def _check(participant: Participant, settings: ServerSettings, listen: Address) -> None:
    if not participant.operations:
        raise NotReady(
            f"participant '{participant.name}' declares no operations, so there is nothing to serve",
            f"@{participant.name.replace('-', '_')}.operation above a function, in a module that is imported",
        )
    if not settings.allow_plaintext and not listen.is_loopback():
        raise NotReady(
            f"will not listen on {listen}: other machines could reach it, and nothing is encrypted or authenticated",
            f"--listen 127.0.0.1:{listen.port}",
            "--allow-plaintext (TWOPHASE_ALLOW_PLAINTEXT=1), if only machines you trust are on that network",
        )
    if settings.coordinator:
        _address(settings.coordinator, option="--coordinator")
    if settings.advertise:
        _address(settings.advertise, option="--advertise")
    elif settings.coordinator and listen.is_wildcard:
        raise NotReady(
            f"listens on {listen}, which is no address that the coordinator could call",
            "--advertise HOST:PORT, as the coordinator reaches this participant",
        )


def _resources(participant: Participant, dsn: str | None, settings: ServerSettings) -> ResourceManager:
    return ResourceManager(participant.name, dsn_of(participant, dsn), settings=settings.database)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("registering with the coordinator had failed", exc_info=error)
