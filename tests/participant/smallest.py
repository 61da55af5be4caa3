"""The smallest participant that does something, as the README shows it."""

from dataclasses import dataclass
from decimal import Decimal

import psycopg

from twophase.participant import Participant, Refused

payment = Participant("payment")


@dataclass(frozen=True)
class Charge:
    customer_id: str
    amount: Decimal


@payment.operation
def charge(connection: psycopg.Connection, order: Charge) -> None:
    paid = connection.execute(
        "UPDATE customer SET funds = funds - %(amount)s WHERE id = %(id)s AND funds >= %(amount)s",
        {"amount": order.amount, "id": order.customer_id},
    )
    if paid.rowcount == 0:
        raise Refused("NO_FUNDS", f"customer {order.customer_id} has not {order.amount} left")
