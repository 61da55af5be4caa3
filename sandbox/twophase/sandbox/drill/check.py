"""The checker: what the clients were told, against what every database holds.

Lives here: R1, R2, R6, R7, R9 and conservation of money and stock, read directly with SQL. Must not live here: the
clients (`load`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

import psycopg

from twophase.sandbox.bank import ACCOUNTS, NAMES, OPENING, STOCK
from twophase.sandbox.drill.business import Entry, Record, Saga, Told, Transfer, entries_of

Connect = Callable[[str], psycopg.Connection]


@dataclass(slots=True)
class Book:
    """What one database holds: by its name what everything left that was sent, done and undone apart; the balances and
    stocks; the GIDs that are prepared.
    """

    done: dict[str, Counter[Entry]] = field(default_factory=dict)
    undone: dict[str, Counter[Entry]] = field(default_factory=dict)
    balances: dict[int, Decimal] = field(default_factory=dict)
    stocks: dict[int, int] = field(default_factory=dict)
    prepared: tuple[str, ...] = ()


Books = Mapping[str, Book]


def read_books(connect: Connect) -> Books:
    """Reads every bank. The system must be at rest."""
    books = {}
    for bank in NAMES:
        with connect(bank) as connection:
            book = books[bank] = Book()
            for name, account, amount, undo in connection.execute(
                "SELECT transfer, account, amount, undo FROM movement"
            ):
                _write(book.undone if undo else book.done, name, ("account", account, amount))
            for name, item, pieces, undo in connection.execute("SELECT transfer, item, pieces, undo FROM sale"):
                _write(book.undone if undo else book.done, name, ("item", item, Decimal(pieces)))
            book.balances = dict(connection.execute("SELECT id, balance FROM account").fetchall())
            book.stocks = dict(connection.execute("SELECT item, pieces FROM stock").fetchall())
            book.prepared = prepared(connection)
    return books


def _write(page: dict[str, Counter[Entry]], name: str, entry: Entry) -> None:
    page.setdefault(name, Counter())[entry] += 1


def prepared(connection: psycopg.Connection) -> tuple[str, ...]:
    """The GIDs that are prepared in this database."""
    rows = connection.execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY gid")
    return tuple(gid for (gid,) in rows.fetchall())


def violations(record: Record, books: Books) -> tuple[str, ...]:
    """Every contradiction, in words, with the rule it breaks; empty if there is none."""
    found = [f"R9: {gid} is still prepared at {bank}" for bank, book in books.items() for gid in book.prepared]
    for sent, told in record.told.values():
        match sent:
            case Transfer():
                found.extend(_of_transfer(sent, told, books))
            case Saga():
                found.extend(_of_saga(sent, told, books))
    for bank, book in books.items():
        strangers = (book.done.keys() | book.undone.keys()) - record.told.keys()
        found.extend(f"R1: {bank} holds transfer {name}, which nobody sent" for name in strangers)
        found.extend(_of_balances(bank, book))
        found.extend(_of_stocks(bank, book))
    total = sum((balance for book in books.values() for balance in book.balances.values()), Decimal(0))
    if total != OPENING * ACCOUNTS * len(NAMES):
        found.append(f"money: {OPENING * ACCOUNTS * len(NAMES)} at the start, {total} now")
    return tuple(found)


def _of_transfer(transfer: Transfer, told: Told, books: Books) -> list[str]:
    name, wanted = transfer.name, entries_of(transfer)
    held = {bank: book.done.get(name, Counter()) for bank, book in books.items()}
    states = {bank: _state(wanted.get(bank), held[bank]) for bank in books if wanted.get(bank) or held[bank]}
    found = [
        f"R7: transfer {name} is booked wrongly at {bank}: {_listed(held[bank])}"
        for bank, state in states.items()
        if state is None
    ]
    found += [
        f"R2: transfer {name} was undone at {bank}, and is no saga" for bank in books if name in books[bank].undone
    ]
    if len(set(states.values())) > 1:
        found.append(f"R1: transfer {name} is booked at {[bank for bank, there in states.items() if there]} only")
    if states and told is Told.OK and not all(states.values()):
        found.append(f"R6: transfer {name} was told committed, and is not everywhere: {states}")
    if told is Told.FAILED and any(state is not False for state in states.values()):
        found.append(f"R6: transfer {name} was told failed, and is there: {states}")
    return found


def _state(wanted: Counter[Entry] | None, held: Counter[Entry]) -> bool | None:
    """True: booked once and whole. False: not at all. None: anything else."""
    return True if held == wanted else None if held else False


def _of_saga(saga: Saga, told: Told, books: Books) -> list[str]:
    """Done is every step, and none undone; undone is that whatever was done was taken back, once."""
    found = []
    wanted = entries_of(saga)
    is_done = is_undone = True
    for bank, book in books.items():
        due = wanted.get(bank, Counter())
        done, undone = book.done.get(saga.name, Counter()), book.undone.get(saga.name, Counter())
        taken_back = _reversed(done)
        if done - due:
            found.append(f"R7: saga {saga.name} is booked wrongly at {bank}: {_listed(done)}")
        if undone - taken_back:
            found.append(
                f"R7: saga {saga.name} has {_listed(undone)} undone at {bank}, of which {_listed(done)} was done"
            )
        is_done = is_done and done == due and not undone
        is_undone = is_undone and undone == taken_back
    if not is_done and not is_undone:
        found.append(f"R1: saga {saga.name} is neither done nor undone: {_everywhere(saga.name, books)}")
    elif told is Told.OK and not is_done:
        found.append(f"R6: saga {saga.name} was told done, and is not: {_everywhere(saga.name, books)}")
    elif told is Told.FAILED and not is_undone:
        found.append(f"R6: saga {saga.name} was told undone, and is not: {_everywhere(saga.name, books)}")
    return found


def _reversed(entries: Counter[Entry]) -> Counter[Entry]:
    return Counter({(what, number, -amount): times for (what, number, amount), times in entries.items()})


def _everywhere(name: str, books: Books) -> str:
    said = []
    for bank, book in books.items():
        if name in book.done:
            said.append(f"{_listed(book.done[name])} done at {bank}")
        if name in book.undone:
            said.append(f"{_listed(book.undone[name])} undone at {bank}")
    return "; ".join(said) or "nothing of it is anywhere"


def _listed(entries: Counter[Entry]) -> str:
    return ", ".join(f"{what} {number}: {amount:+}" for what, number, amount in sorted(entries.elements())) or "nothing"


def _entries(book: Book) -> Iterable[Entry]:
    for page in (book.done, book.undone):
        for entries in page.values():
            yield from entries.elements()


def _of_balances(bank: str, book: Book) -> list[str]:
    expected = dict.fromkeys(book.balances, OPENING)
    for what, account, amount in _entries(book):
        if what == "account":
            expected[account] += amount
    return [
        f"R7: account {account} of {bank} holds {balance}, its movements say {expected[account]}"
        for account, balance in book.balances.items()
        if balance != expected[account]
    ]


def _of_stocks(bank: str, book: Book) -> list[str]:
    expected = dict.fromkeys(book.stocks, Decimal(STOCK))
    for what, item, pieces in _entries(book):
        if what == "item":
            expected[item] -= pieces
    return [
        f"R7: item {item} of {bank} has {pieces} pieces left, its sales say {expected[item]}"
        for item, pieces in book.stocks.items()
        if pieces != expected[item]
    ]
