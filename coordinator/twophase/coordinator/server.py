"""One running coordinator: journal, engine, links and gRPC server, assembled, and taken apart again in order.

Lives here: the assembly, its start and its two ends (a signal, a failed journal). Must not live here: options and
their texts (`cli`), what the parts do.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from twophase.contract import crashpoints, garbage
from twophase.contract.addresses import Address
from twophase.coordinator.channels import GrpcLinks
from twophase.coordinator.engine.api import Limits, Rejected
from twophase.coordinator.engine.engine import Engine
from twophase.coordinator.journal.ballast import Ballast
from twophase.coordinator.journal.lock import FileLock
from twophase.coordinator.journal.port import Journal, JournalError, JournalFailed, JournalFull
from twophase.coordinator.journal.sqlite import SqliteJournal
from twophase.coordinator.journal.sqlite_open import take_lock
from twophase.coordinator.restoring import CannotLift, lift
from twophase.coordinator.room import LOOK_SECONDS, Room
from twophase.coordinator.service import SERVICE, CoordinatorService, Guard
from twophase.coordinator.standby import stand_by
from twophase.coordinator.transport import SERVER_OPTIONS
from twophase.v1 import coordinator_pb2_grpc

_log = logging.getLogger(__name__)

FAILED_EXIT: Final = os.EX_IOERR
FIRST_WAIT: Final = 0.2
LONGEST_WAIT: Final = 5.0
"""Seconds between two tries to register a declared participant, at first and at most."""
_ANSWER_SECONDS: Final = 1.0
_PORT_SECONDS: Final = 5.0
"""How long the port of a coordinator that is gone may still be in use: it is given free after the journal's lock."""
_PORT_PAUSE: Final = 0.05


class CannotStart(Exception):
    """The coordinator cannot start: the fact, the value and the remedy, in one line. Nothing is left behind."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What one coordinator is started with. `participants` are (name, address); durations are seconds.

    `ballast` is how many bytes are kept in reserve on the journal's disk for finishing what is decided once it is full.
    With `after_restore` the journal is said to be an older copy, and is lifted above what its participants have seen.
    With `standby` it waits for whoever has the journal; one that is frozen for `takeover_after` is killed (0: never).
    """

    journal: Path
    listen: Address
    label: str = ""
    participants: tuple[tuple[str, str], ...] = ()
    limits: Limits = field(default_factory=Limits)
    plaintext_allowed: bool = False
    grace: float = 10.0
    standby: bool = False
    takeover_after: float = 5.0
    ballast: int = 64 << 20
    after_restore: bool = False


@dataclass(frozen=True, slots=True)
class Running:
    """A coordinator that answers. `port` is the one it got, `engine` what it runs on."""

    host: str
    port: int
    engine: Engine
    journal: Journal

    @property
    def address(self) -> str:
        """Where it listens, `host:port`."""
        return str(Address(self.host, self.port))


def end_the_process(error: BaseException) -> None:
    """Says why and ends the process at once (R10): nothing may be answered, closed or written any more."""
    try:
        sys.stderr.write(f"twophase coordinator: cannot go on, and ends; start it again and it recovers: {error}\n")
        sys.stderr.flush()
    finally:  # what keeps the journal from being written, a full disk, may keep this from being said
        os._exit(FAILED_EXIT)


@contextlib.asynccontextmanager
async def running(
    settings: Settings,
    *,
    lock: FileLock | None = None,
    links: GrpcLinks | None = None,
    on_failure: Callable[[BaseException], None] = end_the_process,
) -> AsyncIterator[Running]:
    """Starts a coordinator; leaving the block stops it: no more work is taken, what runs gets `grace` to finish.

    A `lock` is the journal's, taken over from another process; without one it is taken, or the start fails. `links` are
    closed at the end; whoever counts or cuts what is said to participants brings their own.
    Raises `CannotStart`. `on_failure` is called as soon as the engine cannot go on (a failed journal), and must end
    the process; what the coordinator does after it has returned is undefined.
    """
    refuse_plaintext(settings)
    if settings.after_restore:
        await _lift(settings)
    async with contextlib.AsyncExitStack() as stack:
        patience = 0.0 if lock is None else _PORT_SECONDS
        with explained(settings.journal):
            lock = lock or take_lock(settings.journal)
        stack.callback(lock.release)
        lock.keep_beating()
        server = grpc.aio.server(interceptors=[Guard()], options=SERVER_OPTIONS)
        stack.push_async_callback(server.stop, None)
        port = await _bind(server, settings.listen, patience)
        room = Room(Ballast(lock.journal, settings.ballast))
        journal = await _open(settings, lock, room)
        stack.push_async_callback(_close, journal, on_failure)
        links = links or GrpcLinks()
        stack.push_async_callback(links.close)

        engine = Engine(journal, links, limits=settings.limits)
        engine.refusal = room.refusal
        engine.failed.add_done_callback(lambda failed: _failed(failed, on_failure))
        service = CoordinatorService(engine)
        coordinator_pb2_grpc.add_CoordinatorServicer_to_server(service, server)
        health_service = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        for name in (health.OVERALL_HEALTH, SERVICE):
            await health_service.set(name, health_pb2.HealthCheckResponse.SERVING)

        with explained(settings.journal):
            await engine.start()
        # Ended in reverse: nothing new, what runs is finished and answered, then the connections.
        stack.push_async_callback(_answer_the_last, server, service)
        stack.push_async_callback(engine.stop, settings.grace)
        stack.push_async_callback(health_service.enter_graceful_shutdown)
        await server.start()
        await stack.enter_async_context(_in_background(_watch_room(room, engine)))
        declared = (register_until_done(engine, *participant) for participant in settings.participants)
        await stack.enter_async_context(_in_background(*declared))
        yield Running(settings.listen.host, port, engine, journal)


async def serve(settings: Settings, announce: Callable[[str], None]) -> None:
    """Runs a coordinator until SIGTERM or SIGINT; `announce` gets the line that says it is ready, and before that the
    one that says that it stands by.

    Raises `CannotStart`. A second signal ends the process at once, as a crash would: the next start finishes what it
    left. If the journal fails, the process ends by itself with code 74 and without any farewell (R10).
    """
    try:
        crashpoints.arm()
    except crashpoints.UnknownCrashPoint as error:
        raise CannotStart(str(error)) from error
    told_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)

    def stop() -> None:
        for number in signals:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)  # Python's own for SIGINT would still clean up
        told_to_stop.set()

    for number in signals:
        loop.add_signal_handler(number, stop)
    lock: FileLock | None = None
    try:
        if settings.standby:
            refuse_plaintext(settings)
            with explained(settings.journal):
                lock = await stand_by(
                    settings.journal, takeover_after=settings.takeover_after, announce=announce, stop=told_to_stop
                )
            if lock is None:
                return
        async with running(settings, lock=lock) as coordinator:
            garbage.look_less_often()
            journal = coordinator.journal
            announce(
                f"twophase coordinator is ready on {coordinator.address}"
                f" (journal {journal.journal_id}, epoch {journal.epoch.number})"
            )
            await told_to_stop.wait()
            _log.info("stopping: what is running gets %g s", settings.grace)
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def refuse_plaintext(settings: Settings) -> None:
    """Raises `CannotStart` if others than this machine could reach the address and nobody allowed that."""
    if not settings.plaintext_allowed and not settings.listen.is_loopback():
        raise CannotStart(
            f"will not listen on {settings.listen}: others than this machine could reach it, and nothing is encrypted"
            " or authenticated; listen on 127.0.0.1, or, if the network is trusted, pass --allow-plaintext"
            " (TWOPHASE_ALLOW_PLAINTEXT=1)"
        )


async def _answer_the_last(server: grpc.aio.Server, service: CoordinatorService) -> None:
    """What is answered already still leaves."""
    await asyncio.gather(server.stop(_ANSWER_SECONDS), service.end_streams(timeout=_ANSWER_SECONDS))


async def _close(journal: Journal, on_failure: Callable[[BaseException], None]) -> None:
    try:
        await journal.close()
    except JournalFailed as error:
        on_failure(error)


def _failed(failed: asyncio.Future[None], on_failure: Callable[[BaseException], None]) -> None:
    if failed.cancelled():
        return
    error = failed.exception()
    if error is not None:
        on_failure(error)


async def _bind(server: grpc.aio.Server, address: Address, patience: float) -> int:
    """The port it got; tries for up to `patience` seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + patience
    while True:
        try:
            return server.add_insecure_port(str(address))
        except RuntimeError as error:
            if loop.time() >= end:
                raise CannotStart(_why_not(address)) from error
        await asyncio.sleep(_PORT_PAUSE)


def _why_not(address: Address) -> str:
    """gRPC does not say why it could not bind; a socket of one's own does."""
    try:
        family, kind, proto, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, proto) as probe:
            probe.bind(where)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return f"cannot listen on {address}: the port is in use; stop what uses it or choose another with --listen"
        return f"cannot listen on {address}: {error.strerror or error}; choose another address with --listen"
    return f"cannot listen on {address}: the port was in use a moment ago; start again"


@contextlib.contextmanager
def explained(journal: Path) -> Iterator[None]:
    """Turns what keeps a journal from being used into `CannotStart`."""
    try:
        yield
    except JournalError as error:
        raise CannotStart(str(error)) from error
    except OSError as error:
        raise CannotStart(
            f"cannot open the journal {journal}: {error.strerror or error}; give a file in a directory that exists and"
            " can be written with --journal"
        ) from error


async def _open(settings: Settings, lock: FileLock, room: Room) -> Journal:
    with explained(settings.journal):
        await asyncio.to_thread(room.start)
        while True:
            try:
                return await SqliteJournal.open(settings.journal, label=settings.label or None, lock=lock)
            except JournalFull:
                if not await asyncio.to_thread(room.make_some):
                    raise
            except JournalError:
                await asyncio.to_thread(room.take_back)
                raise


async def _lift(settings: Settings) -> None:
    """Opens the journal for the lift alone: what it gives out then begins above."""
    with explained(settings.journal):
        if not settings.journal.exists():
            raise CannotStart(f"there is no journal {settings.journal} that could have been restored; check --journal")
        async with contextlib.AsyncExitStack() as stack:
            journal = await SqliteJournal.open(settings.journal)
            stack.push_async_callback(journal.close)
            links = GrpcLinks()
            stack.push_async_callback(links.close)
            try:
                await lift(journal, links, settings.participants)
            except CannotLift as error:
                raise CannotStart(str(error)) from error


async def _watch_room(room: Room, engine: Engine) -> None:
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        await asyncio.to_thread(room.look)
        engine.refusal = room.refusal


@contextlib.asynccontextmanager
async def _in_background(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs all of it while the block runs."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                _log.error("a task of the coordinator failed: %r", result)


async def register_until_done(engine: Engine, name: str, address: str) -> None:
    """Registers one participant, again and again until it answers; the log says why it does not, once a reason."""
    told = ""

    def tell(state: RetryCallState) -> None:
        nonlocal told
        error = state.outcome.exception() if state.outcome is not None else None
        if error is not None and str(error) != told:
            told = str(error)
            _log.warning("participant %s at %s is not registered yet: %s", name, address, error)

    retrying = AsyncRetrying(
        retry=retry_if_exception_type(Rejected),
        wait=wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT),
        before_sleep=tell,
    )
    await retrying(engine.register, name, address)
    _log.info("participant %s is registered at %s", name, address)
