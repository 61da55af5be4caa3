"""A TCP proxy that makes a network fail on demand: between a client and a coordinator, a coordinator and a participant,
a participant and its Postgres.

Lives here: `Proxy`. Must not live here: the ways in which a network fails (`networks`), who is put behind one
(`system`), what is tried with it (`drill.network`).

It forwards bytes and knows no protocol. A stream with a hole is none, so a connection that lost bytes in a direction is
reset as soon as that direction would pass again.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from twophase.sandbox.errors import SandboxError
from twophase.sandbox.life import Watcher, nobody
from twophase.sandbox.networks import WHOLE, Flow, Network
from twophase.sandbox.ports import LOOPBACK, free_port

# Closed with this, a connection ends by a reset.
_BY_RESET: Final = struct.pack("ii", 1, 0)
_CHUNK: Final = 1 << 16
_CHUNKS_UNDER_WAY: Final = 64
_PORT_TRIES: Final = 5


class Proxy:
    """Forwards connections from a loopback port of its own to `target` (`host:port`), as the network is at the moment.

    An asynchronous context manager: at its end the port and all connections are closed. Everything runs in the event
    loop, without threads. `target` may be changed; that holds for new connections. `watcher` is told, under the name
    `name`, what becomes of the network.
    """

    def __init__(self, target: str, *, name: str = "network", watcher: Watcher = nobody) -> None:
        self.target = target
        self._name = name
        self._watcher = watcher
        self._network = WHOLE
        self._port = 0
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._touched = 0

    @property
    def address(self) -> str:
        """Where it listens, `host:port`."""
        return f"{LOOPBACK}:{self._port}"

    @property
    def port(self) -> int:
        """The port it listens on, the same one over every cut."""
        return self._port

    @property
    def connections(self) -> int:
        """How many connections it carries."""
        return len(self._connections)

    @property
    def touched(self) -> int:
        """How many connections the present network has reset, or kept or slowed bytes of.

        Connections that are refused are not seen. A fault that touched nothing has tried nothing.
        """
        return self._touched + sum(connection.touched for connection in self._connections.values())

    async def __aenter__(self) -> Self:
        for remaining in reversed(range(_PORT_TRIES)):
            self._port = free_port()
            try:
                await self._listen()
            except SandboxError:
                if not remaining:
                    raise
            else:
                break
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._refuse()
        await self.reset()

    async def set(self, network: Network) -> None:
        """From now on the network is so, for connections old and new; `touched` begins again.

        Raises `SandboxError` if the port was taken while it was cut.
        """
        if network != self._network:
            self._watcher(self._name, network.name)
        self._network = network
        self._touched = 0
        if network.is_cut:
            self._refuse()
            self._touched = len(self._connections)
            await self.reset()
            return
        for task, connection in tuple(self._connections.items()):
            if not connection.follow(network):
                task.cancel()
        if self._server is None:
            await self._listen()

    async def reset(self) -> None:
        """Resets every connection; returns when they are gone."""
        tasks = tuple(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self) -> None:
        try:
            self._server = await asyncio.start_server(self._accept, LOOPBACK, self._port)
        except OSError as error:
            raise SandboxError(f"the proxy cannot listen on {self.address} ({error}); run this again") from error

    def _refuse(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()  # without waiting: since Python 3.12 that is waiting for its connections, too

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(_End(reader, writer), self._network)
        task = asyncio.create_task(connection.carry(self.target))
        self._connections[task] = connection
        task.add_done_callback(self._forget)
        if self._server is None:  # accepted in the moment in which the network was cut
            task.cancel()

    def _forget(self, task: asyncio.Task[None]) -> None:
        connection = self._connections.pop(task)
        self._touched += connection.touched
        connection.client.drop(by_reset=True)  # its task may have been cancelled before it began


@dataclass(frozen=True, slots=True)
class _End:
    """One end of a connection through the proxy."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def drop(self, *, by_reset: bool) -> None:
        if by_reset and not self.writer.transport.is_closing():
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _BY_RESET)
            self.writer.transport.abort()
        self.writer.close()

    async def gone(self) -> None:
        with contextlib.suppress(OSError):  # its peer may have reset it before
            await self.writer.wait_closed()


class _Connection:
    """One connection through the proxy, with both its directions. Its task, `carry`, is cancelled to reset it."""

    def __init__(self, client: _End, network: Network) -> None:
        self.client = client
        self._loop = asyncio.get_running_loop()
        self._opened = self._loop.time()
        self._network = network
        self._task: asyncio.Task[None] | None = None
        self._end_at: asyncio.TimerHandle | None = None
        self._requests = _Direction(self._request_flow, lambda: self._network.request_delay, self._lost_bytes)
        self._replies = _Direction(self._reply_flow, lambda: self._network.reply_delay, self._lost_bytes)

    @property
    def touched(self) -> bool:
        """Whether the present network did anything to it."""
        return self._requests.touched or self._replies.touched

    def follow(self, network: Network) -> bool:
        """The network has changed. False if the connection cannot go on."""
        self._network = network
        requests_go_on, replies_go_on = self._requests.follow(), self._replies.follow()
        return requests_go_on and replies_go_on

    async def carry(self, target: str) -> None:
        """Carries bytes both ways until both ends have ended. One that is reset resets the other."""
        self._task = asyncio.current_task()
        ends, whole = [self.client], False
        try:
            host, _, port = target.rpartition(":")
            server = _End(*await asyncio.open_connection(host, int(port)))
            ends.append(server)
            await self._both_ways(server)
            whole = True
        except OSError:
            pass  # the server is not there, or an end was reset: so is the other one
        finally:
            if self._end_at is not None:
                self._end_at.cancel()
            for end in ends:
                end.drop(by_reset=not whole)
            for end in ends:
                await end.gone()

    async def _both_ways(self, server: _End) -> None:
        """Raises the first `OSError` of an end."""
        tasks = [
            asyncio.create_task(self._requests.take(self.client.reader)),
            asyncio.create_task(self._requests.deliver(server.writer)),
            asyncio.create_task(self._replies.take(server.reader)),
            asyncio.create_task(self._replies.deliver(self.client.writer)),
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _request_flow(self) -> Flow:
        return self._network.requests

    def _reply_flow(self) -> Flow:
        is_new = self._loop.time() < self._opened + self._network.replies_for
        return Flow.PASSES if is_new else self._network.replies

    def _lost_bytes(self) -> None:
        if self._end_at is None and self._network.reset_after is not None and self._task is not None:
            self._end_at = self._loop.call_later(self._network.reset_after, self._task.cancel)


class _Direction:
    """One direction of one connection."""

    def __init__(self, flow: Callable[[], Flow], delay: Callable[[], float], on_hole: Callable[[], None]) -> None:
        self.touched = False
        self._flow = flow
        self._delay = delay
        self._on_hole = on_hole
        self._has_hole = False
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_CHUNKS_UNDER_WAY)

    def follow(self) -> bool:
        """The network has changed. False if bytes are missing that would have to come first."""
        self.touched = False
        self._changed.set()
        return not self._has_hole or self._flow() is Flow.SWALLOWED

    async def take(self, source: asyncio.StreamReader) -> None:
        """Takes up what comes, to its end, which is an empty chunk."""
        chunk = b"?"
        while chunk:
            try:
                chunk = await source.read(_CHUNK)
            except OSError:
                if self._flow() is not Flow.SWALLOWED:
                    raise
                chunk = b""
            if self._flow() is Flow.SWALLOWED:
                self._lose()
                continue
            delay = self._delay()
            self.touched |= bool(delay)
            await self._under_way.put((self._loop.time() + delay, chunk))

    async def deliver(self, sink: asyncio.StreamWriter) -> None:
        """Delivers what was taken up, when it is due."""
        chunk = b"?"
        while chunk:
            due, chunk = await self._under_way.get()
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            while self._flow() is Flow.HELD:
                self.touched = True
                self._changed.clear()
                await self._changed.wait()
            if self._flow() is Flow.SWALLOWED:
                self._lose()
            elif chunk:
                sink.write(chunk)
                await sink.drain()
            elif sink.can_write_eof():
                sink.write_eof()

    def _lose(self) -> None:
        self.touched = True
        if not self._has_hole:
            self._has_hole = True
            self._on_hole()
