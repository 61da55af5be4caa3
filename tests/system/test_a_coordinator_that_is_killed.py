"""A coordinator that is killed in the middle, as a process, and started again: one outcome, and nothing in doubt.

The drills do it at every point, under load; here it is one transaction, so that it can be told what becomes of it.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest

from fixtures.two_banks import BANKS, PREPARED, SECONDS, booked, column, send, two_banks, until
from twophase.contract.crashpoints import VARIABLE, CrashPoint
from twophase.coordinator.client import AsyncClient, Committed
from twophase.coordinator.client.values import Outcome
from twophase.sandbox.system import System

pytestmark = pytest.mark.integration


@pytest.fixture
async def system() -> AsyncIterator[System]:
    async with two_banks() as system:
        yield system


def prepared(system: System, bank: str) -> set[str]:
    return set(column(system, PREPARED)[BANKS.index(bank)])


def none_prepared(system: System) -> bool:
    return not any(column(system, PREPARED))


async def prepared_at_one_and_killed(system: System) -> tuple[asyncio.Task[Committed], set[str]]:
    """A transfer that one bank has prepared, and the other never heard of in time; then nobody coordinates it."""
    system.participants["east"].signal(signal.SIGSTOP)
    running = asyncio.create_task(send(system, "first"))
    await until(lambda: prepared(system, "west"))
    left = prepared(system, "west")
    await system.coordinator.kill()
    assert prepared(system, "west") == left
    return running, left


async def test_killed_before_it_decided_and_the_client_waits(system: System) -> None:
    running, left = await prepared_at_one_and_killed(system)
    await system.coordinator.start()
    # While the other bank is still away, too: what is not decided does not hold its locks until that comes back.
    await until(lambda: not left & prepared(system, "west"))
    system.participants["east"].signal(signal.SIGCONT)
    done = await running
    assert not any(done.txid in gid for gid in left)
    await until(lambda: none_prepared(system))
    assert booked(system) == [["first"], ["first"]]


async def test_killed_before_it_decided_and_the_client_is_gone(system: System) -> None:
    running, left = await prepared_at_one_and_killed(system)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await system.coordinator.start()
    system.participants["east"].signal(signal.SIGCONT)
    await until(lambda: not left & prepared(system, "west"))
    await send(system, "second")  # both banks are back
    await until(lambda: none_prepared(system))
    assert booked(system) == [["second"], ["second"]]
    async with AsyncClient(system.address) as client:
        recorded = await client.outcome("first")
    assert recorded is None or recorded.outcome is Outcome.ABORTED


async def test_killed_after_it_decided_everyone_gets_the_one_outcome(system: System) -> None:
    east = system.participants["east"]
    await east.stop()
    east.environment[VARIABLE] = CrashPoint.PARTICIPANT_BEFORE_COMMIT_PREPARED.value
    await east.start()
    del east.environment[VARIABLE]
    running = asyncio.create_task(send(system, "first"))
    # It dies when it is told to commit: so it is decided, and cannot be applied everywhere.
    await east.wait(timeout=SECONDS)
    left = prepared(system, "east")
    assert len(left) == 1
    await system.coordinator.kill()
    assert not running.done()
    await system.coordinator.start()
    assert prepared(system, "east") == left
    await east.start()
    done = await running
    assert all(f"-{done.txid}-" in gid for gid in left)
    await until(lambda: none_prepared(system))
    assert booked(system) == [["first"], ["first"]]
    again = await send(system, "first")
    assert (again.txid, again.applied) == (done.txid, True)
    async with AsyncClient(system.address) as client:
        recorded = await client.outcome("first")
    assert recorded is not None
    assert (recorded.txid, recorded.outcome, recorded.applied) == (done.txid, Outcome.COMMITTED, True)
    assert booked(system) == [["first"], ["first"]]
