"""A participant whose one operation can be undone, to run as a process and kill."""

import psycopg

from twophase.participant import Participant

payment = Participant("payment")


@payment.operation
def charge(connection: psycopg.Connection, amount: int) -> int:
    connection.execute("UPDATE purse SET funds = funds - %s", (amount,))
    return amount


@payment.compensation(charge)
def refund(connection: psycopg.Connection, amount: int, charged: int) -> None:
    connection.execute("UPDATE purse SET funds = funds + %s", (charged,))
