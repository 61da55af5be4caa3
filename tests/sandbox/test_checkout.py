"""The checkout's services, called as plain functions, and the audit, which must find what is planted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from importlib import resources
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql

from twophase.participant import Refused
from twophase.sandbox.checkout.audit import Findings, audit
from twophase.sandbox.checkout.delivery import Destination, schedule
from twophase.sandbox.checkout.delivery import cancel as cancel_delivery
from twophase.sandbox.checkout.driver import Answer, Told
from twophase.sandbox.checkout.inventory import Item, Reservation, release, reserve
from twophase.sandbox.checkout.opening import Opening
from twophase.sandbox.checkout.order import Line as OrderLine
from twophase.sandbox.checkout.order import NewOrder, place
from twophase.sandbox.checkout.order import cancel as cancel_order
from twophase.sandbox.checkout.orders import Line, Order
from twophase.sandbox.checkout.payment import Charge, charge, refund
from twophase.sandbox.checkout.services import NAMES
from twophase.sandbox.postgres import Cluster

Connect = Callable[[str], psycopg.Connection]

LEFT: LiteralString = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
OPENING = Opening(stock=10, funds=Decimal(100), closed_areas=("Atlantis",))
FIRST = Order("1", "Ann", "Cork", (Line("tea", 2, Decimal("2.50")), Line("tea", 1, Decimal("2.50"))))
SECOND = Order("2", "Bob", "Cork", (Line("jam", 4, Decimal("0.3333")), Line("tea", 1, Decimal("2.50"))))
REFUSED = Order("3", "Ann", "Atlantis", (Line("jam", 1, Decimal(1)),))
ORDERS = (FIRST, SECOND, REFUSED)
ANSWERS = (
    Answer(FIRST, Told.COMMITTED, 0.01, 1),
    Answer(SECOND, Told.COMMITTED, 0.01, 1),
    Answer(REFUSED, Told.REFUSED, 0.01, 1, "AREA_CLOSED", "closed"),
)


@pytest.fixture(scope="module")
def shop(cluster: Cluster) -> Iterator[Connect]:
    """Connections to four databases with the services' tables in them."""
    names = {service: f"{service}_of_the_shop" for service in NAMES}
    for service, name in names.items():
        cluster.create_database(name)
        schema = resources.files("twophase.sandbox.checkout").joinpath(f"{service}.sql").read_bytes()
        with cluster.connect(name) as connection:
            connection.execute(schema)
    yield lambda service: cluster.connect(names[service])
    for name in names.values():
        cluster.drop_database(name)


@pytest.fixture
def connect(shop: Connect) -> Iterator[Connect]:
    """The same with nothing but the opening in them."""
    with shop("inventory") as connection:
        connection.execute("INSERT INTO stock SELECT unnest(ARRAY['tea', 'jam']), 10")
    with shop("payment") as connection:
        connection.execute("INSERT INTO account SELECT unnest(ARRAY['Ann', 'Bob']), 100")
    with shop("delivery") as connection:
        connection.execute("INSERT INTO closed_area VALUES ('Atlantis')")
    yield shop
    tables = {
        "order": b"TRUNCATE orders, order_line",
        "payment": b"TRUNCATE account, charge",
        "inventory": b"TRUNCATE stock, reservation",
        "delivery": b"TRUNCATE closed_area, delivery",
    }
    for service, statement in tables.items():
        with shop(service) as connection:
            for (gid,) in connection.execute(LEFT).fetchall():
                connection.execute(sql.SQL("ROLLBACK PREPARED {}").format(gid))
            connection.execute(statement)


def serve(connect: Connect, order: Order) -> None:
    """What a committed transaction does, in four databases one after the other."""
    with connect("order") as connection:
        lines = [OrderLine(line.sku, line.quantity, line.unit_price) for line in order.lines]
        place(connection, NewOrder(order.order_id, order.customer_id, order.area, lines))
    with connect("inventory") as connection:
        reserve(connection, Reservation(order.order_id, [Item(line.sku, line.quantity) for line in order.lines]))
    with connect("payment") as connection:
        charge(connection, Charge(order.order_id, order.customer_id, order.total))
    with connect("delivery") as connection:
        schedule(connection, Destination(order.order_id, order.area))


@pytest.fixture
def served(connect: Connect) -> Connect:
    serve(connect, FIRST)
    serve(connect, SECOND)
    return connect


def check(connect: Connect, answers: tuple[Answer, ...] = ANSWERS) -> Findings:
    return audit(connect, ORDERS, answers, OPENING)


def test_what_was_told_and_what_is_there_agree(served: Connect) -> None:
    findings = check(served)
    assert findings == Findings((), (), ())
    assert findings.consistent


def undo(connect: Connect, order: Order) -> None:
    """What the compensations of a whole order do."""
    with connect("delivery") as connection:
        cancel_delivery(connection, Destination(order.order_id, order.area))
    with connect("payment") as connection:
        refund(connection, Charge(order.order_id, order.customer_id, order.total))
    with connect("inventory") as connection:
        release(connection, Reservation(order.order_id, [Item(line.sku, line.quantity) for line in order.lines]))
    with connect("order") as connection:
        cancel_order(connection, NewOrder(order.order_id, order.customer_id, order.area, []))


def test_the_compensations_leave_everything_as_it_was(served: Connect) -> None:
    undo(served, SECOND)
    answers = (ANSWERS[0], Answer(SECOND, Told.REFUSED, 0.01, 1, "NO_FUNDS", "no funds", compensated=True), ANSWERS[2])
    assert check(served, answers) == Findings((), (), ())


PLANTED = {
    "a delivery is missing": (
        "delivery",
        "DELETE FROM delivery WHERE order_id = '2'",
        "delivery of delivery lacks (2, Cork)",
    ),
    "a refused order is there": (
        "order",
        "INSERT INTO orders VALUES ('3', 'Ann', 'Atlantis')",
        "orders of order has (3, Ann, Atlantis), which must not be there",
    ),
    "a line is missing": (
        "order",
        "DELETE FROM order_line WHERE line = 2 AND order_id = '1'",
        "order_line of order lacks (1, 2, tea",
    ),
    "a price differs": (
        "order",
        "UPDATE order_line SET unit_price = 9 WHERE sku = 'jam'",
        "order_line of order lacks (2, 1, jam",
    ),
    "money is gone": (
        "payment",
        "UPDATE account SET balance = balance - 0.0001 WHERE customer_id = 'Bob'",
        "account of payment lacks (Bob, 96.1668)",
    ),
    "charged twice": (
        "payment",
        "INSERT INTO charge VALUES ('1 again', 'Ann', 7.5)",
        "charge of payment has (1 again, Ann, 7.5000), which must not be there",
    ),
    "stock is gone": (
        "inventory",
        "UPDATE stock SET pieces = 0 WHERE sku = 'jam'",
        "stock of inventory lacks (jam, 6)",
    ),
    "reserved for nobody": (
        "inventory",
        "INSERT INTO reservation VALUES ('9', 'jam', 1)",
        "reservation of inventory has (9, jam, 1)",
    ),
    "an unknown customer": ("payment", "INSERT INTO account VALUES ('Eve', 1)", "account of payment has (Eve, 1.0000)"),
}


@pytest.mark.parametrize("what", PLANTED)
def test_what_is_planted_is_found(served: Connect, what: str) -> None:
    service, statement, said = PLANTED[what]
    with served(service) as connection:
        connection.execute(statement.encode())
    findings = check(served)
    assert not findings.consistent
    assert any(said in problem for problem in findings.problems), findings.problems


def test_a_prepared_transaction_that_is_left_is_found(served: Connect) -> None:
    with served("payment") as connection:
        connection.execute("BEGIN")
        connection.execute("UPDATE account SET balance = balance WHERE customer_id = 'Ann'")
        connection.execute("PREPARE TRANSACTION 'left behind'")
    findings = check(served)
    assert "left behind" in findings.prepared
    assert not findings.consistent
    assert findings.problems == ()


def test_an_order_that_was_told_as_committed_and_is_nowhere_is_found(connect: Connect) -> None:
    serve(connect, FIRST)
    problems = check(connect).problems
    assert any("orders of order lacks (2, Bob, Cork)" in problem for problem in problems)


def test_an_order_without_an_answer_is_found(served: Connect) -> None:
    assert check(served, ANSWERS[:2]).problems == ("order '3' was answered 0 times",)


def test_an_unknown_order_may_be_everywhere_or_nowhere_but_not_in_between(connect: Connect) -> None:
    unknown = (ANSWERS[0], Answer(SECOND, Told.UNKNOWN, 1.0, 1, "UNKNOWN"), ANSWERS[2])
    serve(connect, FIRST)
    assert check(connect, unknown) == Findings((), (), ("2",))
    serve(connect, SECOND)
    assert check(connect, unknown) == Findings((), (), ("2",))
    with connect("delivery") as connection:
        connection.execute("DELETE FROM delivery WHERE order_id = '2'")
    assert not check(connect, unknown).consistent


def test_many_differences_are_told_shortly(connect: Connect) -> None:
    with connect("delivery") as connection:
        connection.execute("INSERT INTO delivery SELECT number, 'Cork' FROM generate_series(100, 199) number")
    about_deliveries = [problem for problem in check(connect).problems if problem.startswith("delivery of delivery")]
    assert len(about_deliveries) == 11
    assert about_deliveries[-1] == "delivery of delivery: 92 more rows are wrong"


REFUSALS: dict[str, tuple[str, Callable[[psycopg.Connection], object]]] = {
    "UNKNOWN_SKU": ("inventory", lambda c: reserve(c, Reservation("9", [Item("gold", 1)]))),
    "OUT_OF_STOCK": ("inventory", lambda c: reserve(c, Reservation("9", [Item("tea", 6), Item("tea", 5)]))),
    "INVALID_QUANTITY": ("inventory", lambda c: reserve(c, Reservation("9", [Item("tea", 0)]))),
    "UNKNOWN_CUSTOMER": ("payment", lambda c: charge(c, Charge("9", "Eve", Decimal(1)))),
    "NO_FUNDS": ("payment", lambda c: charge(c, Charge("9", "Ann", Decimal("100.01")))),
    "INVALID_AMOUNT": ("payment", lambda c: charge(c, Charge("9", "Ann", Decimal(-1)))),
    "AREA_CLOSED": ("delivery", lambda c: schedule(c, Destination("9", "Atlantis"))),
    "DUPLICATE_ORDER": ("order", lambda c: place(c, NewOrder("1", "Ann", "Cork", [OrderLine("tea", 1, Decimal(1))]))),
    "EMPTY_ORDER": ("order", lambda c: place(c, NewOrder("9", "Ann", "Cork", []))),
}


@pytest.mark.parametrize("code", REFUSALS)
def test_each_service_refuses_by_its_rules(connect: Connect, code: str) -> None:
    service, call = REFUSALS[code]
    serve(connect, FIRST)
    with connect(service) as connection, pytest.raises(Refused) as refused, connection.transaction():
        call(connection)
    assert refused.value.code == code
    assert audit(connect, ORDERS, (ANSWERS[0],), OPENING).problems == (
        "order '2' was answered 0 times",
        "order '3' was answered 0 times",
    )


def test_amounts_are_told_as_they_were_paid_in(connect: Connect) -> None:
    with (
        connect("payment") as connection,
        pytest.raises(Refused, match="customer Ann has 100, the order"),
    ):
        charge(connection, Charge("9", "Ann", Decimal("100.01")))


def test_a_receipt_says_what_is_left(connect: Connect) -> None:
    with connect("payment") as connection:
        assert str(charge(connection, Charge("9", "Ann", Decimal("0.01"))).balance) == "99.99"
        assert str(charge(connection, Charge("10", "Ann", Decimal("9.99"))).balance) == "90"
