"""A coordinator that is frozen in the middle, with another one standing by: what it was doing is finished, once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable

import pytest

from twophase.contract.crashpoints import VARIABLE, CrashPoint
from twophase.coordinator.client import AsyncClient, Committed, operation
from twophase.sandbox.bank import SCHEMA
from twophase.sandbox.system import Service, System

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this system has no handles to processes"),
]
BANKS = ("east", "west")
_SECONDS = 40.0


@pytest.fixture
async def system() -> AsyncIterator[System]:
    banks = [Service(bank, f"twophase.sandbox.bank:{bank}", schema=SCHEMA, cluster="both") for bank in BANKS]
    async with System(banks, postgres={"fsync": "off"}) as system:
        yield system


async def transfer(system: System) -> Committed:
    """As an application does it: one call, which goes on over the coordinator's end."""
    operations = (
        operation("east", "move", {"transfer": "first", "account": 1, "amount": "-10"}),
        operation("west", "move", {"transfer": "first", "account": 1, "amount": "10"}),
    )
    async with AsyncClient(system.address) as client:
        return await client.execute(*operations, request_id="first", deadline=20, retries=20)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(_SECONDS):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.01)


def counted(system: System, sql: str) -> list[int]:
    found = []
    for bank in BANKS:
        with system.connect(bank) as connection:
            rows = connection.execute(sql.encode()).fetchall()
        found.append(int(rows[0][0]))
    return found


def prepared(system: System) -> list[int]:
    return counted(system, "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()")


async def test_r5_what_it_was_doing_is_finished_by_the_one_that_takes_over(system: System) -> None:
    east = system.participants["east"]
    await east.stop()
    east.environment[VARIABLE] = CrashPoint.PARTICIPANT_BEFORE_COMMIT_PREPARED.value
    await east.start()
    del east.environment[VARIABLE]
    second = system.standby("--takeover-after=1")
    await second.stand_by()
    running = asyncio.create_task(transfer(system))
    # It dies when it is told to commit: so it is decided, and cannot be applied everywhere.
    await east.wait(timeout=_SECONDS)
    system.coordinator.signal(signal.SIGSTOP)
    assert prepared(system)[0] == 1
    await second.become_ready()
    system.coordinator.signal(signal.SIGCONT)
    assert await system.coordinator.wait(timeout=_SECONDS) == -signal.SIGKILL
    await east.start()
    done = await running
    assert done.txid.startswith("00000001-")
    await until(lambda: prepared(system) == [0, 0])
    assert counted(system, "SELECT count(*) FROM movement") == [1, 1]
    assert await second.stop() == 0


async def test_r9_what_it_had_not_decided_is_aborted_and_the_client_gets_its_commit(system: System) -> None:
    west = system.participants["west"]
    second = system.standby("--takeover-after=1")
    await second.stand_by()
    west.signal(signal.SIGSTOP)
    running = asyncio.create_task(transfer(system))
    await until(lambda: prepared(system)[0] == 1)
    system.coordinator.signal(signal.SIGSTOP)
    await second.become_ready()
    west.signal(signal.SIGCONT)
    done = await running
    assert done.txid.startswith("00000002-")
    await until(lambda: prepared(system) == [0, 0])
    assert counted(system, "SELECT count(*) FROM movement") == [1, 1]
    assert await second.stop() == 0
