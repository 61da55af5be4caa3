"""The books of the four-service order: what the services' tables hold, and whether that is what clients were told.

Lives here: filling, reading, comparing and emptying them. Must not live here: the business, which is the checkout's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, LiteralString, assert_never

import psycopg

from twophase.benchmarks.report.measure.business import CLOSED, CUSTOMERS, SKUS
from twophase.benchmarks.report.measure.task import Log, Task, Told

NAMES: Final = ("order", "inventory", "payment", "delivery")
_STOCK: Final = 10_000_000
_FUNDS: Final = Decimal(10_000_000)
_TABLES: Final[Mapping[str, LiteralString]] = {
    "order": "orders",
    "inventory": "reservation",
    "payment": "charge",
    "delivery": "delivery",
}
_FILL: Final[Mapping[str, LiteralString]] = {
    "inventory": """
INSERT INTO stock SELECT 'SKU-' || lpad(n::text, 4, '0'), %(stock)s FROM generate_series(1, %(skus)s) AS n""",
    "payment": """
INSERT INTO account SELECT 'C' || lpad(n::text, 5, '0'), %(funds)s FROM generate_series(1, %(customers)s) AS n""",
    "delivery": "INSERT INTO closed_area VALUES (%(closed)s)",
}
_SEEN: Final[LiteralString] = "max(extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8)"
_STOCK_LOST: Final[LiteralString] = """
SELECT count(*) FROM stock WHERE pieces + coalesce(
  (SELECT sum(pieces) FROM reservation WHERE reservation.sku = stock.sku), 0) <> %s"""
_MONEY_LOST: Final[LiteralString] = """
SELECT count(*) FROM account WHERE balance + coalesce(
  (SELECT sum(amount) FROM charge WHERE charge.customer_id = account.customer_id), 0) <> %s"""


@dataclass(frozen=True, slots=True)
class Found:
    """By service, the orders that are in its books, with the time (seconds since 1970) from which others saw that."""

    seen: Mapping[str, Mapping[str, float]] = field(default_factory=lambda: {name: {} for name in NAMES})


def fill(connect: Callable[[str], AbstractContextManager[psycopg.Connection]]) -> None:
    """Shelves and accounts for more than any load can want."""
    values = {"stock": _STOCK, "skus": SKUS, "funds": _FUNDS, "customers": CUSTOMERS, "closed": CLOSED}
    for name, statement in _FILL.items():
        with connect(name) as connection:
            connection.execute(statement, values)


def read(connections: Mapping[str, psycopg.Connection]) -> Found:
    """What is there."""
    found: dict[str, dict[str, float]] = {}
    for name, table in _TABLES.items():
        rows = connections[name].execute(f"SELECT order_id, {_SEEN} FROM {table} GROUP BY order_id")  # noqa: S608
        found[name] = dict(rows.fetchall())
    return Found(found)


def problems(task: Task, log: Log, found: Found, connections: Mapping[str, psycopg.Connection]) -> Iterator[str]:
    """Every order that is not where its client was told, and goods or money that are missing, in words."""
    sent = {answer.name for answer in log.answers}
    for name in NAMES:
        for order in sorted(found.seen[name].keys() - sent)[:1]:
            yield f"order {order} is at {name}, and nobody sent it"
    for answer in log.answers:
        at = [name for name in NAMES if answer.name in found.seen[name]]
        match answer.told:
            case Told.OK:
                fits = len(at) == len(NAMES)
            case Told.UNKNOWN:
                fits = len(at) in (0, len(NAMES))
            case Told.HALF:
                fits = 0 < len(at) < len(NAMES)
            case Told.UNDONE | Told.REFUSED | Told.CONFLICT | Told.AWAY:
                fits = not at
            case _:
                assert_never(answer.told)
        if not fits:
            yield f"order {answer.name} of {task.run} was told {answer.told}, and is at {', '.join(at) or 'no service'}"
    for name, statement, opening in (("inventory", _STOCK_LOST, _STOCK), ("payment", _MONEY_LOST, _FUNDS)):
        row = connections[name].execute(statement, [opening]).fetchone()
        if row is None or row[0]:
            yield f"{row[0] if row else 0} rows of {name} do not hold what its orders left"


def forget(connections: Mapping[str, psycopg.Connection]) -> None:
    """Empty books again."""
    connections["order"].execute("TRUNCATE order_line, orders")
    connections["inventory"].execute("TRUNCATE reservation")
    connections["inventory"].execute("UPDATE stock SET pieces = %s WHERE pieces <> %s", (_STOCK, _STOCK))
    connections["payment"].execute("TRUNCATE charge")
    connections["payment"].execute("UPDATE account SET balance = %s WHERE balance <> %s", (_FUNDS, _FUNDS))
    connections["delivery"].execute("TRUNCATE delivery")
