"""Compensations over a real Postgres: each undoes what was committed, once, and bars what was not.

The rules are those of the contract: the key of the work is claimed first, so that a late copy of it finds a tombstone;
nothing is concluded from an absent row; no refusal is final.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Final

import psycopg
import pytest
from psycopg import IsolationLevel

from fixtures.branches import GID, Do, Wire, apply, compensate, opened, vote
from fixtures.clusters import Database
from fixtures.second_phase import (
    COMPENSATION,
    EPOCH,
    INSERT,
    JOURNAL,
    RESULTS,
    WORK,
    applied,
    empty,
    make_purse,
    rows,
    until,
    value,
)
from twophase.participant import Refused, barring, resource, running
from twophase.participant.bound import MisfitWork
from twophase.participant.errors import PayloadError
from twophase.participant.outcomes import (
    Applied,
    Forgotten,
    OutcomeUnknown,
    Prepared,
    RefusedForGood,
    Retry,
    StillRunning,
    Tombstoned,
)
from twophase.participant.resource import ResourceManager
from twophase.participant.work import Deadline
from twophase.sandbox.postgres import Cluster
from twophase.v1 import types_pb2

UNDO: Final = "INSERT INTO purse VALUES (-1)"
DONE: Final = (str(GID), "work", "applied", None)
UNDONE: Final = (str(GID), "compensation", "applied", None)
BARRED: Final = (str(GID), "work", "tombstone", "delegated")
COLOURS = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
STRICT = pytest.mark.parametrize("level", [IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE])


@pytest.fixture(scope="module")
def shared(cluster: Cluster) -> Iterator[Database]:
    database = make_purse(cluster, "compensation")
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


def never(_: object) -> None:
    pytest.fail("there was nothing to undo")


def no_funds(_: object) -> None:
    raise Refused("NO_FUNDS", "there is nothing left")


def undone(purse: Database) -> int:
    return int(value(purse, "SELECT count(*) FROM purse WHERE piece = -1"))


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


# What was committed is undone


@COLOURS
async def test_r7_a_compensation_is_applied_once_with_what_the_work_returned_and_repeated_from_the_ledger(
    purse: Database, *, asynchronous: bool
) -> None:
    undo = Do(UNDO, asynchronous=asynchronous)
    async with opened(purse) as manager:
        assert isinstance(await apply(manager, Do(INSERT, asynchronous=asynchronous)), Applied)
        for _ in range(2):
            assert await compensate(manager, undo) == Applied(RESULTS, identity=manager.identity)
        assert undo.results == RESULTS
    async with opened(purse) as other:
        assert isinstance(await compensate(other, Do(never, asynchronous=asynchronous)), Applied)
        assert isinstance(await apply(other, Do(never, asynchronous=asynchronous)), Applied)
    assert rows(purse) == [UNDONE, DONE]
    assert undone(purse) == 1


async def test_r7_a_row_of_a_compensation_has_its_own_position_and_fingerprint(
    manager: ResourceManager, purse: Database
) -> None:
    await apply(manager, Do(INSERT))
    await compensate(manager, Do(UNDO))
    work, compensation = (await manager.inspect(JOURNAL, GID.txid)).entries
    assert (work.kind, work.position, compensation.kind, compensation.position) == (WORK, 42, COMPENSATION, 43)


async def test_a_compensation_and_its_row_are_one_transaction(manager: ResourceManager, purse: Database) -> None:
    await apply(manager, Do(INSERT))
    assert isinstance(await compensate(manager, Do(UNDO, "SELECT 1/0")), Retry)
    assert (rows(purse), undone(purse)) == ([DONE], 0)


# What was not committed is barred


@COLOURS
async def test_r7_without_a_row_there_is_nothing_to_undo_and_a_late_copy_of_the_work_is_barred(
    purse: Database, *, asynchronous: bool
) -> None:
    async with opened(purse) as manager:
        for _ in range(2):
            assert isinstance(await compensate(manager, Do(never, asynchronous=asynchronous)), Tombstoned)
    async with opened(purse) as other:
        assert isinstance(await apply(other, Do(never, asynchronous=asynchronous)), Tombstoned)
        assert isinstance(await compensate(other, Do(never, asynchronous=asynchronous)), Tombstoned)
    assert (rows(purse), applied(purse)) == ([BARRED], 0)


async def test_work_that_was_refused_for_good_has_nothing_to_undo(manager: ResourceManager, purse: Database) -> None:
    assert isinstance(await apply(manager, Do(INSERT, no_funds)), RefusedForGood)
    assert isinstance(await compensate(manager, Do(never)), Tombstoned)
    assert rows(purse) == [(str(GID), "work", "refused", None)]


async def test_work_that_was_barred_before_has_nothing_to_undo(manager: ResourceManager, purse: Database) -> None:
    await manager.abort(GID, WORK, types_pb2.DECISION_DELEGATED)
    assert isinstance(await compensate(manager, Do(never)), Tombstoned)
    assert rows(purse) == [BARRED]


async def test_work_that_was_refused_this_time_is_barred_for_the_next(
    manager: ResourceManager, purse: Database
) -> None:
    def busy(_: object) -> None:
        raise Refused("BUSY", "not now", retryable=True)

    assert isinstance(await apply(manager, Do(INSERT, busy)), Retry)
    assert isinstance(await compensate(manager, Do(never)), Tombstoned)
    assert isinstance(await apply(manager, Do(INSERT)), Tombstoned)
    assert rows(purse) == [BARRED]


async def test_what_cannot_be_undone_has_nothing_to_undo_either(manager: ResourceManager, purse: Database) -> None:
    """Work that was refused because its payload was no good must not make its compensation fail for ever."""
    misfit = MisfitWork(PayloadError("no number", operation="charge"), asynchronous=False)
    in_time = Deadline.after(20)
    answer = await manager.compensate(GID, lambda _: misfit, deadline=in_time, position=1, fingerprint=bytes(32))
    assert isinstance(answer, Tombstoned)


async def test_a_deadline_that_has_passed_keeps_nobody_from_the_claim(
    manager: ResourceManager, purse: Database
) -> None:
    assert isinstance(await compensate(manager, Do(never), seconds=0), Tombstoned)
    assert rows(purse) == [BARRED]


# No refusal is final


@COLOURS
async def test_no_refusal_of_a_compensation_is_final(
    purse: Database, caplog: pytest.LogCaptureFixture, *, asynchronous: bool
) -> None:
    caplog.set_level("INFO", "twophase.participant")
    async with opened(purse) as manager:
        await apply(manager, Do(INSERT, asynchronous=asynchronous))
        refusing = Do(UNDO, no_funds, asynchronous=asynchronous)
        refusing.running = "charge"
        answer = await compensate(manager, refusing)
        assert isinstance(answer, Retry)
        assert (answer.refusal.kind, answer.refusal.code) == (types_pb2.REFUSAL_KIND_BUSINESS, "NO_FUNDS")
        # Whoever looks at it learns that the service thinks nothing of another attempt.
        assert (answer.refusal.operation, answer.refusal.retryable) == ("charge", False)
        assert f"compensation of branch {GID}: REFUSAL_KIND_BUSINESS NO_FUNDS: there is nothing left" in caplog.messages
        assert rows(purse) == [DONE]
        assert isinstance(await compensate(manager, Do(UNDO, asynchronous=asynchronous)), Applied)
    assert undone(purse) == 1


async def test_a_compensation_that_cannot_be_bound_is_tried_again(manager: ResourceManager, purse: Database) -> None:
    await apply(manager, Do(INSERT))
    misfit = MisfitWork(PayloadError("no number", operation="charge"), asynchronous=False)
    in_time = Deadline.after(20)
    answer = await manager.compensate(GID, lambda _: misfit, deadline=in_time, position=1, fingerprint=bytes(32))
    assert isinstance(answer, Retry)
    assert (answer.refusal.kind, answer.refusal.operation) == (types_pb2.REFUSAL_KIND_INVALID_PAYLOAD, "charge")
    assert rows(purse) == [DONE]


async def test_a_compensation_past_its_deadline_is_tried_again(manager: ResourceManager, purse: Database) -> None:
    await apply(manager, Do(INSERT))
    for undo, seconds in ((Do(never), 0.0), (Do(UNDO, "SELECT pg_sleep(30)"), 1.0)):
        answer = await compensate(manager, undo, seconds=seconds)
        assert isinstance(answer, Retry)
        assert answer.refusal.kind == types_pb2.REFUSAL_KIND_DEADLINE
    assert rows(purse) == [DONE]


async def test_a_compensation_that_ends_its_transaction_itself_is_tried_again(
    manager: ResourceManager, purse: Database
) -> None:
    await apply(manager, Do(INSERT))
    answer = await compensate(manager, Do(UNDO, "ROLLBACK"))
    assert isinstance(answer, Retry)
    assert answer.refusal.kind == types_pb2.REFUSAL_KIND_INTERNAL
    assert rows(purse) == [DONE]


async def test_a_compensation_that_was_barred_is_never_taken_for_one_that_had_nothing_to_undo(
    manager: ResourceManager, purse: Database
) -> None:
    """TOMBSTONE would say that all is well; the work is there, and nobody undid it."""
    await apply(manager, Do(INSERT))
    assert isinstance(await manager.abort(GID, COMPENSATION, types_pb2.DECISION_DELEGATED), Tombstoned)
    answer = await compensate(manager, Do(never))
    assert isinstance(answer, Retry)
    assert answer.refusal.kind == types_pb2.REFUSAL_KIND_ABORTED
    assert "somebody resolved it" in answer.refusal.message


async def test_a_compensation_that_is_barred_while_it_runs_is_stopped_and_not_applied(
    manager: ResourceManager, purse: Database
) -> None:
    await apply(manager, Do(INSERT))
    entered = threading.Event()
    undoing = asyncio.create_task(
        compensate(manager, Do(UNDO, lambda _: entered.set(), "SET LOCAL statement_timeout = 0; SELECT pg_sleep(60)"))
    )
    await until(entered.is_set)
    assert isinstance(await manager.abort(GID, COMPENSATION, types_pb2.DECISION_DELEGATED), Tombstoned)
    answer = await undoing
    assert isinstance(answer, Retry)
    assert answer.refusal.kind == types_pb2.REFUSAL_KIND_ABORTED
    assert undone(purse) == 0


async def test_a_compensation_that_is_barred_by_another_process_while_it_runs_is_not_applied(purse: Database) -> None:
    async with opened(purse) as one, opened(purse) as other:
        await apply(one, Do(INSERT))
        entered, go = threading.Event(), threading.Event()
        undoing = asyncio.create_task(compensate(one, Do(UNDO, lambda _: entered.set(), lambda _: go.wait(20))))
        await until(entered.is_set)
        assert isinstance(await other.abort(GID, COMPENSATION, types_pb2.DECISION_DELEGATED), Tombstoned)
        go.set()
        answer = await undoing
    assert isinstance(answer, Retry)
    assert answer.refusal.kind == types_pb2.REFUSAL_KIND_ABORTED
    assert undone(purse) == 0


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


# What is forgotten, and what is lost


async def test_below_the_horizon_nothing_is_known_and_nothing_undone(manager: ResourceManager, purse: Database) -> None:
    await apply(manager, Do(INSERT))
    await manager.remember(JOURNAL, EPOCH, {EPOCH: GID.txid.sequence + 1})
    assert rows(purse) == []
    with pytest.raises(Forgotten, match="below its epoch's horizon"):
        await compensate(manager, Do(never))
    assert rows(purse) == []


async def test_work_below_the_horizon_that_is_not_pruned_yet_is_not_undone(
    manager: ResourceManager, purse: Database
) -> None:
    await apply(manager, Do(INSERT))
    with purse.connect() as connection:
        horizon = (f"{JOURNAL}-{EPOCH}", GID.txid.sequence + 1)
        connection.execute("INSERT INTO twophase.horizon (epoch, sequence) VALUES (%s, %s)", horizon)
    with pytest.raises(Forgotten, match="below its epoch's horizon"):
        await compensate(manager, Do(UNDO))
    assert (rows(purse), undone(purse)) == ([DONE], 0)


@COLOURS
@pytest.mark.parametrize("request_lost", [True, False], ids=["request", "reply"])
async def test_r7_a_wire_cut_at_the_commit_of_a_compensation_is_not_known_and_asked_again_it_is_once(
    purse: Database, *, asynchronous: bool, request_lost: bool
) -> None:
    host, _, port = purse.cluster.address.rpartition(":")
    async with Wire(host, int(port)).serving() as wire:
        dsn = purse.dsn.replace(f":{port}/", f":{wire.port}/")
        async with opened(dsn, work_connections=1) as manager:
            await apply(manager, Do(INSERT, asynchronous=asynchronous))
            cut = wire.cut_requests if request_lost else wire.cut_replies
            cut(b"INSERT INTO twophase.ledger" if request_lost else b"COMMIT\0")
            with pytest.raises(OutcomeUnknown, match="whether it is, is not known"):
                await compensate(manager, Do(UNDO, asynchronous=asynchronous))
            assert undone(purse) == (0 if request_lost else 1)
            cut(b"")
            assert isinstance(await compensate(manager, Do(UNDO, asynchronous=asynchronous)), Applied)
    assert undone(purse) == 1


@pytest.mark.parametrize("request_lost", [True, False], ids=["request", "reply"])
async def test_r7_a_wire_cut_at_the_claim_is_no_answer_and_asked_again_it_is_one(
    purse: Database, *, request_lost: bool
) -> None:
    host, _, port = purse.cluster.address.rpartition(":")
    async with Wire(host, int(port)).serving() as wire:
        dsn = purse.dsn.replace(f":{port}/", f":{wire.port}/")
        async with opened(dsn, finish_connections=1) as manager:
            if request_lost:
                wire.cut_requests(b"INSERT INTO twophase.ledger")
                with pytest.raises(OutcomeUnknown, match=r"was lost while .* was being barred; ask again"):
                    await compensate(manager, Do(never))
                assert rows(purse) == []
                wire.cut_requests(b"")
            else:
                # The lane asks again by itself, and finds what it did.
                wire.cut_replies(b"COMMIT\0")
            assert isinstance(await compensate(manager, Do(never)), Tombstoned)
    assert rows(purse) == [BARRED]


async def test_a_caller_who_hangs_up_does_not_stop_a_compensation(manager: ResourceManager, purse: Database) -> None:
    await apply(manager, Do(INSERT))
    entered, go = threading.Event(), threading.Event()
    calling = asyncio.create_task(compensate(manager, Do(UNDO, lambda _: entered.set(), lambda _: go.wait(20))))
    await until(entered.is_set)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    go.set()
    assert isinstance(await compensate(manager, Do(never)), Applied)
    assert undone(purse) == 1


# Work that must be done


async def test_no_refusal_is_final_of_work_that_must_be_done(manager: ResourceManager, purse: Database) -> None:
    misfit = MisfitWork(PayloadError("no number", operation="charge"), asynchronous=False)
    answer = await manager.apply(
        GID, misfit, deadline=Deadline.after(20), position=42, fingerprint=bytes(32), must_succeed=True
    )
    assert isinstance(answer, Retry)
    assert (answer.refusal.kind, answer.refusal.operation) == (types_pb2.REFUSAL_KIND_INVALID_PAYLOAD, "charge")
    answer = await apply(manager, Do(INSERT, no_funds), must_succeed=True)
    assert isinstance(answer, Retry)
    assert answer.refusal.code == "NO_FUNDS"
    assert rows(purse) == []
    assert isinstance(await apply(manager, Do(INSERT), must_succeed=True), Applied)
    assert isinstance(await apply(manager, Do(never), must_succeed=True), Applied)
    assert (rows(purse), applied(purse)) == ([DONE], 1)


async def test_work_that_must_be_done_and_is_told_to_stop_leaves_no_row_but_the_tombstone(
    manager: ResourceManager, purse: Database
) -> None:
    entered = threading.Event()
    work = Do(INSERT, lambda _: entered.set(), "SELECT pg_sleep(60)")
    working = asyncio.create_task(apply(manager, work, must_succeed=True))
    await until(entered.is_set)
    assert isinstance(await manager.abort(GID, WORK, types_pb2.DECISION_DELEGATED), Tombstoned)
    assert isinstance(await working, Retry | Tombstoned)
    assert rows(purse) == [BARRED]
