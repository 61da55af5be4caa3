"""Compensations over answers that are lost and rows that are pruned: nothing is concluded, and nothing done twice."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Final

import pytest

from fixtures.branches import GID, UNDO, Do, Wire, apply, compensate, never, opened, undone
from fixtures.clusters import Database
from fixtures.second_phase import (
    EPOCH,
    INSERT,
    JOURNAL,
    empty,
    make_purse,
    rows,
    until,
)
from twophase.participant.outcomes import (
    Applied,
    Forgotten,
    OutcomeUnknown,
    Tombstoned,
)
from twophase.participant.resource import ResourceManager
from twophase.sandbox.postgres import Cluster

DONE: Final = (str(GID), "work", "applied", None)
BARRED: Final = (str(GID), "work", "tombstone", "delegated")
COLOURS = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


@pytest.fixture(scope="module")
def shared(cluster: Cluster) -> Iterator[Database]:
    database = make_purse(cluster, "lost")
    yield database
    cluster.drop_database(database.name)


@pytest.fixture
def purse(shared: Database) -> Database:
    return empty(shared)


@pytest.fixture
async def manager(purse: Database) -> AsyncIterator[ResourceManager]:
    async with opened(purse) as manager:
        yield manager


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
            cut(b"CALL twophase.applied" if request_lost else b"COMMIT\0")
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
