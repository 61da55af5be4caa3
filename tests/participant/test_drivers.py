"""What happens to a connection that business code has not let go of: it is freed when nobody is inside it any more.

A thread inside libpq while its connection is freed ends the whole process, or does not, as chance has it. So here it is
only noted that one is to be freed, and whether somebody was in it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, cast

import psycopg
import pytest
from psycopg import pq

from fixtures.clusters import Database
from fixtures.second_phase import gid_of, value
from twophase.participant import drivers
from twophase.participant.database import CLEAN, CLEAN_PREPARED, WorkConnection
from twophase.participant.drivers import drive
from twophase.participant.exchanges import COMMIT, Exchange, Reply, Statement, Steps
from twophase.participant.refusals import ConnectionGone


class Watched:
    """A connection of libpq: `freed` has an entry for every time it was to be freed, True if its lock was held then."""

    def __init__(self, connection: WorkConnection) -> None:
        self.freed: list[bool] = []
        self._pgconn = connection.pgconn
        self._lock = connection.lock

    def finish(self) -> None:
        self.freed.append(self._lock.locked())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pgconn, name)


@pytest.fixture
def connection(database: Database) -> Iterator[WorkConnection]:
    connection = WorkConnection.connect(database.dsn, autocommit=True)
    kept, pid = connection.pgconn, connection.pgconn.backend_pid
    yield connection
    connection.pgconn = kept
    with database.connect() as other:
        other.execute("SELECT pg_terminate_backend(%s)", [pid])
    with connection.lock:
        connection.close()


def watch(connection: WorkConnection) -> Watched:
    """From now on. What psycopg has under way goes on with the real one."""
    watched = Watched(connection)
    connection.pgconn = cast("pq.abc.PGconn", watched)
    return watched


def steps() -> Steps[tuple[Reply, ...]]:
    """What a branch does when its business code has returned: a round trip."""
    replies: tuple[Reply, ...] = yield Exchange((COMMIT,))
    return replies


def test_a_thread_inside_the_connection_has_left_before_it_is_freed(
    connection: WorkConnection, database: Database
) -> None:
    ended: list[Exception] = []

    def go_on() -> None:
        try:
            connection.execute("SELECT pg_sleep(10)")
        except psycopg.Error as error:
            ended.append(error)

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    while connection.pgconn.transaction_status != pq.TransactionStatus.ACTIVE:
        pass
    watched = watch(connection)
    with pytest.raises(ConnectionGone, match="still used the connection after its end"):
        drive(steps(), connection)
    assert watched.freed == [False]
    thread.join()
    assert isinstance(ended[0], psycopg.OperationalError)


def test_what_nobody_is_inside_of_is_freed_though_its_lock_is_held(
    connection: WorkConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream that was read halfway keeps the lock for ever."""
    monkeypatch.setattr(drivers, "_LEAVE_SECONDS", 0.01)
    stream = connection.cursor().stream("SELECT generate_series(1, 100000)")
    assert next(stream) == (1,)
    watched = watch(connection)
    with pytest.raises(ConnectionGone, match="still used the connection after its end"):
        drive(steps(), connection)
    assert watched.freed == [True]
    with pytest.raises(psycopg.OperationalError):
        list(stream)


def one(exchange: Exchange) -> Steps[tuple[Reply, ...]]:
    replies: tuple[Reply, ...] = yield exchange
    return replies


PREPARE = (
    Statement(b"BEGIN"),
    Statement(b"SELECT 1, 'one'"),
    Statement(f"PREPARE TRANSACTION '{gid_of()}'".encode()),
)


def test_every_statement_of_a_string_has_its_reply(connection: WorkConnection) -> None:
    replies = drive(one(Exchange(PREPARE)), connection)
    assert [reply.tag for reply in replies] == ["BEGIN", "SELECT 1", "PREPARE TRANSACTION"]
    assert replies[1].rows == ((1, "one"),)
    (ended,) = drive(one(Exchange((Statement(f"ROLLBACK PREPARED '{gid_of()}'".encode()),))), connection)
    assert ended.tag == "ROLLBACK PREPARED"


def test_several_statements_that_stand_as_one_have_the_reply_of_the_last(connection: WorkConnection) -> None:
    (reply,) = drive(one(Exchange((Statement(b"BEGIN; SELECT 1, 'one'; SELECT 2, 'two'"),))), connection)
    assert reply == Reply("SELECT 1", ((2, "two"),))
    with pytest.raises(psycopg.errors.DivisionByZero):
        drive(one(Exchange((Statement(b"SELECT 1; SELECT 1/0; ROLLBACK"),))), connection)
    assert connection.pgconn.transaction_status == pq.TransactionStatus.INERROR


@pytest.mark.parametrize(
    ("cleaning", "clean"),
    [
        (CLEAN, True),
        (CLEAN_PREPARED, True),
        (b"SELECT 1/0", False),
        (b"SELECT true", False),
        (b"SELECT 1/0; " + CLEAN, False),
    ],
)
def test_how_the_cleaning_goes_changes_no_answer(
    connection: WorkConnection, database: Database, cleaning: bytes, *, clean: bool
) -> None:
    replies = drive(one(Exchange(PREPARE, cleaning=cleaning)), connection)
    assert replies[-1].tag == "PREPARE TRANSACTION"
    assert connection.clean is clean
    assert value(database, "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()") == str(gid_of())
    with database.connect() as other:
        other.execute(f"ROLLBACK PREPARED '{gid_of()}'".encode())


def test_a_statement_that_is_refused_is_thrown_and_nothing_after_it_is_run(connection: WorkConnection) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        drive(one(Exchange((Statement(b"SELECT 1/0"), *PREPARE), cleaning=CLEAN)), connection)
    assert not connection.clean
    assert connection.at_rest


def test_fewer_answers_than_statements_are_no_answer(connection: WorkConnection) -> None:
    """Nobody knows then what was done: the session is given up."""
    with pytest.raises(ConnectionGone):
        drive(one(Exchange((Statement(b""), Statement(b"")))), connection)
    assert connection.closed
