"""Compensations while the work still runs, and copies of them at once: everything takes effect once (R8)."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Final

import psycopg
import pytest
from psycopg import IsolationLevel

from fixtures.branches import GID, UNDO, Do, apply, compensate, never, opened, undone, vote
from fixtures.clusters import Database
from fixtures.second_phase import (
    INSERT,
    WORK,
    applied,
    empty,
    gid_of,
    make_purse,
    rows,
    until,
    value,
)
from twophase.contract.names import Gid
from twophase.participant import barring, resource, running
from twophase.participant.outcomes import (
    Applied,
    OutcomeUnknown,
    Prepared,
    RefusedForGood,
    Retry,
    StillRunning,
    Tombstoned,
)
from twophase.participant.resource import ResourceManager
from twophase.sandbox.postgres import Cluster
from twophase.v1 import types_pb2

DONE: Final = (str(GID), "work", "applied", None)
UNDONE: Final = (str(GID), "compensation", "applied", None)
BARRED: Final = (str(GID), "work", "tombstone", "delegated")
COLOURS = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
STRICT = pytest.mark.parametrize("level", [IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE])


@pytest.fixture(scope="module")
def shared(cluster: Cluster) -> Iterator[Database]:
    database = make_purse(cluster, "at_once")
    yield database
    cluster.drop_database(database.name)


@pytest.fixture
def purse(shared: Database) -> Database:
    return empty(shared)


@pytest.fixture
async def manager(purse: Database) -> AsyncIterator[ResourceManager]:
    async with opened(purse) as manager:
        yield manager


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "_PATIENCE", 0.2)
    monkeypatch.setattr(running, "_STOPPING", 0.2)


def blocked(purse: Database) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return bool(value(purse, query))


def sleeps(purse: Database) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    return bool(value(purse, query))


class UncommittedWork:
    """The work in another process: done, its row written, and not committed yet."""

    def __init__(self, purse: Database) -> None:
        self.session = purse.connect(autocommit=False)
        self.session.execute(INSERT.encode())
        self.session.execute(
            "INSERT INTO twophase.ledger (gid, kind, outcome, journal_position) VALUES (%s, 'work', 'applied', 42)",
            (str(GID),),
        )


@pytest.fixture
def elsewhere(purse: Database) -> Iterator[psycopg.Connection]:
    with UncommittedWork(purse).session as session:
        yield session


# Work that is still running


@COLOURS
async def test_work_that_runs_here_is_stopped_and_then_there_is_nothing_to_undo(
    purse: Database, *, asynchronous: bool
) -> None:
    async with opened(purse) as manager:
        work = Do(INSERT, "SET LOCAL statement_timeout = 0", "SELECT pg_sleep(60)", asynchronous=asynchronous)
        working = asyncio.create_task(apply(manager, work, seconds=60))
        await until(lambda: sleeps(purse))
        assert isinstance(await compensate(manager, Do(never, asynchronous=asynchronous)), Tombstoned)
        async with asyncio.timeout(20):
            assert isinstance(await working, RefusedForGood | Tombstoned)
        assert isinstance(await apply(manager, Do(never, asynchronous=asynchronous)), RefusedForGood | Tombstoned)
    assert applied(purse) == 0


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("here", [True, False], ids=["here", "in another process"])
async def test_work_that_does_not_hear_is_barred_all_the_same(purse: Database, *, here: bool) -> None:
    async with opened(purse) as one, opened(purse) as other:
        entered, go = threading.Event(), threading.Event()
        work = Do(INSERT, lambda _: entered.set(), lambda _: go.wait(20))
        hanging = asyncio.create_task(apply(one, work))
        await until(entered.is_set)
        assert isinstance(await compensate(one if here else other, Do(never)), Tombstoned)
        go.set()
        assert isinstance(await hanging, Tombstoned)
    assert (rows(purse), applied(purse)) == ([BARRED], 0)


@pytest.mark.usefixtures("impatient")
async def test_nothing_is_concluded_while_the_work_holds_its_key(
    manager: ResourceManager, purse: Database, elsewhere: psycopg.Connection
) -> None:
    with pytest.raises(StillRunning, match="is still running"):
        await compensate(manager, Do(never))
    assert rows(purse) == []
    elsewhere.commit()
    assert isinstance(await compensate(manager, Do(UNDO)), Applied)
    assert (rows(purse), undone(purse)) == ([UNDONE, DONE], 1)


@pytest.mark.parametrize("committed", [True, False])
async def test_work_that_ends_while_its_key_is_being_claimed_is_seen_as_it_ended(
    manager: ResourceManager,
    purse: Database,
    elsewhere: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    *,
    committed: bool,
) -> None:
    monkeypatch.setattr(barring, "BRIEF", 20.0)
    undoing = asyncio.create_task(compensate(manager, Do(UNDO if committed else never)))
    await until(lambda: blocked(purse))
    if committed:
        elsewhere.commit()
        assert isinstance(await undoing, Applied)
        assert rows(purse) == [UNDONE, DONE]
    else:
        elsewhere.rollback()
        assert isinstance(await undoing, Tombstoned)
        assert rows(purse) == [BARRED]


@pytest.mark.usefixtures("impatient")
async def test_a_prepared_branch_is_never_touched_by_a_compensation(manager: ResourceManager, purse: Database) -> None:
    assert isinstance(await vote(manager, Do(INSERT)), Prepared)
    with pytest.raises(StillRunning):
        await compensate(manager, Do(never))
    assert purse.prepared() == [str(GID)]
    await manager.commit(GID)
    assert isinstance(await compensate(manager, Do(UNDO)), Applied)


# Two at once (R8)


async def test_r8_two_compensations_at_once_in_one_process_are_one(manager: ResourceManager, purse: Database) -> None:
    await apply(manager, Do(INSERT))
    answers = await asyncio.gather(*(compensate(manager, Do(UNDO)) for _ in range(5)))
    assert all(isinstance(answer, Applied) for answer in answers)
    assert undone(purse) == 1


@COLOURS
@pytest.mark.parametrize("level", [None, IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE])
async def test_r8_two_compensations_at_once_in_two_processes_are_applied_once(
    purse: Database, level: IsolationLevel | None, *, asynchronous: bool
) -> None:
    """Both have found the work and begun to undo it; one of them is first, and the other answers from its row."""
    settings = {"isolation_level": level, "lock_timeout": 20}
    async with opened(purse, **settings) as one, opened(purse, **settings) as other:
        await apply(one, Do(INSERT, asynchronous=asynchronous))
        both = threading.Barrier(2)

        async def meet(_: object) -> None:
            await asyncio.to_thread(both.wait, 20)

        together = meet if asynchronous else lambda _: both.wait(20)
        undo = (Do(UNDO, together, asynchronous=asynchronous) for _ in range(2))
        answers = await asyncio.gather(*(compensate(each, next(undo)) for each in (one, other)))
    assert [type(answer) for answer in answers] == [Applied, Applied]
    assert (rows(purse), undone(purse)) == ([UNDONE, DONE], 1)


async def test_r8_a_compensation_whose_twin_has_not_committed_yet_is_tried_again(purse: Database) -> None:
    async with opened(purse) as manager:
        await apply(manager, Do(INSERT))
        with purse.connect(autocommit=False) as twin:
            twin.execute(
                "INSERT INTO twophase.ledger (gid, kind, outcome, journal_position)"
                " VALUES (%s, 'compensation', 'applied', 43)",
                (str(GID),),
            )
            answer = await compensate(manager, Do(UNDO))
            assert isinstance(answer, Retry)
            assert answer.refusal.kind == types_pb2.REFUSAL_KIND_CONFLICT
            twin.commit()
        assert isinstance(await compensate(manager, Do(never)), Applied)
    assert undone(purse) == 0


@STRICT
async def test_a_serialization_failure_of_a_compensation_is_worth_another_attempt(
    purse: Database, level: IsolationLevel
) -> None:
    async with opened(purse, isolation_level=level) as manager:
        assert isinstance(await apply(manager, Do(INSERT)), Applied)

        def meanwhile(_: object) -> None:
            with purse.connect() as rival:
                rival.execute(b"UPDATE purse SET piece = piece + 1")

        answer = await compensate(manager, Do("SELECT * FROM purse", meanwhile, "UPDATE purse SET piece = -1"))
        assert isinstance(answer, Retry)
        assert (answer.refusal.code, answer.refusal.retryable) == ("40001", True)
        assert isinstance(await compensate(manager, Do("UPDATE purse SET piece = -1")), Applied)
    assert undone(purse) == 1


@COLOURS
@pytest.mark.parametrize("level", [None, IsolationLevel.SERIALIZABLE])
async def test_r8_copies_in_any_order_and_at_once_end_with_nothing_done_or_all_of_it_undone(
    purse: Database, level: IsolationLevel | None, *, asynchronous: bool
) -> None:
    """Two processes get copies of the work, of its compensation and of the question how it ended, all at once."""
    chance = random.Random(7)  # noqa: S311 - no secret
    gids = [gid_of(sequence) for sequence in range(1, 25)]
    settings = {"isolation_level": level, "work_connections": 4}
    async with opened(purse, **settings) as one, opened(purse, **settings) as other:

        async def copy(manager: ResourceManager, gid: Gid, what: str) -> None:
            await asyncio.sleep(chance.random() / 50)
            with contextlib.suppress(StillRunning, OutcomeUnknown):
                match what:
                    case "work":
                        await apply(manager, Do(INSERT, asynchronous=asynchronous), gid)
                    case "undo":
                        await compensate(manager, Do(UNDO, asynchronous=asynchronous), gid)
                    case _:
                        await manager.abort(gid, WORK, types_pb2.DECISION_DELEGATED)

        for gid in gids:
            deeds = [*("work", "undo") * 2, *chance.choices(("work", "undo", "ask"), k=2)]
            await asyncio.gather(*(copy(chance.choice((one, other)), gid, deed) for deed in deeds))
        for gid in gids:
            answer: object = None
            while not isinstance(answer, Applied | Tombstoned):
                answer = await compensate(one, Do(UNDO, asynchronous=asynchronous), gid)
            assert isinstance(await compensate(other, Do(never, asynchronous=asynchronous), gid), type(answer))
            late = await apply(other, Do(never, asynchronous=asynchronous), gid)
            assert isinstance(late, Applied) == isinstance(answer, Applied)
    done = sum(1 for _, kind, outcome, _ in rows(purse) if (kind, outcome) == ("compensation", "applied"))
    assert (applied(purse) - undone(purse), undone(purse)) == (done, done)
