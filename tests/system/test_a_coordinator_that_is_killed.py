"""A coordinator that is killed in the middle, as a process, and started again: one outcome, and nothing in doubt.

The drills do it at every point, under load; here it is one transaction, so that it can be told what becomes of it.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable

import pytest

from twophase.contract.crashpoints import VARIABLE, CrashPoint
from twophase.coordinator.client import AsyncClient, Committed, Operation, operation
from twophase.coordinator.client.values import Outcome
from twophase.sandbox.bank import SCHEMA
from twophase.sandbox.system import Service, System

pytestmark = pytest.mark.integration
BANKS = ("east", "west")
_SECONDS = 40.0


@pytest.fixture
async def system() -> AsyncIterator[System]:
    banks = [Service(bank, f"twophase.sandbox.bank:{bank}", schema=SCHEMA, cluster="both") for bank in BANKS]
    async with System(banks, postgres={"fsync": "off"}) as system:
        yield system


def transfer(name: str) -> list[Operation]:
    return [
        operation("east", "move", {"transfer": name, "account": 1, "amount": "-10"}),
        operation("west", "move", {"transfer": name, "account": 1, "amount": "10"}),
    ]


async def execute(system: System, name: str) -> Committed:
    """As an application does it: one call, which goes on over the coordinator's end."""
    async with AsyncClient(system.address) as client:
        return await client.execute(*transfer(name), request_id=name, deadline=20, retries=20)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(_SECONDS):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.01)


def prepared(system: System, bank: str) -> set[str]:
    with system.connect(bank) as connection:
        rows = connection.execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()").fetchall()
    return {gid for (gid,) in rows}


def none_prepared(system: System) -> bool:
    return not any(prepared(system, bank) for bank in BANKS)


def booked(system: System) -> list[list[str]]:
    """The transfers that each bank has booked."""
    found = []
    for bank in BANKS:
        with system.connect(bank) as connection:
            rows = connection.execute("SELECT transfer FROM movement ORDER BY transfer").fetchall()
        found.append([transfer for (transfer,) in rows])
    return found


async def prepared_at_one_and_killed(system: System) -> tuple[asyncio.Task[Committed], set[str]]:
    """A transfer that one bank has prepared, and the other never heard of in time; then nobody coordinates it."""
    system.participants["east"].signal(signal.SIGSTOP)
    running = asyncio.create_task(execute(system, "first"))
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
    await execute(system, "second")  # both banks are back
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
    running = asyncio.create_task(execute(system, "first"))
    # It dies when it is told to commit: so it is decided, and cannot be applied everywhere.
    await east.wait(timeout=_SECONDS)
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
    again = await execute(system, "first")
    assert (again.txid, again.applied) == (done.txid, True)
    async with AsyncClient(system.address) as client:
        recorded = await client.outcome("first")
    assert recorded is not None
    assert (recorded.txid, recorded.outcome, recorded.applied) == (done.txid, Outcome.COMMITTED, True)
    assert booked(system) == [["first"], ["first"]]
