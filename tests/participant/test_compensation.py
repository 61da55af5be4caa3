"""Compensations over a real Postgres: each undoes what was committed, once, and bars what was not.

The rules are those of the contract: the key of the work is claimed first, so that a late copy of it finds a tombstone;
nothing is concluded from an absent row; no refusal is final.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Final

import pytest

from fixtures.branches import GID, UNDO, Do, apply, compensate, never, opened, undone
from fixtures.clusters import Database
from fixtures.second_phase import (
    COMPENSATION,
    INSERT,
    JOURNAL,
    RESULTS,
    WORK,
    applied,
    empty,
    make_purse,
    rows,
    until,
)
from twophase.participant import Refused
from twophase.participant.bound import MisfitWork
from twophase.participant.errors import PayloadError
from twophase.participant.outcomes import (
    Applied,
    RefusedForGood,
    Retry,
    Tombstoned,
)
from twophase.participant.resource import ResourceManager
from twophase.participant.work import Deadline
from twophase.sandbox.postgres import Cluster
from twophase.v1 import types_pb2

DONE: Final = (str(GID), "work", "applied", None)
UNDONE: Final = (str(GID), "compensation", "applied", None)
BARRED: Final = (str(GID), "work", "tombstone", "delegated")
COLOURS = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


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


def no_funds(_: object) -> None:
    raise Refused("NO_FUNDS", "there is nothing left")


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
