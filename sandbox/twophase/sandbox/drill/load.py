"""The workload of a drill: clients that move money and order things, and write down what they were told.

Lives here: the transfers and orders, the record of ok, failed and unknown. Must not live here: whether the
databases agree (`check`).
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import Final

from twophase.coordinator.client import (
    AsyncClient,
    CallRejected,
    CoordinatorUnavailable,
    Outcome,
    OutcomeUnknown,
    TransactionAborted,
    Wait,
    operation,
)
from twophase.sandbox.bank import ACCOUNTS, ITEMS, NAMES, Movement, Question, Sale

_DEADLINE: Final = 5.0
_PATIENCE: Final = 20.0
_SLOW: Final = 0.25
_FORTUNE: Final = Decimal(1_000_000)
_SETTLE_SECONDS: Final = 20.0
# Accounts that only probes use, so that no probe waits for a row which a transaction of the load holds.
_KEPT: Final = 8


class Told(Enum):
    """What a client knows of its transfer. UNKNOWN is never guessed away: the checker takes either outcome, whole."""

    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Transfer:
    """Movements, and sales, that belong together, by bank. `looks` are banks that are only asked."""

    name: str
    movements: tuple[tuple[str, Movement], ...]
    looks: tuple[str, ...] = ()
    sales: tuple[tuple[str, Sale], ...] = ()


@dataclass(frozen=True, slots=True)
class Answered:
    """When a client had its answer (monotonic clock), after how long, in seconds, and what it was told."""

    at: float
    seconds: float
    told: Told


@dataclass(slots=True)
class Record:
    """Everything that was sent, what is told of it by now, and the answers in their order."""

    told: dict[str, tuple[Transfer, Told]]
    answers: list[Answered] = field(default_factory=list)

    def count(self) -> Counter[Told]:
        """How many of each."""
        return Counter(told for _, told in self.told.values())


class Load:
    """Clients that send transfers of every kind until they are told to stop."""

    def __init__(self, address: str, *, clients: int, seed: int) -> None:
        self.record = Record({})
        self._clients = clients
        self._chance = random.Random(seed)  # noqa: S311 - no secret, and it must be repeatable
        self._numbers = itertools.count(1)
        self._prefix = f"s{seed}"
        self._client = AsyncClient(address)
        self._stopped = False
        self._may_send = asyncio.Event()
        self._may_send.set()
        self._idle = asyncio.Event()
        self._under_way = 0
        self._attempts: dict[str, int] = {}

    async def run(self) -> None:
        """Sends until `stop`, then returns when every client has its answer."""
        async with self._client, asyncio.TaskGroup() as group:
            for _ in range(self._clients):
                group.create_task(self._work())

    def stop(self) -> None:
        """No new transfers; those under way get their answers."""
        self._stopped = True
        self._may_send.set()

    async def pause(self) -> None:
        """No new transfers until `resume`; returns when none is under way."""
        self._may_send.clear()
        while self._under_way:
            self._idle.clear()
            await self._idle.wait()

    def resume(self) -> None:
        """Ends a pause."""
        self._may_send.set()

    async def probe(self, here: str, there: str, *, wait: Wait = Wait.APPLIED) -> tuple[Transfer, Answered]:
        """One transfer between two banks, also in a pause, on accounts that nobody else uses."""
        name, amount = self._name(), self._amount()
        account = self._chance.randint(ACCOUNTS - _KEPT + 1, ACCOUNTS)
        moves = (here, Movement(name, account, -amount)), (there, Movement(name, account, amount))
        transfer = Transfer(name, moves)
        return transfer, await self._do(transfer, wait)

    async def settle(self, address: str) -> None:
        """Asks the coordinator at `address` for the outcomes that are unknown, until they are known or for a while."""
        async with AsyncClient(address) as client, asyncio.TaskGroup() as group:
            for name, (transfer, told) in tuple(self.record.told.items()):
                if told is Told.UNKNOWN:
                    group.create_task(self._settle(client, name, transfer))

    async def _work(self) -> None:
        while not self._stopped:
            self._under_way += 1
            try:
                await self._do(self._transfer(), Wait.APPLIED)
            finally:
                self._under_way -= 1
                self._idle.set()
            await self._may_send.wait()

    async def _do(self, transfer: Transfer, wait: Wait) -> Answered:
        # It may be under way from now on, whatever happens to the client.
        self.record.told[transfer.name] = (transfer, Told.UNKNOWN)
        began = time.monotonic()
        told = await self._send(transfer, wait)
        self.record.told[transfer.name] = (transfer, told)
        answered = Answered(time.monotonic(), time.monotonic() - began, told)
        self.record.answers.append(answered)
        return answered

    async def _send(self, transfer: Transfer, wait: Wait) -> Told:
        operations = [operation(bank, "move", movement) for bank, movement in transfer.movements]
        operations += [operation(bank, "sell", sale) for bank, sale in transfer.sales]
        operations += [operation(bank, "look", Question(1)) for bank in transfer.looks]
        try:
            await self._client.execute(
                *operations, wait=wait, request_id=transfer.name, deadline=_DEADLINE, give_up_after=_PATIENCE, retries=3
            )
        except (TransactionAborted, CoordinatorUnavailable, CallRejected):
            return Told.FAILED
        except OutcomeUnknown as unknown:
            self._attempts[transfer.name] = unknown.attempt
            return Told.UNKNOWN
        return Told.OK

    async def _settle(self, client: AsyncClient, name: str, transfer: Transfer) -> None:
        try:
            async with asyncio.timeout(_SETTLE_SECONDS):
                while True:
                    found = await client.outcome(name)
                    if found is None:  # no record: nobody may conclude anything; the checker looks
                        return
                    match found.outcome:
                        case Outcome.COMMITTED:
                            self.record.told[name] = (transfer, Told.OK)
                            return
                        case Outcome.ABORTED if found.attempt >= self._attempts.get(name, 1):
                            self.record.told[name] = (transfer, Told.FAILED)
                            return
                        case Outcome.ABORTED:  # of an earlier attempt: a copy of the last one may be under way
                            return
                        case _:
                            await asyncio.sleep(0.05)
        except (TimeoutError, CoordinatorUnavailable):
            return

    def _transfer(self) -> Transfer:
        kinds: dict[Callable[[str], Transfer], int] = {
            self._between_two: 6,
            self._among_three: 2,
            self._among_four: 1,
            self._order: 3,
            self._order_elsewhere: 1,
            self._inside_one: 3,
            self._inside_one_refused: 1,
            self._looks: 1,
            self._refused: 2,
            self._refused_while_slow: 1,
        }
        (kind,) = self._chance.choices(list(kinds), list(kinds.values()))
        return kind(self._name())

    def _name(self) -> str:
        return f"{self._prefix}/{next(self._numbers)}"

    def _between_two(self, name: str) -> Transfer:
        here, there = self._chance.sample(NAMES, 2)
        amount = self._amount()
        return Transfer(name, ((here, self._move(name, -amount)), (there, self._move(name, amount))))

    def _among_three(self, name: str) -> Transfer:
        first, second, third = self._chance.sample(NAMES, 3)
        amount = self._amount()
        movements = (first, -2 * amount), (second, amount), (third, amount)
        return Transfer(name, tuple((bank, self._move(name, each)) for bank, each in movements))

    def _among_four(self, name: str) -> Transfer:
        payer, *others = self._chance.sample(NAMES, 4)
        amount = self._amount()
        movements = (payer, self._move(name, -3 * amount)), *((bank, self._move(name, amount)) for bank in others)
        return Transfer(name, movements)

    def _order(self, name: str) -> Transfer:
        """From the shop of one bank, paid from an account of another. The shops sell out, so some are refused."""
        shop, payer = self._chance.sample(NAMES, 2)
        return self._sold(name, shop, (shop, self._amount()), payer)

    def _order_elsewhere(self, name: str) -> Transfer:
        """The shop's account is at a third bank."""
        shop, seller, payer = self._chance.sample(NAMES, 3)
        return self._sold(name, shop, (seller, self._amount()), payer)

    def _sold(self, name: str, shop: str, price: tuple[str, Decimal], payer: str) -> Transfer:
        seller, amount = price
        movements = (payer, self._move(name, -amount)), (seller, self._move(name, amount))
        sale = Sale(name, self._chance.randint(1, ITEMS), self._chance.randint(1, 2))
        return Transfer(name, movements, sales=((shop, sale),))

    def _inside_one(self, name: str) -> Transfer:
        bank, other = self._chance.sample(NAMES, 2)
        amount = self._amount()
        looks = (other,) if self._chance.random() < 1 / 2 else ()
        return Transfer(name, ((bank, self._move(name, -amount)), (bank, self._move(name, amount))), looks)

    def _inside_one_refused(self, name: str) -> Transfer:
        return Transfer(name, ((self._chance.choice(NAMES), self._move(name, -_FORTUNE)),))

    def _looks(self, name: str) -> Transfer:
        return Transfer(name, (), tuple(self._chance.sample(NAMES, 2)))

    def _refused(self, name: str) -> Transfer:
        here, there = self._chance.sample(NAMES, 2)
        return Transfer(name, ((here, self._move(name, _FORTUNE)), (there, self._move(name, -_FORTUNE))))

    def _refused_while_slow(self, name: str) -> Transfer:
        here, there = self._chance.sample(NAMES, 2)
        slow = Movement(name, self._account(), _FORTUNE, seconds=_SLOW)
        return Transfer(name, ((here, slow), (there, self._move(name, -_FORTUNE))))

    def _move(self, name: str, amount: Decimal) -> Movement:
        return Movement(name, self._account(), amount)

    def _account(self) -> int:
        return self._chance.randint(1, ACCOUNTS - _KEPT)

    def _amount(self) -> Decimal:
        return Decimal(self._chance.randint(1, 500)) / 100
