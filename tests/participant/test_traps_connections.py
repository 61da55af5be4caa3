"""What business code may do to a connection, and that none of it ends the branch or reaches the next one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from psycopg import pq
from psycopg.rows import dict_row
from psycopg.types.numeric import FloatLoader
from psycopg_pool import ConnectionPool

from fixtures.branches import Do, Step, apply, opened, refusal, vote
from fixtures.clusters import Database
from fixtures.second_phase import INSERT, RESULTS, applied, empty, gid_of, make_purse, rows, until, value
from twophase.participant import branch, crew, database, drivers
from twophase.participant.database import WorkConnection
from twophase.participant.exchanges import Exchange
from twophase.participant.outcomes import Committed, No, Prepared, ReadOnly
from twophase.participant.resource import ResourceManager
from twophase.sandbox.postgres import Cluster
from twophase.v1 import types_pb2

GID = gid_of()
COLOURS = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


@pytest.fixture(scope="module")
def shared(cluster: Cluster) -> Iterator[Database]:
    database = make_purse(cluster, "traps_connections")
    yield database
    cluster.drop_database(database.name)


@pytest.fixture
def purse(shared: Database) -> Database:
    return empty(shared)


@pytest.fixture
async def manager(purse: Database) -> AsyncIterator[ResourceManager]:
    """One connection of each kind: the next branch gets what the one before it left."""
    async with opened(purse, work_connections=1) as manager:
        yield manager


def nothing_left(database: Database) -> bool:
    return (applied(database), database.prepared(), rows(database)) == (0, [], [])


def enter(connection: Any) -> Any:
    if isinstance(connection, psycopg.AsyncConnection):
        return connection.__aenter__()
    return connection.__enter__()


def in_transaction(connection: Any) -> Any:
    return connection.transaction().__aenter__() if _is_async(connection) else connection.transaction().__enter__()


def _is_async(connection: Any) -> bool:
    return isinstance(connection, psycopg.AsyncConnection)


FORBIDDEN: dict[str, Callable[[Any], Any]] = {
    "commit": lambda connection: connection.commit(),
    "rollback": lambda connection: connection.rollback(),
    "close": lambda connection: connection.close(),
    "with": enter,
    "autocommit": lambda connection: connection.set_autocommit(True),
    "isolation level": lambda connection: connection.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE),
    "read only": lambda connection: connection.set_read_only(False),
    "deferrable": lambda connection: connection.set_deferrable(True),
    "tpc_begin": lambda connection: connection.tpc_begin("x"),
    "tpc_prepare": lambda connection: connection.tpc_prepare(),
    "tpc_commit": lambda connection: connection.tpc_commit("x"),
    "tpc_rollback": lambda connection: connection.tpc_rollback("x"),
}


@COLOURS
@pytest.mark.parametrize("call", FORBIDDEN.values(), ids=FORBIDDEN)
async def test_what_ends_the_branch_is_not_for_business_code(
    manager: ResourceManager, purse: Database, call: Step, *, asynchronous: bool
) -> None:
    reason = await refusal(manager, Do(INSERT, call, asynchronous=asynchronous))
    assert reason.kind == types_pb2.REFUSAL_KIND_INTERNAL
    assert "is not for business code" in reason.message
    assert nothing_left(purse)


@pytest.mark.parametrize("name", ["autocommit", "isolation_level", "read_only", "deferrable"])
async def test_nor_are_the_attributes(manager: ResourceManager, purse: Database, name: str) -> None:
    reason = await refusal(manager, Do(INSERT, lambda connection: setattr(connection, name, None)))
    assert "is not for business code" in reason.message
    assert nothing_left(purse)


@COLOURS
@pytest.mark.parametrize(
    "steps",
    [
        ("COMMIT",),
        ("ROLLBACK",),
        ("COMMIT", INSERT),
        ("ROLLBACK", INSERT),
        ("ROLLBACK AND CHAIN", INSERT),
        ("ROLLBACK; BEGIN", INSERT),
        ("ROLLBACK", "SELECT 1", "SELECT set_config('twophase.branch', '', true)", INSERT),
        ("ROLLBACK", in_transaction),
    ],
)
async def test_raw_sql_that_ends_the_branch_is_found_out_and_what_came_after_it_is_undone(
    manager: ResourceManager, purse: Database, steps: tuple[Step, ...], *, asynchronous: bool
) -> None:
    reason = await refusal(manager, Do("SELECT 1", *steps, asynchronous=asynchronous))
    assert reason.kind == types_pb2.REFUSAL_KIND_INTERNAL
    assert nothing_left(purse)
    assert isinstance(await vote(manager, Do(INSERT, asynchronous=asynchronous), gid_of(8)), Prepared)


async def test_what_business_code_committed_itself_is_told(manager: ResourceManager, purse: Database) -> None:
    reason = await refusal(manager, Do(INSERT, "COMMIT"))
    assert "What it committed stays" in reason.message
    assert (purse.prepared(), rows(purse)) == ([], [])


async def test_a_second_begin_is_harmless(manager: ResourceManager, purse: Database) -> None:
    assert isinstance(await vote(manager, Do("BEGIN", INSERT)), Prepared)
    assert isinstance(await manager.commit(GID), Committed)
    assert applied(purse) == 1


@pytest.mark.parametrize("how", ["ROLE", "SESSION AUTHORIZATION"])
async def test_a_role_left_behind_is_found_out(manager: ResourceManager, purse: Database, how: str) -> None:
    """The owner of a prepared transaction is the role at its PREPARE: this one could not be finished."""
    reason = await refusal(manager, Do(INSERT, f"SET {how} pg_monitor"))
    assert reason.kind == types_pb2.REFUSAL_KIND_INTERNAL
    assert nothing_left(purse)


async def test_a_role_taken_and_given_back_is_fine(manager: ResourceManager, purse: Database) -> None:
    assert isinstance(await vote(manager, Do("SET ROLE pg_monitor", "RESET ROLE", INSERT)), Prepared)


async def test_a_role_that_begins_as_another_one_stays_that_one(purse: Database) -> None:
    """ALTER ROLE ... SET role: what cleans the session must bring that back, or the next branch has another owner."""
    cluster = purse.cluster
    cluster.create_role("login_role")
    with purse.connect() as connection:
        connection.execute(b"GRANT pg_write_all_data, pg_read_all_data TO pg_monitor")
        connection.execute(b"GRANT pg_monitor TO login_role; ALTER ROLE login_role SET role = pg_monitor")
    try:
        async with opened(purse.dsn_for("login_role"), work_connections=1) as manager:
            for number in (1, 2):
                assert isinstance(await vote(manager, Do(INSERT), gid_of(number)), Prepared)
            owners = "SELECT array_agg(DISTINCT owner::text) FROM pg_prepared_xacts WHERE database = current_database()"
            assert value(purse, owners) == ["pg_monitor"]
            for number in (1, 2):
                assert isinstance(await manager.commit(gid_of(number)), Committed)
    finally:
        with purse.connect() as connection:
            connection.execute(b"REVOKE pg_write_all_data, pg_read_all_data FROM pg_monitor; DROP ROLE login_role")


@COLOURS
async def test_savepoints_work(manager: ResourceManager, purse: Database, *, asynchronous: bool) -> None:
    def undo_one(connection: Any) -> Any:
        if _is_async(connection):
            return undo_one_async(connection)
        with suppress(psycopg.Error), connection.transaction():
            connection.execute(INSERT.encode())
            connection.execute(b"SELECT 1/0")
        with connection.transaction():
            connection.execute(INSERT.encode())
        return None

    async def undo_one_async(connection: psycopg.AsyncConnection) -> None:
        with suppress(psycopg.Error):
            async with connection.transaction():
                await connection.execute(INSERT.encode())
                await connection.execute(b"SELECT 1/0")
        async with connection.transaction():
            await connection.execute(INSERT.encode())

    assert isinstance(await vote(manager, Do(undo_one, asynchronous=asynchronous)), Prepared)
    await manager.commit(GID)
    assert applied(purse) == 1


def lax(connection: Any) -> None:
    connection.row_factory = dict_row
    connection.cursor_factory = psycopg.AsyncRawCursor if _is_async(connection) else psycopg.RawCursor
    connection.prepare_threshold = 0
    connection.adapters.register_loader("int4", FloatLoader)
    connection.add_notice_handler(lambda _: None)


SEEN = """
SELECT current_setting('work_mem') <> '77MB',
       (SELECT count(*)::int FROM pg_prepared_statements WHERE from_sql),
       (SELECT count(*)::int FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
       (SELECT count(*)::int FROM pg_cursors), (SELECT count(*)::int FROM pg_listening_channels()),
       current_setting('TimeZone') <> 'Asia/Kathmandu', coalesce(current_setting('mine.own', true), '')"""
CLEAN = (True, 0, 0, 0, 0, True, "")


@COLOURS
@pytest.mark.parametrize("do", [vote, apply])
@pytest.mark.parametrize(
    "leaving",
    [
        ("SET work_mem = '77MB'; SET TimeZone = 'Asia/Kathmandu'", "SELECT set_config('mine.own', 'x', false)"),
        ("PREPARE named AS SELECT 1",),
        ("SELECT pg_advisory_lock(7)", "SELECT pg_advisory_lock(7)"),
        ("CREATE TEMP TABLE scratch (id integer)",),
        ("LISTEN told",),
        ("DECLARE lasting CURSOR WITH HOLD FOR SELECT 1",),
        ("DECLARE open_one CURSOR FOR SELECT 1",),
        (lax,),
        (in_transaction,),
        ("SET lock_timeout = 0; SET statement_timeout = 1; SET default_transaction_read_only = on",),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",),
    ],
    ids=[
        "settings", "prepared statement", "advisory lock", "temp table", "listen", "hold", "cursor", "the object",
        "transaction() without an end", "timeouts", "characteristics",
    ],
)  # fmt: skip
async def test_what_is_left_in_the_session_never_reaches_the_next_branch(
    manager: ResourceManager, purse: Database, leaving: tuple[Step, ...], do: Any, *, asynchronous: bool
) -> None:
    seen: list[Any] = []

    def look(connection: Any) -> Any:
        if _is_async(connection):
            return look_async(connection)
        seen.append(connection.execute(SEEN.encode()).fetchone())
        return None

    async def look_async(connection: psycopg.AsyncConnection) -> None:
        seen.append(await (await connection.execute(SEEN.encode())).fetchone())

    await do(manager, Do(*leaving, asynchronous=asynchronous), gid_of(8))
    answer = await vote(manager, Do(look, INSERT, asynchronous=asynchronous))
    assert seen == [CLEAN]
    assert all(type(number) is int for number in seen[0][1:5])
    assert isinstance(answer, Prepared)


def hold_stream(connection: Any) -> Any:
    """Reads the first row of many, and keeps the rest waiting."""
    cursor = connection.cursor()
    connection.kept = rows = cursor.stream(b"SELECT generate_series(1, 100000)")
    return anext(rows) if _is_async(connection) else next(rows)


def open_copy(connection: Any) -> Any:
    connection.kept = copy = connection.cursor().copy(b"COPY purse FROM STDIN")
    return copy.__aenter__() if _is_async(connection) else copy.__enter__()


def open_pipeline(connection: Any) -> Any:
    connection.kept = pipeline = connection.pipeline()
    return pipeline.__aenter__() if _is_async(connection) else pipeline.__enter__()


@COLOURS
@pytest.mark.parametrize("work", [hold_stream, open_copy], ids=["stream", "copy"])
async def test_what_business_code_leaves_half_read_is_a_no(
    manager: ResourceManager, purse: Database, work: Step, *, asynchronous: bool
) -> None:
    async with asyncio.timeout(10):
        reason = await refusal(manager, Do(INSERT, work, asynchronous=asynchronous))
    assert reason.kind == types_pb2.REFUSAL_KIND_INTERNAL
    assert "unfinished" in reason.message
    assert nothing_left(purse)
    assert isinstance(await vote(manager, Do(INSERT, asynchronous=asynchronous), gid_of(8)), Prepared)


@COLOURS
async def test_a_pipeline_left_open_never_makes_a_wrong_vote(
    manager: ResourceManager, purse: Database, *, asynchronous: bool
) -> None:
    answer = await vote(manager, Do(open_pipeline, INSERT, asynchronous=asynchronous))
    assert purse.prepared() == ([str(GID)] if isinstance(answer, Prepared) else [])
    failing = await vote(manager, Do(open_pipeline, "SELECT 1/0", asynchronous=asynchronous), gid_of(8))
    assert isinstance(failing, No)
    assert str(gid_of(8)) not in purse.prepared()
    assert isinstance(await vote(manager, Do(INSERT, asynchronous=asynchronous), gid_of(9)), Prepared)


async def test_a_thread_that_goes_on_with_the_connection_is_a_no(manager: ResourceManager, purse: Database) -> None:
    """A statement that business code left running in a thread of its own."""
    threads: list[threading.Thread] = []

    def leave_behind(connection: psycopg.Connection) -> None:
        def go_on() -> None:
            with suppress(psycopg.Error):
                connection.execute(b"SELECT pg_sleep(20)")

        threads.append(threading.Thread(target=go_on))
        threads[0].start()
        while connection.pgconn.transaction_status != pq.TransactionStatus.ACTIVE:
            pass

    async with asyncio.timeout(10):
        reason = await refusal(manager, Do(INSERT, leave_behind))
    assert reason.kind == types_pb2.REFUSAL_KIND_INTERNAL
    with purse.connect() as connection:
        connection.execute(b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
    threads[0].join(10)
    assert nothing_left(purse)


@COLOURS
@pytest.mark.parametrize("error", [SystemExit, asyncio.CancelledError, KeyboardInterrupt, GeneratorExit, StopIteration])
async def test_what_would_end_a_process_or_a_task_is_a_no(
    manager: ResourceManager, purse: Database, error: type[BaseException], *, asynchronous: bool
) -> None:
    if asynchronous and error in (KeyboardInterrupt, GeneratorExit):
        pytest.skip("in the event loop's own thread these are not the operation's")

    def quit_(_: object) -> None:
        raise error

    reason = await refusal(manager, Do(INSERT, quit_, asynchronous=asynchronous))
    assert reason.kind == types_pb2.REFUSAL_KIND_INTERNAL
    assert nothing_left(purse)
    assert isinstance(await vote(manager, Do(INSERT, asynchronous=asynchronous), gid_of(8)), Prepared)


@COLOURS
async def test_a_connection_that_was_killed_at_rest_is_replaced(
    manager: ResourceManager, purse: Database, *, asynchronous: bool
) -> None:
    """A restart of the server leaves dead connections in the pools: the work is not refused for them."""
    assert isinstance(await vote(manager, Do(INSERT, asynchronous=asynchronous)), Prepared)
    with purse.connect() as connection:
        connection.execute(
            b"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            b" WHERE pid <> pg_backend_pid() AND datname = current_database() AND backend_type = 'client backend'"
        )
    assert isinstance(await vote(manager, Do(INSERT, asynchronous=asynchronous), gid_of(8)), Prepared)
    assert isinstance(await manager.commit(GID), Committed)


@COLOURS
async def test_a_session_at_rest_is_used_again(
    manager: ResourceManager, purse: Database, *, asynchronous: bool
) -> None:
    pids = set()

    def look(connection: Any) -> None:
        pids.add(connection.info.backend_pid)

    for number in range(1, 5):
        assert isinstance(await vote(manager, Do(look, INSERT, asynchronous=asynchronous), gid_of(number)), Prepared)
    reading = await vote(manager, Do(look, "SELECT 1", asynchronous=asynchronous, read_only=True), gid_of(9))
    assert reading == ReadOnly(RESULTS, identity=reading.identity)
    await refusal(manager, Do(look, "SELECT 1/0", asynchronous=asynchronous), gid_of(10))
    await refusal(manager, Do(look, "INSERT INTO nowhere VALUES (1)", asynchronous=asynchronous), gid_of(11))
    assert len(pids) == 1


async def test_a_connection_goes_back_to_its_pool_now_and_then(purse: Database) -> None:
    """The pool retires old ones; a thread that always has work would keep its own for ever."""
    given_back: list[bool] = []

    def put(pool: ConnectionPool[WorkConnection], connection: WorkConnection) -> None:
        given_back.append(connection.at_rest)
        putconn(pool, connection)

    putconn = ConnectionPool.putconn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConnectionPool, "putconn", put)
        async with opened(purse, work_connections=1) as manager:
            patch.setattr(crew, "_REST", 60.0)
            assert isinstance(await vote(manager, Do(INSERT), gid_of(8)), Prepared)
            assert isinstance(await vote(manager, Do(INSERT)), Prepared)
            assert given_back == []
            patch.setattr(database, "KEPT", 0.0)
            await refusal(manager, Do(lambda connection: connection.pgconn.finish()), gid_of(9))
            await until(lambda: given_back == [False])
            assert isinstance(await vote(manager, Do(INSERT), gid_of(10)), Prepared)
            await until(lambda: given_back == [False, True])


async def test_what_is_set_for_a_branch_is_gone_with_its_transaction(manager: ResourceManager, purse: Database) -> None:
    """A pooler between gives the session to somebody else as soon as the transaction is over."""
    found: list[Any] = []
    settings = (
        b"SELECT current_setting('twophase.branch', true), current_setting('lock_timeout'),"
        b" current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout'),"
        b" current_setting('synchronous_commit')"
    )
    work = Do(lambda connection: found.append(connection.execute(settings).fetchone()), INSERT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(branch, "CLEAN_PREPARED", b"SELECT false")
        patch.setattr(branch, "CLEAN", b"SELECT false")
        patch.setattr(drivers, "_CLEANING", Exchange((), cleaning=b"SELECT false"))
        await vote(manager, work)
        await vote(manager, Do("SELECT 1", read_only=True), gid_of(8))
        await refusal(manager, Do("SELECT 1/0"), gid_of(9))
        ended = Do(
            lambda connection: connection.pgconn.exec_(b"ROLLBACK"),
            lambda connection: found.append(connection.execute(settings).fetchone()),
        )
        await refusal(manager, ended, gid_of(10))
    assert found[0][0] == f"{GID} postgres"
    assert found[0][1] != "0"
    assert found[1] == ("", "0", "0", "0", "on")
