"""What an operator sees of prepared branches: what each holds, and who waits for it, on a real Postgres."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest
from psycopg import sql

from fixtures.clusters import Database, MakeCluster, MakeDatabase
from fixtures.second_phase import JOURNAL, gid_of, managing, until, value
from twophase.contract.names import Gid
from twophase.participant.errors import NotReady
from twophase.participant.finishing import FinishLane
from twophase.participant.observe import Lock, behind_of, observe, waiting_for
from twophase.participant.outcomes import Observation, OutcomeUnknown
from twophase.v1 import participant_pb2

PIN = "SELECT pg_current_xact_id()"
OTHER_JOURNAL = "fedcba9876543210"


@pytest.fixture
def shop(database: Database) -> Database:
    with database.connect() as connection:
        connection.execute("CREATE TABLE purse (id integer PRIMARY KEY, funds integer NOT NULL)")
        connection.execute("CREATE TABLE quiet (id integer)")
        connection.execute("INSERT INTO purse VALUES (1, 10), (2, 20)")
    return database


def prepare(database: Database, gid: Gid | str, *statements: str, user: str = "postgres") -> None:
    with database.connect(user=user, autocommit=False) as connection:
        for statement in statements or (PIN,):
            connection.execute(statement.encode())
        connection.execute(sql.SQL("PREPARE TRANSACTION {}").format(sql.Literal(str(gid))))


def finish(database: Database) -> None:
    with database.connect() as connection:
        for gid in database.prepared():
            connection.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))


def look(database: Database, *, dsn: str | None = None) -> tuple[participant_pb2.ObservedBranch, ...]:
    return observe(dsn or database.dsn, "payment", JOURNAL).branches


class Waiting:
    """A session whose statement waits."""

    def __init__(self, connection: psycopg.AsyncConnection, task: asyncio.Task[object]) -> None:
        self.pid = connection.info.backend_pid
        self.task = task


@asynccontextmanager
async def waiting(database: Database, statement: str, *, dsn: str | None = None) -> AsyncIterator[Waiting]:
    """Runs a statement that has to wait; the branches are rolled back when the block is left, so that it need not."""
    connection = await psycopg.AsyncConnection.connect(
        dsn or database.dsn, autocommit=True, application_name="till", options="-c lock_timeout=20s"
    )
    async with connection:
        task = asyncio.create_task(connection.execute(statement.encode()))
        pid = connection.info.backend_pid
        await until(lambda: value(database, "SELECT count(*) FROM pg_locks WHERE pid = %s AND NOT granted", pid))
        try:
            yield Waiting(connection, task)
        finally:
            await asyncio.to_thread(finish, database)
            await task


def test_nothing_is_prepared_and_nothing_is_seen(shop: Database) -> None:
    seen = observe(shop.dsn, "payment", JOURNAL)

    assert seen.branches == ()
    assert seen.identity is not None
    assert seen.identity.database == shop.name


def test_a_branch_is_told_with_its_owner_its_age_and_what_it_holds(shop: Database) -> None:
    prepare(shop, gid_of(), "UPDATE purse SET funds = 0 WHERE id = 1", "SELECT pg_advisory_xact_lock(3, 4)")
    for _ in range(3):
        value(shop, PIN)

    [seen] = look(shop)

    assert (seen.gid, seen.owner) == (str(gid_of()), "postgres")
    assert 0 < seen.age.ToMicroseconds() < 60_000_000
    assert seen.horizon_age >= 3
    assert [(lock.target, lock.mode) for lock in seen.locks] == [
        ("advisory lock 3/4/2", "ExclusiveLock"),
        ("index public.purse_pkey", "RowExclusiveLock"),
        ("public.purse", "RowExclusiveLock"),
    ]
    assert list(seen.waiters) == []


def test_what_a_serializable_branch_has_read_is_no_lock(shop: Database) -> None:
    prepare(shop, gid_of(), "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "SELECT * FROM purse", PIN)

    [seen] = look(shop)

    assert {lock.mode for lock in seen.locks} == {"AccessShareLock"}


def test_the_oldest_branch_comes_first(shop: Database) -> None:
    for sequence in (9, 3, 5):
        prepare(shop, gid_of(sequence))

    assert [seen.gid for seen in look(shop)] == [str(gid_of(sequence)) for sequence in (9, 3, 5)]


async def test_a_session_that_waits_for_a_row_and_those_behind_it(shop: Database) -> None:
    prepare(shop, gid_of(1), "UPDATE purse SET funds = 0 WHERE id = 1")
    prepare(shop, gid_of(2), "UPDATE purse SET funds = 0 WHERE id = 2")
    update = "UPDATE purse SET funds = funds + 1 WHERE id = 1"
    async with (
        waiting(shop, update) as first,
        waiting(shop, update) as second,
        waiting(shop, "DELETE FROM purse WHERE id = 1") as third,
    ):
        one, other = look(shop)

    assert [(seen.pid, seen.behind, seen.query) for seen in one.waiters] == [
        (first.pid, 0, update),
        (second.pid, first.pid, update),
        (third.pid, first.pid, "DELETE FROM purse WHERE id = 1"),
    ]
    assert {(seen.user, seen.application) for seen in one.waiters} == {("postgres", "till")}
    waits = [seen.waiting.ToNanoseconds() for seen in one.waiters]
    assert waits == sorted(waits, reverse=True)
    assert waits[-1] > 0
    assert list(other.waiters) == []


async def test_who_has_waited_longest_comes_first(shop: Database) -> None:
    prepare(shop, gid_of(), "UPDATE purse SET funds = 0")
    with shop.connect() as later:
        async with waiting(shop, "UPDATE purse SET funds = 1 WHERE id = 2") as first:
            task = asyncio.create_task(asyncio.to_thread(later.execute, "UPDATE purse SET funds = 1 WHERE id = 1"))
            pid = later.info.backend_pid
            await until(lambda: value(shop, "SELECT count(*) FROM pg_locks WHERE pid = %s AND NOT granted", pid))
            [seen] = look(shop)
        await task

    assert [one.pid for one in seen.waiters] == [first.pid, pid]


async def test_a_session_that_waits_for_a_table_and_one_that_waits_only_behind_it(shop: Database) -> None:
    prepare(shop, gid_of(), "UPDATE purse SET funds = 0 WHERE id = 1")
    async with (
        waiting(shop, "ALTER TABLE purse ADD COLUMN note text") as altering,
        # In no conflict with the branch: it could read, were it not for the one who is before it in the queue.
        waiting(shop, "SELECT count(*) FROM purse") as reading,
    ):
        [seen] = look(shop)

    assert [(one.pid, one.behind) for one in seen.waiters] == [(altering.pid, 0), (reading.pid, altering.pid)]


async def test_a_session_that_waits_for_what_was_written_inside_a_savepoint(shop: Database) -> None:
    prepare(shop, gid_of(), PIN, "SAVEPOINT one", "UPDATE purse SET funds = 0 WHERE id = 1", "RELEASE SAVEPOINT one")
    async with waiting(shop, "UPDATE purse SET funds = 1 WHERE id = 1") as blocked:
        [seen] = look(shop)

    assert [one.pid for one in seen.waiters] == [blocked.pid]
    assert not any("transaction" in lock.target for lock in seen.locks)


async def test_a_session_that_waits_for_an_advisory_lock(shop: Database) -> None:
    prepare(shop, gid_of(), PIN, "SELECT pg_advisory_xact_lock(7)")
    async with waiting(shop, "SELECT pg_advisory_xact_lock(7)") as blocked:
        [seen] = look(shop)

    assert [one.pid for one in seen.waiters] == [blocked.pid]


async def test_who_waits_for_somebody_else_is_no_waiter_of_the_branch(shop: Database) -> None:
    prepare(shop, gid_of(), "UPDATE purse SET funds = 0 WHERE id = 1")
    with shop.connect(autocommit=False) as session:
        session.execute("UPDATE purse SET funds = 0 WHERE id = 2")
        async with waiting(shop, "UPDATE purse SET funds = 1 WHERE id = 2"):
            [seen] = look(shop)
            session.rollback()

    assert list(seen.waiters) == []


async def test_waiters_are_found_after_a_restart_too(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    shop = Database(cluster, "postgres", cluster.dsn())
    with shop.connect() as connection:
        connection.execute("CREATE TABLE purse (id integer, funds integer)")
        connection.execute("INSERT INTO purse VALUES (1, 10)")
    prepare(shop, gid_of(1), "UPDATE purse SET funds = 0 WHERE id = 1")
    prepare(shop, gid_of(2), "LOCK TABLE pg_description IN SHARE MODE", PIN)
    cluster.restart()
    async with waiting(shop, "UPDATE purse SET funds = 1 WHERE id = 1") as blocked:
        one, other = look(shop)

    assert [seen.pid for seen in one.waiters] == [blocked.pid]
    assert ("public.purse", "RowExclusiveLock") in [(lock.target, lock.mode) for lock in one.locks]
    assert [(lock.target, lock.mode) for lock in other.locks] == [("pg_catalog.pg_description", "ShareLock")]


async def test_a_role_without_pg_monitor_is_told_why_it_does_not_see_a_statement(shop: Database) -> None:
    name = f'Till "{shop.name}"'
    shop.cluster.create_role(name)
    prepare(shop, gid_of(), "UPDATE purse SET funds = 0 WHERE id = 1")
    async with waiting(shop, "UPDATE purse SET funds = 1 WHERE id = 1") as blocked:
        [seen] = look(shop, dsn=shop.dsn_for(name))
        [waiter] = seen.waiters
        quoted = sql.Identifier(name).as_string(None)
        remedy = f"GRANT pg_monitor TO {quoted}"
        assert (waiter.pid, waiter.user) == (blocked.pid, "postgres")
        assert waiter.waiting.ToNanoseconds() > 0
        assert waiter.query == f"(not visible to the role {quoted}; {remedy} shows it)"
        with shop.connect() as connection:
            connection.execute(remedy.encode())
        [seen] = look(shop, dsn=shop.dsn_for(name))
        assert seen.waiters[0].query.startswith("UPDATE purse")


async def test_a_long_statement_is_cut(shop: Database) -> None:
    prepare(shop, gid_of(), "UPDATE purse SET funds = 0 WHERE id = 1")
    async with waiting(shop, "UPDATE purse SET funds = 1 WHERE id = 1 /* " + "x" * 3000 + " */"):
        [seen] = look(shop)

    assert len(seen.waiters[0].query) == 1000


def test_r9_what_is_not_this_journals_here_is_not_seen(shop: Database, databases: MakeDatabase) -> None:
    elsewhere = databases()
    for name in (f"tp-{JOURNAL}-nearly", f"tp-{JOURNAL}", f"{gid_of()}x", "a_gid_of_another_program"):
        prepare(shop, name)
    prepare(shop, gid_of(journal=OTHER_JOURNAL))
    prepare(elsewhere, gid_of(1))
    prepare(shop, gid_of(2))
    try:
        assert [seen.gid for seen in look(shop)] == [str(gid_of(2))]
        assert [seen.gid for seen in look(elsewhere)] == [str(gid_of(1))]
    finally:
        finish(elsewhere)


def test_a_database_that_is_away_is_no_answer_and_no_password_is_told(shop: Database) -> None:
    dsn = f"postgresql://postgres:topsecret@127.0.0.1:{shop.cluster.port}/nowhere"

    with pytest.raises(OutcomeUnknown, match="cannot be looked at") as caught:
        observe(dsn, "payment", JOURNAL)

    assert "topsecret" not in str(caught.value)


def test_a_malformed_dsn_is_told_with_what_to_type(shop: Database) -> None:
    with pytest.raises(NotReady):
        observe("host = = 1", "payment", JOURNAL)


# Whose connections it takes


async def test_r13_people_who_look_take_no_connection_of_the_second_phase_and_one_at_a_time(
    shop: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, most = 0, 0
    lock = threading.Lock()

    def observe_counted(dsn: str, participant: str, journal_id: str) -> Observation:
        nonlocal looking, most
        with lock:
            looking += 1
            most = max(most, looking)
        try:
            return observe(dsn, participant, journal_id)
        finally:
            with lock:
                looking -= 1

    def none_to_spare(*_: object) -> None:
        raise AssertionError("a connection of the second phase was taken")

    monkeypatch.setattr("twophase.participant.resource.observe", observe_counted)
    prepare(shop, gid_of())
    async with managing(shop) as manager:
        monkeypatch.setattr(FinishLane, "run", none_to_spare)
        answers = await asyncio.gather(*(manager.observe(JOURNAL) for _ in range(4)))

    assert [len(answer.branches) for answer in answers] == [1] * 4
    assert most == 1


# The linking alone


def lock(kind: str, name: str, mode: str, *, pid: int = 0) -> Lock:
    return Lock((kind, "1", name), mode, not pid, pid, "3/7", name, "r", 0.0)


@pytest.mark.parametrize(
    ("held", "wanted", "waits"),
    [
        ("AccessShareLock", "AccessExclusiveLock", True),
        ("AccessShareLock", "ExclusiveLock", False),
        ("RowShareLock", "ExclusiveLock", True),
        ("RowExclusiveLock", "RowExclusiveLock", False),
        ("RowExclusiveLock", "ShareLock", True),
        ("RowExclusiveLock", "ShareUpdateExclusiveLock", False),
        ("ShareLock", "ShareLock", False),
        ("ExclusiveLock", "AccessShareLock", False),
        ("AccessExclusiveLock", "AccessShareLock", True),
        ("SIReadLock", "AccessExclusiveLock", False),
    ],
)
def test_only_modes_in_conflict_make_one_wait(held: str, wanted: str, waits: bool) -> None:  # noqa: FBT001
    want = lock("relation", "t", wanted, pid=1)

    assert list(waiting_for([lock("relation", "t", held)], [want])) == [want] * waits
    assert list(waiting_for([lock("relation", "other", held)], [want])) == []


def test_the_queue_is_followed_to_its_end_and_never_in_a_circle() -> None:
    queue = {1: [0], 2: [1], 3: [2, 1], 4: [3, 9], 5: [9], 6: [7], 7: [6]}

    assert behind_of([1], queue) == {1: 0, 2: 1, 3: 1, 4: 3}
    assert behind_of([], queue) == {}


def test_what_is_locked_is_told_in_words() -> None:
    def target(*tag: str | None, relation: str | None = None, kind: str | None = None) -> str:
        whole = (*tag, *[None] * (10 - len(tag)))
        return Lock(whole, "ShareLock", True, 0, "1/1", relation, kind, 0.0).target  # noqa: FBT003

    assert target("relation", "1", "16384", relation="public.purse", kind="r") == "public.purse"
    assert target("relation", "1", "16384", relation="public.purse_id_seq", kind="S") == "sequence public.purse_id_seq"
    assert target("relation", "1", "16384") == "relation 16384"
    assert target("tuple", "1", "16384", "3", "4", relation="public.purse") == "the row (3,4) of public.purse"
    assert target("extend", "1", "16384", relation="public.purse") == "extend of public.purse"
    assert target("virtualxid", None, None, None, None, "3/4") == "virtual transaction 3/4"
    assert target("transactionid", None, None, None, None, None, "77") == "transaction 77"
    assert target("object", "1", None, None, None, None, None, "2615", "2200", "0") == "object 2615/2200"
