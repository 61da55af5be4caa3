"""The journal's sync fails, or the process dies between the write and the sync: nobody was told what is not there."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest

from fixtures.two_banks import SECONDS, column, prepared, transfer, two_banks, until
from twophase.coordinator.client import (
    AsyncClient,
    Committed,
    CoordinatorUnavailable,
    OutcomeUnknown,
    TransactionAborted,
)
from twophase.sandbox.syncs import AtSync, NoInjection, wrapper
from twophase.sandbox.system import System

pytestmark = pytest.mark.integration
_FAILED = 74
# Opening the journal takes a few, the registrations one each; the next ones are decisions.
_NTH = 15


@pytest.fixture
async def system() -> AsyncIterator[System]:
    async with two_banks() as system:
        yield system


async def what_is_told(client: AsyncClient, name: str, account: int) -> bool | None:
    """What the client was told: committed; that nothing happened, or was even started; or that it is unknown."""
    try:
        answer = await client.execute(
            *transfer(name, account=account, amount=1), request_id=name, deadline=20, give_up_after=0.5
        )
    except (TransactionAborted, CoordinatorUnavailable):
        return False
    except OutcomeUnknown:
        return None
    assert isinstance(answer, Committed)
    return True


@pytest.mark.parametrize(("what", "code"), [(AtSync.FAILS, _FAILED), (AtSync.DIES, -signal.SIGKILL)])
async def test_r4_r10_nobody_is_told_a_decision_that_is_not_there_afterwards(
    system: System, what: AtSync, code: int
) -> None:
    await system.coordinator.stop()
    try:
        system.coordinator.wrapper = await asyncio.to_thread(wrapper, what, nth=_NTH)
    except NoInjection as reason:
        pytest.skip(str(reason))
    await system.coordinator.start()
    told: dict[str, bool | None] = {}

    async def work(account: int) -> None:
        for number in range(1000):
            if not system.coordinator.is_running:
                return
            name = f"{account}/{number}"
            told[name] = None
            told[name] = await what_is_told(client, name, account)

    async with AsyncClient(system.address) as client, asyncio.TaskGroup() as group:
        for account in range(1, 5):
            group.create_task(work(account))
        assert await system.coordinator.wait(timeout=SECONDS) == code

    if what is AtSync.FAILS:
        assert "disk I/O error" in system.coordinator.log.read_text()
    system.coordinator.wrapper = ()
    await system.coordinator.start()
    await until(lambda: not any(prepared(system)))
    east, west = column(system, "SELECT transfer FROM movement")
    assert east == west
    assert {name for name, answer in told.items() if answer} <= {*east}
    assert not {name for name, answer in told.items() if answer is False} & {*east}
    assert any(told.values()), "it died before anything was told: nothing was tried"
    async with AsyncClient(system.address) as client:
        assert await what_is_told(client, "after", 1)
