"""The traps of PREPARE TRANSACTION, each fallen into on a real Postgres: what the vote is, and that nothing is left."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel

from fixtures.branches import GID, Do, Step, Wire, opened, refusal, vote
from fixtures.clusters import Database, MakeCluster
from fixtures.second_phase import INSERT, RESULTS, WORK, applied, empty, gid_of, make_purse, rows, until, value
from twophase.participant import Refused, lanes
from twophase.participant.database import WorkConnection
from twophase.participant.errors import NotReady
from twophase.participant.outcomes import Aborted, Committed, Lost, No, OutcomeUnknown, Prepared, Tombstoned
from twophase.participant.resource import ResourceManager
from twophase.sandbox.postgres import Cluster
from twophase.v1 import types_pb2

ABORT = types_pb2.DECISION_ABORT
COLOURS = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


@pytest.fixture(scope="module")
def shared(cluster: Cluster) -> Iterator[Database]:
    database = make_purse(cluster, "traps_prepare")
    with database.connect() as connection:
        connection.execute(b"CREATE UNIQUE INDEX one_piece ON purse (piece) WHERE piece < 0")
        connection.execute(
            b"CREATE TABLE late (id integer CONSTRAINT late_id UNIQUE DEFERRABLE INITIALLY DEFERRED);"
            b"CREATE FUNCTION grumble() RETURNS trigger LANGUAGE plpgsql AS $$"
            b" BEGIN RAISE EXCEPTION 'not at this hour' USING ERRCODE = 'check_violation', CONSTRAINT = 'hour'; END $$;"
            b"CREATE TABLE grumbling (id integer);"
            b"CREATE CONSTRAINT TRIGGER late_trigger AFTER INSERT ON grumbling DEFERRABLE INITIALLY DEFERRED"
            b" FOR EACH ROW EXECUTE FUNCTION grumble();"
            b"CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NOTIFY told; RETURN NULL; END $$;"
            b"CREATE TABLE telling (id integer);"
            b"CREATE TRIGGER telling AFTER INSERT ON telling FOR EACH ROW EXECUTE FUNCTION tell();"
            b"CREATE TABLE rota (name text, on_call boolean)"
        )
    yield database
    cluster.drop_database(database.name)


@pytest.fixture
def purse(shared: Database) -> Database:
    return empty(shared)


@pytest.fixture
async def manager(purse: Database) -> AsyncIterator[ResourceManager]:
    async with opened(purse) as manager:
        yield manager


def nothing_left(database: Database) -> bool:
    return (applied(database), database.prepared(), rows(database)) == (0, [], [])


def swallowing(connection: Any) -> Any:
    """Sends SQL that fails, and goes on as if nothing had happened."""
    if isinstance(connection, psycopg.AsyncConnection):
        return _swallowing(connection)
    with pytest.raises(psycopg.Error):
        connection.execute(b"SELECT 1/0")
    return None


async def _swallowing(connection: psycopg.AsyncConnection) -> None:
    with pytest.raises(psycopg.Error):
        await connection.execute(b"SELECT 1/0")


@COLOURS
async def test_a_failure_that_business_code_swallowed_is_a_no(
    manager: ResourceManager, purse: Database, *, asynchronous: bool
) -> None:
    reason = await refusal(manager, Do(INSERT, swallowing, asynchronous=asynchronous))
    assert reason.kind == types_pb2.REFUSAL_KIND_INTERNAL
    assert "caught an SQL error" in reason.message
    assert "savepoint" in reason.message
    assert nothing_left(purse)


async def test_a_name_that_another_session_holds_is_refused_and_left_alone(
    manager: ResourceManager, purse: Database
) -> None:
    """42710: a ROLLBACK PREPARED by the refused one would destroy the other's branch."""
    with purse.connect(autocommit=False) as other:
        other.execute(b"INSERT INTO late VALUES (1)")
        other.execute(f"PREPARE TRANSACTION '{GID}'".encode())
    reason = await refusal(manager, Do(INSERT))
    assert (reason.kind, reason.code, reason.retryable) == (types_pb2.REFUSAL_KIND_INTERNAL, "42710", False)
    assert "left alone" in reason.message
    assert purse.prepared() == [str(GID)]
    assert (applied(purse), rows(purse)) == (0, [])


@COLOURS
async def test_a_cancelled_caller_does_not_lose_the_vote(
    manager: ResourceManager, purse: Database, *, asynchronous: bool
) -> None:
    entered = threading.Event()
    with purse.connect(autocommit=False) as rival:
        rival.execute(b"LOCK TABLE late IN EXCLUSIVE MODE")
        work = Do(
            lambda _: entered.set(),
            "SET LOCAL lock_timeout = '10s'",
            INSERT,
            "INSERT INTO late VALUES (1)",
            asynchronous=asynchronous,
        )
        first = asyncio.create_task(vote(manager, work))
        await until(lambda: value(purse, "SELECT count(*) FROM pg_locks WHERE NOT granted"))
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        rival.rollback()
    answer = await vote(manager, Do("SELECT 1/0"))
    assert isinstance(answer, Prepared)
    assert answer.results == RESULTS
    assert purse.prepared() == [str(GID)]


async def test_r7_the_same_prepare_at_once_joins_and_afterwards_gets_the_same_vote(
    manager: ResourceManager, purse: Database
) -> None:
    gate = threading.Event()
    entered = threading.Event()
    started = []

    def hold(_: object) -> None:
        started.append(1)
        entered.set()
        assert gate.wait(20)

    first = asyncio.create_task(vote(manager, Do(INSERT, hold)))
    await until(entered.is_set)
    second = asyncio.create_task(vote(manager, Do(INSERT, hold)))
    await asyncio.sleep(0)
    gate.set()
    assert await first == await second == await vote(manager, Do(INSERT, hold))
    assert started == [1]
    assert isinstance(await manager.commit(GID), Committed)
    assert applied(purse) == 1
    late = await vote(manager, Do(INSERT))
    assert isinstance(late, Prepared)
    assert late.results == RESULTS
    assert (applied(purse), purse.prepared()) == (1, [])


@COLOURS
@pytest.mark.parametrize("work", [(INSERT,), ("INSERT INTO purse VALUES (-1)",)], ids=["the key", "the stock"])
async def test_r7_after_a_restart_a_prepared_branch_votes_yes_again(
    purse: Database, work: tuple[Step, ...], *, asynchronous: bool
) -> None:
    for _ in range(2):
        async with opened(purse) as manager:
            assert isinstance(await vote(manager, Do(*work, asynchronous=asynchronous)), Prepared)
    assert purse.prepared() == [str(GID)]


async def test_r7_a_twin_whose_stock_was_taken_answers_from_the_ledger(purse: Database) -> None:
    async with opened(purse) as first, opened(purse) as second:
        await vote(first, Do("INSERT INTO purse VALUES (-1)"))
        await first.commit(GID)

        def sold_out(_: object) -> None:
            raise Refused("SOLD_OUT", "nothing is left")

        for twin in (Do(sold_out), Do("INSERT INTO purse VALUES (-1)"), Do("SELECT 1/0")):
            answer = await vote(second, twin)
            assert isinstance(answer, Prepared)
            assert answer.results == RESULTS
    assert applied(purse) == 1


async def test_r7_a_tombstone_bars_late_work(purse: Database) -> None:
    async with opened(purse) as first, opened(purse) as second:
        assert isinstance(await first.abort(GID, WORK, ABORT), Tombstoned)
        for manager in (first, second):
            reason = await refusal(manager, Do(INSERT))
            assert reason.kind == types_pb2.REFUSAL_KIND_ABORTED
    assert (applied(purse), purse.prepared()) == (0, [])


_kill = "SELECT pg_terminate_backend(pg_backend_pid())"


@COLOURS
async def test_a_session_that_ends_while_it_works_is_a_retryable_no(
    manager: ResourceManager, purse: Database, *, asynchronous: bool
) -> None:
    reason = await refusal(manager, Do(INSERT, _kill, asynchronous=asynchronous))
    assert (reason.kind, reason.retryable) == (types_pb2.REFUSAL_KIND_UNREACHABLE, True)
    assert nothing_left(purse)
    assert isinstance(await vote(manager, Do(INSERT, asynchronous=asynchronous), gid_of(8)), Prepared)


async def test_a_session_whose_end_business_code_did_not_mind_is_a_retryable_no(
    manager: ResourceManager, purse: Database
) -> None:
    def not_minding(connection: psycopg.Connection) -> None:
        with pytest.raises(psycopg.OperationalError):
            connection.execute(_kill.encode())

    reason = await refusal(manager, Do(INSERT, not_minding))
    assert (reason.kind, reason.retryable) == (types_pb2.REFUSAL_KIND_UNREACHABLE, True)
    assert nothing_left(purse)


@COLOURS
@pytest.mark.parametrize(("request_lost", "prepared"), [(True, False), (False, True)], ids=["request", "reply"])
async def test_a_wire_cut_at_prepare_is_never_a_vote(
    purse: Database, *, asynchronous: bool, request_lost: bool, prepared: bool
) -> None:
    host, _, port = purse.cluster.address.rpartition(":")
    async with Wire(host, int(port)).serving() as wire:
        dsn = purse.dsn.replace(f":{port}/", f":{wire.port}/")
        async with opened(dsn, work_connections=1) as manager:
            if request_lost:
                wire.cut_requests(b"PREPARE TRANSACTION")
            else:
                wire.cut_replies(b"PREPARE TRANSACTION")
            with pytest.raises(OutcomeUnknown, match="whether it is, is not known"):
                await vote(manager, Do(INSERT, asynchronous=asynchronous))
            wire.cut_requests(b"")
            wire.cut_replies(b"")
            assert purse.prepared() == ([str(GID)] if prepared else [])
            # The next branch gets another connection, and the answer to an abort is for certain.
            assert isinstance(await vote(manager, Do(INSERT, asynchronous=asynchronous), gid_of(8)), Prepared)
            assert isinstance(await manager.abort(GID, WORK, ABORT), Aborted if prepared else Tombstoned)
    assert purse.prepared() == [str(gid_of(8))]


def stays_open(connection: Any) -> Any:
    return connection.execute(b"DECLARE lasting CURSOR WITH HOLD FOR SELECT 1")


@COLOURS
@pytest.mark.parametrize(
    ("work", "remedy"),
    [
        (("CREATE TEMP TABLE scratch (id integer)",), "no temporary tables"),
        (("CREATE TEMP TABLE scratch AS SELECT 1; DROP TABLE scratch",), "no temporary tables"),
        (("NOTIFY told",), "after the commit"),
        (("LISTEN told",), "after the commit"),
        (("INSERT INTO telling VALUES (1)",), "after the commit"),
        ((stays_open,), "without WITH HOLD"),
        (("SELECT pg_export_snapshot()",), "export no snapshot"),
        (("SELECT pg_advisory_lock(7), pg_advisory_xact_lock(7)",), "not both"),
    ],
    ids=["temp", "dropped temp", "notify", "listen", "trigger", "hold", "snapshot", "advisory"],
)
async def test_what_cannot_be_prepared_is_refused_with_what_to_do(
    manager: ResourceManager, purse: Database, work: tuple[Step, ...], remedy: str, *, asynchronous: bool
) -> None:
    reason = await refusal(manager, Do(INSERT, *work, asynchronous=asynchronous))
    assert (reason.kind, reason.code) == (types_pb2.REFUSAL_KIND_UNPREPARABLE, "0A000")
    assert remedy in reason.message
    assert not reason.retryable
    assert nothing_left(purse)


async def test_reading_a_temporary_table_of_an_earlier_branch_is_impossible(
    manager: ResourceManager, purse: Database
) -> None:
    """Even a SELECT on a temporary object cannot be prepared, so none is left for the next branch to find."""
    async with opened(purse, work_connections=1) as narrow:
        for gid in (gid_of(8), gid_of(9)):
            work = Do("CREATE TEMP TABLE IF NOT EXISTS scratch ON COMMIT PRESERVE ROWS AS SELECT 1")
            assert (await refusal(narrow, work, gid)).kind == types_pb2.REFUSAL_KIND_UNPREPARABLE
        reason = await refusal(narrow, Do("SELECT * FROM scratch"), gid_of(10))
        assert "does not exist" in reason.message


@COLOURS
@pytest.mark.parametrize(
    ("work", "constraint"),
    [
        ("INSERT INTO late VALUES (1), (1)", "late_id"),
        ("INSERT INTO grumbling VALUES (1)", "hour"),
    ],
)
async def test_what_is_deferred_fails_at_prepare_and_names_its_constraint(
    manager: ResourceManager, purse: Database, work: str, constraint: str, *, asynchronous: bool
) -> None:
    reason = await refusal(manager, Do(INSERT, work, asynchronous=asynchronous))
    assert reason.kind == types_pb2.REFUSAL_KIND_CONSTRAINT
    assert f"constraint {constraint}" in reason.message
    assert nothing_left(purse)


async def test_with_every_slot_taken_the_vote_is_a_retryable_no_and_with_none_at_all_it_says_what_to_type(
    make_cluster: MakeCluster,
) -> None:
    database = make_purse(make_cluster(max_prepared_transactions=1), "purse")
    async with opened(database, work_connections=1) as manager:
        assert isinstance(await vote(manager, Do(INSERT)), Prepared)
        reason = await refusal(manager, Do(INSERT), gid_of(8))
        assert (reason.kind, reason.retryable) == (types_pb2.REFUSAL_KIND_RESOURCE, True)
        assert "max_prepared_transactions" in reason.message
        assert database.prepared() == [str(GID)]
        await manager.commit(GID)
        assert isinstance(await vote(manager, Do(INSERT), gid_of(9)), Prepared)
        await manager.abort(gid_of(9), WORK, ABORT)
        # The server comes back without any: at prepare, too, nobody takes that for a vote.
        database.cluster.restart(settings={"max_prepared_transactions": "0"})
        reason = await refusal(manager, Do(INSERT), gid_of(10))
        assert (reason.kind, reason.code, reason.retryable) == (types_pb2.REFUSAL_KIND_RESOURCE, "55000", False)
        assert "ALTER SYSTEM SET max_prepared_transactions" in reason.message
    with pytest.raises(NotReady, match="max_prepared_transactions is 0"):
        async with opened(database):
            pass
    assert applied(database) == 1


@COLOURS
async def test_a_lock_that_is_not_given_in_time_is_a_conflict(
    manager: ResourceManager, purse: Database, *, asynchronous: bool
) -> None:
    with purse.connect(autocommit=False) as rival:
        rival.execute(b"LOCK TABLE late IN EXCLUSIVE MODE")
        reason = await refusal(manager, Do(INSERT, "INSERT INTO late VALUES (1)", asynchronous=asynchronous))
    assert (reason.kind, reason.code, reason.retryable) == (types_pb2.REFUSAL_KIND_CONFLICT, "55P03", True)
    assert nothing_left(purse)


async def test_a_serialization_failure_is_a_conflict(purse: Database) -> None:
    """REPEATABLE READ: somebody else changed the row since the snapshot."""
    with purse.connect() as rival:
        rival.execute(INSERT.encode())
        work = Do(
            "SELECT piece FROM purse",
            lambda _: rival.execute(b"UPDATE purse SET piece = 2"),
            "UPDATE purse SET piece = 3",
        )
        async with opened(purse, isolation_level=IsolationLevel.REPEATABLE_READ) as manager:
            reason = await refusal(manager, work)
    assert (reason.kind, reason.code, reason.retryable) == (types_pb2.REFUSAL_KIND_CONFLICT, "40001", True)
    assert (purse.prepared(), rows(purse)) == ([], [])


async def test_a_serialization_failure_at_prepare_is_a_conflict(purse: Database) -> None:
    """SERIALIZABLE, the write skew of two doctors who both go home: found at PREPARE."""
    with purse.connect() as rival:
        rival.execute(b"TRUNCATE rota; INSERT INTO rota VALUES ('ann', true), ('bob', true)")

        def both_go(_: object) -> None:
            with purse.connect(autocommit=False) as other:
                other.isolation_level = IsolationLevel.SERIALIZABLE
                other.execute(b"SELECT count(*) FROM rota WHERE on_call")
                other.execute(b"UPDATE rota SET on_call = false WHERE name = 'bob'")
                other.commit()

        work = Do(
            "SELECT count(*) FROM rota WHERE on_call",
            "UPDATE rota SET on_call = false WHERE name = 'ann'",
            both_go,
        )
        async with opened(purse, isolation_level=IsolationLevel.SERIALIZABLE) as manager:
            reason = await refusal(manager, work)
    assert (reason.kind, reason.code, reason.retryable) == (types_pb2.REFUSAL_KIND_CONFLICT, "40001", True)
    assert (purse.prepared(), rows(purse)) == ([], [])


def many_short(connection: Any) -> Any:
    if isinstance(connection, psycopg.AsyncConnection):
        return _many_short(connection)
    for _ in itertools.count():
        connection.execute(b"SELECT pg_sleep(0.01)")
    return None


async def _many_short(connection: psycopg.AsyncConnection) -> None:
    for _ in itertools.count():
        await connection.execute(b"SELECT pg_sleep(0.01)")


@COLOURS
@pytest.mark.parametrize("work", ["SELECT pg_sleep(20)", many_short], ids=["one long", "many short"])
async def test_the_deadline_stops_statements(
    manager: ResourceManager, purse: Database, work: Step, *, asynchronous: bool
) -> None:
    reason = await refusal(manager, Do(INSERT, work, asynchronous=asynchronous), seconds=0.2)
    assert (reason.kind, reason.retryable) == (types_pb2.REFUSAL_KIND_DEADLINE, True)
    assert nothing_left(purse)
    assert isinstance(await vote(manager, Do(INSERT, asynchronous=asynchronous), gid_of(8)), Prepared)


async def test_the_deadline_stops_a_coroutine_that_waits(manager: ResourceManager, purse: Database) -> None:
    work = Do(INSERT, lambda _: asyncio.Event().wait(), asynchronous=True)
    assert (await refusal(manager, work, seconds=0.2)).kind == types_pb2.REFUSAL_KIND_DEADLINE
    assert nothing_left(purse)


async def test_a_coroutine_that_swallows_its_cancellation_is_too_late_all_the_same(
    manager: ResourceManager, purse: Database
) -> None:
    async def stubborn(_: object) -> None:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.Event().wait()

    work = Do(INSERT, stubborn, asynchronous=True)
    assert (await refusal(manager, work, seconds=0.2)).kind == types_pb2.REFUSAL_KIND_DEADLINE
    assert nothing_left(purse)


async def test_a_thread_that_never_comes_back_holds_its_locks_no_longer_than_its_branch(
    manager: ResourceManager, purse: Database
) -> None:
    """Nobody can stop Python code in a thread; Postgres ends its idle session."""
    gate = threading.Event()
    work = Do(INSERT, "LOCK TABLE late", lambda _: gate.wait(20))
    stuck = asyncio.create_task(vote(manager, work, seconds=2))
    held = "SELECT count(*) FROM pg_locks WHERE relation = 'late'::regclass"
    await until(lambda: value(purse, held) == 1)
    await until(lambda: value(purse, held) == 0)
    assert not stuck.done()
    gate.set()
    answer = await stuck
    assert isinstance(answer, No)
    assert answer.refusal.kind == types_pb2.REFUSAL_KIND_DEADLINE
    assert nothing_left(purse)


@COLOURS
async def test_an_abort_stops_the_branch_that_runs_here(
    manager: ResourceManager, purse: Database, *, asynchronous: bool
) -> None:
    running = asyncio.create_task(vote(manager, Do(INSERT, "SELECT pg_sleep(20)", asynchronous=asynchronous)))
    await until(lambda: value(purse, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))
    assert isinstance(await manager.abort(GID, WORK, ABORT), Tombstoned)
    answer = await running
    assert isinstance(answer, No)
    assert answer.refusal.kind == types_pb2.REFUSAL_KIND_ABORTED
    assert (applied(purse), purse.prepared()) == (0, [])


async def test_a_branch_that_cannot_be_cancelled_is_not_asked_to_stop_ever_more(
    manager: ResourceManager, purse: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is frozen answers no cancel request, and its branches do not end before it goes on."""
    thawed = threading.Event()
    asked: list[object] = []
    cancel, cancel_safe = lanes.SyncWorkLane.cancel, WorkConnection.cancel_safe

    def counted(lane: lanes.SyncWorkLane, run: Any) -> None:
        asked.append(run)
        cancel(lane, run)

    def frozen(connection: WorkConnection, *, timeout: float) -> None:
        assert thawed.wait(20)
        cancel_safe(connection, timeout=timeout)

    monkeypatch.setattr(lanes, "_CANCEL_EVERY", 0.01)
    monkeypatch.setattr(lanes.SyncWorkLane, "cancel", counted)
    monkeypatch.setattr(WorkConnection, "cancel_safe", frozen)
    voting = asyncio.create_task(vote(manager, Do(lambda _: thawed.wait(20)), seconds=0.2))
    try:
        await until(lambda: len(asked) > 20)
        assert manager._sync is not None
        assert manager._sync._cancellers._work_queue.qsize() == 0
    finally:
        thawed.set()
    assert isinstance(await voting, No)


async def test_work_that_comes_after_its_deadline_is_not_begun(manager: ResourceManager, purse: Database) -> None:
    def never(_: object) -> None:
        raise AssertionError("it was begun")

    assert (await refusal(manager, Do(never), seconds=0)).kind == types_pb2.REFUSAL_KIND_DEADLINE


async def test_r11_a_commit_of_what_was_refused_is_lost_with_a_proof(manager: ResourceManager, purse: Database) -> None:
    await refusal(manager, Do("SELECT 1/0"))
    assert isinstance(await manager.commit(GID), Lost)
