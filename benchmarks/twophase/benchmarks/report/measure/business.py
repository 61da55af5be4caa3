"""The business of the report: transfers and four-service orders from a seed, the same for every contender.

Lives here: what a deed is, what it does where, which deeds a load is made of. Must not live here: how a contender
commits them (`contenders`), when they are sent (`pacing`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from functools import partial
from typing import Any, Final, TypeAlias

import psycopg

from twophase.benchmarks.report.measure.bank import FANNED, FAR, LEFT, MARKED, RIGHT, Movement, move, move_back
from twophase.benchmarks.report.measure.zipf import zipf
from twophase.coordinator.client import Operation, Step, operation
from twophase.sandbox.checkout import delivery, driver, inventory, order, payment
from twophase.sandbox.checkout.orders import Line, Order

_LARGEST: Final = 100
CUSTOMERS: Final = 2_000
SKUS: Final = 200
CLOSED: Final = "Atlantis"
_OPEN: Final = "Cork"
_PRICE: Final = Decimal("2.50")

Deed: TypeAlias = "Transfer | Order"


class Workload(StrEnum):
    """Which deeds. The value is the factor's level in the results."""

    UNIFORM = "transfers, uniform"
    ZIPF = "transfers, Zipf"
    HOT = "transfers, hot rows"
    MERCHANTS = "transfers, hot rows at one database"
    ORDER = "orders at four services"
    FAN_OUT = "transfers among many"


_HOT: Final = (Workload.HOT, Workload.MERCHANTS)


@dataclass(frozen=True, slots=True)
class Mix:
    """What deeds are drawn from. Shares are from 0 to 1.

    `hot_rows` accounts are used by `hot_share` of the transfers (HOT at both banks, MERCHANTS at the first alone), the
    others by the rest. `far_share` go to the third bank instead of the second. `refused_share` are meant to be refused,
    at the last participant. `exponent` is Zipf's. `participants` is for FAN_OUT.
    """

    workload: Workload
    accounts: int = 10_000
    hot_rows: int = 0
    hot_share: float = 1.0
    far_share: float = 0.0
    refused_share: float = 0.0
    exponent: float = 1.0
    participants: int = 2


@dataclass(frozen=True, slots=True)
class Transfer:
    """Movements at banks that belong together. `doomed`: the last one will be refused. `hot`: on rows many want."""

    name: str
    movements: tuple[tuple[str, Movement], ...]
    doomed: bool = False
    hot: bool = False

    @property
    def banks(self) -> tuple[str, ...]:
        """Where it books, in its order."""
        return tuple(bank for bank, _ in self.movements)


@dataclass(frozen=True, slots=True)
class Branch:
    """The part of a deed at one participant, for whoever commits by hand: business code that takes a connection.

    `run` raises `Refused`.
    """

    participant: str
    run: Callable[[psycopg.Connection], object]
    undo: Callable[[psycopg.Connection], object]


def deed_of(mix: Mix, seed: str, name: str) -> Deed:
    """The deed of this name: the same for the same mix and seed, whoever asks, in whatever order."""
    chance = random.Random(f"{seed}/{name.partition('/')[2]}")  # noqa: S311 - no secret, and it must be repeatable
    doomed = chance.random() < mix.refused_share
    match mix.workload:
        case Workload.ORDER:
            return _order(chance, name, doomed=doomed)
        case Workload.FAN_OUT:
            return _among_many(mix, chance, name)
        case _:
            return _transfer(mix, chance, name, doomed=doomed)


def branches_of(deed: Deed) -> list[Branch]:
    """What a contender runs that commits by hand, in this order."""
    match deed:
        case Transfer():
            return [_branch(bank, move, move_back, movement) for bank, movement in deed.movements]
        case _:
            lines = [order.Line(line.sku, line.quantity, line.unit_price) for line in deed.lines]
            new = order.NewOrder(deed.order_id, deed.customer_id, deed.area, lines)
            items = [inventory.Item(line.sku, line.quantity) for line in deed.lines]
            reservation = inventory.Reservation(deed.order_id, items)
            charge = payment.Charge(deed.order_id, deed.customer_id, deed.total)
            destination = delivery.Destination(deed.order_id, deed.area)
            return [
                _branch("order", order.place, order.cancel, new),
                _branch("inventory", inventory.reserve, inventory.release, reservation),
                _branch("payment", payment.charge, payment.refund, charge),
                _branch("delivery", delivery.schedule, delivery.cancel, destination),
            ]


def operations_of(deed: Deed) -> Sequence[Operation | Step]:
    """What the coordinator is asked for."""
    match deed:
        case Transfer():
            return [operation(bank, "move", movement) for bank, movement in deed.movements]
        case _:
            return driver.steps(deed)


def name_of(deed: Deed) -> str:
    """Its name in the books."""
    return deed.name if isinstance(deed, Transfer) else deed.order_id


def participants_of(mix: Mix) -> tuple[str, ...]:
    """Whom deeds of this mix may need."""
    match mix.workload:
        case Workload.ORDER:
            return ("order", "inventory", "payment", "delivery")
        case Workload.FAN_OUT:
            return FANNED[: mix.participants]
        case _:
            return (LEFT, RIGHT, FAR)


def _transfer(mix: Mix, chance: random.Random, name: str, *, doomed: bool) -> Transfer:
    amount = chance.randint(1, _LARGEST) * chance.choice((-1, 1))
    hot = mix.workload in _HOT and chance.random() < mix.hot_share
    here, there = (_account(mix, chance, hot=each) for each in (hot, hot and mix.workload is Workload.HOT))
    second = FAR if chance.random() < mix.far_share else RIGHT
    if doomed:
        amount, there = -abs(amount), MARKED
    # Money goes from the second to the first if the amount is negative.
    movements = ((LEFT, Movement(name, here, -amount)), (second, Movement(name, there, amount)))
    return Transfer(name, movements, doomed, hot)


def _account(mix: Mix, chance: random.Random, *, hot: bool) -> int:
    match mix.workload:
        case Workload.ZIPF:
            return zipf(mix.accounts, mix.exponent).draw(chance)
        case _ if hot:
            return chance.randint(1, mix.hot_rows)
        case _:
            return chance.randint(mix.hot_rows + 1, mix.accounts)


def _among_many(mix: Mix, chance: random.Random, name: str) -> Transfer:
    amount = chance.randint(1, _LARGEST)
    first, *others = FANNED[: mix.participants]
    movements = [(first, -amount * len(others)), *((bank, amount) for bank in others)]
    accounts = [chance.randint(1, mix.accounts) for _ in movements]
    return Transfer(
        name,
        tuple(
            (bank, Movement(name, account, booked)) for (bank, booked), account in zip(movements, accounts, strict=True)
        ),
    )


def _order(chance: random.Random, name: str, *, doomed: bool) -> Order:
    skus = chance.sample(range(1, SKUS + 1), chance.choice((1, 2, 3)))
    lines = tuple(Line(f"SKU-{sku:04}", chance.randint(1, 3), _PRICE) for sku in sorted(skus))
    return Order(name, f"C{chance.randint(1, CUSTOMERS):05}", CLOSED if doomed else _OPEN, lines)


def _branch(
    participant: str, run: Callable[[psycopg.Connection, Any], object], undo: Callable[..., object], payload: object
) -> Branch:
    return Branch(participant, partial(_with, run, payload), partial(_with, undo, payload))


def _with(run: Callable[[psycopg.Connection, Any], object], payload: object, connection: psycopg.Connection) -> object:
    return run(connection, payload)
