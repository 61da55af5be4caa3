"""Payment: what customers have, and what they were charged."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import psycopg

from twophase.participant import Participant, Refused

payment = Participant("payment")


@dataclass(frozen=True)
class Charge:
    """What an order costs. Money is a Decimal: exact here, a string in JSON, NUMERIC in the database."""

    order_id: str
    customer_id: str
    amount: Decimal


@dataclass(frozen=True)
class Receipt:
    """What is left on the account."""

    balance: Decimal


@payment.operation
def charge(connection: psycopg.Connection, order: Charge) -> Receipt:
    """Takes the money. Refuses with NO_FUNDS, UNKNOWN_CUSTOMER or INVALID_AMOUNT."""
    if not order.amount.is_finite() or order.amount < 0:
        raise Refused("INVALID_AMOUNT", f"{order.amount} cannot be charged")
    left = connection.execute(
        "UPDATE account SET balance = balance - %(amount)s"
        " WHERE customer_id = %(customer)s AND balance >= %(amount)s RETURNING trim_scale(balance)",
        {"customer": order.customer_id, "amount": order.amount},
    ).fetchone()
    if left is None:
        raise _refusal(connection, order)
    connection.execute(
        "INSERT INTO charge (order_id, customer_id, amount) VALUES (%s, %s, %s)",
        (order.order_id, order.customer_id, order.amount),
    )
    return Receipt(balance=left[0])


@payment.compensation(charge)
def refund(connection: psycopg.Connection, order: Charge) -> None:
    """Gives the money back."""
    connection.execute("DELETE FROM charge WHERE order_id = %s", (order.order_id,))
    connection.execute(
        "UPDATE account SET balance = balance + %s WHERE customer_id = %s", (order.amount, order.customer_id)
    )


def _refusal(connection: psycopg.Connection, order: Charge) -> Refused:
    account = connection.execute(
        "SELECT trim_scale(balance) FROM account WHERE customer_id = %s", (order.customer_id,)
    ).fetchone()
    if account is None:
        return Refused("UNKNOWN_CUSTOMER", f"there is no customer {order.customer_id!r}")
    return Refused("NO_FUNDS", f"customer {order.customer_id} has {account[0]}, the order costs {order.amount}")
