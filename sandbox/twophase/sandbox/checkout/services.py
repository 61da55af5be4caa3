"""The checkout as services that can be run, and what is in their databases before the first order.

Lives here: the four `Service`s and the seeding. Must not live here: their business (each has its own module).
"""

from __future__ import annotations

from collections.abc import Collection
from importlib import resources
from typing import Final

from psycopg import sql

from twophase.sandbox.checkout.opening import Opening
from twophase.sandbox.checkout.orders import Order
from twophase.sandbox.system import Service, System

NAMES: Final = ("order", "payment", "inventory", "delivery")


def services() -> list[Service]:
    """Order, payment, inventory and delivery, each with a cluster of its own."""
    return [
        Service(name=name, target=f"twophase.sandbox.checkout.{name}:{name}", schema=_schema_of(name)) for name in NAMES
    ]


def seed(system: System, orders: Collection[Order], opening: Opening) -> None:
    """Fills the shelves and the accounts for everything that the orders name, and closes the areas."""
    skus = {line.sku for order in orders for line in order.lines}
    customers = {order.customer_id for order in orders}
    _fill(system, "inventory", "stock", [(sku, opening.stock) for sku in sorted(skus)])
    _fill(system, "payment", "account", [(customer, opening.funds) for customer in sorted(customers)])
    _fill(system, "delivery", "closed_area", [(area,) for area in sorted(set(opening.closed_areas))])


def _fill(system: System, service: str, table: str, rows: list[tuple[object, ...]]) -> None:
    statement = sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(table))
    with (
        system.connect(service) as connection,
        connection.cursor() as cursor,
        cursor.copy(statement) as copy,
    ):
        for row in rows:
            copy.write_row(row)


def _schema_of(service: str) -> str:
    return resources.files("twophase.sandbox.checkout").joinpath(f"{service}.sql").read_text(encoding="utf-8")
