"""The proxy that counts round trips: against a real server with psycopg, and against bytes that are cut anywhere."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable

import psycopg
import pytest

from fixtures.clusters import Database
from twophase.benchmarks.round_trips import Conversation, RoundTrips
from twophase.sandbox.ports import free_port

Use = Callable[[psycopg.Connection], object]


def one_string(connection: psycopg.Connection) -> None:
    connection.execute("BEGIN; SELECT 1; SELECT 2; COMMIT")


def with_parameters(connection: psycopg.Connection) -> None:
    connection.execute("SELECT %s::int", [1])


def in_a_pipeline(connection: psycopg.Connection) -> None:
    with connection.pipeline():
        for number in range(5):
            connection.execute("SELECT %s::int", [number])


def kept(connection: psycopg.Connection) -> None:
    for number in range(4):
        connection.execute("SELECT %s::int", [number], prepare=True)


def that_fails(connection: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        connection.execute("SELECT 1/0")


def left_out(connection: psycopg.Connection) -> None:
    for _ in range(3):
        connection.execute("SELECT %s::text || 'apart'", ["set"], prepare=True)


@pytest.mark.parametrize(
    ("use", "trips"),
    [(one_string, 1), (with_parameters, 1), (in_a_pipeline, 1), (kept, 4), (that_fails, 1), (left_out, 0)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
async def test_an_exchange_is_counted_once_whatever_is_in_it(database: Database, use: Use, trips: int) -> None:
    def work(dsn: str) -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            use(connection)

    async with RoundTrips(database.cluster.address, apart=["'apart'"]) as way:
        await asyncio.to_thread(work, way.through(database.dsn))
        assert way.count == trips


async def test_a_server_that_is_not_there_is_not_there_behind_the_proxy_either() -> None:
    async with RoundTrips(f"127.0.0.1:{free_port()}") as way:
        dsn = way.through("postgresql://nobody@nowhere/nothing")
        with pytest.raises(psycopg.OperationalError):
            await asyncio.to_thread(lambda: psycopg.connect(dsn))
        assert way.count == 0


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


ASKED = b"".join(
    (
        message(b"", b"\0\3\0\0user\0me\0\0"),
        message(b"P", b"a\0SELECT a\0\0\0"),
        message(b"S"),
        message(b"B", b"\0a\0\0\0"),
        message(b"E", b"\0"),
        message(b"Q", b"SELECT b\0"),
        message(b"Q", b"SELECT Z\0"),
    )
)
ANSWERED = message(b"R", b"\0\0\0\0") + message(b"Z", b"I") + 3 * (message(b"D", b"ZZZ") + message(b"Z", b"I"))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
def test_messages_may_be_cut_anywhere(size: int) -> None:
    found: list[bytes] = []
    conversation = Conversation(found.append)
    ready = len(message(b"R", b"\0\0\0\0") + message(b"Z", b"I"))
    for chunk in cut(ANSWERED[:ready], size):
        conversation.answers(chunk)
    assert found == [], "the connection is open now"
    for chunk in cut(ASKED, size):
        conversation.asks(chunk)
    for chunk in cut(ANSWERED[ready:], size):
        conversation.answers(chunk)
    assert found == [b"SELECT a\nSELECT b\0", b"SELECT Z\0"], "keeping a statement executes nothing"


def cut(whole: bytes, size: int) -> list[bytes]:
    return [whole[start : start + size] for start in range(0, len(whole), size)]
