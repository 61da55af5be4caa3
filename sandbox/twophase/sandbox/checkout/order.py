"""Orders: who ordered what, at which price."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import psycopg

from twophase.participant import Participant, Refused

order = Participant("order")


@dataclass(frozen=True)
class Line:
    """One line of an order."""

    sku: str
    quantity: int
    unit_price: Decimal


@dataclass(frozen=True)
class NewOrder:
    """A whole order."""

    order_id: str
    customer_id: str
    area: str
    lines: list[Line]


@order.operation
def place(connection: psycopg.Connection, new: NewOrder) -> None:
    """Writes the order down. Refuses with DUPLICATE_ORDER or EMPTY_ORDER."""
    if not new.lines:
        raise Refused("EMPTY_ORDER", f"order {new.order_id!r} has no lines")
    # Waits for another transaction that is placing the same order, and then sees how that one ended.
    written = connection.execute(
        "INSERT INTO orders (order_id, customer_id, area) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
        (new.order_id, new.customer_id, new.area),
    )
    if written.rowcount == 0:
        raise Refused("DUPLICATE_ORDER", f"order {new.order_id!r} is there already")
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO order_line (order_id, line, sku, quantity, unit_price) VALUES (%s, %s, %s, %s, %s)",
            [
                (new.order_id, number, line.sku, line.quantity, line.unit_price)
                for number, line in enumerate(new.lines, start=1)
            ],
        )


@order.compensation(place)
def cancel(connection: psycopg.Connection, new: NewOrder) -> None:
    """Takes the order back."""
    connection.execute("DELETE FROM order_line WHERE order_id = %s", (new.order_id,))
    connection.execute("DELETE FROM orders WHERE order_id = %s", (new.order_id,))
