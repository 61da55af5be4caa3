"""The till of docs/choosing.md: what customers have."""

from dataclasses import dataclass
from decimal import Decimal

import psycopg

from twophase.participant import Participant, Refused

till = Participant("till")


@dataclass(frozen=True)
class Payment:
    customer: str
    amount: Decimal


@till.operation
def charge(connection: psycopg.Connection, payment: Payment) -> None:
    paid = connection.execute(
        "UPDATE account SET balance = balance - %(amount)s WHERE customer = %(customer)s AND balance >= %(amount)s",
        {"customer": payment.customer, "amount": payment.amount},
    )
    if paid.rowcount == 0:
        raise Refused("NO_FUNDS", f"customer {payment.customer} has not {payment.amount}")


@till.compensation(charge)
def refund(connection: psycopg.Connection, payment: Payment) -> None:
    connection.execute(
        "UPDATE account SET balance = balance + %(amount)s WHERE customer = %(customer)s",
        {"customer": payment.customer, "amount": payment.amount},
    )
