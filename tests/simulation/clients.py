"""The clients of a run: they move money, repeat what is not answered, and note what they are told.

Lives here: what a client does. Must not live here: what strikes the system (`world`), what must hold (`check`).
"""

from __future__ import annotations

import asyncio
import json
import random
import zlib
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from simulation.deeds import Deed
from simulation.network import Weather
from simulation.runs import ACCOUNTS, NAMES, Run, Saga, Said, Told, Transfer
from simulation.sagas import operation_of, saga
from twophase.contract.names import Epoch, Txid
from twophase.coordinator.engine.api import (
    NEVER_SEEN,
    Answer,
    Call,
    NeverSeen,
    Outcome,
    Protocol,
    Rejected,
    Submission,
    Wait,
)
from twophase.coordinator.engine.engine import Engine
from twophase.coordinator.journal.port import JournalError
from twophase.v1 import types_pb2 as types

T = TypeVar("T")

DEADLINE = 2.0
_CALL_SECONDS = 4.0
_TRIES = 6


class Clients(ABC):
    """Everybody who sends something. The world that they live in is a subclass, and sets all of this."""

    run: Run
    weather: Weather
    engine: Engine | None
    _chance: random.Random
    _keep_trace: bool
    _numbers: Iterator[int]
    _calls: set[asyncio.Task[Any]]

    def tell(self, who: str, what: str) -> None:
        """A line of the transcript."""
        if self._keep_trace:
            self.run.trace.append(f"{asyncio.get_running_loop().time():9.4f}  {who:12} {what}")

    async def client(self) -> None:
        setting = self.run.setting
        while asyncio.get_running_loop().time() < setting.seconds:
            transfer = self._transfer()
            self.run.transfers.append(transfer)
            transfer.told = await self._send(transfer)
            self.tell("client", f"{transfer.name}: {transfer.told.value}")
            await asyncio.sleep(self._chance.expovariate(1 / setting.pause))

    async def _send(self, transfer: Transfer) -> Told:
        """As the real client does it: the same attempt again while nothing is known, a new one after an abort."""
        seen: Epoch | NeverSeen = NEVER_SEEN
        attempt = 1
        loop, retention = asyncio.get_running_loop(), self.run.setting.retention
        give_up = loop.time() + (retention - _CALL_SECONDS - 1.0 if retention is not None else float("inf"))
        for _ in range(_TRIES):
            if loop.time() > give_up:  # what may be forgotten soon is not sent again
                break
            engine = self.engine
            answer = await self._ask(engine, self.request(transfer, attempt, seen)) if engine is not None else None
            if answer is None:
                await asyncio.sleep(self._chance.uniform(0, 1.0))
                continue
            assert engine is not None
            match answer.outcome:
                case Outcome.COMMITTED:
                    self._hear(transfer, answer)
                    if answer.applied and not self._is_there(transfer):
                        self.run.early.append(transfer.name)
                    return Told.OK
                case Outcome.ABORTED | Outcome.COMPENSATED:
                    self._hear(transfer, answer)
                    if answer.attempt < attempt:  # it is still being undone, and a copy of this one may be under way
                        await asyncio.sleep(0.5)
                        continue
                    if not any(reason.retryable for reason in answer.reasons) or attempt == 3:
                        return Told.FAILED
                    attempt += 1
                    seen = engine.journal.epoch
                case Outcome.NOT_SEEN:
                    seen = engine.journal.epoch
                case Outcome.PENDING:
                    await asyncio.sleep(0.5)
        return Told.UNKNOWN

    def _is_there(self, transfer: Transfer) -> bool:
        held = {(bank, *each) for bank, one in self.run.participants.items() for each in one.database.movements}
        return all((bank, transfer.name, *rest) in held for bank, *rest in transfer.movements)

    def _hear(self, transfer: Transfer, answer: Answer) -> None:
        """Notes what is told of a saga, and whether the books bear it out at this moment."""
        if transfer.saga is None or answer.txid is None or answer.outcome is Outcome.ABORTED:
            return
        committed = answer.outcome is Outcome.COMMITTED
        self.run.said.append(Said(transfer.name, answer.txid, committed))
        if committed:
            pivot, steps = transfer.saga.pivot, range(len(transfer.saga.after))
            done = {deed.gid.branch for deed in self._applied(answer.txid) if not deed.undoes}
            if not done.issuperset(steps if pivot is None else (pivot,)):
                self.run.hasty.append((transfer.name, "ok, and could still turn"))
            return
        if not self.is_on_disk(answer.txid):
            self.run.hasty.append((transfer.name, "failed, and its turn was not on disk"))
        if answer.applied:
            deeds = self._applied(answer.txid)
            undone = {deed.gid.branch for deed in deeds if deed.undoes}
            if any(deed.gid.branch not in undone for deed in deeds):
                self.run.hasty.append((transfer.name, "undone, and was not yet"))

    def _applied(self, txid: Txid) -> list[Deed]:
        return [deed for deed in self.run.deeds if deed.outcome == "applied" and deed.gid.txid == txid]

    @abstractmethod
    def is_on_disk(self, txid: Txid) -> bool:
        """Whether the turn of a saga is durable."""

    def request(self, transfer: Transfer, attempt: int, seen: Epoch | NeverSeen) -> Submission:
        """The transfer as a request; its id is the transfer's name, whatever the attempt."""
        if transfer.saga is not None:
            return _saga(transfer, transfer.saga, attempt, seen)
        calls = [
            Call(bank, "move", _json(transfer=transfer.name, account=account, amount=amount))
            for bank, account, amount in transfer.movements
        ]
        calls += [Call(bank, "look", types.Payload()) for bank in transfer.looks]
        # Some prepare in turn; which, is told by the name, so that a seed throws no dice for it.
        in_turn = zlib.crc32(transfer.name.encode()) % 3 == 0
        return Submission(transfer.name, attempt, seen, tuple(calls), DEADLINE, in_turn=in_turn)

    async def _ask(self, engine: Engine, submission: Submission) -> Answer | None:
        """One copy of a request, perhaps two; None if there was no answer."""
        if self._chance.random() < self.weather.copy:
            self._call(self._copy(engine, submission))
        if self._chance.random() < self.weather.drop:
            return None
        work = self._call(engine.execute(submission))
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                answer = await asyncio.shield(work)
        except (TimeoutError, Rejected, JournalError):
            return None
        except asyncio.CancelledError:
            if work.cancelled():
                return None
            raise
        return None if self.engine is not engine or self._chance.random() < self.weather.drop else answer

    def _call(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Goes on, whoever waits for it; one at a coordinator that is dead may never end."""
        call = asyncio.create_task(work)
        self._calls.add(call)
        call.add_done_callback(self._over)
        return call

    def _over(self, call: asyncio.Task[Any]) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            call.exception()

    async def _copy(self, engine: Engine, submission: Submission) -> None:
        """The copy may reach the coordinator, or a later life of it, after the client has gone on."""
        await asyncio.sleep(self._chance.choice(self.run.setting.late))
        target = self.engine or engine
        await target.execute(submission)

    def _transfer(self) -> Transfer:
        name = f"t{next(self._numbers)}"
        if self.run.setting.sagas and self._chance.random() < self.run.setting.sagas:
            return saga(self._chance, name)
        amount = self._chance.choice((1, 5, 20, 90))
        banks = self._chance.sample(NAMES, 3)
        accounts = [self._chance.randrange(ACCOUNTS) for _ in banks]
        match self._chance.randrange(8):
            case 0:
                return Transfer(name, ((banks[0], 0, -amount), (banks[0], 1, amount)))
            case 1:
                return Transfer(name, ((banks[0], 0, -amount), (banks[0], 1, amount)), looks=(banks[1],))
            case 2:
                parts = ((banks[0], accounts[0], -2 * amount), *((b, accounts[1], amount) for b in banks[1:]))
                return Transfer(name, parts)
            case 3:
                return Transfer(name, (), looks=(banks[0], banks[1]))
            case _:
                return Transfer(name, ((banks[0], accounts[0], -amount), (banks[1], accounts[1], amount)))

    async def ask_again(self) -> None:
        """Whoever does not know asks now, when everything answers; if that is not too late for an answer."""
        assert self.engine is not None
        if self.run.setting.retention is not None:
            return
        for transfer in self.run.transfers:
            if transfer.told is Told.UNKNOWN:
                view = await self.engine.view(transfer.name)
                if view is not None and view.outcome is not Outcome.PENDING:
                    transfer.told = Told.OK if view.outcome is Outcome.COMMITTED else Told.FAILED
                    self.tell("client", f"{transfer.name}: asked again, {transfer.told.value}")


def _saga(transfer: Transfer, how: Saga, attempt: int, seen: Epoch | NeverSeen) -> Submission:
    payloads = [
        (bank, _json(transfer=transfer.name, account=account, amount=amount))
        for bank, account, amount in transfer.movements
    ]
    payloads += [(bank, types.Payload()) for bank in transfer.looks]
    calls = tuple(
        Call(bank, operation_of(transfer, n), payload, f"s{n}", how.after[n], n == how.pivot)
        for n, (bank, payload) in enumerate(payloads)
    )
    wait = Wait.DECIDED if how.hasty else Wait.APPLIED
    return Submission(transfer.name, attempt, seen, calls, how.deadline, wait, Protocol.SAGA)


def _json(**content: Any) -> types.Payload:
    return types.Payload(json=json.dumps(content))
