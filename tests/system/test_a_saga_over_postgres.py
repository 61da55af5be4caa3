"""A coordinator, two services and their databases run sagas: forward, back, and on again when a service is repaired."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from fixtures.clusters import Database, MakeDatabase
from fixtures.second_phase import value
from twophase.contract.addresses import Address
from twophase.coordinator.client import AsyncClient, DeadLetter, Operation, Protocol, SagaCompensated, operation, step
from twophase.coordinator.server import Settings, running
from twophase.participant import Participant, Refused, Retry
from twophase.participant.server import ParticipantServer

pytestmark = pytest.mark.integration

QUICK = Retry(attempts=2, first_pause=0.01, longest_pause=0.05)


@dataclass(frozen=True)
class Reserve:
    item: str
    pieces: int


@dataclass
class Shop:
    """What the services do wrong when they are told to."""

    stock: Database
    money: Database
    client: AsyncClient
    broken: set[str] = field(default_factory=set)

    def check(self, what: str) -> None:
        if what in self.broken:
            raise Refused("BROKEN", f"{what} is broken")

    def left(self) -> tuple[int, int, int]:
        """What is in stock, what the customer has, what was sent."""
        return (
            value(self.stock, "SELECT sum(pieces) FROM shelf"),
            value(self.money, "SELECT funds FROM customer"),
            value(self.stock, "SELECT count(*) FROM parcel"),
        )

    def rows(self, database: Database) -> list[tuple[str, str]]:
        with database.connect() as connection:
            query = "SELECT kind, outcome FROM twophase.ledger ORDER BY gid, kind DESC"
            return [(kind, outcome) for kind, outcome in connection.execute(query).fetchall()]


def make_inventory(shop: Shop) -> Participant:
    inventory = Participant("inventory")

    @inventory.operation(retry=QUICK)
    def reserve(connection: psycopg.Connection, order: Reserve) -> str:
        taken = connection.execute(
            "UPDATE shelf SET pieces = pieces - %s"
            " WHERE name = (SELECT name FROM shelf WHERE pieces >= %s ORDER BY name LIMIT 1) RETURNING name",
            (order.pieces, order.pieces),
        ).fetchone()
        if taken is None:
            raise Refused("OUT_OF_STOCK", f"there are not {order.pieces} of {order.item} left")
        return str(taken[0])

    @inventory.compensation(reserve)
    def release(connection: psycopg.Connection, order: Reserve, shelf: str) -> None:
        shop.check("release")
        connection.execute("UPDATE shelf SET pieces = pieces + %s WHERE name = %s", (order.pieces, shelf))

    @inventory.operation(read_only=True)
    def look(connection: psycopg.Connection) -> None: ...

    @inventory.operation(retry=QUICK)
    def send(connection: psycopg.Connection, item: str) -> None:
        connection.execute("INSERT INTO parcel VALUES (%s)", (item,))
        shop.check("send")

    return inventory


def make_payment(shop: Shop) -> Participant:
    payment = Participant("payment")

    @payment.operation(retry=QUICK)
    def charge(connection: psycopg.Connection, amount: int) -> None:
        shop.check("charge")
        if amount > 10:
            raise Refused("NO_FUNDS", f"there is not {amount} left")
        connection.execute("UPDATE customer SET funds = funds - %s", (amount,))

    return payment


@pytest.fixture
async def shop(databases: MakeDatabase, tmp_path: Path) -> AsyncIterator[Shop]:
    stock, money = databases("inventory"), databases("payment")
    with stock.connect() as connection:
        connection.execute("CREATE TABLE shelf (name text, pieces integer); CREATE TABLE parcel (item text)")
        connection.execute("INSERT INTO shelf VALUES ('a', 1), ('b', 9)")
    with money.connect() as connection:
        connection.execute("CREATE TABLE customer (funds integer); INSERT INTO customer VALUES (100)")
    async with AsyncExitStack() as stack:
        settings = Settings(journal=tmp_path / "journal", listen=Address("127.0.0.1", 0), grace=1.0)
        coordinator = await stack.enter_async_context(running(settings))
        client = await stack.enter_async_context(AsyncClient(coordinator.address))
        shop = Shop(stock, money, client)
        for participant, database in ((make_inventory(shop), stock), (make_payment(shop), money)):
            server = await stack.enter_async_context(ParticipantServer(participant, dsn=database.dsn))
            await client.register(participant.name, server.address)
        yield shop


async def dead_letters(shop: Shop) -> tuple[DeadLetter, ...]:
    """Waits until there are some."""
    async with asyncio.timeout(30):
        while not (found := await shop.client.dead_letters()):
            await asyncio.sleep(0.01)
    return found


async def ended(shop: Shop) -> None:
    """Waits until every saga is over: whoever waits for one is answered before that if it has a dead letter."""
    async with asyncio.timeout(30):
        while [one async for one in shop.client.transactions(unfinished_only=True)]:
            await asyncio.sleep(0.01)


def reserve(pieces: int = 2) -> Operation:
    return operation("inventory", "reserve", {"item": "tea", "pieces": pieces})


def charge(amount: int = 7) -> Operation:
    return operation("payment", "charge", amount)


async def test_a_saga_whose_steps_are_all_done_is_committed_with_their_results(shop: Shop) -> None:
    done = await shop.client.execute(
        operation("inventory", "look"),
        reserve(),
        step("pay", charge(), pivot=True),
        operation("inventory", "send", "tea"),
        protocol=Protocol.SAGA,
    )
    assert [each.payload.json for each in done.results] == ["", '"b"', "", ""]
    assert shop.left() == (8, 93, 1)
    assert shop.rows(shop.stock) == [("work", "applied")] * 3


async def test_a_refusal_leaves_stock_and_money_as_they_were(shop: Shop) -> None:
    """The stock is taken from one shelf and goes back to it, which only the result knows."""
    with pytest.raises(SagaCompensated) as undone:
        await shop.client.execute(reserve(), step("pay", charge(11), pivot=True), protocol=Protocol.SAGA)
    assert undone.value.refusals[0].code == "NO_FUNDS"
    assert shop.left() == (10, 100, 0)
    assert value(shop.stock, "SELECT pieces FROM shelf WHERE name = 'b'") == 9
    assert shop.rows(shop.stock) == [("work", "applied"), ("compensation", "applied")]
    assert shop.rows(shop.money) == [("work", "refused")]


async def test_what_comes_after_the_pivot_is_tried_until_it_is_done(shop: Shop) -> None:
    shop.broken.add("send")
    saga = asyncio.create_task(
        shop.client.execute(
            reserve(), step("pay", charge(), pivot=True), operation("inventory", "send", "tea"), protocol=Protocol.SAGA
        )
    )
    [letter] = await dead_letters(shop)
    assert (letter.participant, letter.operation) == ("inventory", "send")
    assert shop.left() == (8, 93, 0)
    assert (await saga).pending == ("inventory",)
    shop.broken.clear()
    await ended(shop)
    assert shop.left() == (8, 93, 1)
    assert shop.rows(shop.stock) == [("work", "applied")] * 2


async def test_a_compensation_that_fails_is_a_dead_letter_until_it_is_done(shop: Shop) -> None:
    shop.broken.add("release")
    saga = asyncio.create_task(
        shop.client.execute(reserve(), step("pay", charge(11), pivot=True), protocol=Protocol.SAGA)
    )
    [letter] = await dead_letters(shop)
    assert (letter.participant, letter.operation) == ("inventory", "reserve")
    assert shop.left() == (8, 100, 0)
    with pytest.raises(SagaCompensated) as undone:
        await saga
    assert undone.value.pending == ("inventory",)
    shop.broken.clear()
    await ended(shop)
    assert shop.left() == (10, 100, 0)
    assert await shop.client.dead_letters() == ()


async def test_a_dead_letter_that_is_resolved_is_never_done(shop: Shop) -> None:
    shop.broken.add("release")
    saga = asyncio.create_task(
        shop.client.execute(reserve(), step("pay", charge(11), pivot=True), protocol=Protocol.SAGA)
    )
    [letter] = await dead_letters(shop)
    await shop.client.resolve_dead_letter(letter.txid, letter.step, actor="ann", reason="the tea is spoilt")
    shop.broken.clear()
    with pytest.raises(SagaCompensated):
        await saga
    assert shop.left() == (8, 100, 0)
    assert shop.rows(shop.stock) == [("work", "applied"), ("compensation", "tombstone")]
