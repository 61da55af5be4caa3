"""A person who ends a prepared branch by hand, against the decision: it is seen, recorded, alarmed, and stays (R11).

On real Postgres, where COMMIT PREPARED of what is not there says the same whether it was committed or rolled back.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest

from fixtures.two_banks import SECONDS, send, two_banks, until_true
from twophase.contract.crashpoints import VARIABLE, CrashPoint
from twophase.coordinator.client import AsyncClient, TransactionAborted
from twophase.coordinator.client.values import Outcome, Transaction
from twophase.sandbox.system import System

pytestmark = pytest.mark.integration


@pytest.fixture
async def system() -> AsyncIterator[System]:
    async with two_banks() as system:
        yield system


def prepared(system: System, bank: str) -> list[str]:
    with system.connect(bank) as connection:
        rows = connection.execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()").fetchall()
    return [gid for (gid,) in rows]


def by_hand(system: System, bank: str, verb: str) -> None:
    (gid,) = prepared(system, bank)
    with system.connect(bank) as connection:
        connection.execute(f"{verb} PREPARED '{gid}'".encode())


async def recorded(system: System) -> Transaction:
    async with AsyncClient(system.address) as client:
        found = await client.outcome("first")
    assert found is not None
    return found


def states(transaction: Transaction) -> dict[str, str]:
    return {branch.participant: branch.state for branch in transaction.branches}


def alarms(system: System) -> int:
    return system.coordinator.log.read_text(encoding="utf-8").count("heuristic outcome: ")


async def stays(system: System, transaction: Transaction) -> None:
    """Over a crash and a start, with an alarm, and findable without its name."""
    before = alarms(system)
    assert before >= 1
    await system.coordinator.kill()
    await system.coordinator.start()
    assert alarms(system) == before + 1
    assert states(await recorded(system)) == states(transaction)
    async with AsyncClient(system.address) as client:
        found = [one.txid async for one in client.transactions(heuristic_only=True)]
    assert found == [transaction.txid]


async def test_r11_rolled_back_by_hand_while_its_commit_is_decided(system: System) -> None:
    east = system.participants["east"]
    await east.stop()
    east.environment[VARIABLE] = CrashPoint.PARTICIPANT_BEFORE_COMMIT_PREPARED.value
    await east.start()
    del east.environment[VARIABLE]
    running = asyncio.create_task(send(system))
    await east.wait(timeout=SECONDS)
    by_hand(system, "east", "ROLLBACK")
    await east.start()
    done = await running
    assert done.heuristic in (("east",), ()), "what happened at east may be known after the answer"

    async def seen() -> bool:
        return "east" in states(await recorded(system)) and (await recorded(system)).applied

    await until_true(seen)
    transaction = await recorded(system)
    assert transaction.outcome is Outcome.COMMITTED
    assert states(transaction) == {"east": "HEURISTIC", "west": "APPLIED"}
    await stays(system, transaction)


async def test_r11_committed_by_hand_while_its_abort_is_decided(system: System) -> None:
    east, west = system.participants["east"], system.participants["west"]
    east.signal(signal.SIGSTOP)
    running = asyncio.create_task(send(system, deadline=2.0, retries=0))

    async def west_is_prepared() -> bool:
        return bool(await asyncio.to_thread(prepared, system, "west"))

    await until_true(west_is_prepared)
    west.signal(signal.SIGSTOP)
    with pytest.raises(TransactionAborted):
        await running
    by_hand(system, "west", "COMMIT")
    for bank in (west, east):
        bank.signal(signal.SIGCONT)

    async def over() -> bool:
        return (await recorded(system)).applied

    await until_true(over)
    transaction = await recorded(system)
    assert transaction.outcome is Outcome.ABORTED
    assert states(transaction) == {"east": "ABORTED", "west": "HEURISTIC"}
    await stays(system, transaction)
