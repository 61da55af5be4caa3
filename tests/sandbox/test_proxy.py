"""The proxy: every way in which a network fails, proven with plain sockets."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator

import pytest

from twophase.sandbox import proxy as proxy_module
from twophase.sandbox.errors import SandboxError
from twophase.sandbox.networks import BLACKHOLE, CUT, HELD, REPLIES_ONLY, REQUESTS_ONLY, WHOLE, delayed, replies_dropped
from twophase.sandbox.ports import free_port
from twophase.sandbox.proxy import Proxy

SECONDS = 10.0


class Line:
    """One end of a connection, with a wait for everything."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def say(self, text: bytes) -> None:
        self._writer.write(text)
        await self._writer.drain()

    async def hear(self, text: bytes) -> None:
        async with asyncio.timeout(SECONDS):
            assert await self._reader.readexactly(len(text)) == text

    async def ends(self) -> None:
        """Its peer ended it in order."""
        async with asyncio.timeout(SECONDS):
            assert await self._reader.read() == b""

    async def is_reset(self) -> None:
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(SECONDS):
                await self._reader.read()

    @property
    def has_heard_something(self) -> bool:
        return bool(self._reader._buffer)  # type: ignore[attr-defined]

    @property
    def has_ended(self) -> bool:
        return self._reader.at_eof() or self._reader.exception() is not None

    def end_sending(self) -> None:
        self._writer.write_eof()

    def close(self) -> None:
        self._writer.transport.abort()

    def reset(self) -> None:
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


class Server:
    """Takes connections; they are had in the order in which they came."""

    def __init__(self) -> None:
        self._lines: asyncio.Queue[Line] = asyncio.Queue()
        self._all: list[Line] = []
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)

    @property
    def address(self) -> str:
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    async def line(self) -> Line:
        async with asyncio.timeout(SECONDS):
            return await self._lines.get()

    def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for line in self._all:
            line.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = Line(reader, writer)
        self._all.append(line)
        self._lines.put_nowait(line)


class Scene:
    """A server, and a proxy before it."""

    def __init__(self, server: Server, proxy: Proxy) -> None:
        self.server, self.proxy = server, proxy
        self._lines: list[Line] = []

    async def dial(self) -> Line:
        async with asyncio.timeout(SECONDS):
            line = Line(*await asyncio.open_connection("127.0.0.1", self.proxy.port))
        self._lines.append(line)
        return line

    async def talk(self) -> tuple[Line, Line]:
        """A connection that has carried bytes both ways: its client's end, and its server's."""
        client = await self.dial()
        await client.say(b"hello")
        server = await self.server.line()
        await server.hear(b"hello")
        await server.say(b"welcome")
        await client.hear(b"welcome")
        return client, server

    async def until_touched(self) -> None:
        async with asyncio.timeout(SECONDS):
            while not self.proxy.touched:
                await asyncio.sleep(0)

    async def until_empty(self) -> None:
        async with asyncio.timeout(SECONDS):
            while self.proxy.connections:
                await asyncio.sleep(0)

    def close(self) -> None:
        for line in self._lines:
            line.close()


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    server = Server()
    await server.start()
    async with Proxy(server.address) as proxy:
        found = Scene(server, proxy)
        yield found
    assert proxy.connections == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}, "the proxy leaves a task behind"
    found.close()
    server.stop()


async def test_a_whole_network_carries_everything_and_ends_in_order(scene: Scene) -> None:
    client, server = await scene.talk()
    much = b"x" * 3_000_000
    saying = asyncio.create_task(client.say(much))
    await server.hear(much)
    await saying
    client.end_sending()
    await server.ends()
    await server.say(b"the answer, after the end of the question")
    await client.hear(b"the answer, after the end of the question")
    server.end_sending()
    await client.ends()
    await scene.until_empty()
    assert scene.proxy.touched == 0


async def test_an_end_that_is_reset_resets_the_other(scene: Scene) -> None:
    client, server = await scene.talk()
    client.reset()
    await server.is_reset()
    await scene.until_empty()


async def test_cut_resets_what_is_there_refuses_what_comes_and_heals_on_the_same_port(scene: Scene) -> None:
    client, server = await scene.talk()
    port = scene.proxy.port
    await scene.proxy.set(CUT)
    await client.is_reset()
    await server.is_reset()
    assert scene.proxy.touched == 1
    with pytest.raises(ConnectionRefusedError):
        await scene.dial()
    await scene.proxy.set(WHOLE)
    assert scene.proxy.port == port
    await scene.talk()


async def test_delayed_bytes_arrive_in_order_and_not_before_their_time(scene: Scene) -> None:
    client, server = await scene.talk()
    await scene.proxy.set(delayed(0.05))
    began = time.monotonic()
    await client.say(b"one ")
    await client.say(b"two")
    await server.hear(b"one two")
    halfway = time.monotonic()
    await server.say(b"back")
    await client.hear(b"back")
    assert halfway - began >= 0.05
    assert time.monotonic() - halfway >= 0.05
    assert scene.proxy.touched == 1
    await scene.proxy.set(WHOLE)
    await client.say(b"again")
    await server.hear(b"again")
    assert scene.proxy.touched == 0


async def test_a_blackhole_accepts_and_swallows_and_what_lost_bytes_is_reset_when_it_heals(scene: Scene) -> None:
    client, server = await scene.talk()
    quiet, other_server = await scene.talk()
    await scene.proxy.set(BLACKHOLE)
    await client.say(b"lost")
    await scene.until_touched()
    late = await scene.dial()
    await late.say(b"lost too")
    late_server = await scene.server.line()
    assert not server.has_heard_something
    await server.say(b"lost on the way back")
    await scene.proxy.set(WHOLE)
    await client.is_reset()
    await server.is_reset()
    # Nothing was lost between these two.
    await quiet.say(b"whole")
    await other_server.hear(b"whole")
    late_server.close()


async def test_an_end_in_a_blackhole_is_not_noticed_at_the_other_side(scene: Scene) -> None:
    client, server = await scene.talk()
    await scene.proxy.set(BLACKHOLE)
    client.end_sending()
    await scene.until_touched()
    assert not server.has_ended
    await scene.proxy.set(WHOLE)
    await server.is_reset()


async def test_requests_only(scene: Scene) -> None:
    client, server = await scene.talk()
    await scene.proxy.set(REQUESTS_ONLY)
    await client.say(b"do it")
    await server.hear(b"do it")
    await server.say(b"done")
    await scene.until_touched()
    assert not client.has_heard_something
    await scene.proxy.set(WHOLE)
    await client.is_reset()


async def test_replies_only(scene: Scene) -> None:
    client, server = await scene.talk()
    await scene.proxy.set(REPLIES_ONLY)
    await server.say(b"news")
    await client.hear(b"news")
    await client.say(b"thanks")
    await scene.until_touched()
    assert not server.has_heard_something
    await scene.proxy.set(WHOLE)
    await server.is_reset()


async def test_held_bytes_arrive_whole_when_the_network_is(scene: Scene) -> None:
    client, server = await scene.talk()
    await scene.proxy.set(HELD)
    await client.say(b"one ")
    await scene.until_touched()
    await client.say(b"two")
    assert not server.has_heard_something
    await scene.proxy.set(WHOLE)
    await server.hear(b"one two")
    await server.say(b"late, and there")
    await client.hear(b"late, and there")


async def test_what_was_held_and_then_swallowed_is_lost(scene: Scene) -> None:
    client, server = await scene.talk()
    await scene.proxy.set(HELD)
    await client.say(b"one")
    await scene.until_touched()
    await scene.proxy.set(BLACKHOLE)
    await scene.until_touched()
    assert not server.has_heard_something
    await scene.proxy.set(HELD)
    await client.is_reset()


async def test_dropped_replies_take_effect_and_then_the_connection_is_reset(scene: Scene) -> None:
    client, server = await scene.talk()
    await scene.proxy.set(replies_dropped(replies_for=0.0, reset_after=0.01))
    await client.say(b"do it")
    await server.hear(b"do it")
    await server.say(b"done")
    await client.is_reset()
    await server.is_reset()
    assert not client.has_heard_something
    assert scene.proxy.touched == 1


async def test_a_new_connection_gets_its_replies_for_a_while_although_they_are_dropped(scene: Scene) -> None:
    await scene.proxy.set(replies_dropped(replies_for=SECONDS, reset_after=0.01))
    await scene.talk()
    assert scene.proxy.touched == 0


async def test_nobody_behind_the_proxy_is_a_reset(scene: Scene) -> None:
    scene.server.stop()
    client = await scene.dial()
    await client.is_reset()


async def test_another_target_holds_for_new_connections(scene: Scene) -> None:
    client, server = await scene.talk()
    other = Server()
    await other.start()
    scene.proxy.target = other.address
    await client.say(b"as before")
    await server.hear(b"as before")
    moved = await scene.dial()
    await moved.say(b"here")
    await (await other.line()).hear(b"here")
    other.stop()


async def test_a_connection_that_is_reset_before_it_was_carried_is_closed_too(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept = scene.proxy._accept

    def accept_and_reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accept(reader, writer)
        for task in scene.proxy._connections:
            task.cancel()

    await scene.proxy.set(CUT)
    monkeypatch.setattr(scene.proxy, "_accept", accept_and_reset)
    await scene.proxy.set(WHOLE)
    client = await scene.dial()
    await client.is_reset()


async def test_a_reset_in_a_blackhole_is_not_noticed_at_the_other_side(scene: Scene) -> None:
    client, server = await scene.talk()
    await scene.proxy.set(BLACKHOLE)
    client.reset()
    await scene.until_touched()
    assert not server.has_ended
    await scene.proxy.set(WHOLE)
    await server.is_reset()


async def test_a_port_that_was_taken_while_the_network_was_cut_is_told(scene: Scene) -> None:
    await scene.proxy.set(CUT)
    with socket.socket() as taker:
        taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taker.bind(("127.0.0.1", scene.proxy.port))
        taker.listen()
        with pytest.raises(SandboxError, match=f"cannot listen on 127.0.0.1:{scene.proxy.port}"):
            await scene.proxy.set(WHOLE)


async def test_a_port_that_was_taken_at_the_beginning_is_not_insisted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taker:
        taker.bind(("127.0.0.1", 0))
        taker.listen()
        ports = [taker.getsockname()[1], free_port()]
        monkeypatch.setattr(proxy_module, "free_port", lambda: ports.pop(0))
        async with Proxy("127.0.0.1:1") as proxy:
            assert proxy.port != taker.getsockname()[1]
        monkeypatch.setattr(proxy_module, "free_port", lambda: taker.getsockname()[1])
        with pytest.raises(SandboxError, match="cannot listen"):
            await Proxy("127.0.0.1:1").__aenter__()


async def test_a_watcher_is_told_when_the_network_changes() -> None:
    told: list[tuple[str, str]] = []
    async with Proxy("127.0.0.1:1", name="link", watcher=lambda who, what: told.append((who, what))) as proxy:
        for network in (WHOLE, CUT, CUT, delayed(0.25), WHOLE):
            await proxy.set(network)
    assert told == [("link", "cut"), ("link", "0.25 s late"), ("link", "whole")]
