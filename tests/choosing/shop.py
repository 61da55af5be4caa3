"""The shop of docs/choosing.md: orders, shelves and prices, with what helps where nothing isolates."""

from dataclasses import dataclass
from decimal import Decimal

import psycopg

from twophase.participant import Participant, Refused

shop = Participant("shop")


@dataclass(frozen=True)
class Order:
    id: str
    sku: str
    pieces: int


@dataclass(frozen=True)
class Offer:
    order_id: str
    sku: str
    price: Decimal


@dataclass(frozen=True)
class NewPrice:
    sku: str
    price: Decimal
    seen_version: int


@shop.operation
def open_order(connection: psycopg.Connection, order: Order) -> None:
    connection.execute(
        "INSERT INTO purchase (id, sku, pieces, state) VALUES (%s, %s, %s, 'pending')",
        [order.id, order.sku, order.pieces],
    )


@shop.compensation(open_order)
def reject_order(connection: psycopg.Connection, order: Order) -> None:
    connection.execute("UPDATE purchase SET state = 'rejected' WHERE id = %s", [order.id])


@shop.operation
def approve_order(connection: psycopg.Connection, order: Order) -> None:
    connection.execute("UPDATE purchase SET state = 'approved' WHERE id = %s", [order.id])


@shop.operation
def ship(connection: psycopg.Connection, order: Order) -> None:
    shipped = connection.execute(
        "UPDATE purchase SET state = 'shipped' WHERE id = %s AND state = 'approved'", [order.id]
    )
    if shipped.rowcount == 0:
        raise Refused("NOT_APPROVED", f"order {order.id} is not approved, or not yet", retryable=True)


@shop.operation
def reserve(connection: psycopg.Connection, order: Order) -> None:
    taken = connection.execute(
        "UPDATE shelf SET free = free - %(pieces)s WHERE sku = %(sku)s AND free >= %(pieces)s",
        {"sku": order.sku, "pieces": order.pieces},
    )
    if taken.rowcount == 0:
        raise Refused("OUT_OF_STOCK", f"there are not {order.pieces} of {order.sku} free")
    connection.execute(
        "INSERT INTO reservation (order_id, sku, pieces) VALUES (%s, %s, %s)", [order.id, order.sku, order.pieces]
    )


@shop.compensation(reserve)
def release(connection: psycopg.Connection, order: Order) -> None:
    freed = connection.execute(
        "DELETE FROM reservation WHERE order_id = %s RETURNING sku, pieces", [order.id]
    ).fetchall()
    for sku, pieces in freed:
        connection.execute("UPDATE shelf SET free = free + %s WHERE sku = %s", [pieces, sku])


@shop.operation
def agree(connection: psycopg.Connection, offer: Offer) -> None:
    now = connection.execute("SELECT price FROM article WHERE sku = %s FOR SHARE", [offer.sku]).fetchone()
    if now is None or now[0] != offer.price:
        raise Refused("PRICE_CHANGED", f"{offer.sku} does not cost {offer.price} any more")
    connection.execute("INSERT INTO agreement (order_id, price) VALUES (%s, %s)", [offer.order_id, offer.price])


@shop.compensation(agree)
def withdraw(connection: psycopg.Connection, offer: Offer) -> None:
    connection.execute("DELETE FROM agreement WHERE order_id = %s", [offer.order_id])


@shop.operation
def set_price(connection: psycopg.Connection, change: NewPrice) -> None:
    changed = connection.execute(
        "UPDATE article SET price = %(price)s, version = version + 1 WHERE sku = %(sku)s AND version = %(seen)s",
        {"sku": change.sku, "price": change.price, "seen": change.seen_version},
    )
    if changed.rowcount == 0:
        raise Refused("CHANGED", f"{change.sku} is not at version {change.seen_version} any more; read it again")
