"""COMMIT PREPARED that takes its time: it waits for a synchronous standby that does not exist.

While it waits its branch is busy (55000); its session may be cut off. Each way the branch ends once, as decided.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from fixtures.clusters import Database
from fixtures.second_phase import (
    EPOCH,
    JOURNAL,
    WORK,
    applied,
    gid_of,
    managing,
    prepare,
    rows,
    until,
)
from fixtures.standbys import Standby
from twophase.participant import finish, resource
from twophase.participant.database import WorkConnection
from twophase.participant.drivers import drive
from twophase.participant.outcomes import Aborted, Committed, Lost, OutcomeUnknown, Prepared, Tombstoned
from twophase.participant.resource import ResourceManager
from twophase.v1 import types_pb2

ABORT = types_pb2.DECISION_ABORT
GID = gid_of()


@pytest.fixture
async def manager(standby: Standby, slow: Database) -> AsyncIterator[ResourceManager]:
    async with managing(slow) as manager:
        yield manager
        standby.forget()


async def test_a_second_finisher_is_told_that_the_branch_is_busy_and_in_the_end_it_is_committed_once(
    manager: ResourceManager, standby: Standby, slow: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "_PATIENCE", 0.1)
    assert isinstance(await prepare(manager, GID), Prepared)
    await standby.expect()
    first = asyncio.create_task(manager.commit(GID))
    await standby.waited_for()
    async with managing(slow) as second:
        for finisher in (second.commit(GID), second.abort(GID, WORK, ABORT)):
            with pytest.raises(OutcomeUnknown, match=r"another session is finishing.*ask again"):
                await finisher
        standby.forget()
        assert isinstance(await first, Committed)
        assert isinstance(await second.commit(GID), Committed)
    assert (applied(slow), slow.prepared()) == (1, [])


async def test_a_busy_branch_is_waited_for_as_long_as_a_call_may_take(
    manager: ResourceManager, standby: Standby, slow: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "_PATIENCE", 20.0)
    busy = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Busy(finish.Busy):
        def __init__(self, message: str) -> None:
            super().__init__(message)
            loop.call_soon_threadsafe(busy.set)

    await prepare(manager, GID)
    await standby.expect()
    first = asyncio.create_task(manager.commit(GID))
    await standby.waited_for()
    monkeypatch.setattr(finish, "Busy", Busy)
    second = asyncio.create_task(manager.commit(GID))
    async with asyncio.timeout(20):
        await busy.wait()
    standby.forget()
    assert isinstance(await second, Committed)
    assert isinstance(await first, Committed)
    assert applied(slow) == 1


def test_a_session_ended_during_commit_prepared_leaves_it_unknown_and_it_was_committed(
    standby: Standby, slow: Database
) -> None:
    """The steps alone, without the manager that asks again by itself."""

    async def scene() -> None:
        async with managing(slow) as manager:
            await prepare(manager, GID)
            await standby.expect()
            with WorkConnection.connect(slow.dsn, autocommit=True) as connection:
                first = asyncio.create_task(asyncio.to_thread(drive, finish.commit(GID), connection))
                standby.stop_waiting(await standby.waited_for(), "pg_terminate_backend")
                with pytest.raises(OutcomeUnknown, match=r"lost during COMMIT PREPARED.*ask again"):
                    await first
                assert connection.closed
            assert isinstance(await manager.commit(GID), Committed)

    asyncio.run(scene())
    assert (applied(slow), slow.prepared()) == (1, [])


@pytest.mark.parametrize("how", ["pg_terminate_backend", "pg_cancel_backend"])
async def test_the_manager_asks_again_when_its_session_is_cut_off(
    manager: ResourceManager, standby: Standby, slow: Database, how: str
) -> None:
    await prepare(manager, GID)
    await standby.expect()
    committing = asyncio.create_task(manager.commit(GID))
    standby.stop_waiting(await standby.waited_for(), how)
    assert isinstance(await committing, Committed)
    assert (applied(slow), slow.prepared()) == (1, [])


async def test_an_abort_whose_session_is_cut_off_ends_as_an_abort(
    manager: ResourceManager, standby: Standby, slow: Database
) -> None:
    await prepare(manager, GID)
    await standby.expect()
    aborting = asyncio.create_task(manager.abort(GID, WORK, ABORT))
    standby.stop_waiting(await standby.waited_for(), "pg_terminate_backend")
    await until(lambda: slow.prepared() == [])
    # Asked again, it found nothing prepared, and bars the name for good.
    standby.forget()
    assert isinstance(await aborting, Tombstoned | Aborted)
    assert applied(slow) == 0


async def test_r7_a_tombstone_that_no_standby_has_is_no_proof(
    manager: ResourceManager, standby: Standby, slow: Database
) -> None:
    """The wait for the standby cut short: should it be promoted, the branch would not be barred there."""
    await standby.expect()
    for finisher in (manager.commit(GID), manager.abort(gid_of(8), WORK, ABORT)):
        barring = asyncio.create_task(finisher)
        standby.stop_waiting(await standby.waited_for(), "pg_cancel_backend")
        with pytest.raises(OutcomeUnknown, match=r"synchronous standby was cut short.*ask again"):
            await barring
    standby.forget()
    assert isinstance(await manager.commit(GID), Lost)
    assert len(rows(slow)) == 2


async def test_a_handshake_that_no_standby_has_is_asked_again(
    manager: ResourceManager, standby: Standby, slow: Database
) -> None:
    await standby.expect()
    meeting = asyncio.create_task(manager.remember(JOURNAL, EPOCH, {}))
    standby.stop_waiting(await standby.waited_for(), "pg_cancel_backend")
    with pytest.raises(OutcomeUnknown, match=r"synchronous standby was cut short.*ask again"):
        await meeting
    standby.forget()
    assert (await manager.remember(JOURNAL, EPOCH, {})).last_epoch == EPOCH


async def test_r7_a_role_that_commits_asynchronously_bars_and_remembers_durably(
    standby: Standby, slow: Database
) -> None:
    """synchronous_commit=off would not wait: that these do shows that they are forced."""
    with slow.connect() as connection:
        connection.execute("ALTER ROLE CURRENT_USER SET synchronous_commit = off")
    try:
        async with managing(slow) as manager:
            await standby.expect()
            for call in (manager.abort(GID, WORK, ABORT), manager.remember(JOURNAL, EPOCH, {})):
                waiting = asyncio.create_task(call)
                standby.stop_waiting(await standby.waited_for(), "pg_cancel_backend")
                with pytest.raises(OutcomeUnknown, match="cut short"):
                    await waiting
    finally:
        standby.forget()
        with slow.connect() as connection:
            connection.execute("ALTER ROLE CURRENT_USER RESET synchronous_commit")
