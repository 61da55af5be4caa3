"""The checker: what the clients were told, against what every database holds.

Lives here: R1, R6, R7, R9 and conservation of money, read directly with SQL. Must not live here: the clients (`load`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

import psycopg

from twophase.sandbox.bank import ACCOUNTS, NAMES, OPENING
from twophase.sandbox.drill.load import Record, Told, Transfer

Connect = Callable[[str], psycopg.Connection]


@dataclass(frozen=True, slots=True)
class Books:
    """What the databases hold: by bank, every transfer's movements, the balances, and what is prepared."""

    movements: dict[str, dict[str, list[tuple[int, Decimal]]]]
    balances: dict[str, dict[int, Decimal]]
    prepared: dict[str, tuple[str, ...]]


def read_books(connect: Connect) -> Books:
    """Reads every bank. The system must be at rest."""
    books = Books({}, {}, {})
    for bank in NAMES:
        with connect(bank) as connection:
            found: defaultdict[str, list[tuple[int, Decimal]]] = defaultdict(list)
            for transfer, account, amount in connection.execute("SELECT transfer, account, amount FROM movement"):
                found[transfer].append((account, amount))
            books.movements[bank] = dict(found)
            books.balances[bank] = dict(connection.execute("SELECT id, balance FROM account").fetchall())
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
    for bank, transfers in books.movements.items():
        found.extend(f"R1: {bank} holds transfer {name}, which nobody sent" for name in transfers.keys() - known)
        found.extend(_of_balances(bank, books))
    total = sum((balance for balances in books.balances.values() for balance in balances.values()), Decimal(0))
    if total != OPENING * ACCOUNTS * len(NAMES):
        found.append(f"money: {OPENING * ACCOUNTS * len(NAMES)} at the start, {total} now")
    return tuple(found)


def _of_transfer(transfer: Transfer, told: Told, books: Books) -> list[str]:
    wanted: defaultdict[str, list[tuple[int, Decimal]]] = defaultdict(list)
    for bank, movement in transfer.movements:
        wanted[bank].append((movement.account, movement.amount))
    held = {bank: sorted(books.movements[bank].get(transfer.name, [])) for bank in wanted}
    states = {bank: _state(sorted(wanted[bank]), held[bank]) for bank in wanted}
    found = [
        f"R7: transfer {transfer.name} is booked wrongly at {bank}: {books.movements[bank].get(transfer.name)}"
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


def _state(wanted: list[tuple[int, Decimal]], held: list[tuple[int, Decimal]]) -> bool | None:
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
