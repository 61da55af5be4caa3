"""Seats in SQLite and money in Postgres, in one transaction through a real coordinator; all real processes."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from fixtures.two_banks import until, until_true
from twophase.coordinator.client import (
    AsyncClient,
    CallRejected,
    CheckResult,
    Committed,
    Operation,
    TransactionAborted,
    operation,
)
from twophase.sandbox.checkout.services import services
from twophase.sandbox.processes import Program
from twophase.sandbox.system import System
from twophase.sandbox.tcc.main import VARIABLE

pytestmark = pytest.mark.integration

SEATS = 10
"""In the stalls; each costs 20, and the customer has 100."""


@dataclass(frozen=True)
class House:
    """A theatre, its payment service, and their coordinator."""

    system: System
    program: Program
    path: Path
    client: AsyncClient

    async def buy(self, reference: str, seats: int, *others: Operation) -> Committed:
        booking = {"reference": reference, "category": "stalls", "seats": seats}
        bought = (operation("theatre", "book", booking), *others)
        return await self.client.execute(*bought, request_id=reference, deadline=20.0)

    async def buy_and_pay(self, reference: str, seats: int) -> Committed:
        charge = {"order_id": reference, "customer_id": "C1", "amount": str(20 * seats)}
        return await self.buy(reference, seats, operation("payment", "charge", charge))

    async def is_known(self) -> bool:
        """After a restart the coordinator may still hold the broken connection for a moment."""
        try:
            await self.client.register("theatre", self.program.address)
        except CallRejected:
            return False
        return True

    def seats(self) -> tuple[int, int, int]:
        """Free, reserved and sold."""
        with closing(sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True)) as db:
            free, reserved, sold = db.execute("SELECT free, reserved, sold FROM category").fetchone()
        assert free + reserved + sold == SEATS
        return free, reserved, sold

    def money(self) -> int:
        with self.system.connect("payment") as connection:
            (balance,) = connection.execute("SELECT balance FROM account").fetchone() or (None,)
        assert balance is not None
        return int(balance)


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    payment = [service for service in services() if service.name == "payment"]
    async with System(payment, postgres={"fsync": "off"}) as system, AsyncClient(system.address) as client:
        with system.connect("payment") as connection:
            connection.execute("INSERT INTO account VALUES ('C1', 100)")
        path = system.directory / "theatre.sqlite"

        def command(listen: str) -> list[str]:
            options = ["--data", str(path), "--coordinator", system.address, "--category", f"stalls={SEATS}"]
            return ["--listen", listen, *options]

        program = await system.admit("theatre", command, executable=(sys.executable, "-m", "twophase.sandbox.tcc"))
        yield House(system, program, path, client)


async def refused(buying: Awaitable[Committed], code: str) -> None:
    with pytest.raises(TransactionAborted) as aborted:
        await buying
    assert code in [refusal.code for refusal in aborted.value.refusals]


async def killed_at(there: House, moment: str, buying: Callable[[], Awaitable[Committed]]) -> asyncio.Task[Committed]:
    """The theatre dies at this moment of the purchase, which goes on."""
    there.program.environment[VARIABLE] = moment
    await there.program.restart()
    await until_true(there.is_known)
    del there.program.environment[VARIABLE]
    goes_on = asyncio.create_task(_await(buying()))
    async with asyncio.timeout(30):
        await there.program.wait()
    return goes_on


async def _await(buying: Awaitable[Committed]) -> Committed:
    return await buying


async def test_seats_and_money_together_or_neither() -> None:
    async with house() as there:
        committed = await there.buy_and_pay("two", 2)
        assert committed.results[0].value == {"category": "stalls", "seats": 2}
        assert (there.seats(), there.money()) == ((8, 0, 2), 60)
        again = await there.buy_and_pay("two", 2)
        assert again.txid == committed.txid
        await refused(there.buy_and_pay("dear", 4), "NO_FUNDS")
        cheap = operation("payment", "charge", {"order_id": "o", "customer_id": "C1", "amount": "1"})
        await refused(there.buy("many", 9, cheap), "SOLD_OUT")
        await until(lambda: there.seats() == (8, 0, 2))
        assert there.money() == 60
        # Nobody else writes: it commits by itself.
        await there.buy("free", 3)
        await refused(there.buy("free-too", 6), "SOLD_OUT")
        looked = await there.client.execute(operation("theatre", "availability", {"category": "stalls"}))
        assert looked.results[0].value == {"free": 5, "reserved": 0, "sold": 5}
        assert there.money() == 60
        found = {each.participant: each for each in (await there.client.diagnose()).participants}
        assert [check for check in found["theatre"].checks if check.result is CheckResult.PROBLEM] == []


async def test_r1_a_vote_that_nobody_heard_is_let_go_when_the_theatre_is_back() -> None:
    async with house() as there:
        buying = await killed_at(there, "after-try", lambda: there.buy_and_pay("unheard", 2))
        await refused(buying, "UNREACHABLE")
        assert there.seats() == (8, 2, 0)
        await there.program.start()
        await until(lambda: there.seats() == (SEATS, 0, 0))
        assert there.money() == 100
        await until_true(there.is_known)
        await there.buy_and_pay("later", 1)
        assert (there.seats(), there.money()) == ((9, 0, 1), 80)


@pytest.mark.parametrize("moment", ["before-confirm", "within-confirm", "after-confirm"])
async def test_r7_a_purchase_that_is_decided_is_sold_once_whenever_the_theatre_dies(moment: str) -> None:
    async with house() as there:
        buying = await killed_at(there, moment, lambda: there.buy_and_pay("decided", 2))
        in_doubt = {branch.participant: branch for branch in (await there.client.in_doubt()).branches}
        assert (in_doubt["theatre"].decision, in_doubt["theatre"].observed) == ("COMMIT", False)
        await there.program.start()
        await buying
        await until(lambda: there.seats() == (8, 0, 2))
        assert there.money() == 60
        assert not (await there.client.in_doubt()).branches


async def test_a_reservation_is_seen_while_the_coordinator_is_away() -> None:
    async with house() as there:
        there.system.coordinator.environment["TWOPHASE_CRASH"] = "coordinator.after-decide"
        await there.system.coordinator.restart()
        buying = asyncio.create_task(_await(there.buy_and_pay("decided", 2)))
        async with asyncio.timeout(30):
            await there.system.coordinator.wait()
        del there.system.coordinator.environment["TWOPHASE_CRASH"]
        assert there.seats() == (8, 2, 0)
        await there.system.coordinator.start()
        await buying
        await until(lambda: there.seats() == (8, 0, 2))
        assert there.money() == 60
