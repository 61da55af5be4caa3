"""The other service of the README's order."""

from dataclasses import dataclass

import psycopg

from twophase.participant import Participant, Refused

inventory = Participant("inventory")


@dataclass(frozen=True)
class Reserve:
    sku: str
    quantity: int


@inventory.operation
def reserve(connection: psycopg.Connection, item: Reserve) -> None:
    """Takes pieces from the shelf."""
    taken = connection.execute(
        "UPDATE shelf SET pieces = pieces - %(quantity)s WHERE sku = %(sku)s AND pieces >= %(quantity)s",
        {"sku": item.sku, "quantity": item.quantity},
    )
    if taken.rowcount == 0:
        raise Refused("OUT_OF_STOCK", f"there are not {item.quantity} of {item.sku}")
