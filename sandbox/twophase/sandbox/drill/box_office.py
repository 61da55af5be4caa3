"""The workload of the drills without Postgres: seats sold at a theatre, paid at two banks; and whether it all adds up.

Lives here: the purchases of every kind, what was told of them, and the check of the theatre's books against that and
against the banks'. Must not live here: who dies when (`without_postgres`).
"""

from __future__ import annotations

import asyncio
import itertools
import random
import secrets
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import psycopg

from twophase.coordinator.client import (
    AsyncClient,
    CallRejected,
    CoordinatorUnavailable,
    Outcome,
    OutcomeUnknown,
    Protocol,
    TransactionAborted,
    operation,
)
from twophase.sandbox.bank import NAMES, Movement
from twophase.sandbox.drill.business import Saga, Told, Transfer

THEATRE: Final = "theatre"
CATEGORIES: Final = {"stalls": 20_000, "circle": 20_000}

_PAYER, _HOUSE = NAMES[:2]
_ACCOUNTS: Final = 30
_FORTUNE: Final = Decimal(1_000_000)
_CLIENTS: Final = 4
_DEADLINE: Final = 5.0
_PATIENCE: Final = 20.0
_SLOW: Final = 0.1
_SETTLE_SECONDS: Final = 20.0
_POLL: Final = 0.02

_SUMS: Final = """
SELECT name, capacity, free, reserved, sold,
       (SELECT coalesce(sum(seats), 0) FROM booking WHERE category = name AND state = 'reserved'),
       (SELECT coalesce(sum(seats), 0) FROM booking WHERE category = name AND state = 'sold') FROM category"""


@dataclass(frozen=True, slots=True)
class Purchase:
    """Seats, and the money that belongs to them. `undone`: a saga of two steps, the second of which is refused."""

    transfer: Transfer
    category: str
    seats: int
    undone: bool = False


@dataclass(slots=True)
class BoxOffice:
    """Clients that buy until they are told to stop. `sold` is everything that was sent, with what is told of it.

    `record` is where the banks' own checker looks for the movements of money. `wrong` is what was seen at some moment.
    """

    address: str
    path: Path
    record: dict[str, tuple[Transfer | Saga, Told]]
    sold: dict[str, tuple[Purchase, Told]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    _stopped: bool = False
    _attempts: dict[str, int] = field(default_factory=dict)

    async def run(self) -> None:
        """Sells until `stop`, and asks for what is not known then; looks at the seats all the while."""
        chance = random.Random(len(self.record))  # noqa: S311 - no secret
        names = (f"seats-{secrets.token_hex(4)}/{number}" for number in itertools.count(1))
        async with AsyncClient(self.address) as client:
            async with asyncio.TaskGroup() as group:
                for _ in range(_CLIENTS):
                    group.create_task(self._sell(client, chance, names.__next__))
                group.create_task(self._watch())
            async with asyncio.TaskGroup() as group:
                for name, (purchase, told) in tuple(self.sold.items()):
                    if told is Told.UNKNOWN:
                        group.create_task(self._settle(client, name, purchase))

    def stop(self) -> None:
        """No new purchases."""
        self._stopped = True

    async def _sell(self, client: AsyncClient, chance: random.Random, name: Callable[[], str]) -> None:
        while not self._stopped:
            purchase = _purchase(name(), chance)
            self._tell(purchase, Told.UNKNOWN)
            self._tell(purchase, await self._send(client, purchase))

    async def _send(self, client: AsyncClient, purchase: Purchase) -> Told:
        name = purchase.transfer.name
        wanted = [purchase.seats, 2 * CATEGORIES[purchase.category]] if purchase.undone else [purchase.seats]
        operations = [
            operation(THEATRE, "book", {"reference": name, "category": purchase.category, "seats": seats})
            for seats in wanted
        ]
        operations += [operation(bank, "move", movement) for bank, movement in purchase.transfer.movements]
        protocol = Protocol.SAGA if purchase.undone else Protocol.TWO_PHASE
        try:
            await client.execute(
                *operations, protocol=protocol, request_id=name, deadline=_DEADLINE, give_up_after=_PATIENCE, retries=3
            )
        except (TransactionAborted, CoordinatorUnavailable, CallRejected):
            return Told.FAILED
        except OutcomeUnknown as unknown:
            self._attempts[name] = unknown.attempt
            return Told.UNKNOWN
        return Told.OK

    async def _settle(self, client: AsyncClient, name: str, purchase: Purchase) -> None:
        try:
            async with asyncio.timeout(_SETTLE_SECONDS):
                while True:
                    found = await client.outcome(name)
                    if found is None or found.outcome is not Outcome.PENDING:
                        break
                    await asyncio.sleep(_POLL)
        except (TimeoutError, CoordinatorUnavailable):
            return
        if found is not None and found.outcome is Outcome.COMMITTED:
            self._tell(purchase, Told.OK)
        elif found is not None and found.attempt >= self._attempts.get(name, 1):
            self._tell(purchase, Told.FAILED)

    def _tell(self, purchase: Purchase, told: Told) -> None:
        self.sold[purchase.transfer.name] = (purchase, told)
        if purchase.transfer.movements:
            self.record[purchase.transfer.name] = (purchase.transfer, told)

    async def _watch(self) -> None:
        """The promise of every moment, from outside: whatever dies, free, reserved and sold seats add up."""
        while not self._stopped:
            self.wrong += [each for each in unsound(self.path) if each not in self.wrong]
            await asyncio.sleep(_POLL)

    def is_at_rest(self) -> bool:
        """True if no decision, and no compensation, is still on its way to the theatre."""
        seats = _sold(self.path)
        undone = {name for name, (purchase, _) in self.sold.items() if purchase.undone}
        return not reserved(self.path) and not undone & seats.keys()

    def violations(self, connect: Callable[[str], psycopg.Connection]) -> list[str]:
        """Everything that is wrong, with the system at rest."""
        found = [*self.wrong, *unsound(self.path)]
        found += [f"R9: {gid} is still reserved at the {THEATRE}" for gid in sorted(reserved(self.path))]
        held = _rows(self.path, "SELECT name, reserved FROM category WHERE reserved > 0")
        found += [f"R9: {seats} seats of {name} are held by nobody" for name, seats in held]
        booked = {bank: _booked(connect, bank) for bank in (_PAYER, _HOUSE)}
        seats = _sold(self.path)
        for name, (purchase, told) in self.sold.items():
            here = seats.pop(name, [])
            if here not in ([], [purchase.seats]):
                found.append(f"R7: purchase {name} of {purchase.seats} seats is sold as {here}")
            if told is Told.OK and not here:
                found.append(f"R6: purchase {name} was told committed, and no seat is sold")
            if here and (told is Told.FAILED or purchase.undone):
                found.append(f"R6: purchase {name} was told {told.value}, and seats are sold")
            for bank, _ in purchase.transfer.movements:
                if (name in booked[bank]) != bool(here):
                    found.append(f"R1: purchase {name} is {here} at the {THEATRE}, and not so at {bank}")
        return found


def reserved(path: Path) -> set[str]:
    """The branches that hold seats and are not decided yet."""
    return {gid for (gid,) in _rows(path, "SELECT gid FROM branch WHERE state = 'reserved'")}


def unsound(path: Path) -> list[str]:
    """The categories whose seats do not add up at this moment, in one snapshot of the file."""
    return [
        f"seats: {capacity} of {name}, {free} free, {held} reserved (bookings: {held_by}), {sold} sold ({sold_by})"
        for name, capacity, free, held, sold, held_by, sold_by in _rows(path, _SUMS)
        if free + held + sold != capacity or (held, sold) != (held_by, sold_by)
    ]


def _sold(path: Path) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for reference, seats in _rows(path, "SELECT reference, seats FROM booking WHERE state = 'sold'"):
        found.setdefault(reference, []).append(seats)
    return found


def _rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=_SETTLE_SECONDS)) as db:
        return db.execute(query).fetchall()


def _booked(connect: Callable[[str], psycopg.Connection], bank: str) -> set[str]:
    with connect(bank) as connection:
        return {name for (name,) in connection.execute("SELECT transfer FROM movement").fetchall()}


def _purchase(name: str, chance: random.Random) -> Purchase:
    seats, category = chance.randint(1, 4), chance.choice(list(CATEGORIES))
    account, price = chance.randint(1, _ACCOUNTS), Decimal(chance.randint(1, 300)) / 100
    match chance.choices(["paid", "refused", "free", "undone"], [4, 2, 2, 2])[0]:
        case "paid":
            moves = (_PAYER, Movement(name, account, -price)), (_HOUSE, Movement(name, account, price))
            return Purchase(Transfer(name, moves), category, seats)
        case "refused":
            # Slowly, so that the seats are reserved by then.
            moves = (_PAYER, Movement(name, account, -_FORTUNE, _SLOW)), (_HOUSE, Movement(name, account, _FORTUNE))
            return Purchase(Transfer(name, moves), category, seats)
        case "free":
            return Purchase(Transfer(name, ()), category, seats)
        case _:
            return Purchase(Transfer(name, ()), category, seats, undone=True)
