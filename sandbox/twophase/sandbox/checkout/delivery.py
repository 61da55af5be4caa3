"""Delivery: where orders go, and where nobody drives at the moment."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from twophase.participant import Participant, Refused

delivery = Participant("delivery")


@dataclass(frozen=True)
class Destination:
    """Where an order goes."""

    order_id: str
    area: str


@delivery.operation
def schedule(connection: psycopg.Connection, destination: Destination) -> None:
    """Puts an order on the list. Refuses with AREA_CLOSED."""
    closed = connection.execute("SELECT FROM closed_area WHERE area = %s", (destination.area,)).fetchone()
    if closed is not None:
        raise Refused("AREA_CLOSED", f"nothing is delivered to {destination.area} at the moment")
    connection.execute(
        "INSERT INTO delivery (order_id, area) VALUES (%s, %s)", (destination.order_id, destination.area)
    )


@delivery.compensation(schedule)
def cancel(connection: psycopg.Connection, destination: Destination) -> None:
    """Takes the order off the list."""
    connection.execute("DELETE FROM delivery WHERE order_id = %s", (destination.order_id,))
