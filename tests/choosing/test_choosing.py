"""docs/choosing.md shows code that runs, and what it says of that code is so; on real Postgres."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from choosing import shop, till
from choosing.buying import buy
from fixtures.clusters import Database
from twophase.coordinator.client import AsyncClient, Protocol, SagaCompensated, TransactionAborted, operation
from twophase.participant import Refused
from twophase.sandbox.system import Service, System

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGE = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")
SNIPPETS = [(HERE / name).read_text(encoding="utf-8") for name in ("shop.py", "till.py", "buying.py")]
SHOP = """
CREATE TABLE purchase (id text PRIMARY KEY, sku text NOT NULL, pieces int NOT NULL, state text NOT NULL);
CREATE TABLE shelf (sku text PRIMARY KEY, free int NOT NULL CHECK (free >= 0));
CREATE TABLE reservation (order_id text PRIMARY KEY, sku text NOT NULL REFERENCES shelf, pieces int NOT NULL);
CREATE TABLE agreement (order_id text PRIMARY KEY, price numeric NOT NULL);
CREATE TABLE article (sku text PRIMARY KEY, price numeric NOT NULL, version int NOT NULL);
INSERT INTO shelf VALUES ('lamp', 9);
INSERT INTO article VALUES ('lamp', 20, 1);
"""
TILL = """
CREATE TABLE account (customer text PRIMARY KEY, balance numeric NOT NULL CHECK (balance >= 0));
INSERT INTO account VALUES ('c-1', 100);
"""
LAMP = Decimal(20)


def services() -> list[Service]:
    where = {"PYTHONPATH": str(HERE)}
    return [
        Service("shop", "shop:shop", schema=SHOP, cluster="one", environment=where),
        Service("till", "till:till", schema=TILL, cluster="one", environment=where),
    ]


def test_every_block_of_code_on_the_page_is_part_of_a_file_that_the_tests_run() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 6
    for block in blocks:
        assert any(f"\n{block}" in snippet for snippet in SNIPPETS), block


def test_every_link_leads_to_a_file_of_the_project() -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGE)
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


def value(connection: psycopg.Connection, query: str) -> object:
    found = connection.execute(query.encode()).fetchone()
    return None if found is None else found[0]


@pytest.fixture
def connection(empty_database: Database) -> Iterator[psycopg.Connection]:
    with empty_database.connect() as opened:
        opened.execute(SHOP.encode())
        opened.execute(TILL.encode())
        yield opened


def test_a_semantic_lock_keeps_others_from_what_is_not_certain(connection: psycopg.Connection) -> None:
    kept, dropped = shop.Order("o-1", "lamp", 1), shop.Order("o-2", "lamp", 1)
    for order in (kept, dropped):
        shop.open_order(connection, order)
        with pytest.raises(Refused) as refused:
            shop.ship(connection, order)
        assert refused.value.retryable
    shop.approve_order(connection, kept)
    shop.ship(connection, kept)
    shop.reject_order(connection, dropped)
    with pytest.raises(Refused):
        shop.ship(connection, dropped)
    assert value(connection, "SELECT string_agg(state, ' ' ORDER BY id) FROM purchase") == "shipped rejected"


def test_a_reservation_is_given_back_by_its_row(connection: psycopg.Connection) -> None:
    first, second = shop.Order("o-1", "lamp", 6), shop.Order("o-2", "lamp", 6)
    shop.reserve(connection, first)
    with pytest.raises(Refused, match="OUT_OF_STOCK"):
        shop.reserve(connection, second)
    shop.release(connection, first)
    shop.reserve(connection, second)
    assert value(connection, "SELECT free FROM shelf") == 3
    assert value(connection, "SELECT sum(pieces) FROM reservation") == 6


def test_what_commutes_can_be_undone_whatever_came_in_between(connection: psycopg.Connection) -> None:
    payment, other = till.Payment("c-1", Decimal(60)), till.Payment("c-1", Decimal(30))
    till.charge(connection, payment)
    till.charge(connection, other)
    with pytest.raises(Refused, match="NO_FUNDS"):
        till.charge(connection, other)
    till.refund(connection, payment)
    assert value(connection, "SELECT balance FROM account") == 70


def test_a_step_reads_again_what_its_saga_relies_on(connection: psycopg.Connection) -> None:
    shop.agree(connection, shop.Offer("o-1", "lamp", LAMP))
    connection.execute("UPDATE article SET price = 25")
    with pytest.raises(Refused, match="PRICE_CHANGED"):
        shop.agree(connection, shop.Offer("o-2", "lamp", LAMP))
    with pytest.raises(Refused, match="PRICE_CHANGED"):
        shop.agree(connection, shop.Offer("o-3", "sofa", LAMP))
    assert value(connection, "SELECT string_agg(order_id, ' ') FROM agreement") == "o-1"
    shop.withdraw(connection, shop.Offer("o-1", "lamp", LAMP))
    assert value(connection, "SELECT count(*) FROM agreement") == 0


def test_a_version_number_lets_one_of_two_writers_win(connection: psycopg.Connection) -> None:
    shop.set_price(connection, shop.NewPrice("lamp", Decimal(21), seen_version=1))
    with pytest.raises(Refused, match="CHANGED"):
        shop.set_price(connection, shop.NewPrice("lamp", Decimal(22), seen_version=1))
    assert value(connection, "SELECT price FROM article") == 21


@pytest.mark.integration
async def test_the_same_business_by_either_protocol() -> None:
    async with System(services(), postgres={"fsync": "off"}) as system, AsyncClient(system.address) as client:
        for number, protocol in enumerate(Protocol, start=1):
            await buy(client, protocol, f"order-{number}", pieces=1, price=LAMP)
            with pytest.raises(TransactionAborted) as refused:
                await buy(client, protocol, f"dear-{number}", pieces=5, price=LAMP)
            assert refused.value.code == "NO_FUNDS"
            assert isinstance(refused.value, SagaCompensated) == (protocol is Protocol.SAGA)
        with system.connect("shop") as there, system.connect("till") as money:
            states: dict[str, str] = dict(there.execute("SELECT id, state FROM purchase").fetchall())
            assert value(there, "SELECT free FROM shelf") == 7
            assert value(there, "SELECT count(*) FROM reservation") == 2
            assert value(money, "SELECT balance FROM account") == 60
    # An aborted branch never was; a compensated step was there for all to see, and its undoing is history, too.
    assert states == {"order-1": "approved", "order-2": "approved", "dear-2": "rejected"}


@pytest.mark.integration
async def test_one_participant_needs_no_protocol() -> None:
    async with System(services(), postgres={"fsync": "off"}) as system, AsyncClient(system.address) as client:
        wanted = {"id": "o-1", "sku": "lamp", "pieces": 1}
        done = await client.execute(
            *(operation("shop", name, wanted) for name in ("open_order", "reserve", "approve_order")), request_id="o-1"
        )
        assert (await client.get(done.txid)).decision == "DELEGATED"
