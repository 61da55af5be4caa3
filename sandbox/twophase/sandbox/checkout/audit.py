"""The books are checked: what the clients were told, against what the four databases hold.

Lives here: the rows that every table must have, exactly, and what is said of each that is missing or too many. Read
with plain SQL, past everything of ours. Must not live here: how the orders got there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, LiteralString, TypeAlias

import psycopg

from twophase.sandbox.checkout.driver import Answer, Told
from twophase.sandbox.checkout.opening import Opening
from twophase.sandbox.checkout.orders import Order
from twophase.sandbox.checkout.services import NAMES

Row: TypeAlias = tuple[object, ...]
Connect: TypeAlias = Callable[[str], psycopg.Connection]

# Everything the four services keep, by service and table.
_TABLES: Final[dict[tuple[str, str], LiteralString]] = {
    ("order", "orders"): "SELECT order_id, customer_id, area FROM orders",
    ("order", "order_line"): "SELECT order_id, line, sku, quantity, unit_price FROM order_line",
    ("payment", "charge"): "SELECT order_id, customer_id, amount FROM charge",
    ("payment", "account"): "SELECT customer_id, balance FROM account",
    ("inventory", "reservation"): "SELECT order_id, sku, pieces FROM reservation",
    ("inventory", "stock"): "SELECT sku, pieces FROM stock",
    ("delivery", "delivery"): "SELECT order_id, area FROM delivery",
}
# Of the whole cluster: a branch in a wrong database is one too many as well.
_PREPARED: Final[LiteralString] = "SELECT gid FROM pg_prepared_xacts ORDER BY gid"
_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class Findings:
    """What the audit found. `problems` are sentences, `prepared` the names of prepared transactions that are left.

    `unknown` are the orders whose client does not know the outcome; the audit takes for committed those that are in
    the order service's database, and then demands that they are in all others too.
    """

    problems: tuple[str, ...]
    prepared: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def consistent(self) -> bool:
        """True if every row is where it must be, none is where it must not be, and nothing is left prepared."""
        return not self.problems and not self.prepared


def audit(connect: Connect, orders: Collection[Order], answers: Collection[Answer], opening: Opening) -> Findings:
    """Reads everything the four databases hold and compares it with what the clients were told."""
    actual = _read(connect)
    placed = {row[0] for row in actual["order", "orders"]}
    unknown = [answer.order for answer in answers if answer.told is Told.UNKNOWN]
    committed = [answer.order for answer in answers if answer.told is Told.COMMITTED]
    committed += [order for order in unknown if order.order_id in placed]
    expected = _expected(orders, committed, opening)
    problems = [problem for table, rows in expected.items() for problem in _compare(table, rows, actual[table])]
    told = Counter(answer.order.order_id for answer in answers)
    problems += [
        f"order {order.order_id!r} was answered {told[order.order_id]} times"
        for order in orders
        if told[order.order_id] != 1
    ]
    return Findings(
        problems=tuple(problems),
        prepared=tuple(gid for name in NAMES for gid in prepared(connect, name)),
        unknown=tuple(order.order_id for order in unknown),
    )


def prepared(connect: Connect, service: str) -> list[str]:
    """The names of the transactions that are prepared on a service's cluster now."""
    with connect(service) as connection:
        return [gid for (gid,) in connection.execute(_PREPARED).fetchall()]


def _read(connect: Connect) -> dict[tuple[str, str], list[Row]]:
    rows: dict[tuple[str, str], list[Row]] = {}
    for service in NAMES:
        with connect(service) as connection:
            for table, statement in _TABLES.items():
                if table[0] == service:
                    rows[table] = connection.execute(statement).fetchall()
    return rows


def _expected(
    orders: Iterable[Order], committed: Collection[Order], opening: Opening
) -> dict[tuple[str, str], list[Row]]:
    reserved = {order.order_id: _pieces(order) for order in committed}
    taken: Counter[str] = Counter()
    for pieces in reserved.values():
        taken.update(pieces)
    spent: dict[str, Decimal] = {}
    for order in committed:
        spent[order.customer_id] = spent.get(order.customer_id, Decimal(0)) + order.total
    skus = sorted({line.sku for order in orders for line in order.lines})
    customers = sorted({order.customer_id for order in orders})
    return {
        ("order", "orders"): [(order.order_id, order.customer_id, order.area) for order in committed],
        ("order", "order_line"): [
            (order.order_id, number, line.sku, line.quantity, line.unit_price)
            for order in committed
            for number, line in enumerate(order.lines, start=1)
        ],
        ("payment", "charge"): [(order.order_id, order.customer_id, order.total) for order in committed],
        ("payment", "account"): [(customer, opening.funds - spent.get(customer, Decimal(0))) for customer in customers],
        ("inventory", "reservation"): [
            (order_id, sku, pieces) for order_id, items in reserved.items() for sku, pieces in items.items()
        ],
        ("inventory", "stock"): [(sku, opening.stock - taken[sku]) for sku in skus],
        ("delivery", "delivery"): [(order.order_id, order.area) for order in committed],
    }


def _pieces(order: Order) -> Counter[str]:
    pieces: Counter[str] = Counter()
    for line in order.lines:
        pieces[line.sku] += line.quantity
    return pieces


def _compare(table: tuple[str, str], expected: list[Row], actual: list[Row]) -> list[str]:
    """One sentence for each row that is missing or too many, a few of them at most. Decimals compare by value."""
    wanted, there = Counter(expected), Counter(actual)
    name = f"{table[1]} of {table[0]}"
    missing = [f"{name} lacks {_show(row)}" for row in (wanted - there).elements()]
    surplus = [f"{name} has {_show(row)}, which must not be there" for row in (there - wanted).elements()]
    differences = missing + surplus
    if len(differences) > _SHOWN:
        differences[_SHOWN:] = [f"{name}: {len(differences) - _SHOWN} more rows are wrong"]
    return differences


def _show(row: Row) -> str:
    return f"({', '.join(str(value) for value in row)})"
