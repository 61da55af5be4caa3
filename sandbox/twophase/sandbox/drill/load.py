"""The clients of a drill: they send business without a pause, and write down what they were told.

Lives here: sending, pausing, and asking afterwards. Must not live here: what is sent (`work`), whether the databases
agree (`check`).
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from typing import Final

from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random_exponential

from twophase.coordinator.client import (
    AsyncClient,
    CallRejected,
    CoordinatorUnavailable,
    Operation,
    Outcome,
    OutcomeUnknown,
    Protocol,
    SagaCompensated,
    Step,
    TransactionAborted,
    Wait,
    operation,
    step,
)
from twophase.sandbox.bank import Movement, Question, Sale
from twophase.sandbox.drill.business import Answered, Deed, Record, Saga, Told, Transfer
from twophase.sandbox.drill.chance import Chance
from twophase.sandbox.drill.transfers import Transfers

_DEADLINE: Final = 5.0
_PATIENCE: Final = 20.0
# Seconds before a saga that could not begin is sent again.
_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.3
_SETTLE_SECONDS: Final = 20.0
_VERBS: Final = {Movement: "move", Sale: "sell", Question: "look"}


class Load:
    """Clients that send one thing after the other, until they are told to stop."""

    def __init__(self, address: str, *, clients: int, seed: int, work: Iterator[Transfer | Saga]) -> None:
        """`work` is what they send, until it is at its end; the seed is for the probes."""
        self.record = Record({})
        self._clients = clients
        self._work = work
        self._probes = Transfers(Chance(seed))
        self._numbers = itertools.count(1)
        self._prefix = f"p{seed}"
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
                group.create_task(self._send_all())

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
        transfer = self._probes.probe(f"{self._prefix}/{next(self._numbers)}", here, there)
        return transfer, await self._do(transfer, wait)

    async def send(self, saga: Saga) -> Answered:
        """One saga, also in a pause."""
        return await self._do(saga, Wait.APPLIED)

    async def settle(self, address: str) -> None:
        """Asks the coordinator at `address` for the outcomes that are unknown, until they are known or for a while."""
        async with AsyncClient(address) as client, asyncio.TaskGroup() as group:
            for name, (sent, told) in tuple(self.record.told.items()):
                if told is Told.UNKNOWN:
                    group.create_task(self._settle(client, name, sent))

    async def _send_all(self) -> None:
        for sent in self._work:
            self._under_way += 1
            try:
                await self._do(sent, Wait.APPLIED)
            finally:
                self._under_way -= 1
                self._idle.set()
            await self._may_send.wait()
            if self._stopped:
                return

    async def _do(self, sent: Transfer | Saga, wait: Wait) -> Answered:
        # It may be under way from now on, whatever happens to the client.
        self.record.told[sent.name] = (sent, Told.UNKNOWN)
        began = time.monotonic()
        told = await self._send(sent, wait)
        self.record.told[sent.name] = (sent, told)
        answered = Answered(time.monotonic(), time.monotonic() - began, told)
        self.record.answers.append(answered)
        return answered

    async def _send(self, sent: Transfer | Saga, wait: Wait) -> Told:
        try:
            match sent:
                case Transfer():
                    await self._client.execute(
                        *(_operation(bank, deed) for bank, deed in sent.deeds()),
                        wait=wait,
                        request_id=sent.name,
                        deadline=_DEADLINE,
                        give_up_after=_PATIENCE,
                        retries=3,
                    )
                case Saga():
                    await self._run(sent, wait)
        except (TransactionAborted, CoordinatorUnavailable, CallRejected):
            return Told.FAILED
        except OutcomeUnknown as unknown:
            self._attempts[sent.name] = unknown.attempt
            return Told.UNKNOWN
        return Told.OK

    async def _run(self, saga: Saga, wait: Wait) -> None:
        """Sends a saga again only if it has not begun: a second attempt at one that is undone would do again what the
        first one did, and nobody could tell them apart.
        """
        attempt = 1
        async for retry in AsyncRetrying(
            retry=retry_if_exception(_has_not_begun),
            wait=wait_random_exponential(multiplier=_PAUSE, max=_LONGEST_PAUSE),
            stop=stop_after_delay(_PATIENCE),
            reraise=True,
        ):
            with retry:
                try:
                    await self._client.execute(
                        *_steps(saga),
                        protocol=Protocol.SAGA,
                        wait=wait,
                        request_id=saga.name,
                        attempt=attempt,
                        deadline=saga.deadline,
                        give_up_after=_PATIENCE,
                    )
                except TransactionAborted as aborted:
                    attempt = aborted.attempt + 1
                    raise

    async def _settle(self, client: AsyncClient, name: str, sent: Transfer | Saga) -> None:
        try:
            async with asyncio.timeout(_SETTLE_SECONDS):
                while True:
                    found = await client.outcome(name)
                    if found is None:  # no record: nobody may conclude anything; the checker looks
                        return
                    match found.outcome:
                        case Outcome.COMMITTED:
                            self.record.told[name] = (sent, Told.OK)
                            return
                        case Outcome.ABORTED | Outcome.COMPENSATED if found.attempt >= self._attempts.get(name, 1):
                            self.record.told[name] = (sent, Told.FAILED)
                            return
                        case Outcome.ABORTED | Outcome.COMPENSATED:
                            return  # an earlier attempt: a copy of the last one may be under way
                        case _:
                            await asyncio.sleep(0.05)
        except (TimeoutError, CoordinatorUnavailable):
            return


def _has_not_begun(error: BaseException) -> bool:
    match error:
        case SagaCompensated():
            return False
        case TransactionAborted():
            return error.retryable
        case _:
            return isinstance(error, CoordinatorUnavailable)


def _operation(bank: str, deed: Deed) -> Operation:
    return operation(bank, _VERBS[type(deed)], deed)


def _steps(saga: Saga) -> Iterator[Step]:
    for each in saga.steps:
        yield step(each.name, _operation(each.bank, each.deed), after=each.after, pivot=each.pivot)
