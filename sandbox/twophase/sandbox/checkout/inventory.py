"""Inventory: how many pieces there are of what, and which of them are reserved for an order."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import psycopg

from twophase.participant import Participant, Refused

inventory = Participant("inventory")


@dataclass(frozen=True)
class Item:
    """So many pieces of one SKU."""

    sku: str
    quantity: int


@dataclass(frozen=True)
class Reservation:
    """What an order needs."""

    order_id: str
    items: list[Item]


@inventory.operation
def reserve(connection: psycopg.Connection, reservation: Reservation) -> None:
    """Takes the pieces off the shelf. Refuses with UNKNOWN_SKU, OUT_OF_STOCK or INVALID_QUANTITY."""
    wanted: Counter[str] = Counter()
    for item in reservation.items:
        if item.quantity <= 0:
            raise Refused("INVALID_QUANTITY", f"{item.quantity} pieces of {item.sku} wanted, at least 1 is possible")
        wanted[item.sku] += item.quantity
    # Always in the same order, so that orders which want the same things wait in line and not in a circle.
    for sku, pieces in sorted(wanted.items()):
        taken = connection.execute(
            "UPDATE stock SET pieces = pieces - %(pieces)s WHERE sku = %(sku)s AND pieces >= %(pieces)s",
            {"sku": sku, "pieces": pieces},
        )
        if taken.rowcount == 0:
            raise _refusal(connection, sku, pieces)
        connection.execute(
            "INSERT INTO reservation (order_id, sku, pieces) VALUES (%s, %s, %s)", (reservation.order_id, sku, pieces)
        )


@inventory.compensation(reserve)
def release(connection: psycopg.Connection, reservation: Reservation) -> None:
    """Puts the pieces back on the shelf."""
    freed = connection.execute(
        "DELETE FROM reservation WHERE order_id = %s RETURNING sku, pieces", (reservation.order_id,)
    ).fetchall()
    for sku, pieces in sorted(freed):
        connection.execute("UPDATE stock SET pieces = pieces + %s WHERE sku = %s", (pieces, sku))


def _refusal(connection: psycopg.Connection, sku: str, wanted: int) -> Refused:
    left = connection.execute("SELECT pieces FROM stock WHERE sku = %s", (sku,)).fetchone()
    if left is None:
        return Refused("UNKNOWN_SKU", f"there is no SKU {sku!r}")
    return Refused("OUT_OF_STOCK", f"{wanted} pieces of {sku} wanted, {left[0]} left")
