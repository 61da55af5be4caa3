"""Work that must be done whatever it takes: no refusal of it is final, and none leaves a row."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Final

import pytest

from fixtures.branches import GID, Do, apply, never, opened
from fixtures.clusters import Database
from fixtures.second_phase import (
    INSERT,
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
    Retry,
    Tombstoned,
)
from twophase.participant.resource import ResourceManager
from twophase.participant.work import Deadline
from twophase.sandbox.postgres import Cluster
from twophase.v1 import types_pb2

DONE: Final = (str(GID), "work", "applied", None)
BARRED: Final = (str(GID), "work", "tombstone", "delegated")


@pytest.fixture(scope="module")
def shared(cluster: Cluster) -> Iterator[Database]:
    database = make_purse(cluster, "must_succeed")
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
