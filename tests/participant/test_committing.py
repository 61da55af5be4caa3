"""COMMIT PREPARED heard by the event loop: success is the command tag, and whatever else comes is left to the steps."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator

import pytest

from fixtures.clusters import Database
from fixtures.second_phase import empty, gid_of, make_purse, until, value
from twophase.contract.crashpoints import CrashPoint
from twophase.contract.names import Gid
from twophase.participant import committing, database
from twophase.participant.committing import Committer
from twophase.participant.database import WorkConnection
from twophase.participant.outcomes import Committed, Identity
from twophase.sandbox.postgres import Cluster

GID = gid_of()
HERE = Identity(system_identifier="1", timeline=1, database="purse")


@pytest.fixture(scope="module")
def shared(cluster: Cluster) -> Iterator[Database]:
    database = make_purse(cluster, "committing")
    yield database
    cluster.drop_database(database.name)


@pytest.fixture
def purse(shared: Database) -> Database:
    return empty(shared)


@pytest.fixture
def given_back() -> list[WorkConnection]:
    return []


@pytest.fixture
def connect(purse: Database) -> Iterator[Callable[[], WorkConnection]]:
    made = []

    def connect() -> WorkConnection:
        connection = WorkConnection.connect(purse.dsn, autocommit=True)
        connection.identity = HERE
        made.append(connection)
        return connection

    yield connect
    for connection in made:
        connection.close()


def prepared(purse: Database, *gids: Gid) -> None:
    for gid in gids:
        with purse.connect() as connection:
            connection.execute("BEGIN; INSERT INTO purse VALUES (1)")
            connection.execute(f"PREPARE TRANSACTION '{gid}'".encode())


async def test_a_commit_is_told_by_its_tag_between_the_two_crash_points(
    purse: Database,
    connect: Callable[[], WorkConnection],
    given_back: list[WorkConnection],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[CrashPoint, list[str]]] = []
    monkeypatch.setattr(committing, "reach", lambda point: seen.append((point, purse.prepared())))
    prepared(purse, GID)
    committer = Committer(give_back=given_back.append)
    connection = connect()
    committer.add(connection)
    assert await committer.commit(GID) == Committed(identity=HERE)
    assert seen == [
        (CrashPoint.PARTICIPANT_BEFORE_COMMIT_PREPARED, [str(GID)]),
        (CrashPoint.PARTICIPANT_AFTER_COMMIT_PREPARED, []),
    ]
    await committer.close()
    assert given_back == [connection]
    assert connection.at_rest


async def test_what_is_not_there_is_left_to_the_steps_and_the_session_goes_on(
    purse: Database, connect: Callable[[], WorkConnection], given_back: list[WorkConnection]
) -> None:
    committer = Committer(give_back=given_back.append)
    committer.add(connect())
    prepared(purse, GID)
    absent, there = committer.commit(gid_of(8)), committer.commit(GID)
    assert (await absent, await there) == (None, Committed(identity=HERE))
    assert given_back == []
    await committer.close()


async def test_a_lost_session_tells_nothing_and_what_waits_for_it_is_left_to_the_steps(
    purse: Database, connect: Callable[[], WorkConnection], given_back: list[WorkConnection]
) -> None:
    connection = connect()
    pid = connection.info.backend_pid
    committer = Committer(give_back=given_back.append)
    committer.add(connection)
    prepared(purse, GID)
    os.kill(pid, signal.SIGSTOP)
    first, second = committer.commit(GID), committer.commit(gid_of(8))
    os.kill(pid, signal.SIGTERM)  # it ends by itself, in the middle of its work: the server goes on
    os.kill(pid, signal.SIGCONT)
    # Stopped before or after it was committed: nobody is told which.
    assert await first in (None, Committed(identity=HERE))
    assert await second is None
    await until(lambda: len(committer) == 0)
    assert given_back == [connection]
    assert connection.closed
    await committer.close()


async def test_a_session_lost_at_rest_is_noticed_at_once(
    purse: Database, connect: Callable[[], WorkConnection], given_back: list[WorkConnection]
) -> None:
    connection = connect()
    committer = Committer(give_back=given_back.append)
    committer.add(connection)
    value(purse, "SELECT pg_terminate_backend(%s)", connection.info.backend_pid)
    await until(lambda: len(committer) == 0)
    assert given_back == [connection]
    assert committer.is_busy


async def test_a_session_that_cannot_send_tells_nothing_once(
    connect: Callable[[], WorkConnection], given_back: list[WorkConnection]
) -> None:
    connection = connect()
    committer = Committer(give_back=given_back.append)
    committer.add(connection)
    connection.pgconn.send_query(b"SELECT 1")  # so that another statement is refused
    assert await committer.commit(GID) is None
    assert given_back == [connection]
    assert connection.closed


async def test_what_waits_too_long_for_others_is_left_to_the_steps(
    purse: Database,
    connect: Callable[[], WorkConnection],
    given_back: list[WorkConnection],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(committing, "_PATIENCE", 0.01)
    connection = connect()
    committer = Committer(give_back=given_back.append)
    committer.add(connection)
    prepared(purse, GID)
    os.kill(connection.info.backend_pid, signal.SIGSTOP)
    slow, *late = (committer.commit(gid_of(sequence)) for sequence in (7, 8, 9))
    assert [await each for each in late] == [None, None]
    os.kill(connection.info.backend_pid, signal.SIGCONT)
    assert await slow == Committed(identity=HERE)
    await committer.close()


async def test_a_connection_that_others_want_is_given_back_when_it_is_free(
    purse: Database, connect: Callable[[], WorkConnection], given_back: list[WorkConnection]
) -> None:
    at_work, at_rest = connect(), connect()
    committer = Committer(give_back=given_back.append)
    committer.add(at_rest)
    committer.add(at_work)
    prepared(purse, GID)
    committed, waiting = committer.commit(GID), None
    committer.give_up_one()
    assert given_back == [at_rest]
    waiting = committer.commit(gid_of(8))
    committer.give_up_one()
    committer.give_up_one()  # there is no other one to give
    assert await committed == Committed(identity=HERE)
    assert await waiting is None  # nobody is left to ask
    assert given_back == [at_rest, at_work]
    committer.add(connect())
    prepared(purse, gid_of(9))
    assert await committer.commit(gid_of(9)) == Committed(identity=HERE)
    await committer.close()


async def test_whoever_stops_waiting_stops_nothing(
    purse: Database, connect: Callable[[], WorkConnection], given_back: list[WorkConnection]
) -> None:
    committer = Committer(give_back=given_back.append)
    committer.add(connect())
    prepared(purse, GID, gid_of(8))
    committer.commit(GID).cancel()
    assert await committer.commit(gid_of(8)) == Committed(identity=HERE)
    assert purse.prepared() == []
    await committer.close()


async def test_a_connection_goes_back_to_its_pool_now_and_then(
    purse: Database,
    connect: Callable[[], WorkConnection],
    given_back: list[WorkConnection],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The pool retires old ones."""
    committer = Committer(give_back=given_back.append)
    committer.add(connect())
    prepared(purse, GID, gid_of(8))
    assert await committer.commit(GID) == Committed(identity=HERE)
    assert given_back == []
    monkeypatch.setattr(database, "KEPT", 0.0)
    committer.give_up_one()
    committer.add(connect())
    assert len(given_back) == 2
    assert len(committer) == 0
    await committer.close()


@pytest.mark.parametrize("cancelled", [False, True])
async def test_closing_waits_for_the_answer(
    purse: Database, connect: Callable[[], WorkConnection], given_back: list[WorkConnection], *, cancelled: bool
) -> None:
    committer = Committer(give_back=given_back.append)
    committer.add(connect())
    prepared(purse, GID)
    answer, unsent = committer.commit(GID), committer.commit(gid_of(8))
    if cancelled:
        answer.cancel()
    async with asyncio.timeout(20):
        await committer.close()
    assert cancelled or answer.result() == Committed(identity=HERE)
    assert await unsent is None
    assert purse.prepared() == []
    assert [connection.at_rest for connection in given_back] == [True]
