"""The resource manager over a real Postgres: reading, local commits, and connections that never starve the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from psycopg_pool import PoolTimeout

from fixtures.branches import GID, Do, Wire, apply, opened, refusal, vote
from fixtures.clusters import Database
from fixtures.second_phase import (
    INSERT,
    RESULTS,
    WORK,
    applied,
    empty,
    gid_of,
    make_purse,
    rows,
    until,
    value,
)
from twophase.participant import Refused, database
from twophase.participant.bound import MisfitWork
from twophase.participant.database import async_pool, sync_pool
from twophase.participant.errors import PayloadError
from twophase.participant.outcomes import (
    Applied,
    Committed,
    No,
    OutcomeUnknown,
    Prepared,
    ReadOnly,
    RefusedForGood,
    Retry,
    Tombstoned,
)
from twophase.participant.resource import ResourceManager
from twophase.participant.work import Deadline
from twophase.sandbox.postgres import Cluster
from twophase.v1 import types_pb2

ABORT = types_pb2.DECISION_ABORT
COLOURS = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


@pytest.fixture(scope="module")
def shared(cluster: Cluster) -> Iterator[Database]:
    database = make_purse(cluster, "resource")
    yield database
    cluster.drop_database(database.name)


@pytest.fixture
def purse(shared: Database) -> Database:
    return empty(shared)


@pytest.fixture
async def manager(purse: Database) -> AsyncIterator[ResourceManager]:
    async with opened(purse) as manager:
        yield manager


def no_funds(_: object) -> None:
    raise Refused("NO_FUNDS", "there is nothing left")


def next_transaction_id(purse: Database) -> int:
    taken = value(purse, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
    assert isinstance(taken, int)
    return taken


@COLOURS
async def test_r12_reading_leaves_nothing_and_tells_nobody(
    manager: ResourceManager, purse: Database, *, asynchronous: bool
) -> None:
    taken = []
    for _ in range(3):
        with purse.connect() as listener:
            listener.execute(b"LISTEN told")
            before = next_transaction_id(purse)
            work = Do("SELECT 1", "NOTIFY told", asynchronous=asynchronous, read_only=True)
            answer = await vote(manager, work)
            assert isinstance(answer, ReadOnly)
            assert answer.results == RESULTS
            listener.execute(b"NOTIFY told, 'last'")
            heard = [each.payload for each in listener.notifies(timeout=10, stop_after=1)]
        assert heard == ["last"]
        taken.append(next_transaction_id(purse) - before)
    # The listener's own NOTIFY takes one id. Autovacuum may take another at any moment, but reading would every time.
    assert min(taken) == 1
    assert (purse.prepared(), rows(purse)) == ([], [])


@COLOURS
async def test_r12_a_write_in_what_is_declared_read_only_is_refused_with_what_to_do(
    manager: ResourceManager, purse: Database, *, asynchronous: bool
) -> None:
    reason = await refusal(manager, Do(INSERT, asynchronous=asynchronous, read_only=True))
    assert (reason.kind, reason.code) == (types_pb2.REFUSAL_KIND_INTERNAL, "25006")
    assert "read_only" in reason.message


@COLOURS
async def test_a_database_that_takes_no_writes_for_now_refuses_nothing_for_good(
    purse: Database, *, asynchronous: bool
) -> None:
    """Hosters switch databases to read-only while their disks are full, and back again."""
    work = Do(INSERT, asynchronous=asynchronous)
    with purse.connect() as operator:
        async with opened(purse) as manager:  # all was well when the participant started
            operator.execute(f"ALTER DATABASE {purse.name} SET default_transaction_read_only = on".encode())
            try:
                for reason in (await refusal(manager, work), retried(await apply(manager, work))):
                    told = (reason.kind, reason.code, reason.retryable)
                    assert told == (types_pb2.REFUSAL_KIND_RESOURCE, "25006", True)
                    assert "takes no writes now" in reason.message
                    assert "declared" not in reason.message
            finally:
                operator.execute(f"ALTER DATABASE {purse.name} RESET default_transaction_read_only".encode())
    assert rows(purse) == []


def retried(answer: object) -> types_pb2.Refusal:
    assert isinstance(answer, Retry), answer
    return answer.refusal


@pytest.mark.parametrize("sql", ["COMMIT", "ROLLBACK", "ROLLBACK; BEGIN", "SET ROLE pg_monitor"])
async def test_r12_reading_that_ended_its_transaction_is_a_no(manager: ResourceManager, sql: str) -> None:
    reason = await refusal(manager, Do("SELECT 1", sql, "SELECT 1", read_only=True))
    assert reason.kind == types_pb2.REFUSAL_KIND_INTERNAL


@COLOURS
@pytest.mark.parametrize("read_only", [False, True], ids=["writing", "reading"])
async def test_r7_a_local_commit_is_applied_once_and_repeated_from_the_ledger(
    purse: Database, *, asynchronous: bool, read_only: bool
) -> None:
    work = Do("SELECT 1" if read_only else INSERT, asynchronous=asynchronous, read_only=read_only)
    for _ in range(2):
        async with opened(purse) as manager:
            for _ in range(2):
                answer = await apply(manager, work)
                assert isinstance(answer, Applied)
                assert answer.results == RESULTS
    assert applied(purse) == (0 if read_only else 1)
    assert rows(purse) == [(str(GID), "work", "applied", None)]


async def test_r7_a_refusal_for_good_is_kept_with_the_operation_that_refused(purse: Database) -> None:
    work = Do(INSERT, no_funds)
    work.running = "charge"
    for again in (work, Do(INSERT)):
        async with opened(purse) as manager:
            answer = await apply(manager, again)
            assert isinstance(answer, RefusedForGood)
            assert (answer.refusal.code, answer.refusal.operation) == ("NO_FUNDS", "charge")
    assert rows(purse) == [(str(GID), "work", "refused", None)]
    assert applied(purse) == 0


async def test_r7_a_misfit_is_refused_for_good_before_any_business_code(manager: ResourceManager) -> None:
    misfit = MisfitWork(PayloadError("no number", operation="charge"), asynchronous=False)
    answer = await manager.apply(GID, misfit, deadline=Deadline.after(20), position=42, fingerprint=bytes(32))
    assert isinstance(answer, RefusedForGood)
    assert answer.refusal.operation == "charge"


async def test_r7_a_retryable_refusal_leaves_no_row(manager: ResourceManager, purse: Database) -> None:
    def busy(_: object) -> None:
        raise Refused("BUSY", "not now", retryable=True)

    for refusing in (Do(INSERT, busy), Do(INSERT, "SELECT pg_terminate_backend(pg_backend_pid())")):
        answer = await apply(manager, refusing)
        assert isinstance(answer, Retry)
        assert answer.refusal.retryable
        assert rows(purse) == []
    assert isinstance(await apply(manager, Do(INSERT)), Applied)
    assert applied(purse) == 1


async def test_r7_a_tombstone_bars_a_local_commit(manager: ResourceManager, purse: Database) -> None:
    await manager.abort(GID, WORK, ABORT)
    assert isinstance(await apply(manager, Do(INSERT)), Tombstoned)
    assert applied(purse) == 0


@COLOURS
async def test_r7_a_tombstone_placed_while_the_work_ran_bars_it_too(purse: Database, *, asynchronous: bool) -> None:
    async with opened(purse) as one, opened(purse) as other:
        entered = threading.Event()
        with purse.connect(autocommit=False) as rival:
            rival.execute(b"LOCK TABLE purse IN EXCLUSIVE MODE")
            work = Do(lambda _: entered.set(), "SET LOCAL lock_timeout = '20s'", INSERT, asynchronous=asynchronous)
            running = asyncio.create_task(apply(one, work))
            await until(entered.is_set)
            assert isinstance(await other.abort(GID, WORK, ABORT), Tombstoned)
            rival.rollback()
        assert isinstance(await running, Tombstoned)
    assert applied(purse) == 0


async def test_a_ledger_that_is_locked_is_worth_another_attempt(manager: ResourceManager, purse: Database) -> None:
    with purse.connect(autocommit=False) as rival:
        rival.execute(b"LOCK TABLE twophase.ledger")
        answer = await apply(manager, Do(INSERT))
        assert isinstance(answer, Retry)
        assert answer.refusal.kind == types_pb2.REFUSAL_KIND_CONFLICT
        async with asyncio.timeout(15):
            assert (await refusal(manager, Do(INSERT))).kind == types_pb2.REFUSAL_KIND_CONFLICT


@COLOURS
@pytest.mark.parametrize("request_lost", [True, False], ids=["request", "reply"])
async def test_r7_a_wire_cut_at_a_local_commit_is_not_known_and_asked_again_it_is_once(
    purse: Database, *, asynchronous: bool, request_lost: bool
) -> None:
    host, _, port = purse.cluster.address.rpartition(":")
    async with Wire(host, int(port)).serving() as wire:
        dsn = purse.dsn.replace(f":{port}/", f":{wire.port}/")
        async with opened(dsn, work_connections=1) as manager:
            cut = wire.cut_requests if request_lost else wire.cut_replies
            cut(b"CALL twophase.applied" if request_lost else b"COMMIT\0")
            with pytest.raises(OutcomeUnknown, match="whether it is, is not known"):
                await apply(manager, Do(INSERT, asynchronous=asynchronous))
            assert applied(purse) == (0 if request_lost else 1)
            cut(b"")
            assert isinstance(await apply(manager, Do(INSERT, asynchronous=asynchronous)), Applied)
    assert applied(purse) == 1


@pytest.mark.parametrize("inside", ["SELECT 1", "SET synchronous_commit = off", "SET LOCAL synchronous_commit = local"])
async def test_r7_a_commit_with_a_ledger_row_is_never_asynchronous(purse: Database, inside: str) -> None:
    """A deferred trigger on the row sees the setting with which it is committed."""
    with purse.connect() as connection:
        connection.execute(
            b"CREATE TABLE IF NOT EXISTS seen (setting text); TRUNCATE seen;"
            b"CREATE OR REPLACE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS"
            b" $$ BEGIN INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;"
            b"CREATE CONSTRAINT TRIGGER see AFTER INSERT ON twophase.ledger DEFERRABLE INITIALLY DEFERRED"
            b" FOR EACH ROW EXECUTE FUNCTION see()"
        )
        connection.execute(f"ALTER DATABASE {purse.name} SET synchronous_commit = off".encode())
    try:
        async with opened(purse) as manager:
            assert isinstance(await apply(manager, Do(inside, INSERT)), Applied)
            assert isinstance(await apply(manager, Do(inside, no_funds), gid_of(8)), RefusedForGood)
        assert value(purse, "SELECT array_agg(setting) FROM seen") == ["on", "on"]
    finally:
        with purse.connect() as connection:
            connection.execute(f"ALTER DATABASE {purse.name} RESET synchronous_commit".encode())
            connection.execute(b"DROP TRIGGER see ON twophase.ledger")


@COLOURS
async def test_r13_work_that_waits_for_a_row_never_starves_the_commit_that_releases_it(
    purse: Database, *, asynchronous: bool
) -> None:
    with purse.connect() as connection:
        connection.execute(INSERT.encode())
    take = "UPDATE purse SET piece = piece + 1"
    async with opened(purse, work_connections=2, finish_connections=1, lock_timeout=30) as manager:
        assert isinstance(await vote(manager, Do(take, asynchronous=asynchronous)), Prepared)
        waiting = [
            asyncio.create_task(vote(manager, Do(take, asynchronous=asynchronous), gid_of(number))) for number in (8, 9)
        ]
        blocked = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        await until(lambda: value(purse, blocked) == 2)
        # No connection is left for work: what comes now waits for one, and no longer than it may.
        late = await vote(manager, Do(take, asynchronous=asynchronous), gid_of(10), seconds=0.1)
        assert isinstance(late, No)
        assert (late.refusal.kind, late.refusal.retryable) == (types_pb2.REFUSAL_KIND_RESOURCE, True)
        assert "more work connections" in late.refusal.message
        async with asyncio.timeout(15):
            assert isinstance(await manager.commit(GID), Committed)
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        (first,) = done
        assert isinstance(first.result(), Prepared)
        for number in (8, 9):
            await manager.abort(gid_of(number), WORK, ABORT)
        await asyncio.wait(waiting)
    assert purse.prepared() == []


def test_a_database_gone_silent_is_given_up_in_seconds_unless_the_dsn_says_otherwise(purse: Database) -> None:
    def seen(dsn: str) -> dict[str, Any]:
        pool = sync_pool(dsn, "payment", use="work", size=1)
        with pool, pool.connection() as connection:
            return connection.info.get_parameters()

    assert {"keepalives_idle": "5", "tcp_user_timeout": "10000"}.items() <= seen(purse.dsn).items()
    own = seen(f"{purse.dsn}?tcp_user_timeout=77")
    assert (own["tcp_user_timeout"], own["keepalives_idle"]) == ("77", "5")


@COLOURS
async def test_a_branch_that_waits_for_its_database_begins_when_that_is_back(
    purse: Database, monkeypatch: pytest.MonkeyPatch, *, asynchronous: bool
) -> None:
    """The pool has given up dialling by then, and would begin anew only for somebody else."""
    monkeypatch.setattr(database, "_DIAL_AGAIN", 0.01)
    wire = Wire("127.0.0.1", purse.cluster.port)
    async with AsyncExitStack() as line, AsyncExitStack() as stack:
        await line.enter_async_context(wire.serving())
        dsn = purse.dsn.replace(f":{purse.cluster.port}/", f":{wire.port}/")
        manager = await stack.enter_async_context(opened(dsn))
        await line.aclose()
        voting = asyncio.ensure_future(vote(manager, Do(INSERT, asynchronous=asynchronous), seconds=60))
        await until(lambda: gave_up(manager))
        await stack.enter_async_context(Wire("127.0.0.1", purse.cluster.port, at=wire.port).serving())
        async with asyncio.timeout(20):
            assert isinstance(await voting, Prepared)
        await manager.commit(GID)


def gave_up(manager: ResourceManager) -> bool:
    """True if somebody waits for a connection that nobody is making."""
    lane = manager._sync or manager._async
    stats = lane._pool.get_stats() if lane is not None else {}
    return stats.get("requests_waiting", 0) > 0 and stats["pool_size"] == 0


async def test_a_database_that_is_away_is_dialled_anew_whenever_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool that goes on dialling by itself does so with pauses that grow with the outage."""
    nowhere = "postgresql://127.0.0.1:1/nowhere?connect_timeout=2"
    monkeypatch.setattr(database, "_DIAL_AGAIN", 0.01)
    with sync_pool(nowhere, "payment", use="work", size=1) as pool:
        await until(lambda: pool.get_stats()["pool_size"] == 0)
        tried = pool.get_stats()["connections_errors"]
        with pytest.raises(PoolTimeout):
            await asyncio.to_thread(pool.getconn, 0.2)
        assert pool.get_stats()["connections_errors"] > tried
    async with async_pool(nowhere, "payment", size=1) as other:
        await until(lambda: other.get_stats()["pool_size"] == 0)
