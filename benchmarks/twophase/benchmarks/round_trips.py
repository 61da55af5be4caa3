"""How often a program waits for Postgres: a proxy between them that counts exchanges and changes nothing.

Lives here: forwarding, and reading as much of the wire protocol as counting takes. Must not live here: what is counted
over (`counts`). Not for a measurement of times.

An exchange is what the client asks up to a point at which the server says that it is ready again (ReadyForQuery): a
simple query, or everything up to a Sync. One of several statements, or a pipeline, is one. Several Syncs that are sent
at once count singly, although they are waited for together. Opening a connection does not count, nor does having a
statement kept for later without executing it: either happens once for a session.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Final, Self

from psycopg.conninfo import make_conninfo

from twophase.sandbox.ports import LOOPBACK

_CHUNK: Final = 1 << 16
_LENGTH: Final = struct.Struct("!I")
# Types of messages (PostgreSQL manual, "Message Formats").
_QUERY, _PARSE, _BIND, _SYNC, _READY = b"Q", b"P", b"B", b"S", b"Z"


class RoundTrips:
    """Forwards connections from a loopback port to a Postgres at `target` (`host:port`), and counts exchanges.

    Those in which one of the texts `apart` occurs are left out. An asynchronous context manager; at its end the port
    and all connections are closed.
    """

    def __init__(self, target: str, *, apart: Sequence[str] = ()) -> None:
        self.count = 0
        self._target = target
        self._apart = tuple(text.encode() for text in apart)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    def through(self, dsn: str) -> str:
        """A connection string that goes this way; without encryption, which could not be read."""
        assert self._server is not None  # noqa: S101 - it was entered
        port = self._server.sockets[0].getsockname()[1]
        return make_conninfo(dsn, host=LOOPBACK, port=port, sslmode="disable", gssencmode="disable")

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, LOOPBACK, 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(self._carry(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until either end has ended."""
        seen = Conversation(self._exchanged)
        ends = [writer]
        try:
            host, _, port = self._target.rpartition(":")
            from_server, to_server = await asyncio.open_connection(host, int(port))
            ends.append(to_server)
            ways = [
                asyncio.create_task(_forward(reader, to_server, seen.asks)),
                asyncio.create_task(_forward(from_server, writer, seen.answers)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            for end in ends:
                end.close()

    def _exchanged(self, text: bytes) -> None:
        if not any(text_apart in text for text_apart in self._apart):
            self.count += 1


async def _forward(source: asyncio.StreamReader, sink: asyncio.StreamWriter, see: Callable[[bytes], None]) -> None:
    while chunk := await source.read(_CHUNK):
        see(chunk)
        sink.write(chunk)
        await sink.drain()


class Conversation:
    """What one connection says both ways; `exchanged` is called with the statements that each exchange executes.

    `asks` and `answers` take bytes as they come, cut anywhere.
    """

    def __init__(self, exchanged: Callable[[bytes], None]) -> None:
        self._exchanged = exchanged
        self._asked = _Messages(typed=False)
        self._answered = _Messages(typed=True)
        self._statements: dict[bytes, bytes] = {}  # by the name under which the session keeps them
        self._said: list[bytes] = []
        self._awaited: deque[bytes] = deque()

    def asks(self, chunk: bytes) -> None:
        """From the client."""
        for kind, body in self._asked.of(chunk):
            if kind == _PARSE:
                name, text, _ = body.split(b"\0", 2)
                self._statements[name] = text
            elif kind == _BIND:
                _, name, _ = body.split(b"\0", 2)
                self._said.append(self._statements.get(name, b""))
            elif kind == _QUERY:
                self._said.append(body)
            if kind in (_QUERY, _SYNC):
                self._awaited.append(b"\n".join(self._said))
                self._said.clear()

    def answers(self, chunk: bytes) -> None:
        """From the server. Its first word that it is ready ends the opening of the connection."""
        for kind, _ in self._answered.of(chunk):
            if kind == _READY and self._awaited and (executed := self._awaited.popleft()):
                self._exchanged(executed)


class _Messages:
    """Whole messages out of bytes. Only the first one of a client has no type."""

    def __init__(self, *, typed: bool) -> None:
        self._typed = typed
        self._rest = b""

    def of(self, chunk: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The type and the body of each that is complete now."""
        self._rest += chunk
        while True:
            start = 1 if self._typed else 0
            if len(self._rest) < start + _LENGTH.size:
                return
            (length,) = _LENGTH.unpack_from(self._rest, start)
            if len(self._rest) < start + length:
                return
            kind, body = self._rest[:start], self._rest[start + _LENGTH.size : start + length]
            self._rest, self._typed = self._rest[start + length :], True
            yield kind, body
