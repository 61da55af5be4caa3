"""The clients of a run: they move money, repeat what is not answered, and note what they are told.

Lives here: what a client does. Must not live here: what strikes the system (`world`), what must hold (`check`).
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from typing import Any

from simulation.network import Weather
from simulation.runs import ACCOUNTS, NAMES, Run, Told, Transfer
from twophase.contract.names import Epoch
from twophase.coordinator.engine.api import NEVER_SEEN, Answer, Call, NeverSeen, Outcome, Rejected, Submission
from twophase.coordinator.engine.engine import Engine
from twophase.coordinator.journal.port import JournalError
from twophase.v1 import types_pb2 as types

DEADLINE = 2.0
_CALL_SECONDS = 4.0
_TRIES = 6


class Clients:
    """Everybody who sends something. The world that they live in is a subclass, and sets all of this."""

    run: Run
    weather: Weather
    engine: Engine | None
    _chance: random.Random
    _keep_trace: bool
    _numbers: Iterator[int]

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
                    if answer.applied and not self._is_there(transfer):
                        self.run.early.append(transfer.name)
                    return Told.OK
                case Outcome.ABORTED | Outcome.COMPENSATED:
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

    def request(self, transfer: Transfer, attempt: int, seen: Epoch | NeverSeen) -> Submission:
        """The transfer as a request; its id is the transfer's name, whatever the attempt."""
        calls = [
            Call(bank, "move", _json(transfer=transfer.name, account=account, amount=amount))
            for bank, account, amount in transfer.movements
        ]
        calls += [Call(bank, "look", types.Payload()) for bank in transfer.looks]
        return Submission(transfer.name, attempt, seen, tuple(calls), DEADLINE)

    async def _ask(self, engine: Engine, submission: Submission) -> Answer | None:
        """One copy of a request, perhaps two; None if there was no answer."""
        if self._chance.random() < self.weather.copy:
            copy = asyncio.create_task(self._copy(engine, submission))
            copy.add_done_callback(_seen)
        if self._chance.random() < self.weather.drop:
            return None
        work = asyncio.create_task(engine.execute(submission))
        work.add_done_callback(_seen)
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

    async def _copy(self, engine: Engine, submission: Submission) -> None:
        """The copy may reach the coordinator, or a later life of it, after the client has gone on."""
        await asyncio.sleep(self._chance.choice(self.run.setting.late))
        target = self.engine or engine
        await target.execute(submission)

    def _transfer(self) -> Transfer:
        name = f"t{next(self._numbers)}"
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
                if view is not None and view.outcome in (Outcome.COMMITTED, Outcome.ABORTED):
                    transfer.told = Told.OK if view.outcome is Outcome.COMMITTED else Told.FAILED
                    self.tell("client", f"{transfer.name}: asked again, {transfer.told.value}")


def _json(**content: Any) -> types.Payload:
    return types.Payload(json=json.dumps(content))


def _seen(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
