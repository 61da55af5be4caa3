"""A person who ends a prepared branch by hand, against the decision: it is seen, recorded, alarmed, and stays (R11).

On real Postgres, where COMMIT PREPARED of what is not there says the same whether it was committed or rolled back.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from twophase.contract.crashpoints import VARIABLE, CrashPoint
from twophase.coordinator.client import AsyncClient, Committed, TransactionAborted, operation
from twophase.coordinator.client.values import Outcome, Transaction
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


async def transfer(system: System, *, deadline: float = 20.0, retries: int = 20) -> Committed:
    operations = (
        operation("east", "move", {"transfer": "first", "account": 1, "amount": "-10"}),
        operation("west", "move", {"transfer": "first", "account": 1, "amount": "10"}),
    )
    async with AsyncClient(system.address) as client:
        return await client.execute(*operations, request_id="first", deadline=deadline, retries=retries)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(_SECONDS):
        while not await condition():
            await asyncio.sleep(0.02)


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
    running = asyncio.create_task(transfer(system))
    await east.wait(timeout=_SECONDS)
    by_hand(system, "east", "ROLLBACK")
    await east.start()
    done = await running
    assert done.heuristic in (("east",), ()), "what happened at east may be known after the answer"

    async def seen() -> bool:
        return "east" in states(await recorded(system)) and (await recorded(system)).applied

    await until(seen)
    transaction = await recorded(system)
    assert transaction.outcome is Outcome.COMMITTED
    assert states(transaction) == {"east": "HEURISTIC", "west": "APPLIED"}
    await stays(system, transaction)


async def test_r11_committed_by_hand_while_its_abort_is_decided(system: System) -> None:
    east, west = system.participants["east"], system.participants["west"]
    east.signal(signal.SIGSTOP)
    running = asyncio.create_task(transfer(system, deadline=2.0, retries=0))

    async def west_is_prepared() -> bool:
        return bool(await asyncio.to_thread(prepared, system, "west"))

    await until(west_is_prepared)
    west.signal(signal.SIGSTOP)
    with pytest.raises(TransactionAborted):
        await running
    by_hand(system, "west", "COMMIT")
    for bank in (west, east):
        bank.signal(signal.SIGCONT)

    async def over() -> bool:
        return (await recorded(system)).applied

    await until(over)
    transaction = await recorded(system)
    assert transaction.outcome is Outcome.ABORTED
    assert states(transaction) == {"east": "ABORTED", "west": "HEURISTIC"}
    await stays(system, transaction)
