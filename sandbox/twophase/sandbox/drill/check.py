"""The checker: what the clients were told, against what every database holds.

Lives here: R1, R6, R7, R9 and conservation of money and stock, read directly with SQL. Must not live here: the clients
(`load`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeAlias

import psycopg

from twophase.sandbox.bank import ACCOUNTS, NAMES, OPENING, STOCK
from twophase.sandbox.drill.load import Record, Told, Transfer

Connect = Callable[[str], psycopg.Connection]
# What a transfer left in a bank's books: on which account or item, and how much.
_Entry: TypeAlias = tuple[str, int, Decimal]


@dataclass(frozen=True, slots=True)
class Books:
    """What the databases hold: by bank, what every transfer left, the balances and stocks, and what is prepared."""

    movements: dict[str, dict[str, list[tuple[int, Decimal]]]]
    balances: dict[str, dict[int, Decimal]]
    prepared: dict[str, tuple[str, ...]]
    sales: dict[str, dict[str, list[tuple[int, int]]]]
    stocks: dict[str, dict[int, int]]


def read_books(connect: Connect) -> Books:
    """Reads every bank. The system must be at rest."""
    books = Books({}, {}, {}, {}, {})
    for bank in NAMES:
        with connect(bank) as connection:
            found: defaultdict[str, list[tuple[int, Decimal]]] = defaultdict(list)
            for transfer, account, amount in connection.execute("SELECT transfer, account, amount FROM movement"):
                found[transfer].append((account, amount))
            books.movements[bank] = dict(found)
            books.balances[bank] = dict(connection.execute("SELECT id, balance FROM account").fetchall())
            sold: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
            for transfer, item, pieces in connection.execute("SELECT transfer, item, pieces FROM sale"):
                sold[transfer].append((item, pieces))
            books.sales[bank] = dict(sold)
            books.stocks[bank] = dict(connection.execute("SELECT item, pieces FROM stock").fetchall())
            books.prepared[bank] = prepared(connection)
    return books


def prepared(connection: psycopg.Connection) -> tuple[str, ...]:
    """The GIDs that are prepared in this database."""
    rows = connection.execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY gid")
    return tuple(gid for (gid,) in rows.fetchall())


def violations(record: Record, books: Books) -> tuple[str, ...]:
    """Every contradiction, in words, with the rule it breaks; empty if there is none."""
    found = [f"R9: {gid} is still prepared at {bank}" for bank, gids in books.prepared.items() for gid in gids]
    for transfer, told in record.told.values():
        found.extend(_of_transfer(transfer, told, books))
    known = record.told.keys()
    for bank in books.movements:
        booked = books.movements[bank].keys() | books.sales[bank].keys()
        found.extend(f"R1: {bank} holds transfer {name}, which nobody sent" for name in booked - known)
        found.extend(_of_balances(bank, books))
        found.extend(_of_stocks(bank, books))
    total = sum((balance for balances in books.balances.values() for balance in balances.values()), Decimal(0))
    if total != OPENING * ACCOUNTS * len(NAMES):
        found.append(f"money: {OPENING * ACCOUNTS * len(NAMES)} at the start, {total} now")
    return tuple(found)


def _of_transfer(transfer: Transfer, told: Told, books: Books) -> list[str]:
    wanted: defaultdict[str, list[_Entry]] = defaultdict(list)
    for bank, movement in transfer.movements:
        wanted[bank].append(("account", movement.account, movement.amount))
    for bank, sale in transfer.sales:
        wanted[bank].append(("item", sale.item, Decimal(sale.pieces)))
    held = {bank: _held(transfer.name, bank, books) for bank in books.movements}
    states = {bank: _state(sorted(wanted[bank]), held[bank]) for bank in books.movements if wanted[bank] or held[bank]}
    found = [
        f"R7: transfer {transfer.name} is booked wrongly at {bank}: {held[bank]}"
        for bank, state in states.items()
        if state is None
    ]
    if len(set(states.values())) > 1:
        found.append(
            f"R1: transfer {transfer.name} is booked at {[bank for bank, there in states.items() if there]} only"
        )
    if states and told is Told.OK and not all(states.values()):
        found.append(f"R6: transfer {transfer.name} was told committed, and is not everywhere: {states}")
    if told is Told.FAILED and any(state is not False for state in states.values()):
        found.append(f"R6: transfer {transfer.name} was told failed, and is there: {states}")
    return found


def _held(transfer: str, bank: str, books: Books) -> list[_Entry]:
    moved = [("account", account, amount) for account, amount in books.movements[bank].get(transfer, [])]
    sold = [("item", item, Decimal(pieces)) for item, pieces in books.sales[bank].get(transfer, [])]
    return sorted(moved + sold)


def _state(wanted: list[_Entry], held: list[_Entry]) -> bool | None:
    """True: booked once and whole. False: not at all. None: anything else."""
    return True if held == wanted else None if held else False


def _of_balances(bank: str, books: Books) -> list[str]:
    expected = dict.fromkeys(books.balances[bank], OPENING)
    for movements in books.movements[bank].values():
        for account, amount in movements:
            expected[account] += amount
    return [
        f"R7: account {account} of {bank} holds {balance}, its movements say {expected[account]}"
        for account, balance in books.balances[bank].items()
        if balance != expected[account]
    ]


def _of_stocks(bank: str, books: Books) -> list[str]:
    expected = dict.fromkeys(books.stocks[bank], STOCK)
    for sales in books.sales[bank].values():
        for item, pieces in sales:
            expected[item] -= pieces
    return [
        f"R7: item {item} of {bank} has {pieces} pieces left, its sales say {expected[item]}"
        for item, pieces in books.stocks[bank].items()
        if pieces != expected[item]
    ]
